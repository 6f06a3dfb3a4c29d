//! `datakit-ebpf doctor` tells beforehand what `run` would do. In: plugins that work, that are missing, that are broken on
//! purpose, and a user without rights. Out: an exit code that says whether all is well, and what to do if it is not.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use system_tests::plugins::{Installation, NOBODY, PluginFolder, externals};
use system_tests::process::run;

struct Diagnosis {
    code: Option<i32>,
    text: String,
}

impl Diagnosis {
    fn of(output: &Output) -> Self {
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        Self { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!(self.code, Some(0), "{}", self.text);
    }

    #[track_caller]
    fn is_bad_and_says(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        self.says(words);
    }

    #[track_caller]
    fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.text.contains(word), "{word:?}: {}", self.text);
        }
    }
}

fn doctor(args: &[&str]) -> Diagnosis {
    let mut command = Command::new(externals().join("datakit-ebpf"));
    command.env_clear().arg("doctor").args(args);
    Diagnosis::of(&command.output().expect("it was built"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

#[test]
fn root_learns_that_all_is_well_and_how_each_probe_is_attached() {
    let diagnosis = doctor(&["--enabled", "ebpf-net"]);
    diagnosis.is_well();
    diagnosis.says(&["/sys/kernel/btf/vmlinux", "cgroup v2 root", "CAP_BPF", "iter/task_file"]);
    assert!(!diagnosis.text.contains("missing "), "{}", diagnosis.text);
}

#[test]
fn without_an_enabled_plugin_all_that_are_installed_are_examined() {
    let plugins = PluginFolder::new();
    plugins.add_fixture("heartbeat");
    let diagnosis = doctor(&["--plugin-dir", path(plugins.path())]);
    diagnosis.is_well();
    diagnosis.says(&["Plugin ebpf-net", "Plugin heartbeat"]);
}

#[test]
fn a_plugin_that_is_not_installed_is_named_and_the_others_are_examined() {
    let diagnosis = doctor(&["--enabled", "no-such-plugin,ebpf-net"]);
    diagnosis.is_bad_and_says(&["plugin no-such-plugin is not installed", "iter/task_file"]);
    diagnosis.says(&["Does not work: no-such-plugin\n"]);
}

#[test]
fn a_folder_without_plugins_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = path(folder.path());
    doctor(&["--plugin-dir", folder]).is_bad_and_says(&["no plugin is installed in", folder]);
}

#[test]
fn a_plugin_is_tried_with_its_settings_and_a_faulty_one_does_not_work() {
    let plugins = PluginFolder::new();
    plugins.add_fixture("faulty");
    let config = plugins.path().join("collector.toml");
    let faulty = |fault: &str| {
        let text = format!("[plugins.faulty]\nfault = \"{fault}\"\n");
        std::fs::write(&config, text).expect("a new file");
        let folder = path(plugins.path());
        let args = ["--enabled", "faulty", "--plugin-dir", folder, "--config", path(&config)];
        doctor(&args)
    };
    faulty("none").is_well();
    let says = ["! does not work: told to fail in start", "Does not work: faulty"];
    faulty("error-in-start").is_bad_and_says(&says);
    faulty("panic-in-new").is_bad_and_says(&["panic in new: told to panic in new"]);
    faulty("panic-in-start").is_bad_and_says(&["panic in start: told to panic in start"]);
}

#[test]
fn a_user_without_rights_is_told_which_lack_and_the_line_that_gives_them_works() {
    let installation = Installation::new();
    let as_nobody = || {
        let mut command = Command::new(installation.program());
        command.env_clear().current_dir("/").arg("doctor").uid(NOBODY).gid(NOBODY);
        Diagnosis::of(&command.output().expect("everybody may run it"))
    };
    let before = as_nobody();
    before.is_bad_and_says(&["CAP_BPF, to", "CAP_PERFMON, to", "CAP_NET_ADMIN, to"]);
    before.says(&["! does not work", "Does not work: ebpf-net"]);

    let (_, line) = before.text.split_once("setcap ").expect("it says what to do");
    let line = line.lines().next().expect("the rest of the line");
    run(Command::new("setcap").args(line.split(' ')));
    let after = as_nobody();
    after.is_well();
    assert!(!after.text.contains("missing "), "{}", after.text);
}
