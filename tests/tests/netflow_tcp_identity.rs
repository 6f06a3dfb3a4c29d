//! Whose flow it is. In: connections of known processes, addresses and ports. Out: the tags of their points: names, values, and
//! that a flow has one identity only. Their numbers are exact as well, but that is `netflow_tcp`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use system_tests::collector::{Collector, HOSTNAME};
use system_tests::flows::{Side, Tcp};
use system_tests::hosts::{Family, Hosts, Netns};
use system_tests::program;
use system_tests::receiver::Receiver;
use system_tests::tcp::{Pair, accept, drain};
use system_tests::wait;

fn now_ns() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.expect("the clock is set").as_nanos() as i64
}

fn tags<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_flow_has_all_documented_tags_and_no_others() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).tags("a=1;b=2").start();
    let before = now_ns();
    let (client_ip, server_ip) = (hosts.client.v4.to_string(), hosts.server.v4.to_string());
    let python = |program_file: &str, args: &[&str]| {
        let mut python = Command::new("/usr/bin/python3");
        python.arg(program(program_file)).args(args);
        python
    };
    let server = hosts.server.spawn(&mut python("serve.py", &[&server_ip, "8300", "4000"]));
    hosts.server.wait_for_port("tcp", 8300);
    let client = hosts.client.spawn(&mut python("send.py", &["send", &server_ip, "8300", "3000"]));
    let (client_pid, server_pid) = (client.pid().to_string(), server.pid().to_string());
    client.succeed();
    server.succeed();
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 8300, Tcp { read: 4000, written: 3000, established: 1, closed: 1 });
    let common = [
        ("a", "1"),
        ("b", "2"),
        ("client_ip", client_ip.as_str()),
        ("client_ip_type", "private"),
        ("client_port", "*"),
        ("dst_domain", ""),
        ("dst_ip_type", "private"),
        ("dst_nat_ip", "N/A"),
        ("dst_nat_port", "N/A"),
        ("family", "IPv4"),
        ("host", HOSTNAME),
        ("process_name", "python3"),
        ("server_domain", ""),
        ("server_ip", server_ip.as_str()),
        ("server_ip_type", "private"),
        ("server_port", "8300"),
        ("service", "ebpf"),
        ("src_ip_type", "private"),
        ("transport", "tcp"),
    ];
    let own = |netns: &str, pid: &str, side: [&str; 6]| {
        let names = ["conn_side", "direction", "src_ip", "src_port", "dst_ip", "dst_port"];
        let own = names.into_iter().zip(side).chain([("netns", netns), ("pid", pid)]);
        tags(common.into_iter().chain(own))
    };
    let client = ["client", "outgoing", &client_ip, "*", &server_ip, "8300"];
    let server = ["server", "incoming", &server_ip, "8300", &client_ip, "*"];
    let inode = |netns: &Netns| netns.inode().to_string();
    let want = [
        (Side::Client, own(&inode(&hosts.client), &client_pid, client)),
        (Side::Server, own(&inode(&hosts.server), &server_pid, server)),
    ];
    for (side, want) in want {
        let flows = hosts.end(side, &seen).on(side, 8300);
        for point in flows.points() {
            assert_eq!(point.tags, want);
            assert!((before..=now_ns()).contains(&point.time), "{point:?}");
        }
        assert!(flows.sum("rtt") > 0, "{:?}", flows.points());
        assert_eq!(flows.sum("retransmits"), 0);
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_shown_as_ipv4() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.server.listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8301)));
    let client = hosts.client.dial(hosts.server_address(Family::V4, 8301));
    let pair = Pair { client, server: accept(&listener) };
    assert!(pair.server.local_addr().expect("it is connected").is_ipv6());
    pair.up(1_000);
    pair.down(2_000);
    drop(pair);
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 8301, Tcp { read: 2000, written: 1000, established: 1, closed: 1 });
    let server = seen.of(&hosts.server);
    assert_eq!(server.values("family"), ["IPv4"].into(), "{server}");
    assert_eq!(server.values("src_ip"), [hosts.server.v4.to_string().as_str()].into());
    assert_eq!(server.values("dst_ip"), [hosts.client.v4.to_string().as_str()].into());
}

/// One connection over each loopback address, within the client's namespace.
fn talk_over_loopback(hosts: &Hosts) {
    for address in ["127.0.0.1:8302", "[::1]:8302"] {
        let address: SocketAddr = address.parse().expect("an address");
        let listener = hosts.client.listen(address);
        let pair = Pair { client: hosts.client.dial(address), server: accept(&listener) };
        pair.up(500);
        pair.down(700);
    }
    hosts.settle();
}

#[test]
fn loopback_is_not_reported_by_default() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    talk_over_loopback(&hosts);
    drop(hosts.connect(Family::V4, 8303));
    hosts.settle();
    collector.stop();
    let seen = receiver.netflow();
    assert!(!seen.of(&hosts.client).on(Side::Client, 8303).is_empty(), "{seen}");
    hosts.assert_nothing_on(&seen, 8302);
}

#[test]
fn loopback_is_reported_on_request() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(["--include-loopback"]).start();
    talk_over_loopback(&hosts);
    collector.stop();
    let seen = receiver.netflow().of(&hosts.client);
    for ip in ["127.0.0.1", "::1"] {
        let own = seen.with("src_ip", ip).with("src_ip_type", "loopback");
        let client = own.on(Side::Client, 8302).tcp();
        assert_eq!(client, Tcp { read: 700, written: 500, established: 1, closed: 1 }, "{seen}");
        let server = own.on(Side::Server, 8302).tcp();
        assert_eq!(server, Tcp { read: 500, written: 700, established: 1, closed: 1 }, "{seen}");
    }
}

#[test]
fn only_ports_above_the_ephemeral_port_are_masked() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(["--ephemeral_port", "32768"]).start();
    let listener = hosts.listen(Family::V4, 8304);
    let from_low_port = hosts.client.enter(|| connect_from(&hosts, 20_000, 8304));
    let low = Pair { client: from_low_port, server: accept(&listener) };
    let high = hosts.connect_to(&listener);
    assert!(high.client.local_addr().expect("it is connected").port() >= 32_768);
    low.up(1_000);
    high.up(3_000);
    drop((low, high));
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    for (port, bytes) in [("20000", 1_000), ("*", 3_000)] {
        let client = seen.of(&hosts.client).on(Side::Client, 8304).with("client_port", port);
        assert_eq!(client.with("src_port", port).tcp().written, bytes, "{port}: {seen}");
        let server = seen.of(&hosts.server).on(Side::Server, 8304).with("client_port", port);
        assert_eq!(server.with("dst_port", port).tcp().read, bytes, "{port}: {seen}");
    }
}

fn connect_from(hosts: &Hosts, port: u16, to: u16) -> TcpStream {
    let address = |[a, b, c, d]: [u8; 4], port| SockaddrIn::new(a, b, c, d, port);
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None);
    let fd = fd.expect("a new socket");
    setsockopt(&fd, sockopt::ReuseAddr, &true).expect("a socket has this option");
    bind(fd.as_raw_fd(), &address(hosts.client.v4.octets(), port)).expect("the port is free");
    connect(fd.as_raw_fd(), &address(hosts.server.v4.octets(), to)).expect("the server listens");
    TcpStream::from(fd)
}

#[test]
fn each_worker_of_a_pre_fork_server_owns_what_it_accepted() {
    const CONNECTIONS: usize = 30;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let mut python = Command::new("/usr/bin/python3");
    python.arg(program("prefork.py")).arg(hosts.server.v4.to_string());
    let server = hosts.server.spawn(python.args(["8305", "3"]));
    hosts.server.wait_for_port("tcp", 8305);
    let mut per_worker: BTreeMap<String, i64> = BTreeMap::new();
    for _ in 0..CONNECTIONS {
        let mut client = hosts.client.dial(hosts.server_address(Family::V4, 8305));
        client.write_all(b"0123456789").expect("a worker reads");
        let mut pid = String::new();
        client.read_to_string(&mut pid).expect("a worker answers");
        *per_worker.entry(pid.trim().to_owned()).or_default() += 1;
    }
    hosts.settle();
    collector.stop();
    drop(server);

    let seen = receiver.netflow();
    let all = CONNECTIONS as i64;
    let client = Tcp { read: 10 * all, written: 10 * all, established: all, closed: all };
    hosts.assert_tcp(&seen, 8305, client);
    let flows = seen.of(&hosts.server).on(Side::Server, 8305);
    assert_eq!(flows.values("pid"), per_worker.keys().map(String::as_str).collect(), "{flows}");
    for (pid, count) in per_worker {
        let worker = flows.with("pid", &pid).tcp();
        let want = Tcp { read: 10 * count, written: 10 * count, established: count, closed: count };
        assert_eq!(worker, want, "worker {pid}: {flows}");
    }
}

#[test]
fn a_connection_that_waits_to_be_accepted_while_others_are_reported_is_of_who_accepts_it() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    // Long enough to be accepted before the report after the next one.
    let every = ["--min-interval", "1s", "--interval", "10s"];
    let collector = Collector::setup(&receiver).seldom().args(every).start();
    let mut python = Command::new("/usr/bin/python3");
    python.arg(program("late_accept.py")).args([&hosts.server.v4.to_string(), "8309"]);
    let server = hosts.server.spawn(&mut python);
    hosts.server.wait_for_port("tcp", 8309);
    let mut client = hosts.client.dial(hosts.server_address(Family::V4, 8309));
    client.write_all(b"0123456789").expect("it is in the backlog");
    let client_end = || receiver.netflow().of(&hosts.client).on(Side::Client, 8309);
    let is_reported = || client_end().tcp().written == 10;
    wait::until_true("the client's end is reported", is_reported, || client_end().to_string());
    let workers = server.children();
    let [worker] = workers[..] else { panic!("one worker: {workers:?}") };
    kill(Pid::from_raw(worker.cast_signed()), Signal::SIGUSR1).expect("it waits");
    let mut pid = String::new();
    client.read_to_string(&mut pid).expect("the worker answers");
    server.succeed();
    drop(client);
    hosts.settle();
    collector.stop();

    let flows = receiver.netflow().of(&hosts.server).on(Side::Server, 8309);
    assert_eq!(flows.values("pid"), [pid.trim()].into(), "{flows}");
    assert_eq!(flows.tcp(), Tcp { read: 10, written: 10, established: 1, closed: 1 }, "{flows}");
}

#[test]
fn names_and_pids_are_those_of_the_process_not_of_its_thread() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener: TcpListener = hosts.listen(Family::V4, 8306);
    let address = hosts.server_address(Family::V4, 8306);
    // `enter` runs on a thread of its own, under a name of its own.
    let client = hosts.client.enter(|| {
        nix::sys::prctl::set_name(c"some-thread").expect("a thread may rename itself");
        TcpStream::connect(address).expect("the server listens")
    });
    let server = accept(&listener);
    drop(client);
    assert_eq!(drain(&server), 0);
    drop(server);
    hosts.settle();
    collector.stop();
    let flows = receiver.netflow().of(&hosts.client).on(Side::Client, 8306);
    let pid = std::process::id().to_string();
    assert_eq!(flows.values("pid"), [pid.as_str()].into(), "{flows}");
    assert!(!flows.values("process_name").contains("some-thread"), "{flows}");
}
