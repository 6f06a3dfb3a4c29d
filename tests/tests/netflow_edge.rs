//! netflow where the kernel or the program does the unusual: connections that nobody accepts, sockets with two lives, translated,
//! segmented, retransmitted or overheard packets, programs that replace themselves. In: such traffic of known size. Out: the
//! bytes are exact, on the flow that they belong to, and there is no other flow.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use system_tests::collector::Collector;
use system_tests::flows::{Flows, Side, Tcp, Udp};
use system_tests::hosts::{Family, Hosts};
use system_tests::process::Process;
use system_tests::receiver::Receiver;
use system_tests::tcp::{accept, drain, receive};
use system_tests::udp::ask;
use system_tests::{program, wait};

fn once(read: i64, written: i64) -> Tcp {
    Tcp { read, written, established: 1, closed: 1 }
}

fn send(mut to: &TcpStream, bytes: usize) {
    to.write_all(&vec![b'x'; bytes]).expect("the peer reads");
}

/// Identities are all tags together.
fn identities(flows: &Flows) -> BTreeSet<&BTreeMap<String, String>> {
    flows.points().iter().map(|point| &point.tags).collect()
}

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
        hosts.assert_tcp(&seen, port, once(0, 1_000));
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
        hosts.assert_tcp(&seen, port, once(300, 1_000));
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

#[test]
fn a_raw_socket_that_overhears_datagrams_changes_no_flow() {
    const DATAGRAMS: usize = 10;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for (family, address_family, port) in
        [(Family::V4, AddressFamily::Inet, 7400), (Family::V6, AddressFamily::Inet6, 7401)]
    {
        let overhear = || -> OwnedFd {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(address_family, SockType::Raw, flags, SockProtocol::Udp).expect("we are root")
        };
        let ears = [hosts.client.enter(overhear), hosts.server.enter(overhear)];
        let address = hosts.server_address(family, port);
        let server = hosts.server.bind_udp(address);
        let client = hosts.client.any_udp(family);
        for _ in 0..DATAGRAMS {
            ask(&client, Some(address), &server, 100, 300);
        }
        for ear in &ears {
            for _ in 0..DATAGRAMS {
                let heard = recv(ear.as_raw_fd(), &mut [0; 1_000], MsgFlags::MSG_DONTWAIT);
                assert!(heard.is_ok_and(|length| length > 100), "it overhears: {heard:?}");
            }
        }
    }
    collector.stop();

    let seen = receiver.netflow();
    for (family, port) in [(Family::V4, 7400), (Family::V6, 7401)] {
        hosts.assert_udp(&seen, port, Udp { read: 3_000, written: 1_000 });
        for side in [Side::Client, Side::Server] {
            let flows = hosts.end(side, &seen).with("family", family);
            assert_eq!(identities(&flows).len(), 1, "{side:?} has a second flow: {flows}");
        }
    }
}

#[test]
fn a_server_that_sends_before_it_serves_is_incoming_for_those_who_call_afterwards() {
    const PORTS: u16 = 200;
    let hosts = Hosts::new();
    let [a, b, c, _] = hosts.client.v4.octets();
    let second = Ipv4Addr::new(a, b, c, 77);
    hosts.client.ip_command(&format!("addr add {second}/24 dev eth0\n"));
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let address = hosts.server_address(Family::V4, 7410);
    let server = hosts.server.bind_udp(address);
    let announced_to = hosts.client.bind_udp(SocketAddr::new(hosts.client.v4.into(), 7411));
    let to = announced_to.local_addr().expect("it is bound");
    assert_eq!(server.send_to(&[b'a'; 55], to).expect("it is routed"), 55);
    assert_eq!(announced_to.recv(&mut [0; 99]).expect("it arrives"), 55);
    let clients = [hosts.client.v4, second];
    for ip in clients {
        for port in 20_000..20_000 + PORTS {
            let client = hosts.client.bind_udp(SocketAddr::new(ip.into(), port));
            ask(&client, Some(address), &server, 10, 20);
        }
    }
    collector.stop();

    let seen = receiver.netflow();
    let server = seen.of(&hosts.server);
    let incoming = server.with("direction", "incoming");
    for ip in clients {
        let flows = incoming.with("dst_ip", ip);
        let want = Udp { read: 10 * i64::from(PORTS), written: 20 * i64::from(PORTS) };
        assert_eq!(flows.udp(), want, "{ip}: {server}");
        assert_eq!(flows.values("src_port"), ["7410"].into(), "{ip}: {server}");
        assert_eq!(flows.values("dst_port"), ["*"].into(), "{ip}: {server}");
        assert_eq!(identities(&flows).len(), 1, "{ip}: {server}");
        let calls = seen.of(&hosts.client).on(Side::Client, 7410).with("src_ip", ip);
        assert_eq!(calls.udp(), Udp { read: want.written, written: want.read }, "{ip}: {seen}");
    }
    // What it announced is not lost either.
    let total = Udp { read: 2 * 2_000, written: 2 * 4_000 + 55 };
    assert_eq!(server.udp(), total, "{server}");
    assert_eq!(identities(&server).len(), 3, "{server}");
}

/// A client bound to the port, and the server that it calls first.
fn bound_client(hosts: &Hosts, port: u16, server_port: u16) -> (UdpSocket, UdpSocket, SocketAddr) {
    let address = hosts.server_address(Family::V4, server_port);
    let server = hosts.server.bind_udp(address);
    let client = hosts.client.bind_udp(SocketAddr::new(hosts.client.v4.into(), port));
    (client, server, address)
}

#[test]
fn a_client_that_is_bound_to_a_port_and_sends_first_is_outgoing() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let (client, server, address) = bound_client(&hosts, 7420, 7421);
    for _ in 0..5 {
        ask(&client, Some(address), &server, 40, 400);
    }
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_udp(&seen, 7421, Udp { read: 2_000, written: 200 });
    for (side, port) in [(Side::Client, "*"), (Side::Server, "7421")] {
        let flows = hosts.end(side, &seen);
        assert_eq!(flows.values("direction"), [side.direction()].into(), "{flows}");
        assert_eq!(flows.values("src_port"), [port].into(), "{flows}");
        assert_eq!(identities(&flows).len(), 1, "{flows}");
    }
}

#[test]
fn a_bound_client_stays_outgoing_when_the_answer_comes_some_reports_later() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let (client, server, address) = bound_client(&hosts, 7430, 7431);
    assert_eq!(client.send_to(&[b'q'; 40], address).expect("it is routed"), 40);
    let mut buffer = [0; 1_000];
    let (_, from) = server.recv_from(&mut buffer).expect("it arrives");
    // Other traffic shows that reports go by.
    let (clock, clock_server, clock_address) = bound_client(&hosts, 7432, 7433);
    for round in 1..=4 {
        ask(&clock, Some(clock_address), &clock_server, 1, 1);
        let sent = || receiver.netflow().of(&hosts.client).on(Side::Client, 7433).udp().written;
        wait::until_true("a report", || sent() == round, || format!("{} bytes", sent()));
    }
    assert_eq!(server.send_to(&[b'r'; 400], from).expect("it is routed"), 400);
    assert_eq!(client.recv(&mut buffer).expect("it arrives"), 400);
    ask(&client, Some(address), &server, 40, 400);
    collector.stop();

    let seen = receiver.netflow();
    let flows = seen.of(&hosts.client);
    assert_eq!(flows.values("direction"), ["outgoing"].into(), "{flows}");
    hosts.assert_udp(&seen, 7431, Udp { read: 800, written: 80 });
}

#[test]
fn a_connected_client_behind_dnat_is_one_flow_with_the_address_it_connected_to() {
    let hosts = Hosts::new();
    let (service, v4) = (Ipv4Addr::new(10, 96, 0, 10), hosts.server.v4);
    hosts.client.ip_command(&format!("route add 10.96.0.0/16 via {v4}\n"));
    hosts.client.nft(&format!(
        "add table ip t\n\
         add chain ip t o {{ type nat hook output priority -100; }}\n\
         add rule ip t o ip daddr {service} udp dport 7440 dnat to {v4}:7441"
    ));
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let server = hosts.server.bind_udp(hosts.server_address(Family::V4, 7441));
    let client = hosts.client.any_udp(Family::V4);
    client.connect((service, 7440)).expect("it is routed");
    for _ in 0..10 {
        ask(&client, None, &server, 100, 200);
    }
    collector.stop();

    let seen = receiver.netflow();
    let flows = seen.of(&hosts.client);
    assert_eq!(identities(&flows).len(), 1, "{flows}");
    assert_eq!(flows.on(Side::Client, 7440).udp(), Udp { read: 2_000, written: 1_000 }, "{flows}");
    assert_eq!(flows.values("dst_ip"), [service.to_string().as_str()].into(), "{flows}");
    // The server knows nothing of it.
    let flows = seen.of(&hosts.server);
    assert_eq!(flows.on(Side::Server, 7441).udp(), Udp { read: 1_000, written: 2_000 }, "{flows}");
    assert_eq!(identities(&flows).len(), 1, "{flows}");
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
    hosts.assert_tcp(&seen, 8520, once(1 + echoed, 1_000 + echoed));
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

#[test]
fn datagrams_that_the_kernel_segments_are_counted_by_their_payload() {
    const PAYLOAD: usize = 5_500;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    // Once the receiver's kernel takes them apart, once it hands them over in one piece.
    for (port, merged) in [(7460, false), (7461, true)] {
        let address = hosts.server_address(Family::V4, port);
        let server = hosts.server.bind_udp(address);
        setsockopt(&server, sockopt::UdpGroSegment, &merged).expect("a UDP socket has this option");
        let client = hosts.client.any_udp(Family::V4);
        client.connect(address).expect("it is routed");
        let payload = [b'g'; PAYLOAD];
        setsockopt(&client, sockopt::UdpGsoSegment, &1_000).expect("a UDP socket has this option");
        assert_eq!(client.send(&payload).expect("one call sends all"), PAYLOAD);
        let (mut read, mut buffer) = (0, [0; 9_000]);
        while read < PAYLOAD {
            read += server.recv(&mut buffer).expect("all of it arrives");
        }
    }
    collector.stop();
    let seen = receiver.netflow();
    for port in [7460, 7461] {
        hosts.assert_udp(&seen, port, Udp { read: 0, written: PAYLOAD as i64 });
    }
}

/// Connects with the first bytes in the SYN.
fn fast_open(hosts: &Hosts, to: SocketAddrV4, bytes: usize) -> TcpStream {
    const MSG_FASTOPEN: MsgFlags = MsgFlags::from_bits_retain(0x2000_0000);
    let fd = hosts.client.enter(|| {
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .expect("a new socket")
    });
    let data = vec![b'f'; bytes];
    let sent = sendto(fd.as_raw_fd(), &data, &SockaddrIn::from(to), MSG_FASTOPEN);
    assert_eq!(sent, Ok(bytes));
    let client = TcpStream::from(fd);
    client.set_read_timeout(Some(wait::patience())).expect("not zero");
    client
}

/// Lets both hosts send data in a SYN, without a cookie.
fn allow_fast_open(hosts: &Hosts) {
    for host in [&hosts.client, &hosts.server] {
        host.sysctl("ipv4/tcp_fastopen", &0x607.to_string());
    }
}

#[test]
fn fast_open_to_a_server_that_answers_and_closes_at_once_is_exact() {
    const ROUNDS: i64 = 20;
    let hosts = Hosts::new();
    allow_fast_open(&hosts);
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8530);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let server = accept(&listener);
                receive(&server, 100);
                send(&server, 2_000);
            }
        });
        for _ in 0..ROUNDS {
            let client = fast_open(&hosts, SocketAddrV4::new(hosts.server.v4, 8530), 100);
            assert_eq!(drain(&client), 2_000);
        }
    });
    drop(listener);
    hosts.settle();
    collector.stop();
    let (read, written) = (2_000 * ROUNDS, 100 * ROUNDS);
    let client = Tcp { read, written, established: ROUNDS, closed: ROUNDS };
    hosts.assert_tcp(&receiver.netflow(), 8530, client);
}

#[test]
fn a_fast_open_server_that_closes_before_the_handshake_ends_is_exact() {
    let hosts = Hosts::new();
    allow_fast_open(&hosts);
    hosts.server.nft(
        "add table ip t\n\
         add chain ip t i { type filter hook input priority 0; }\n\
         add rule ip t i tcp dport 8540 tcp flags & (syn|ack|psh) == ack drop",
    );
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let listener = hosts.listen(Family::V4, 8540);
    let client = fast_open(&hosts, SocketAddrV4::new(hosts.server.v4, 8540), 100);
    // Only a fast open can be accepted here: the last packet of the handshake does not get through.
    let server = accept(&listener);
    receive(&server, 100);
    send(&server, 2_000);
    drop(server);
    assert_eq!(drain(&client), 2_000);
    drop(client);
    hosts.server.nft("delete table ip t");
    hosts.settle();
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 8540, once(2_000, 100));
}

#[test]
fn retransmitted_bytes_are_counted_once_and_retransmissions_are_shown() {
    const BYTES: usize = 5_000_000;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let pair = hosts.connect(Family::V4, 8550);
    hosts.server.nft(
        "add table ip t\n\
         add chain ip t i { type filter hook input priority 0; }\n\
         add rule ip t i tcp dport 8550 numgen inc mod 20 7 drop",
    );
    pair.up(BYTES);
    hosts.server.nft("delete table ip t");
    drop(pair);
    hosts.settle();
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 8550, once(0, BYTES as i64));
    let sender = seen.of(&hosts.client).on(Side::Client, 8550);
    assert!(sender.sum("retransmits") > 0, "packets were dropped: {:?}", sender.points());
}
