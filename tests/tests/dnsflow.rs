//! dnsflow counts every exchange once on each side, with its code and its latency; netflow bears the names that were asked for. In:
//! dig and dnsmasq in namespaces. Out: what dig says of the same exchanges.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;

use system_tests::collector::Collector;
use system_tests::dns::{Dnsmasq, Dug, dig};
use system_tests::flows::{Flows, Side};
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::wait;

/// A name with both addresses of the server, an alias of an alias of it, and much text.
fn zone(hosts: &Hosts) -> Vec<String> {
    let mut text = "--txt-record=large.test".to_owned();
    for _ in 0..12 {
        text.push(',');
        text.push_str(&"x".repeat(250));
    }
    let mut zone = vec![
        format!("--host-record=www.test,{},{}", hosts.server.v4, hosts.server.v6),
        "--cname=alias.test,middle.test".to_owned(),
        "--cname=middle.test,www.test".to_owned(),
        text,
    ];
    zone.extend((0..100).map(|n| format!("--host-record=host{n}.test,192.0.2.{n}")));
    zone
}

fn dnsflow(receiver: &Receiver) -> Flows {
    receiver.measurement("dnsflow")
}

/// The client's exchanges and their mirror image, told apart by address.
fn both_sides(hosts: &Hosts, seen: &Flows, family: Family) -> (Flows, Flows) {
    let of = |ip: IpAddr, side| seen.dns_of(ip, side);
    (of(hosts.client.ip(family), Side::Client), of(hosts.server.ip(family), Side::Server))
}

/// What the kernel saw lies within what dig saw, and the server's part within the client's.
#[track_caller]
fn assert_latencies(dug: &Dug, client: &Flows, server: &Flows, rcode: i64) {
    let (client, server) = (client.exchanges(rcode), server.exchanges(rcode));
    let nanos: Vec<i64> = dug.micros.iter().map(|micros| (micros + 1) * 1_000).collect();
    assert!(client.latency <= nanos.iter().sum(), "{client:?} of {dug:?}");
    assert!(client.latency_max <= nanos.iter().copied().max().unwrap_or(0), "{client:?}");
    assert!(client.latency_max * client.count >= client.latency, "{client:?}");
    assert!(server.latency_max <= client.latency_max, "{server:?} within {client:?}");
}

#[test]
fn lookups_are_counted_once_on_each_side_in_both_families_with_their_latency() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let _dnsmasq = Dnsmasq::start(&hosts.server, zone(&hosts));
    let mut dug = BTreeMap::new();
    for (family, kind) in [(Family::V4, "A"), (Family::V6, "AAAA")] {
        let server = hosts.server.ip(family);
        let good = dig(&hosts.client, (0..20).map(|_| format!("@{server} alias.test {kind}")));
        let bad = dig(&hosts.client, (0..7).map(|n| format!("@{server} no{n}.test {kind}")));
        assert_eq!((good.count("NOERROR"), bad.count("NXDOMAIN")), (20, 7));
        dug.insert(family.to_string(), (family, good, bad));
    }
    collector.stop();

    let seen = dnsflow(&receiver);
    for (family, good, bad) in dug.values() {
        let (client, server) = both_sides(&hosts, &seen, *family);
        for points in [&client, &server] {
            assert_eq!(points.rcodes(), [(0, 20), (3, 7)].into(), "{points}");
            assert_eq!(points.values("transport"), ["udp"].into());
            assert_eq!(points.values("family"), [family.to_string().as_str()].into());
            assert_eq!(points.values("client_port"), ["*"].into());
            assert_eq!(points.values("server_port"), ["53"].into());
            let ip = hosts.server.ip(*family).to_string();
            assert_eq!(points.values("server_ip"), [ip.as_str()].into());
        }
        assert_eq!(client.values("conn_side"), ["client"].into());
        assert_eq!(client.values("src_port"), ["*"].into());
        assert_eq!(server.values("conn_side"), ["server"].into());
        assert_eq!(server.values("src_port"), ["53"].into());
        assert_latencies(good, &client, &server, 0);
        assert_latencies(bad, &client, &server, 3);
    }
}

#[test]
fn of_a_thousand_lookups_each_is_counted_as_what_it_was() {
    let hosts = Hosts::new();
    // What comes to this address is thrown away before any socket sees it.
    let silent = format!("10.77.{}.3", hosts.server.v4.octets()[2]);
    hosts.server.ip_command(&format!("addr add {silent}/24 dev eth0\n"));
    hosts.server.nft(&format!(
        "add table ip t; add chain ip t in {{ type filter hook input priority 0; }}; \
         add rule ip t in ip daddr {silent} udp dport 53 drop"
    ));
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let _dnsmasq = Dnsmasq::start(&hosts.server, zone(&hosts));
    let server = hosts.server.v4;

    let client = &hosts.client;
    let good = dig(client, (0..830).map(|n| format!("@{server} host{}.test A", n % 100)));
    let bad = dig(client, (0..100).map(|n| format!("@{server} no{n}.test A")));
    let tcp = dig(client, (0..20).map(|n| format!("@{server} host{n}.test A +tcp")));
    thread::scope(|scope| {
        for client_number in 0..10 {
            let silent = &silent;
            scope.spawn(move || {
                let queries = (0..5).map(|n| format!("@{silent} host{client_number}{n}.test"));
                let once = ["+tries=1 +timeout=1".to_owned()];
                assert_eq!(dig(client, once.into_iter().chain(queries)), Dug::default());
            });
        }
    });
    assert_eq!(
        (good.count("NOERROR"), bad.count("NXDOMAIN"), tcp.count("NOERROR")),
        (830, 100, 20)
    );
    wait::until("unanswered questions are given up", || {
        let seen = dnsflow(&receiver);
        let given_up = seen.with("dst_ip", &silent).exchanges(-1).count;
        if given_up == 50 { Ok(()) } else { Err(format!("{given_up}")) }
    });
    let metrics = collector.metrics();
    collector.stop();

    let seen = dnsflow(&receiver);
    let (client, server) = both_sides(&hosts, &seen, Family::V4);
    assert_eq!(client.rcodes(), [(0, 850), (3, 100), (-1, 50)].into(), "{client}");
    assert_eq!(server.rcodes(), [(0, 850), (3, 100)].into(), "{server}");
    for points in [&client, &server] {
        assert_eq!(points.with("transport", "tcp").rcodes(), [(0, 20)].into(), "{points}");
    }
    assert_latencies(&Dug::all([good, tcp]), &client, &server, 0);
    assert_latencies(&bad, &client, &server, 3);
    for lost in
        ["dns_packets_lost", "dns_undecodable", "dns_connections_lost", "dns_exchanges_refused"]
    {
        let line = format!("datakit_ebpf_plugin_{lost}_total{{plugin=\"ebpf-net\"}} 0");
        assert!(metrics.contains(&line), "{lost}: {metrics}");
    }
}

#[test]
fn questions_on_one_connection_are_as_many_exchanges() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let _dnsmasq = Dnsmasq::start(&hosts.server, zone(&hosts));
    let server = hosts.server.v4;
    let names = "+tcp +keepopen host1.test no.test host2.test host3.test";
    let dug = dig(&hosts.client, [format!("@{server} {names}")]);
    assert_eq!((dug.count("NOERROR"), dug.count("NXDOMAIN")), (3, 1));
    hosts.settle();
    collector.stop();

    let connections = receiver.netflow().of(&hosts.client).on(Side::Client, 53).tcp();
    assert_eq!(connections.established, 1, "dig kept it open");
    let seen = dnsflow(&receiver);
    let (client, server) = both_sides(&hosts, &seen, Family::V4);
    for points in [&client, &server] {
        assert_eq!(points.rcodes(), [(0, 3), (3, 1)].into(), "{points}");
        assert_eq!(points.values("transport"), ["tcp"].into());
    }
}

#[test]
fn large_answers_are_counted_in_fragments_and_when_asked_again_over_tcp() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let _dnsmasq = Dnsmasq::start(&hosts.server, zone(&hosts));
    let [v4, v6] = [Family::V4, Family::V6].map(|family| hosts.server.ip(family));
    let fragmented = dig(&hosts.client, [format!("@{v4} large.test TXT +bufsize=4096 +notcp")]);
    let again = dig(&hosts.client, [format!("@{v6} large.test TXT +bufsize=1232")]);
    assert_eq!((fragmented.count("NOERROR"), again.count("NOERROR")), (1, 1));
    collector.stop();

    let seen = dnsflow(&receiver);
    let (client, server) = both_sides(&hosts, &seen, Family::V4);
    for points in [client, server] {
        assert_eq!(points.with("transport", "udp").rcodes(), [(0, 1)].into(), "{points}");
        assert!(points.with("transport", "tcp").is_empty(), "{points}");
    }
    let (client, server) = both_sides(&hosts, &seen, Family::V6);
    for points in [client, server] {
        for transport in ["udp", "tcp"] {
            assert_eq!(points.with("transport", transport).rcodes(), [(0, 1)].into(), "{points}");
        }
    }
}

#[test]
fn flows_bear_the_name_by_which_their_own_namespace_asked() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let mut records = zone(&hosts);
    records.push(format!("--host-record=other.test,{},{}", hosts.server.v4, hosts.server.v6));
    let _dnsmasq = Dnsmasq::start(&hosts.server, records);
    for (family, kind, port) in [(Family::V4, "A", 8701), (Family::V6, "AAAA", 8702)] {
        let server = hosts.server.ip(family);
        dig(&hosts.client, [format!("@{server} ALIAS.test {kind}")]);
        dig(&hosts.server, [format!("@{server} other.test {kind}")]);
        let listener = hosts.listen(family, port);
        drop(hosts.connect_to(&listener));
        drop(hosts.server.dial(hosts.server_address(family, port)));
    }
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow();
    for port in [8701, 8702] {
        let client = seen.of(&hosts.client).on(Side::Client, port);
        assert_eq!(client.values("dst_domain"), ["alias.test"].into(), "{client}");
        assert_eq!(client.values("server_domain"), ["alias.test"].into(), "{client}");
        let other = seen.of(&hosts.server).on(Side::Client, port);
        assert_eq!(other.values("dst_domain"), ["other.test"].into(), "{other}");
        // Nobody asked the server for its client's name; to itself it has one.
        let incoming = seen.of(&hosts.server).on(Side::Server, port);
        let from_client = incoming.with("src_ip", hosts.server.v4).with("dst_ip", hosts.client.v4);
        assert!(from_client.values("dst_domain").iter().all(|name| name.is_empty()));
        assert_eq!(incoming.values("server_domain"), [""].into(), "{incoming}");
    }
}

/// Its clients reach it over loopback, and it asks another server for what it does not know.
fn local_resolver(hosts: &Hosts) -> Dnsmasq {
    let server = hosts.server.v4;
    let options = [
        "--listen-address=127.0.0.1".to_owned(),
        "--bind-interfaces".to_owned(),
        format!("--host-record=local.test,{server}"),
        format!("--server=/forwarded.test/{server}"),
    ];
    Dnsmasq::start(&hosts.client, options)
}

#[test]
fn names_are_learned_from_a_local_resolver_that_is_not_reported_itself() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let forwarded = format!("--host-record=www.forwarded.test,{}", hosts.server.v6);
    let _dnsmasq = Dnsmasq::start(&hosts.server, [forwarded]);
    let _resolver = local_resolver(&hosts);
    let names = ["@127.0.0.1 local.test A", "@127.0.0.1 www.forwarded.test AAAA"];
    assert_eq!(dig(&hosts.client, names).count("NOERROR"), 2);
    for (family, port) in [(Family::V4, 8703), (Family::V6, 8704)] {
        drop(hosts.connect(family, port));
    }
    hosts.settle();
    collector.stop();

    let seen = receiver.netflow().of(&hosts.client);
    for (port, name) in [(8703, "local.test"), (8704, "www.forwarded.test")] {
        assert_eq!(seen.on(Side::Client, port).values("dst_domain"), [name].into());
    }
    let seen = dnsflow(&receiver);
    let (client, _) = both_sides(&hosts, &seen, Family::V4);
    assert_eq!(client.rcodes(), [(0, 1)].into(), "the one that was forwarded: {client}");
    assert!(seen.with("dst_ip", "127.0.0.1").is_empty());
}

#[test]
fn exchanges_over_loopback_are_reported_when_asked_for() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(["--include-loopback"]).start();
    let _resolver = local_resolver(&hosts);
    // Other tests ask there too: these names have codes of their own.
    let queries = (0..9).map(|_| "@127.0.0.1 elsewhere.example A");
    assert_eq!(dig(&hosts.client, queries).count("REFUSED"), 9);
    collector.stop();

    let seen = dnsflow(&receiver);
    for side in [Side::Client, Side::Server] {
        let points = seen.dns_of("127.0.0.1".parse().expect("an address"), side);
        assert_eq!(points.exchanges(5).count, 9, "{side:?}: {points}");
        assert_eq!(points.values("dst_ip_type"), ["loopback"].into());
    }
}

/// A question for the addresses of `host<n>.test`, as it is sent.
fn question(id: u16, n: u8) -> Vec<u8> {
    let name = format!("host{n}");
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(b"\x01\0\0\x01\0\0\0\0\0\0");
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
    bytes.extend(b"\x04test\0\0\x01\0\x01");
    bytes
}

/// The same with its length before it.
fn question_on_stream(id: u16, n: u8) -> Vec<u8> {
    let question = question(id, n);
    [&(question.len() as u16).to_be_bytes()[..], &question].concat()
}

fn read_answer(mut stream: &TcpStream) {
    let mut len = [0; 2];
    stream.read_exact(&mut len).expect("an answer comes");
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer).expect("all of it comes");
}

fn write(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the server reads");
}

#[test]
fn on_a_connection_questions_may_come_in_pieces_or_together_and_before_the_collector() {
    let hosts = Hosts::new();
    let _dnsmasq = Dnsmasq::start(&hosts.server, zone(&hosts));
    let stream = hosts.client.dial(hosts.server_address(Family::V4, 53));
    stream.set_nodelay(true).expect("a TCP socket");
    write(&stream, &question_on_stream(1, 1));
    read_answer(&stream);

    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for byte in question_on_stream(2, 2) {
        write(&stream, &[byte]);
    }
    read_answer(&stream);
    write(&stream, &[question_on_stream(3, 3), question_on_stream(4, 4)].concat());
    read_answer(&stream);
    read_answer(&stream);
    drop(stream);
    hosts.settle();
    collector.stop();

    let seen = dnsflow(&receiver);
    let (client, server) = both_sides(&hosts, &seen, Family::V4);
    for points in [&client, &server] {
        assert_eq!(points.rcodes(), [(0, 3)].into(), "{points}");
        assert_eq!(points.values("transport"), ["tcp"].into());
    }
}

/// Asks for `host<n>.test` from a socket that is not connected.
fn ask_unconnected(hosts: &Hosts, local: &str, server: SocketAddr, n: u8) {
    let socket = hosts.client.bind_udp(local.parse().expect("an address"));
    socket.send_to(&question(9, n), server).expect("a datagram fits");
    let (_, from) = socket.recv_from(&mut [0; 512]).expect("an answer comes");
    assert_eq!(from, server, "who was asked is who answers");
}

#[test]
fn a_server_behind_a_translation_is_shown_as_it_was_asked() {
    let hosts = Hosts::new();
    let service: SocketAddr = "198.51.100.53:53".parse().expect("an address");
    let server = hosts.server.v4;
    hosts.client.ip_command(&format!("route add {}/32 via {server}\n", service.ip()));
    hosts.client.nft(&format!(
        "add table ip t; \
         add chain ip t out {{ type nat hook output priority -100; }}; \
         add rule ip t out ip daddr {} udp dport 53 dnat to {server}",
        service.ip()
    ));
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let _dnsmasq = Dnsmasq::start(&hosts.server, zone(&hosts));
    dig(&hosts.client, [format!("@{} host1.test A", service.ip())]);
    ask_unconnected(&hosts, &format!("{}:0", hosts.client.v4), service, 2);
    collector.stop();

    let seen = dnsflow(&receiver);
    let (client, server) = both_sides(&hosts, &seen, Family::V4);
    assert_eq!(client.rcodes(), [(0, 2)].into(), "connected, and not: {client}");
    assert_eq!(client.values("dst_ip"), [service.ip().to_string().as_str()].into());
    assert_eq!(server.rcodes(), [(0, 2)].into(), "{server}");
}

#[test]
fn names_are_learned_from_a_local_resolver_on_another_port_behind_a_translation() {
    let hosts = Hosts::new();
    hosts.client.nft(
        "add table ip t; \
         add chain ip t out { type nat hook output priority -100; }; \
         add rule ip t out ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5300",
    );
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let record = format!("--host-record=host1.test,{}", hosts.server.v4);
    let options = ["--port=5300", "--listen-address=127.0.0.11", "--bind-interfaces", &record];
    let _resolver = Dnsmasq::start_on(&hosts.client, 5300, options);
    ask_unconnected(&hosts, "127.0.0.1:0", "127.0.0.11:53".parse().expect("an address"), 1);
    drop(hosts.connect(Family::V4, 8705));
    hosts.settle();
    collector.stop();

    let client = receiver.netflow().of(&hosts.client).on(Side::Client, 8705);
    assert_eq!(client.values("dst_domain"), ["host1.test"].into(), "{client}");
}
