//! netflow of sockets that lead an unusual life: nobody accepts them, they are connected twice, their program replaces itself. In:
//! such traffic of known size. Out: the bytes are exact, on the flow that they belong to.

use std::io::Read as _;
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use system_tests::collector::Collector;
use system_tests::flows::{Flows, Side, Tcp, Udp};
use system_tests::hosts::{Family, Hosts};
use system_tests::process::Process;
use system_tests::receiver::Receiver;
use system_tests::tcp::{accept, drain, receive, send};
use system_tests::{program, wait};

#[test]
fn a_connection_that_nobody_accepts_is_reported_on_the_servers_side() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for (family, port) in [(Family::V4, 8500), (Family::V6, 8501)] {
        let listener = hosts.listen(family, port);
        let client = hosts.client.dial(hosts.server_address(family, port));
        send(&client, 1_000);
        let arrived = || {
            let sockets = hosts.server.sockets("tcp");
            sockets.iter().any(|socket| socket.port == port && socket.unread == 1_000)
        };
        let sockets = || format!("{:?}", hosts.server.sockets("tcp"));
        wait::until_true("the bytes wait to be read", arrived, sockets);
        drop(listener);
    }
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    for port in [8500, 8501] {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 1_000));
    }
    let own = std::process::id().to_string();
    assert_eq!(seen.of(&hosts.server).values("pid"), [own.as_str()].into(), "the listener's");
}

/// A python program of these tests, in the client's host.
fn python(hosts: &Hosts, name: &str, args: &[&str]) -> Process {
    let mut python = Command::new("/usr/bin/python3");
    hosts.client.spawn(python.arg(program(name)).args(args))
}

#[test]
fn a_socket_that_is_disconnected_and_connected_again_is_two_connections() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listeners = [8510, 8511].map(|port| hosts.listen(Family::V4, port));
    let host = hosts.server.v4.to_string();
    let client = python(&hosts, "reconnect.py", &[&host, "8510,8511", "1000", "300"]);
    for listener in &listeners {
        let server = accept(listener);
        receive(&server, 1_000);
        send(&server, 300);
        // It is reset when the client disconnects; its end comes with the end of this test.
        wait_for_end(server);
    }
    client.succeed();
    hosts.settle();
    collector.stop();
    let seen = receiver.netflow();
    for port in [8510, 8511] {
        hosts.assert_tcp(&seen, port, Tcp::once(300, 1_000));
    }
}

/// Reads to the end, which may be a reset.
fn wait_for_end(mut server: TcpStream) {
    let mut rest = Vec::new();
    if let Err(error) = server.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
}

#[test]
fn a_socket_that_is_disconnected_after_its_peer_closed_counts_no_byte_too_many() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8512);
    let host = hosts.server.v4.to_string();
    // More than it will get: it reads to the end.
    let client = python(&hosts, "reconnect.py", &[&host, "8512,8512,8512", "1000", "9999"]);
    for _ in 0..3 {
        let server = accept(&listener);
        receive(&server, 1_000);
        send(&server, 300);
    }
    client.succeed();
    hosts.settle();
    collector.stop();
    let client = Tcp { read: 900, written: 3_000, established: 3, closed: 3 };
    hosts.assert_tcp(&receiver.netflow(), 8512, client);
}

/// What is seen of the program's end of a port, under one name.
fn under(hosts: &Hosts, receiver: &Receiver, port: u16, name: &str) -> Flows {
    receiver.netflow().of(&hosts.client).on(Side::Client, port).with("process_name", name)
}

/// Sends so much until `cat`, which sends it back, is reported, and 5000 bytes more; how much that was.
fn talk_to_cat(
    hosts: &Hosts,
    receiver: &Receiver,
    port: u16,
    mut echo: impl FnMut(usize),
) -> (i64, i64) {
    let mut echoed = 0;
    wait::until("later bytes are reported under the new name", || {
        echo(100);
        echoed += 100;
        let seen = receiver.netflow().of(&hosts.client);
        let names = seen.values("process_name");
        if names.contains("cat") { Ok(()) } else { Err(format!("{names:?}")) }
    });
    let before = under(hosts, receiver, port, "python3").sum("bytes_written");
    echo(5_000);
    (echoed + 5_000, before)
}

#[test]
fn after_exec_a_connection_is_reported_under_the_new_name() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8520);
    let host = hosts.server.v4.to_string();
    let process = python(&hosts, "exec_cat.py", &["tcp", &host, "8520", "1000"]);
    let pid = process.pid().to_string();
    let server = accept(&listener);
    receive(&server, 1_000);
    let old = || under(&hosts, &receiver, 8520, "python3");
    let has_old = || old().sum("bytes_written") == 1_000;
    wait::until_true("the old name is reported", has_old, || old().to_string());
    send(&server, 1);
    let (echoed, before) = talk_to_cat(&hosts, &receiver, 8520, |bytes| {
        send(&server, bytes);
        receive(&server, bytes);
    });
    server.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(drain(&server), 0);
    drop(server);
    process.succeed();
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 8520, Tcp::once(1 + echoed, 1_000 + echoed));
    let flows = seen.of(&hosts.client);
    assert_eq!(flows.values("process_name"), ["python3", "cat"].into(), "{flows}");
    assert_eq!(flows.values("pid"), [pid.as_str()].into(), "{flows}");
    let old = flows.with("process_name", "python3").sum("bytes_written");
    assert_eq!(old, before, "the old name gets nothing any more: {flows}");
}

#[test]
fn after_exec_datagrams_are_reported_under_the_new_name() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let server = hosts.server.bind_udp(hosts.server_address(Family::V4, 7450));
    let host = hosts.server.v4.to_string();
    let process = python(&hosts, "exec_cat.py", &["udp", &host, "7450", "1000"]);
    let mut buffer = [0; 9_000];
    let (read, client) = server.recv_from(&mut buffer).expect("it calls");
    assert_eq!(read, 1_000);
    let old = || under(&hosts, &receiver, 7450, "python3");
    let has_old = || old().sum("bytes_written") == 1_000;
    wait::until_true("the old name is reported", has_old, || old().to_string());
    assert_eq!(server.send_to(b"!", client).expect("it is routed"), 1);
    let (echoed, before) = talk_to_cat(&hosts, &receiver, 7450, |bytes| {
        assert_eq!(server.send_to(&[b'e'; 5_000][..bytes], client).expect("it fits"), bytes);
        assert_eq!(server.recv(&mut buffer).expect("it comes back"), bytes);
    });
    collector.stop();
    drop(process);

    let seen = receiver.netflow();
    hosts.assert_udp(&seen, 7450, Udp { read: 1 + echoed, written: 1_000 + echoed });
    let flows = seen.of(&hosts.client);
    assert_eq!(flows.values("process_name"), ["python3", "cat"].into(), "{flows}");
    let old = flows.with("process_name", "python3").sum("bytes_written");
    assert_eq!(old, before, "the old name gets nothing any more: {flows}");
}
