//! What ebpf-bash does on request only. In: other shells, settings for more fields, and secrets. Out: their commands, where each was
//! entered, and no secret; and by default none of it.

use std::fs;
use std::path::{Path, PathBuf};

use system_tests::collector::Collector;
use system_tests::receiver::Receiver;
use system_tests::shell::{Root, Shell};
use system_tests::typed::{
    Chance, expect, expect_and_exit, linked, points_of, start, start_with, text, wait_for_file,
};
use system_tests::wire::Point;

const OTHERS: &str = r#"other_shells = ["zsh", "python", "psql"]"#;

fn zsh() -> Shell {
    // Otherwise it fills the terminal's line, which is very long, before each prompt.
    Shell::start(["/usr/bin/zsh", "-f", "-o", "no_prompt_sp"])
}

fn python(folder: &Path) -> Shell {
    let prompts = folder.join("prompts.py");
    fs::write(&prompts, "import sys\nsys.ps1, sys.ps2 = '[ready]', '[more]'\n").expect("a file");
    let prompts = format!("PYTHONSTARTUP={}", prompts.display());
    Shell::start(["/usr/bin/env", &prompts, "/usr/bin/python3", "-q"])
}

#[track_caller]
fn all_are_of(points: &[Point], shell: &str) {
    for point in points {
        assert_eq!(text(point, "shell"), shell, "{point:?}");
    }
}

#[test]
fn commands_of_zsh() {
    let receiver = Receiver::start();
    let mut older = zsh();
    let collector = start_with(&receiver, OTHERS);
    wait_for_file(&collector, "/usr/bin/zsh");
    older.enter(": it waited at its prompt");
    expect(&receiver, older.pid(), "root", &[": it waited at its prompt"]);
    let mut shell = zsh();
    let commands = ["for i in 1\ndo :\ndone", ": <<X\n\nX", "", ": 'quoted\n' \\\nend"];
    for command in commands {
        shell.enter(command);
    }
    // Widgets ask the line editor for other things while it reads; this one for the last word.
    shell.press(": again \x1b.\n");
    let pid = shell.pid();
    let commands = [&commands[..], &[": again end"]].concat();
    let points = expect_and_exit(&receiver, shell, pid, "root", &commands);
    all_are_of(&points, "zsh");
    collector.stop();
}

#[test]
fn any_command_of_zsh_arrives_as_it_was_typed() {
    let receiver = Receiver::start();
    let collector = start_with(&receiver, OTHERS);
    let mut shell = zsh();
    wait_for_file(&collector, "/usr/bin/zsh");
    let mut chance = Chance::new(99);
    let commands: Vec<_> = (0..400).map(|number| chance.command(number)).collect();
    for command in &commands {
        shell.enter(command);
    }
    let commands: Vec<_> = commands.iter().map(String::as_str).collect();
    expect(&receiver, shell.pid(), "root", &commands);
    collector.stop();
}

#[test]
fn lines_of_python() {
    let receiver = Receiver::start();
    let collector = start_with(&receiver, OTHERS);
    let folder = tempfile::tempdir().expect("a folder");
    let mut shell = python(folder.path());
    wait_for_file(&collector, "/usr/bin/python3");
    let pid = shell.pid();
    shell.enter("if 'é':\n    pass\n");
    shell.enter("name = input(sys.ps1)\nsomebody");
    // The end of the input is no line.
    shell.end_of_input();
    let lines = ["if 'é':", "    pass", "", "name = input(sys.ps1)", "somebody"];
    all_are_of(&expect(&receiver, pid, "root", &lines), "python");
    collector.stop();
}

#[test]
fn lines_of_psql_through_either_library() {
    let receiver = Receiver::start();
    let collector = start_with(&receiver, OTHERS);
    // The status names files by their inodes, which go to others when a file is gone: both stay.
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    for (folder, library) in folders.iter().zip(["libreadline.so.8", "libedit.so.2"]) {
        let program = linked(folder.path(), "psql", library).display().to_string();
        let mut shell = Shell::start([&program]);
        wait_for_file(&collector, &program);
        let pid = shell.pid();
        shell.enter("SELECT 1;");
        let points = expect_and_exit(&receiver, shell, pid, "root", &["SELECT 1;"]);
        all_are_of(&points, "psql");
    }
    collector.stop();
}

#[test]
fn nobody_asked_for_them_by_default() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let folder = tempfile::tempdir().expect("a folder");
    let program = linked(folder.path(), "psql", "libreadline.so.8").display().to_string();
    let mut others = [zsh(), python(folder.path()), Shell::start([program])];
    for shell in &mut others {
        shell.enter("''");
    }
    let mut bash = Shell::bash();
    bash.enter(": after them");
    expect(&receiver, bash.pid(), "root", &[": after them"]);
    collector.stop();
    for shell in others {
        assert_eq!(points_of(&receiver, shell.pid()), []);
    }
}

#[test]
fn more_fields_say_where_a_command_was_entered() {
    let fields = r#"extra_fields = ["ppid", "tty", "cwd", "login_uid", "container_id"]"#;
    let receiver = Receiver::start();
    let collector = start_with(&receiver, fields);
    let id = "0123456789abcdef".repeat(4);
    let group = Cgroup::new(&format!("docker-{id}.scope"));
    // Into a container as far as cgroups are concerned, with a file system of its own, logged in as somebody.
    let enter = format!(
        "echo $$ >{} && echo 54321 >/proc/self/loginuid && mount -t tmpfs none /mnt && \
         mkdir -p '/mnt/a b/c' && cd /mnt && exec bash --norc",
        group.0.join("cgroup.procs").display()
    );
    let mut shell = Shell::start(["unshare", "--mount", "sh", "-c", &enter]);
    let (pid, parent) = (shell.pid(), parent_of(shell.pid()));
    let tty = fs::read_link(format!("/proc/{pid}/fd/0")).expect("it has a terminal");
    let tty = tty.display().to_string();
    let deep = format!("mkdir -p mnt/{0} && cd mnt/{0}", vec!["d"; 70].join("/"));
    let places = [
        ("cd 'a b/c'", Some("/mnt")),
        (": in\\\na folder", Some("/mnt/a b/c")),
        ("cd /", Some("/mnt/a b/c")),
        (&deep, Some("/")),
        (": too deep", None),
        ("exit", None),
    ];
    for (command, _) in &places[..places.len() - 1] {
        shell.enter(command);
    }
    let commands = places.map(|(command, _)| command);
    let points = expect_and_exit(&receiver, shell, pid, "root", &commands[..commands.len() - 1]);
    assert!(collector.metric("ebpf-bash", "cwds_unknown_total") >= 2);
    collector.stop();
    for (point, (_, cwd)) in points.iter().zip(places) {
        let known = [
            ("ppid", Some(parent.as_str())),
            ("tty", tty.strip_prefix("/dev/")),
            ("login_uid", Some("54321")),
            ("container_id", Some(id.as_str())),
            ("cwd", cwd),
        ];
        for (key, value) in known {
            assert_eq!(
                point.fields.contains_key(key).then(|| text(point, key)),
                value,
                "{point:?}"
            );
        }
    }
}

#[test]
fn a_container_s_working_directory_is_as_it_sees_it() {
    let receiver = Receiver::start();
    let root = Root::new(&[("root", 0)]);
    let collector = start_with(&receiver, r#"extra_fields = ["cwd", "container_id"]"#);
    let mut shell = root.shell(0);
    let file = root.file("bin/bash").display().to_string();
    wait_for_file(&collector, &file);
    shell.enter("cd /etc");
    shell.enter(": there");
    let points = expect(&receiver, shell.pid(), "root", &["cd /etc", ": there"]);
    collector.stop();
    assert_eq!(text(&points[0], "cwd"), "/");
    assert_eq!(text(&points[1], "cwd"), "/etc");
    assert!(points.iter().all(|point| !point.fields.contains_key("container_id")), "{points:?}");
}

/// A group of processes; the shell in it is gone when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    #[track_caller]
    fn new(name: &str) -> Self {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists());
        let folder = root.expect("cgroup v2 is mounted").join(name);
        fs::create_dir(&folder).expect("a new group");
        Self(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

fn parent_of(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
    line.expect("every process has one").to_owned()
}

#[test]
fn secrets_are_taken_out_everywhere() {
    let receiver = Receiver::start();
    let collector = start_with(&receiver, r#"bash_redact = ["(?i)password=\\S+", "hush\\n.*"]"#);
    let mut shell = Shell::bash();
    shell.enter(": PassWord=geheim next");
    shell.enter(": 'hush\ngeheim'");
    let points = expect(&receiver, shell.pid(), "root", &[": *** next", ": '***"]);
    collector.stop();
    for point in &points {
        assert!(!format!("{point:?}").contains("geheim"), "{point:?}");
        let end = format!("cmd:`{}`", text(point, "cmd"));
        assert!(text(point, "message").ends_with(&end), "{point:?}");
    }
}

#[test]
fn a_setting_that_means_nothing_stops_this_plugin_alone_and_is_named() {
    let receiver = Receiver::start();
    let config = "[plugins.ebpf-bash]\nbash_redact = [\"secret(\"]\n";
    let setup = Collector::setup(&receiver).enabled("ebpf-net,ebpf-bash").config(config);
    let collector = setup.launch();
    let entry = collector.wait_for("ebpf-bash", "failed");
    let reason = entry["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("bash_redact: `secret(` is no regular expression"), "{entry}");
    collector.wait_for("ebpf-net", "running");
    collector.stop();
}

#[test]
fn where_nothing_may_be_attached_it_fails_alone_and_says_why() {
    let receiver = Receiver::start();
    let _somebody = Shell::bash();
    let setup = Collector::setup(&receiver).enabled("ebpf-net,ebpf-bash");
    let collector = setup.args(["--probe-policy", "no-uprobe"]).launch();
    let entry = collector.wait_for("ebpf-bash", "failed");
    let reason = entry["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("uprobe/readline") && reason.contains("no-uprobe"), "{entry}");
    collector.wait_for("ebpf-net", "running");
    collector.stop();
}
