//! The host when those around it misbehave: a receiver that fails on one request, an output that nobody reads, files that are no
//! plugins, flags that do not exist, a second collector. In: a real collector in such surroundings. Out: it goes on, or ends,
//! as it should, and says so.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::fcntl::{FcntlArg, fcntl};
use system_tests::collector::{Collector, Ledger};
use system_tests::flows::Tcp;
use system_tests::hosts::Hosts;
use system_tests::plugins::{PluginFolder, externals};
use system_tests::receiver::{Answer, Receiver};
use system_tests::wire::Point;
use system_tests::{ports, wait, workspace};

#[test]
fn a_request_on_which_the_receiver_fails_does_not_hold_up_the_others() {
    let refused = Answer::Refuse(500);
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let client = hosts.client.inode().to_string();
    receiver.refuse_one(500, move |points| {
        let has = |point: &Point, tag, value: &str| point.tag(tag) == Some(value);
        points.iter().any(|point| has(point, "server_port", "6500") && has(point, "netns", &client))
    });
    let collector = Collector::start(&receiver);
    hosts.talk(6500, 1_000);
    wait::until("the receiver has failed", || match receiver.answered(refused) {
        0 => Err("no such request yet".to_owned()),
        _ => Ok(()),
    });
    for port in 6501..6504 {
        hosts.talk(port, 12_345);
    }
    for port in 6501..6504 {
        hosts.wait_for_both_ends(&receiver, port);
    }
    let ledger = collector
        .wait_for_ledger("all others are uploaded", |now| now.queued == 0 && now.balances());
    let requests = receiver.requests();
    let poisonous: Vec<_> = requests.iter().filter(|request| request.answer == refused).collect();
    assert!(poisonous.len() > 1, "it is not given up at the first failure");
    let points = poisonous[0].points.len() as u64;
    assert_eq!(ledger.dropped.get("rejected"), Some(&points), "{ledger:?}");
    assert_eq!(ledger.dropped.values().sum::<u64>(), points, "{ledger:?}");
    collector.stop();
    let seen = receiver.netflow();
    for port in 6501..6504 {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 12_345));
    }
}

#[test]
fn a_receiver_that_fails_on_one_plugins_requests_gets_those_of_the_others() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    receiver.refuse_every(500, |points| points.iter().any(|point| point.name == "heartbeat"));
    let plugins = PluginFolder::new();
    plugins.add_fixture("heartbeat");
    let setup = Collector::setup(&receiver).enabled("heartbeat,ebpf-net");
    let collector = setup.plugin_folder(plugins.path()).start();
    wait::until("the receiver has failed", || match receiver.answered(Answer::Refuse(500)) {
        0 => Err("no such request yet".to_owned()),
        _ => Ok(()),
    });
    for port in [6540, 6541] {
        hosts.talk(port, 7_777);
        hosts.wait_for_both_ends(&receiver, port);
    }
    let ledger = collector.wait_for_ledger("what fails is given up", |now| {
        now.balances() && now.dropped.get("rejected").is_some_and(|count| *count > 0)
    });
    assert_eq!(ledger.dropped.values().sum::<u64>(), ledger.dropped["rejected"], "{ledger:?}");
    collector.stop();
    let seen = receiver.netflow();
    for port in [6540, 6541] {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 7_777));
    }
}

/// Points arrive whatever the receiver does with the report of a failure.
#[track_caller]
fn points_arrive_beside_a_last_error(answer: Answer) {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    receiver.answer_last_errors(answer);
    let collector = Collector::setup(&receiver).enabled("no-such-plugin,ebpf-net").launch();
    collector.wait_for("ebpf-net", "running");
    receiver.wait_for_last_error("no-such-plugin");
    hosts.talk(6510, 54_321);
    hosts.wait_for_both_ends(&receiver, 6510);
    let ledger = collector.wait_for_ledger("the counters balance", Ledger::balances);
    assert!(ledger.dropped.values().all(|count| *count == 0), "{ledger:?}");
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 6510, Tcp::once(0, 54_321));
}

#[test]
fn a_last_error_that_the_receiver_fails_on_holds_up_no_points() {
    points_arrive_beside_a_last_error(Answer::Refuse(500));
}

#[test]
fn a_last_error_that_is_never_answered_holds_up_no_points() {
    points_arrive_beside_a_last_error(Answer::Hang);
}

/// A connection over loopback.
fn talk_over_loopback() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("a listener has an address");
    let mut client = TcpStream::connect(address).expect("it listens");
    client.write_all(b"hello").expect("it is connected");
    drop(listener.accept().expect("a connection waits"));
}

#[test]
fn a_collector_whose_output_nobody_reads_any_more_ends_by_itself() {
    let receiver = Receiver::closed();
    let (reader, writer) = pipe().expect("a pipe");
    let setup = Collector::setup(&receiver).args(["--output", "console", "--include-loopback"]);
    let mut collector = setup.stdout(writer).start();
    let pidfile = collector.pidfile();
    // As `| head -1` does.
    let head = thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).expect("a pipe can be read");
        line
    });
    let status = wait::until("the collector ends", || {
        talk_over_loopback();
        collector.ended().ok_or_else(|| format!("its reader ended: {}", head.is_finished()))
    });
    let line = head.join().expect("it has read a line");
    assert!(line.contains("tcp"), "a line about a connection: {line}");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!pidfile.exists(), "the pid file is gone");
}

/// What stops where it writes to a pipe that is full and stays so.
#[track_caller]
fn ends_with_a_full_pipe(output: &[&str]) {
    let receiver = Receiver::closed();
    let (reader, mut writer) = pipe().expect("a pipe");
    let room = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4_096)).expect("a pipe can be made small");
    writer.write_all(&vec![b'\n'; room as usize]).expect("so much fits");
    let setup = Collector::setup(&receiver).args(output).args(["--include-loopback"]);
    let mut collector = setup.stdout(writer).start();
    let pidfile = collector.pidfile();
    assert!(pidfile.exists(), "{}", pidfile.display());
    wait::until("points wait behind the pipe", || {
        talk_over_loopback();
        let ledger = collector.ledger();
        let waits = ledger.queued > 0 && ledger.uploaded == 0;
        if waits { Ok(()) } else { Err(format!("{ledger:?}")) }
    });
    collector.terminate();
    assert!(!pidfile.exists(), "the pid file is gone");
    drop(reader);
}

#[test]
fn sigterm_ends_a_collector_whose_console_is_a_full_pipe() {
    ends_with_a_full_pipe(&["--output", "console"]);
}

#[test]
fn sigterm_ends_a_collector_whose_output_file_is_a_full_pipe() {
    ends_with_a_full_pipe(&["--output", "file"]);
}

/// Runs the collector with arguments that make it end soon.
#[track_caller]
fn collector<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    // A test that would wait forever shall fail instead.
    let mut command = Command::new("/usr/bin/timeout");
    command.arg("60").arg(externals().join("datakit-ebpf")).args(args);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What `plugin ... file` says, when all is well.
#[track_caller]
fn said(args: &[&str], path: &Path) -> String {
    let path = path.to_str().expect("paths here are text");
    let output = collector(args.iter().chain([&path]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?} {path}: {errors}");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Asserts that a command refuses a path with one line that names it.
#[track_caller]
fn is_refused(args: &[&str], path: &Path) {
    let path = path.to_str().expect("paths here are text");
    let output = collector(args.iter().chain([&path]));
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{args:?} {path}: {said}{errors}");
    assert_eq!(errors.lines().count(), 1, "one line, {args:?} {path}: {errors}");
    assert!(errors.contains(path), "it names the file, {args:?} {path}: {errors}");
    assert_eq!(said, "", "{args:?} {path}");
}

#[test]
fn a_real_plugin_is_listed_inspected_and_checked() {
    let plugins = PluginFolder::new();
    let library = plugins.path().join("libebpf_net.so");
    assert!(said(&["plugin", "list", "--plugin-dir"], plugins.path()).contains("ebpf-net"));
    assert!(said(&["plugin", "inspect"], &library).contains("ebpf-net"));
    assert!(said(&["plugin", "check"], &library).contains("ebpf-net"));
}

/// Files that look like plugins from afar, by what is wrong with them.
fn no_plugins(folder: &Path, library: &[u8]) -> Vec<PathBuf> {
    let with = |name: &str, content: &[u8]| {
        let path = folder.join(format!("lib{name}.so"));
        fs::write(&path, content).expect("a new file");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
        path
    };
    let mut foreign = library.to_vec();
    foreign[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let writable = with("writable", library);
    fs::set_permissions(&writable, Permissions::from_mode(0o666)).expect("it is ours");
    let text = fs::read(workspace().join("Cargo.toml")).expect("the workspace is there");
    let maps = fs::read_to_string("/proc/self/maps").expect("this process has libraries");
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().last());
    let libc = paths.find(|path| path.contains("/libc.so")).expect("libc is mapped");
    vec![
        with("text", &text),
        with("empty", b""),
        with("half", &library[..library.len() / 2]),
        with("almost", &library[..library.len() - 1]),
        with("aarch64", &foreign),
        with("system", &fs::read(libc).expect("it is mapped")),
        writable,
        folder.join("libmissing.so"),
    ]
}

#[test]
fn what_is_no_plugin_for_this_host_is_refused_with_one_line() {
    let plugins = PluginFolder::new();
    let library = fs::read(plugins.path().join("libebpf_net.so")).expect("it was copied");
    let folder = tempfile::tempdir().expect("a folder");
    for file in no_plugins(folder.path(), &library) {
        is_refused(&["plugin", "inspect"], &file);
        is_refused(&["plugin", "check"], &file);
    }
    is_refused(&["plugin", "list", "--plugin-dir"], &folder.path().join("missing"));
}

#[test]
fn a_list_shows_the_plugins_beside_files_that_are_none() {
    let plugins = PluginFolder::new();
    let library = fs::read(plugins.path().join("libebpf_net.so")).expect("it was copied");
    let files = no_plugins(plugins.path(), &library);
    let list = said(&["plugin", "list", "--plugin-dir"], plugins.path());
    let is_good = |line: &&str| line.starts_with("ebpf-net ") && line.contains("interface");
    assert_eq!(list.lines().filter(is_good).count(), 1, "{list}");
    for file in files.iter().filter(|file| file.exists()) {
        let file = file.to_str().expect("paths here are text");
        assert_eq!(list.lines().filter(|line| line.contains(file)).count(), 1, "{file}: {list}");
    }
}

#[test]
fn an_unknown_flag_is_a_warning_in_the_log_and_the_collector_runs() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let flags = ["--no-such-flag", "with-value", "--another-one=5"];
    let collector = Collector::setup(&receiver).args(flags).start();
    hosts.talk(6520, 2_222);
    let log = collector.log();
    for flag in ["--no-such-flag", "--another-one"] {
        let warns = |line: &&str| line.contains("WARN") && line.contains(flag);
        assert_eq!(log.lines().filter(warns).count(), 1, "{flag}: {log}");
    }
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 6520, Tcp::once(0, 2_222));
}

#[test]
fn a_second_collector_with_the_same_pid_file_refuses_to_start() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let first = Collector::start(&receiver);
    let (pid, pidfile) = (first.pid().to_string(), first.pidfile());
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
    assert_eq!(name.trim_end(), "datakit-ebpf");

    let (api, status) = (receiver.address().to_string(), ports::free_address().to_string());
    let output = collector([
        "run",
        "--datakit-apiserver",
        &api,
        "--status-listen",
        &status,
        "--enabled",
        "ebpf-net",
        "--pidfile",
        pidfile.to_str().expect("temporary paths are text"),
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.lines().any(|line| line.contains(&format!("pid {pid}"))), "{errors}");

    assert_eq!(fs::read_to_string(&pidfile).expect("it is still there"), pid);
    hosts.talk(6530, 3_333);
    hosts.wait_for_both_ends(&receiver, 6530);
    first.stop();
    hosts.assert_tcp(&receiver.netflow(), 6530, Tcp::once(0, 3_333));
}
