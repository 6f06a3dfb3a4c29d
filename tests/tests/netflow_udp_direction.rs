//! Who is the client of datagrams, where both ends have a port of their own. In: who sends first, and when. Out: the direction, which
//! stays what it is.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use system_tests::collector::Collector;
use system_tests::flows::{Side, Udp};
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::udp::ask;
use system_tests::wait;

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
        assert_eq!(flows.identities().len(), 1, "{ip}: {server}");
        let calls = seen.of(&hosts.client).on(Side::Client, 7410).with("src_ip", ip);
        assert_eq!(calls.udp(), Udp { read: want.written, written: want.read }, "{ip}: {seen}");
    }
    // What it announced is not lost either.
    let total = Udp { read: 2 * 2_000, written: 2 * 4_000 + 55 };
    assert_eq!(server.udp(), total, "{server}");
    assert_eq!(server.identities().len(), 3, "{server}");
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
        assert_eq!(flows.identities().len(), 1, "{flows}");
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
