//! `plugin check`, `inspect` and `list` on files that are no good. In: files that are cut short, foreign, patched, or no files
//! at all, and a plugin that ends or hangs its process. Out: one sentence, an exit code, and an end.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use system_tests::plugins::{PluginFolder, externals};
use system_tests::{wait, workspace};
use tempfile::TempDir;

/// What a command said, and what it exited with; `None` is the death by a signal.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    /// The one line on standard error.
    #[track_caller]
    fn sentence(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().collect();
        let [line] = lines[..] else { panic!("one sentence was expected: {self:?}") };
        line
    }
}

/// Runs `datakit-ebpf plugin ...`, which must end.
#[track_caller]
fn plugin(args: &[&str], unruly: &str) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| folder.path().join(name));
    let mut child = Command::new(externals().join("datakit-ebpf"))
        .arg("plugin")
        .args(args)
        .env("UNRULY", unruly)
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).expect("a new file"))
        .stderr(File::create(&stderr).expect("a new file"))
        .spawn()
        .expect("the collector can be started");
    let ended = || child.try_wait().expect("it is our child").ok_or_else(|| "it runs".to_owned());
    let status = wait::until(&format!("plugin {args:?} ends"), ended);
    let [stdout, stderr] = [stdout, stderr].map(|path| fs::read_to_string(path).expect("text"));
    Said { code: status.code(), stdout, stderr }
}

/// A folder for one file that is no good.
struct Bad {
    folder: TempDir,
}

impl Bad {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("bad").tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("libbad.so")
    }

    /// A copy of the real plugin, with something done to its bytes.
    fn patched(patch: impl FnOnce(&mut Vec<u8>)) -> Self {
        let bad = Self::new();
        let mut bytes = fs::read(real()).expect("the plugin was built");
        patch(&mut bytes);
        fs::write(bad.path(), bytes).expect("a new file");
        bad
    }

    /// All three commands get over it; those that are asked for this file say `text`.
    #[track_caller]
    fn is_refused_with(&self, text: &str) {
        let path = self.path();
        let path = path.to_str().expect("temporary paths are text");
        for verb in ["check", "inspect"] {
            let said = plugin(&[verb, path], "");
            assert_eq!(said.code, Some(1), "{verb}: {said:?}");
            assert!(said.sentence().contains(text), "{verb} shall say `{text}`: {said:?}");
            assert!(said.sentence().contains(path), "{verb} shall name the file: {said:?}");
        }
        let said = list(self.folder.path());
        if self.path().symlink_metadata().is_ok() {
            assert!(said.contains(text), "list shall say `{text}`: {said}");
        }
    }
}

#[track_caller]
fn list(folder: &Path) -> String {
    let said = plugin(&["list", "--plugin-dir", folder.to_str().expect("text")], "");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    said.stdout
}

fn real() -> PathBuf {
    externals().join("ebpf-plugins/libebpf_net.so")
}

/// Puts a digit in the place of the interface's version in the manifest.
fn set_api(bytes: &mut [u8], digit: u8) {
    let mark = b"\0datakit-ebpf-plugin\0api=";
    let found = bytes.windows(mark.len()).position(|window| window == mark);
    bytes[found.expect("a plugin has a manifest") + mark.len()] = digit;
}

#[test]
fn a_text_file_is_refused() {
    let bad = Bad::new();
    fs::copy(workspace().join("Cargo.toml"), bad.path()).expect("a copy");
    bad.is_refused_with("it is not a 64-bit ELF file");
}

#[test]
fn an_empty_file_is_refused() {
    Bad::patched(Vec::clear).is_refused_with("it is empty");
}

#[test]
fn a_truncated_library_is_refused() {
    Bad::patched(|bytes| bytes.truncate(bytes.len() / 2)).is_refused_with("cut short");
    Bad::patched(|bytes| bytes.truncate(bytes.len() - 1)).is_refused_with("cut short");
}

#[test]
fn a_header_with_garbage_behind_it_is_refused() {
    Bad::patched(|bytes| bytes[64..].fill(0xa5)).is_refused_with("nothing sensible behind it");
}

#[test]
fn a_library_for_another_machine_is_refused() {
    let (machine, name) =
        if cfg!(target_arch = "x86_64") { (183_u16, "aarch64") } else { (62, "x86-64") };
    let bad = Bad::patched(|bytes| bytes[18..20].copy_from_slice(&machine.to_le_bytes()));
    bad.is_refused_with(&format!("it was built for {name}"));
}

#[test]
fn a_library_without_a_manifest_is_refused() {
    let maps = fs::read_to_string("/proc/self/maps").expect("this process has libraries");
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().last());
    let libc = paths.find(|path| path.contains("/libc.so")).expect("libc is mapped");
    let bad = Bad::new();
    fs::copy(libc, bad.path()).expect("a copy");
    fs::set_permissions(bad.path(), Permissions::from_mode(0o644)).expect("it is ours");
    bad.is_refused_with("it has no manifest");
}

#[test]
fn an_older_interface_is_refused_and_the_plugin_is_to_be_rebuilt() {
    let bad = Bad::patched(|bytes| set_api(bytes, b'0'));
    bad.is_refused_with("was built for version 0 of the plugin interface");
    bad.is_refused_with("rebuild the plugin");
}

#[test]
fn a_newer_interface_is_refused_and_the_host_is_to_be_replaced() {
    let bad = Bad::patched(|bytes| set_api(bytes, b'9'));
    bad.is_refused_with("was built for version 9 of the plugin interface");
    bad.is_refused_with("install a newer datakit-ebpf");
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let bad = Bad::patched(|_| {});
    fs::set_permissions(bad.path(), Permissions::from_mode(0o666)).expect("it is ours");
    bad.is_refused_with("others than its owner may write it; chmod go-w");
}

#[test]
fn a_folder_is_refused() {
    let bad = Bad::new();
    fs::create_dir(bad.path()).expect("a new folder");
    bad.is_refused_with("is not a regular file");
}

#[test]
fn a_pipe_and_a_device_are_refused_at_once() {
    let bad = Bad::new();
    mkfifo(&bad.path(), Mode::from_bits_truncate(0o600)).expect("a new pipe");
    bad.is_refused_with("is not a regular file");
    let bad = Bad::new();
    symlink("/dev/zero", bad.path()).expect("a new link");
    bad.is_refused_with("is not a regular file");
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    Bad::new().is_refused_with("No such file");
}

#[test]
fn a_list_shows_every_plugin_whatever_its_neighbours_are() {
    let plugins = PluginFolder::new();
    for name in ["libtext.so", "lib odd\x1b[2Jname.so"] {
        plugins.add(name, &workspace().join("Cargo.toml"));
    }
    plugins.add("libmisnamed.so", &real());
    let said = list(plugins.path());
    let lines: Vec<_> = said.lines().collect();
    let [odd, net, misnamed, text] = lines[..] else { panic!("four lines: {said}") };
    assert!(odd.starts_with(r" odd\u{1b}[2Jname"), "{said}");
    assert!(net.starts_with("ebpf-net ") && net.contains(" interface "), "{said}");
    assert!(misnamed.contains("name the file libebpf_net.so"), "{said}");
    assert!(text.contains("is not a plugin for this host"), "{said}");
}

#[test]
fn a_plugin_that_works_is_said_to_work_with_its_probes() {
    let said = plugin(&["check", real().to_str().expect("text")], "");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("attached "), "{said:?}");
    assert!(said.stdout.ends_with("ebpf-net starts and stops on this host\n"), "{said:?}");
}

/// Checks the fixture `unruly`, which was built without optimisation.
fn check_unruly(fault: &str) -> Said {
    let plugins = PluginFolder::new();
    plugins.add_fixture("unruly");
    let path = plugins.path().join("libunruly.so");
    let mut said = plugin(&["check", path.to_str().expect("text")], fault);
    let rest = said.stderr.split_once('\n').filter(|(warning, _)| {
        warning.ends_with("libunruly.so was built without optimisation; build it with --release")
    });
    said.stderr = rest.unwrap_or_else(|| panic!("a warning comes first: {said:?}")).1.to_owned();
    said
}

#[test]
fn a_debug_build_is_warned_about_and_works() {
    let said = check_unruly("");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(said.stdout, "unruly starts and stops on this host\n");
}

/// The plugin is refused with `text`, and nothing is said in its favour.
#[track_caller]
fn is_found_out(fault: &str, text: &str) {
    let said = check_unruly(fault);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.sentence().contains(text), "the sentence shall contain `{text}`: {said:?}");
}

#[test]
fn a_plugin_that_crashes_when_it_is_made_or_started_is_found_out() {
    is_found_out("segfault-in-new", "it takes its process down: signal: 11");
    is_found_out("segfault-in-start", "it takes its process down: signal: 11");
}

#[test]
fn a_plugin_that_ends_the_process_in_good_order_is_found_out() {
    is_found_out("exit-in-start", "it takes its process down: exit status: 0");
}

#[test]
fn a_plugin_that_says_why_it_cannot_start_is_quoted() {
    is_found_out("fail-in-start", "told to fail");
}

#[test]
fn a_plugin_that_panics_is_quoted() {
    let said = check_unruly("panic-in-start");
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    // What Rust itself says of a panic comes first.
    let last = said.stderr.lines().last().unwrap_or_default();
    assert!(last.ends_with("panic in start: told to panic"), "{said:?}");
}

#[test]
fn a_plugin_that_hangs_is_ended_and_found_out() {
    is_found_out("hang-in-stop", "it hangs: ");
}
