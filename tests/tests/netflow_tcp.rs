//! netflow's TCP bytes are exact. In: payloads of known sizes, however they are sent. Out: both ends of each connection, in both
//! namespaces, counted to the byte. The life of a connection is `netflow_tcp_life`, whose it is is `netflow_tcp_identity`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use system_tests::collector::Collector;
use system_tests::flows::{Side, Tcp};
use system_tests::hosts::{Family, Hosts};
use system_tests::nginx::{Nginx, fetch_big};
use system_tests::receiver::Receiver;
use system_tests::tcp::{accept, connections, drain};
use system_tests::{program, uring};

#[test]
fn bytes_are_exact_in_both_directions_and_both_families() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for (family, port) in [(Family::V4, 8004), (Family::V6, 8006)] {
        let pair = hosts.connect(family, port);
        pair.up(123_457);
        pair.down(7_654_321);
        pair.up(1);
    }
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    for (family, port) in [(Family::V4, 8004), (Family::V6, 8006)] {
        hosts.assert_tcp(&seen, port, Tcp::once(7_654_321, 123_458));
        let client = hosts.end(Side::Client, &seen).on(Side::Client, port);
        assert_eq!(client.values("family"), [family.to_string().as_str()].into());
        assert_eq!(client.values("dst_ip"), [hosts.server.ip(family).to_string().as_str()].into());
    }
}

#[test]
fn a_connection_without_a_byte_is_opened_and_closed_once() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    drop(hosts.connect(Family::V4, 8000));
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8000, Tcp::once(0, 0));
}

#[test]
fn every_system_call_that_sends_is_counted_the_same() {
    const WAYS: [&str; 7] =
        ["write", "writev", "send", "sendmsg", "sendfile", "splice", "zerocopy"];
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for (port, way) in (9000..).zip(WAYS) {
        let listener = hosts.listen(Family::V4, port);
        let mut python = Command::new("/usr/bin/python3");
        python.arg(program("send.py")).args([way, &hosts.server.v4.to_string()]);
        let sender = hosts.client.spawn(python.args([&port.to_string(), "1234567"]));
        assert_eq!(drain(&accept(&listener)), 1_234_567, "{way}");
        sender.succeed();
    }
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    for (port, way) in (9000..).zip(WAYS) {
        println!("{way} on port {port}");
        hosts.assert_tcp(&seen, port, Tcp::once(0, 1_234_567));
    }
}

#[test]
fn bytes_sent_and_received_through_io_uring_are_counted() {
    const BYTES: usize = 40_000;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let pair = hosts.connect(Family::V4, 9100);
    thread::scope(|scope| {
        scope.spawn(|| uring::send(&pair.client, &vec![b'x'; BYTES]));
        scope.spawn(|| uring::receive(&pair.server, |received| received.len() < BYTES));
    });
    drop(pair);
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 9100, Tcp::once(0, BYTES as i64));
}

#[test]
fn a_file_served_by_nginx_agrees_with_curls_own_counts() {
    let hosts = Hosts::new();
    let nginx = Nginx::start(&hosts.server);
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let mut read = 0;
    let mut written = 0;
    let mut pids = Vec::new();
    for family in [Family::V4, Family::V6] {
        let fetched = fetch_big(&hosts.client, hosts.server_address(family, 80));
        read += fetched.read;
        written += fetched.written;
        pids.push(fetched.pid.to_string());
    }
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 80, Tcp { read, written, established: 2, closed: 2 });
    let client = hosts.end(Side::Client, &seen).on(Side::Client, 80);
    assert_eq!(client.values("process_name"), ["curl"].into(), "{client}");
    assert_eq!(client.values("pid"), pids.iter().map(String::as_str).collect(), "{client}");
    let server = hosts.end(Side::Server, &seen).on(Side::Server, 80);
    assert_eq!(server.values("process_name"), ["nginx"].into(), "{server}");
    let worker = nginx.worker().to_string();
    assert_eq!(server.values("pid"), [worker.as_str()].into(), "{server}");
}

#[test]
fn very_many_short_connections_are_all_counted() {
    const REQUEST: i64 = 10;
    const REPLY: i64 = 21;
    let count = connections() as i64;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8100);
    let address = hosts.server_address(Family::V4, 8100);
    thread::scope(|scope| {
        scope.spawn(|| answer(&listener, count, REQUEST as usize, REPLY as usize));
        hosts.client.enter(|| {
            for _ in 0..count {
                let mut client = TcpStream::connect(address).expect("the server listens");
                client.write_all(&[b'q'; REQUEST as usize]).expect("the server reads");
                assert_eq!(drain(&client), REPLY as usize);
            }
        });
    });
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    let client =
        Tcp { read: count * REPLY, written: count * REQUEST, established: count, closed: count };
    hosts.assert_tcp(&seen, 8100, client);
}

fn answer(listener: &TcpListener, count: i64, request: usize, reply: usize) {
    for _ in 0..count {
        let mut server = accept(listener);
        server.read_exact(&mut vec![0; request]).expect("the client asks");
        server.write_all(&vec![b'r'; reply]).expect("the client reads");
    }
}
