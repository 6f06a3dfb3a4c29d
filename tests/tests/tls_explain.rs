//! What is said of processes whose TLS is seen, and of those whose TLS is not. In: processes of several kinds. Out: what
//! `datakit-ebpf tls explain` and `/status` say of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use system_tests::collector::Collector;
use system_tests::hosts::Hosts;
use system_tests::process::{Process, run};
use system_tests::receiver::Receiver;
use system_tests::tls::{Server, build_go, certificate, wait_until_watched};
use system_tests::{plugins, program, wait};
use tempfile::TempDir;

const NET: &str = "ebpf-net";
const ENABLED: [&str; 2] = ["--l7net-enabled", "httpflow,httpflow-tls"];

fn ask(words: &[&str]) -> Output {
    let mut command = Command::new(plugins::externals().join("datakit-ebpf"));
    command.args(words).stdin(Stdio::null()).output().expect("it can be run")
}

#[track_caller]
fn explain(pid: u32) -> String {
    let output = ask(&["tls", "explain", &pid.to_string()]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that has a file mapped which is called as Java's virtual machine is.
fn java(hosts: &Hosts, folder: &Path) -> Process {
    let library = folder.join("libjvm.so");
    fs::write(&library, "not really").expect("a new file");
    let mut python = Command::new("python3");
    let mut process = hosts.client.spawn(python.arg(program("map_file.py")).arg(library));
    assert_eq!(process.line(), "ready");
    process
}

/// A process with the text inside that programs have which were built with rustls.
fn rust(hosts: &Hosts, folder: &Path) -> Process {
    let (source, binary) = (folder.join("rust.c"), folder.join("with-rustls"));
    let code = "#include <stdio.h>\n#include <unistd.h>\n\
                const char path[] = \"/registry/rustls-0.23.1/src/conn.rs\";\n\
                int main(void) { puts(\"ready\"); fflush(stdout); pause(); return path[0]; }\n";
    fs::write(&source, code).expect("a new file");
    run(Command::new("gcc").arg("-o").arg(&binary).arg(&source));
    let mut process = hosts.client.spawn(&mut Command::new(binary));
    assert_eq!(process.line(), "ready");
    process
}

fn go(hosts: &Hosts) -> (TempDir, PathBuf, Server) {
    let folder = certificate();
    let binary = build_go(folder.path(), "explained", &["-ldflags=-s -w"]);
    let mut command = Command::new(&binary);
    command.current_dir(folder.path()).args(["serve", "0.0.0.0:8443"]);
    let server = Server::start(&hosts.server, &mut command);
    (folder, binary, server)
}

#[test]
fn processes_are_explained() {
    let hosts = Hosts::new();
    let (folder, binary, server) = go(&hosts);
    let text = explain(server.pid());
    let line = format!("  {}: Go's crypto/tls, seen at ", binary.display());
    assert!(text.contains(&line) && text.contains("HTTP through TLS is seen"), "{text}");

    let nginx = Server::nginx(&hosts.server, folder.path(), 8444, "ssl");
    let text = explain(nginx.pid());
    assert!(
        text.starts_with(&format!("nginx (pid {}): HTTP through TLS is seen", nginx.pid())),
        "{text}"
    );
    assert!(text.contains("/libssl.so.3: OpenSSL, seen at "), "{text}");

    let text = explain(java(&hosts, folder.path()).pid());
    assert!(text.contains("libjvm.so: not seen: Java has TLS of its own"), "{text}");

    let text = explain(rust(&hosts, folder.path()).pid());
    assert!(text.contains("what goes through TLS is not seen"), "{text}");
    assert!(text.contains("it has rustls inside"), "{text}");

    let sleep = hosts.client.spawn(Command::new("sleep").arg("1000"));
    let text = explain(sleep.pid());
    assert!(text.contains("it has no TLS library that is known here"), "{text}");
}

#[test]
fn questions_that_nobody_answers_are_a_sentence() {
    for (words, said) in [
        (&["tls", "explain"][..], "tls explain PID"),
        (&["tls", "explain", "4194305"], "look at process 4194305"),
        (&["no-such-command", "7"], "there is no command \"no-such-command\", and no plugin in "),
    ] {
        let output = ask(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}: {errors}");
        assert!(errors.contains(said) && errors.trim().lines().count() == 1, "{words:?}: {errors}");
    }
}

#[test]
fn status_names_the_processes_that_are_not_seen_and_the_plugin_is_not_degraded() {
    let hosts = Hosts::new();
    let folder = certificate();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    let java = java(&hosts, folder.path());
    let rust = rust(&hosts, folder.path());
    let said = |pid: u32, reason: &str| {
        let entry = collector.plugin(NET).expect("it runs");
        assert_eq!(entry["state"], "running", "{entry}");
        let probes = entry["probes"].as_array().cloned().unwrap_or_default();
        let remark = probes.iter().find(|probe| probe["name"] == "TLS of processes");
        let detail = remark.expect("it is there")["detail"].as_str().unwrap_or_default().to_owned();
        let wanted = format!("(pid {pid}): {reason}");
        if detail.contains(&wanted) { Ok(()) } else { Err(detail) }
    };
    wait::until("the Java process is named", || said(java.pid(), "Java has TLS of its own"));
    wait::until("the Rust process is named", || said(rust.pid(), "it has rustls inside"));
    assert!(collector.metric(NET, "tls_processes_unseen") >= 2);
    collector.stop();
}

#[test]
fn a_program_that_nobody_runs_any_more_is_let_go() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    let (_folder, binary, server) = go(&hosts);
    wait_until_watched(&collector, &binary);
    drop(server);
    let name = binary.display().to_string();
    wait::until_true(
        "it is let go",
        || !collector.plugin(NET).expect("it runs").to_string().contains(&name),
        || collector.plugin(NET).unwrap_or_default().to_string(),
    );
    collector.stop();
}
