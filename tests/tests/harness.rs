//! The harness itself, without the product: what a test believes about its receiver and its hosts is true.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use system_tests::hosts::{Family, Hosts};
use system_tests::nginx::{BIG, Nginx};
use system_tests::receiver::{Answer, Receiver};
use system_tests::tcp::drain;
use system_tests::{process, program, wait};

fn post(receiver: &Receiver) -> Command {
    let body = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/netflow-2.pb");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "30", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}"]);
    curl.args(["--header", "Content-Type: application/protobuf; proto=com.guance.Point"]);
    curl.arg("--data-binary").arg(format!("@{}", body.display()));
    curl.arg(format!("http://{}/v1/write/network?input=ebpf-net%2Fnetflow", receiver.address()));
    curl
}

#[test]
fn the_receiver_records_what_curl_posts() {
    let receiver = Receiver::start();
    assert_eq!(process::run(&mut post(&receiver)), "200");
    let requests = receiver.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/v1/write/network");
    assert_eq!(request.query, "input=ebpf-net%2Fnetflow");
    assert_eq!(
        request.header("content-type"),
        Some("application/protobuf; proto=com.guance.Point")
    );
    assert_eq!(request.header("content-length"), Some(request.len.to_string().as_str()));
    let flows = receiver.netflow();
    assert!(!flows.is_empty());
    assert!(flows.with("direction", "incoming").tcp().read > 0);
}

#[test]
fn a_refused_request_is_recorded_and_its_points_are_not_taken() {
    let receiver = Receiver::start();
    receiver.answer(Answer::Refuse(503));
    assert_eq!(process::run(&mut post(&receiver)), "503");
    assert_eq!(receiver.answered(Answer::Refuse(503)), 1);
    assert!(receiver.points().is_empty());
}

#[test]
fn a_hanging_receiver_accepts_and_never_answers() {
    let receiver = Receiver::start();
    receiver.answer(Answer::Hang);
    let mut curl = post(&receiver).stdout(Stdio::null()).spawn().expect("curl is installed");
    wait::until("the request is there", || match receiver.answered(Answer::Hang) {
        1 => Ok(()),
        n => Err(format!("{n} requests")),
    });
    assert_eq!(curl.try_wait().expect("it is our child"), None, "curl still waits");
    receiver.answer(Answer::Take);
    assert_eq!(process::run(&mut post(&receiver)), "200", "others are answered meanwhile");
    receiver.close();
    assert!(!curl.wait().expect("it is our child").success(), "closing cuts the connection");
    assert!(!receiver.points().is_empty());
}

#[test]
fn a_closed_receiver_refuses_connections_until_it_opens_again_on_the_same_port() {
    let receiver = Receiver::closed();
    TcpStream::connect(receiver.address()).expect_err("nobody listens");
    receiver.open();
    let mut kept_alive = TcpStream::connect(receiver.address()).expect("it listens");
    assert_eq!(process::run(&mut post(&receiver)), "200");
    receiver.close();
    TcpStream::connect(receiver.address()).expect_err("nobody listens");
    assert_eq!(kept_alive.read(&mut [0]).expect("an orderly end"), 0);
    receiver.open();
    assert_eq!(process::run(&mut post(&receiver)), "200");
}

#[test]
fn last_errors_are_kept_apart_from_points() {
    let receiver = Receiver::start();
    let body = r#"{"input":"ebpf","source":"","err_content":"text"}"#;
    let url = format!("http://{}/v1/lasterror", receiver.address());
    process::run(Command::new("curl").args(["--silent", "--data", body, &url]));
    assert!(receiver.requests().is_empty());
    assert_eq!(receiver.last_errors()[0]["err_content"], "text");
}

#[test]
#[should_panic(expected = "cannot read")]
fn a_body_that_does_not_decode_fails_the_test() {
    let receiver = Receiver::start();
    let url = format!("http://{}/v1/write/network", receiver.address());
    process::run(Command::new("curl").args(["--silent", "--data", "not protobuf", &url]));
    receiver.requests();
}

#[test]
fn bytes_go_both_ways_between_the_hosts_in_both_families() {
    let hosts = Hosts::new();
    assert_ne!(hosts.client.inode(), hosts.server.inode());
    for family in [Family::V4, Family::V6] {
        let pair = hosts.connect(family, 8080);
        let peer = pair.server.peer_addr().expect("it is connected");
        assert_eq!(peer.ip(), hosts.client.ip(family));
        pair.up(300_000);
        pair.down(500_000);
    }
    hosts.settle();
}

#[test]
fn nginx_serves_its_file_to_curl_on_the_other_host() {
    let hosts = Hosts::new();
    let nginx = Nginx::start(&hosts.server);
    assert_ne!(nginx.worker(), std::process::id());
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", nginx.worker())).expect("it runs");
    assert_eq!(comm.trim(), "nginx");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{size_download}"]);
    curl.arg(format!("http://{}/big", hosts.server_address(Family::V4, 80)));
    let (pid, size) = hosts.client.run(&mut curl);
    assert_ne!(pid, 0);
    assert_eq!(size, BIG.to_string());
}

#[test]
fn every_way_of_sending_delivers_all_bytes() {
    let hosts = Hosts::new();
    let listener = hosts.listen(Family::V4, 9000);
    for way in ["write", "writev", "send", "sendmsg", "sendfile", "splice", "zerocopy"] {
        let mut python = Command::new("/usr/bin/python3");
        python.arg(program("send.py")).args([way, &hosts.server.v4.to_string()]);
        let sender = hosts.client.spawn(python.args(["9000", "123457"]));
        let connection = system_tests::tcp::accept(&listener);
        assert_eq!(drain(&connection), 123_457, "{way}");
        drop(connection);
        sender.succeed();
    }
}
