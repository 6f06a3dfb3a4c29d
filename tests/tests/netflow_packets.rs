//! netflow of packets that are not simply sent and received: overheard, translated, segmented, sent again, or with data in the SYN.
//! In: such traffic of known size. Out: the bytes are exact, and there is no other flow.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use system_tests::collector::Collector;
use system_tests::flows::{Side, Tcp, Udp};
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::tcp::{accept, drain, receive, send};
use system_tests::udp::ask;
use system_tests::wait;

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
            assert_eq!(flows.identities().len(), 1, "{side:?} has a second flow: {flows}");
        }
    }
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
    assert_eq!(flows.identities().len(), 1, "{flows}");
    assert_eq!(flows.on(Side::Client, 7440).udp(), Udp { read: 2_000, written: 1_000 }, "{flows}");
    assert_eq!(flows.values("dst_ip"), [service.to_string().as_str()].into(), "{flows}");
    // The server knows nothing of it.
    let flows = seen.of(&hosts.server);
    assert_eq!(flows.on(Side::Server, 7441).udp(), Udp { read: 1_000, written: 2_000 }, "{flows}");
    assert_eq!(flows.identities().len(), 1, "{flows}");
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
    hosts.assert_tcp(&receiver.netflow(), 8540, Tcp::once(2_000, 100));
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
    hosts.assert_tcp(&seen, 8550, Tcp::once(0, BYTES as i64));
    let sender = seen.of(&hosts.client).on(Side::Client, 8550);
    assert!(sender.sum("retransmits") > 0, "packets were dropped: {:?}", sender.points());
}
