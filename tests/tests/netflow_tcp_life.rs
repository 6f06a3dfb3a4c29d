//! netflow through the life of a TCP connection: before the collector, refused, half-closed, reset, handed on. In: connections
//! with an odd life. Out: each is opened and closed as often as it was, with its direction, and nothing else is reported.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};
use system_tests::collector::Collector;
use system_tests::flows::{Side, Tcp};
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::tcp::{accept, drain, receive, send, transfer};
use system_tests::{program, wait};

#[test]
fn a_connection_older_than_the_collector_counts_from_its_start_and_is_not_established_again() {
    let hosts = Hosts::new();
    let listener = hosts.listen(Family::V4, 8200);
    let old = hosts.connect_to(&listener);
    old.up(1_000);
    old.down(2_000);

    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    old.up(30_000);
    old.down(50_000);
    drop(old);
    hosts.settle();
    collector.stop();

    let client = Tcp { read: 50_000, written: 30_000, established: 0, closed: 1 };
    hosts.assert_tcp(&receiver.netflow(), 8200, client);
}

#[test]
fn a_connection_that_stays_idle_and_is_older_than_the_collector_is_not_reported() {
    let hosts = Hosts::new();
    let old = hosts.connect(Family::V6, 8201);
    old.up(1_000);
    let receiver = Receiver::start();
    Collector::start(&receiver).stop();
    hosts.assert_nothing_on(&receiver.netflow(), 8201);
    drop(old);
}

#[test]
fn an_open_connection_is_reported_while_it_lives_and_never_twice() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let pair = hosts.connect(Family::V4, 8202);
    for round in 1..=3 {
        pair.up(10_000);
        let sent = || hosts.tcp(&receiver.netflow(), Side::Client, 8202);
        let want = Tcp { written: round * 10_000, established: 1, ..Tcp::default() };
        wait::until_true("the flush", || sent() == want, || format!("{:?}", sent()));
    }
    drop(pair);
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8202, Tcp::once(0, 30_000));
}

#[test]
fn a_refused_connect_is_not_reported() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for family in [Family::V4, Family::V6] {
        let address = hosts.server_address(family, 8203);
        let refused = hosts.client.enter(|| TcpStream::connect(address));
        refused.expect_err("nobody listens");
    }
    // Something after it that is reported: the collector has seen both.
    drop(hosts.connect(Family::V4, 8204));
    hosts.settle();
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 8204, Tcp::once(0, 0));
    hosts.assert_nothing_on(&seen, 8203);
}

#[test]
fn a_connect_that_is_never_answered_is_not_reported() {
    let hosts = Hosts::new();
    let [a, b, c, _] = hosts.server.v4.octets();
    let nobody = SocketAddr::from(([a, b, c, 99], 8205));
    let ip = nobody.ip();
    hosts
        .client
        .ip_command(&format!("neigh add {ip} lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n"));
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let gave_up =
        hosts.client.enter(|| TcpStream::connect_timeout(&nobody, Duration::from_millis(50)));
    gave_up.expect_err("nobody answers");
    let still_trying = hosts.client.enter(|| connect_without_waiting(a, b, c, 99, 8205));
    drop(hosts.connect(Family::V4, 8206));
    collector.stop();
    drop(still_trying);
    let seen = receiver.netflow();
    assert!(!seen.of(&hosts.client).on(Side::Client, 8206).is_empty(), "{seen}");
    hosts.assert_nothing_on(&seen, 8205);
}

fn connect_without_waiting(a: u8, b: u8, c: u8, d: u8, port: u16) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)
        .expect("a new socket");
    let started = connect(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port));
    assert_eq!(started, Err(Errno::EINPROGRESS));
    fd
}

#[test]
fn a_reset_connection_is_closed() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let pair = hosts.connect(Family::V4, 8207);
    pair.up(100);
    pair.down(50);
    let at_once = linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&pair.client, sockopt::Linger, &at_once).expect("a socket has this option");
    drop(pair.client);
    hosts.settle();
    drop(pair.server);
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8207, Tcp::once(50, 100));
}

#[test]
fn a_half_closed_connection_goes_on_counting_and_is_closed_once() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let pair = hosts.connect(Family::V6, 8208);
    pair.up(1_000);
    pair.client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(drain(&pair.server), 0);
    pair.down(200_000);
    drop(pair);
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8208, Tcp::once(200_000, 1_000));
}

#[test]
fn a_connection_stays_incoming_when_its_listener_goes_and_comes_back() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8209);
    let pair = hosts.connect_to(&listener);
    pair.up(1_000);
    drop(listener);
    let read = || hosts.tcp(&receiver.netflow(), Side::Server, 8209).read;
    wait::until_true("it is reported", || read() == 1_000, || format!("{} bytes", read()));

    pair.up(2_000);
    wait::until_true("it is reported", || read() == 3_000, || format!("{} bytes", read()));
    let _restarted = hosts.listen(Family::V4, 8209);
    pair.down(3_000);
    drop(pair);
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 8209, Tcp::once(3_000, 3_000));
    assert_eq!(seen.of(&hosts.server).values("direction"), ["incoming"].into());
    assert_eq!(seen.of(&hosts.client).values("direction"), ["outgoing"].into());
}

#[test]
fn a_connection_whose_listener_was_gone_before_the_collector_started_is_not_lost() {
    let hosts = Hosts::new();
    let pair = hosts.connect(Family::V4, 8210);
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    pair.up(5_000);
    drop(pair);
    hosts.settle();
    collector.stop();

    // Nothing in the kernel says any more who connected: the direction is a guess, the bytes are not.
    let seen = receiver.netflow();
    assert_eq!(seen.of(&hosts.client).tcp().written, 5_000, "{seen}");
    assert_eq!(seen.of(&hosts.server).tcp().read, 5_000, "{seen}");
}

#[test]
fn a_socket_passed_to_another_process_is_counted_once() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let mut python = Command::new("/usr/bin/python3");
    python.arg(program("pass_fd.py")).arg(hosts.server.v4.to_string());
    let server = hosts.server.spawn(python.args(["8211", "100", "7000"]));
    hosts.server.wait_for_port("tcp", 8211);
    let client = hosts.client.dial(hosts.server_address(Family::V4, 8211));
    send(&client, 100);
    send(&client, 4_900);
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(drain(&client), 7_000);
    drop(client);
    server.succeed();
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8211, Tcp::once(7_000, 5_000));
}

#[test]
fn data_on_its_way_when_a_side_closes_is_counted_where_it_arrived() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8212);
    let client = hosts.client.dial(hosts.server_address(Family::V4, 8212));
    let server = accept(&listener);
    // Sent and closed before the server reads a byte.
    send(&client, 60_000);
    drop(client);
    receive(&server, 60_000);
    assert_eq!(drain(&server), 0);
    drop(server);
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8212, Tcp::once(0, 60_000));
}

#[test]
fn many_connections_at_once_are_added_up_per_identity() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8213);
    let pairs: Vec<_> = (0..100).map(|_| hosts.connect_to(&listener)).collect();
    for (pair, bytes) in pairs.iter().zip(1..) {
        transfer(&pair.client, &pair.server, bytes);
    }
    drop(pairs);
    hosts.settle();
    collector.stop();
    let client = Tcp { read: 0, written: 5_050, established: 100, closed: 100 };
    hosts.assert_tcp(&receiver.netflow(), 8213, client);
}
