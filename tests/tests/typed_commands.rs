//! Commands typed into bash. In: shells on real terminals, of several users, on this host and in roots and mounts of their own. Out:
//! one point per command, with the user that its own root names, the pid, and every byte of it.

use std::fs;
use std::process::Command;

use system_tests::collector::{Collector, HOSTNAME};
use system_tests::process;
use system_tests::receiver::Receiver;
use system_tests::shell::{Root, Shell};
use system_tests::typed::{
    expect, expect_and_exit, is_watched, linked, points_of, start, text, wait_for_file,
};
use system_tests::wait;

/// A shell in a root whose file is new to the collector. Nobody types before it is watched: only a program is that fast.
#[track_caller]
fn first_shell(collector: &Collector, root: &Root) -> Shell {
    let shell = root.shell(0);
    wait_for_file(collector, &root.file("bin/bash").display().to_string());
    shell
}

#[test]
fn a_point_has_the_documented_form() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let mut shell = Shell::bash();
    let before = std::time::SystemTime::now();
    shell.enter(": 'é' | :");
    let after = std::time::SystemTime::now();
    expect(&receiver, shell.pid(), "root", &[": 'é' | :"]);
    collector.stop();

    let [point] = points_of(&receiver, shell.pid()).try_into().expect("it is one");
    let keys: Vec<_> = point.fields.keys().map(String::as_str).collect();
    assert_eq!(keys, ["cmd", "message", "pid", "user"]);
    assert_eq!(point.tag("host"), Some(HOSTNAME));
    let ns = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH).expect("it is later").as_nanos() as i64
    };
    let (before, after) = (ns(before), ns(after));
    assert!((before..=after).contains(&point.time), "{before} {after} {point:?}");
    let time = process::run(
        Command::new("date")
            .args(["--iso-8601=seconds", &format!("--date=@{}", point.time / 1_000_000_000)]),
    );
    let time = time.trim().replace("+00:00", "Z");
    let pid = shell.pid();
    assert_eq!(text(&point, "message"), format!("{time} pid:`{pid}` user:`root` cmd:`: 'é' | :`"));
    let requests = receiver.requests();
    assert!(requests.iter().all(|r| r.path == "/v1/write/logging" && r.query == "input=ebpf-bash"));
}

#[test]
fn shells_that_wait_at_their_prompt_when_the_collector_starts_lose_no_command() {
    let receiver = Receiver::start();
    let mut shell = Shell::bash();
    let collector = start(&receiver);
    shell.enter(": first");
    shell.enter(": second");
    expect(&receiver, shell.pid(), "root", &[": first", ": second"]);
    collector.stop();
}

#[test]
fn users_are_those_of_the_shells_own_root() {
    let receiver = Receiver::start();
    // The same ids under other names, in containers and in a mount namespace of this host.
    let first = Root::new(&[("root", 0), ("anna", 54_321), ("ben", 54_322)]);
    let second = Root::new(&[("admin", 0), ("carl", 54_321)]);
    let collector = start(&receiver);
    let _watched = [&first, &second].map(|root| first_shell(&collector, root));
    let passwd = first.file("etc/passwd").display().to_string();
    let of_host = |uid: u32| {
        let enter = format!(
            "mount --bind {passwd} /etc/passwd && exec setpriv --reuid {uid} --regid {uid} \
             --clear-groups bash --norc"
        );
        Shell::start(["unshare", "--mount", "sh", "-c", &enter])
    };
    let shells = [
        (Shell::bash(), "root"),
        (of_host(54_321), "anna"),
        (of_host(54_322), "ben"),
        (first.shell(54_321), "anna"),
        (second.shell(54_321), "carl"),
        (second.shell(0), "admin"),
        (second.shell(54_322), "54322"),
    ];
    for (mut shell, user) in shells {
        let pid = shell.pid();
        let command = format!(": by {user}");
        shell.enter(&command);
        expect_and_exit(&receiver, shell, pid, user, &[&command]);
    }
    collector.stop();
}

#[test]
fn a_link_in_a_container_does_not_lead_to_the_hosts_users() {
    let receiver = Receiver::start();
    let root = Root::new(&[]);
    fs::remove_file(root.file("etc/passwd")).expect("it is there");
    std::os::unix::fs::symlink("/etc/../../../../users", root.file("etc/passwd")).expect("a link");
    fs::write(root.file("users"), "inside:x:0:0::/:\n").expect("a new file");
    let collector = start(&receiver);
    let _watched = first_shell(&collector, &root);
    let mut shell = root.shell(0);
    shell.enter(": who");
    expect(&receiver, shell.pid(), "inside", &[": who"]);
    collector.stop();
}

#[test]
fn a_file_is_watched_from_its_first_start_until_nobody_runs_it() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let root = Root::new(&[("root", 0)]);
    let file = root.file("bin/bash");
    assert_eq!(is_watched(&collector, &file), None);
    let mut shell = first_shell(&collector, &root);
    let pid = shell.pid();
    shell.enter(": first");
    expect_and_exit(&receiver, shell, pid, "root", &[": first"]);
    let is_gone = || is_watched(&collector, &file).is_none();
    wait::until_true("nobody runs it", is_gone, || collector.status().to_string());
    // And again, as if it had never been there.
    let mut shell = first_shell(&collector, &root);
    shell.enter(": second");
    expect(&receiver, shell.pid(), "root", &[": second"]);
    collector.stop();
}

#[test]
fn a_file_that_two_overlays_share_gives_each_command_once() {
    let receiver = Receiver::start();
    let root = Root::new(&[("root", 0)]);
    let collector = start(&receiver);
    let lower = root.path().display().to_string();
    // A tmpfs for the upper layer: overlays cannot be stacked on every file system.
    let enter = format!(
        "mount -t tmpfs none /mnt && mkdir /mnt/up /mnt/work /mnt/all && mount -t overlay \
         -o lowerdir={lower},upperdir=/mnt/up,workdir=/mnt/work none /mnt/all && \
         exec chroot /mnt/all /bin/bash --norc"
    );
    let mut shells: Vec<Shell> =
        (0..2).map(|_| Shell::start(["unshare", "--mount", "sh", "-c", &enter])).collect();
    let are_watched = || {
        let entry = collector.plugin("ebpf-bash").expect("it is enabled");
        let probes = entry["probes"].as_array().expect("a list");
        let is_one = |probe: &&serde_json::Value| {
            probe["name"].as_str().is_some_and(|name| name.starts_with("/mnt/all/"))
        };
        probes.iter().filter(is_one).count() == shells.len()
    };
    wait::until_true("both are watched", are_watched, || collector.status().to_string());
    for round in 0..3 {
        for shell in &mut shells {
            shell.enter(&format!(": round {round}"));
        }
    }
    for shell in shells {
        let pid = shell.pid();
        let rounds = [": round 0", ": round 1", ": round 2"];
        expect_and_exit(&receiver, shell, pid, "root", &rounds);
    }
    collector.stop();
}

#[test]
fn a_bash_whose_readline_is_a_library_is_watched_there() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let folder = tempfile::tempdir().expect("a folder");
    // As a bash that is linked this way does it: the function is found in the library alone.
    let files = ["bash", "other"].map(|name| linked(folder.path(), name, "libreadline.so.8"));
    let files = files.map(|file| file.display().to_string());
    let [mut shell, mut other] = files.each_ref().map(|file| Shell::start([file]));
    wait_for_file(&collector, &files[0]);
    let (pid, pid_of_other) = (shell.pid(), other.pid());
    other.enter("not for bash");
    shell.enter("first");
    shell.enter("");
    expect_and_exit(&receiver, shell, pid, "root", &["first", ""]);
    other.exit();
    collector.stop();
    assert_eq!(points_of(&receiver, pid_of_other), []);
}

#[test]
fn a_bash_that_cannot_be_watched_is_explained_and_the_others_are() {
    let receiver = Receiver::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bash-static").display().to_string();
    let source = folder.path().join("wait.c");
    fs::write(&source, "#include <unistd.h>\nint main(void)\n{\n\twrite(1, \"[ready]\", 7);\n\treturn pause();\n}\n").expect("a new file");
    process::run(Command::new("gcc").args(["-s", "-o", &path]).arg(&source));
    let _silent = Shell::start([&path]);
    let collector = start(&receiver);
    wait::until("it is explained", || {
        let entry = collector.plugin("ebpf-bash").expect("it is enabled");
        let probes = entry["probes"].as_array().expect("a list");
        let explains = |probe: &&serde_json::Value| {
            let detail = probe["detail"].as_str().unwrap_or_default();
            probe["name"] == "line is entered"
                && detail.contains(&path)
                && detail.contains("no function readline")
        };
        // Whoever may run a program can do this to the collector, so its state must not depend on it.
        let is_well =
            entry["state"] == "running" && entry["metrics"]["files_unseen"].as_f64() >= Some(1.0);
        if is_well && probes.iter().any(|probe| explains(&probe)) {
            Ok(())
        } else {
            Err(entry.to_string())
        }
    });
    let mut shell = Shell::bash();
    shell.enter(": still");
    expect(&receiver, shell.pid(), "root", &[": still"]);
    collector.stop();
}

#[test]
fn lines_of_one_command_are_one_point() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let mut shell = Shell::bash();
    let commands = [
        ": <<END\nfirst\n\n\tthird\nEND",
        "for i in 1 2\ndo :\ndone",
        ": 'quoted\nnewline' \\\nand escaped",
        "eval ': nested; :'",
        "",
        "PROMPT_COMMAND='eval :'",
        ": after\\\na prompt command",
    ];
    for command in commands {
        // A tab asks for completion where it is not quoted by Ctrl-V.
        shell.enter(&command.replace('\t', "\x16\t"));
    }
    // Given up in the middle; nobody runs it, but it was typed.
    shell.press(": 'given up\n");
    shell.press("\x03");
    shell.enter(": next");
    shell.paste(": pasted <<END\nin one piece\nEND");
    let pid = shell.pid();
    let more = [": 'given up", ": next", ": pasted <<END\nin one piece\nEND"];
    expect_and_exit(&receiver, shell, pid, "root", &[&commands[..], &more[..]].concat());
    collector.stop();
}

#[test]
fn every_line_is_a_point_where_lines_are_not_joined_and_empty_ones_are_left_out() {
    let receiver = Receiver::start();
    let config = "[plugins.ebpf-bash]\njoin_lines = false\nempty_lines = false\n";
    let collector = Collector::setup(&receiver).enabled("ebpf-bash").config(config).start();
    let mut shell = Shell::bash();
    shell.enter("for i in 1\n\ndo :\ndone");
    expect(&receiver, shell.pid(), "root", &["for i in 1", "do :", "done"]);
    collector.stop();
}

#[test]
fn a_command_is_whole_up_to_the_bound_and_marked_beyond() {
    const LONGEST_LINE: usize = 65_536;
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let mut shell = Shell::bash();
    // Around the sizes at which the parts of a line change.
    let sizes =
        [254, 4095, 4096, 4097, 8191, 8192, 8193, LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1];
    let commands = sizes.map(|size| format!(": {}", "x".repeat(size - 2)));
    for command in &commands {
        shell.paste(command);
    }
    let pid = shell.pid();
    wait::until("all commands have arrived", || match points_of(&receiver, pid) {
        points if points.len() < sizes.len() => Err(format!("{} points", points.len())),
        _ => Ok(()),
    });
    collector.stop();
    for (point, command) in points_of(&receiver, pid).iter().zip(&commands) {
        let is_cut = command.len() > LONGEST_LINE;
        let kept = &command[..command.len().min(LONGEST_LINE)];
        assert!(text(point, "cmd") == kept, "{} bytes of {}", text(point, "cmd").len(), kept.len());
        assert_eq!(point.fields.contains_key("truncated"), is_cut, "{} bytes", command.len());
    }
}
