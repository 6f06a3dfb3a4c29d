//! netflow's UDP bytes are exact: payload, per direction, in both namespaces. In: datagrams of known sizes between sockets that are
//! connected or not. Out: one flow per identity, with a client and a server although the protocol has none.

use std::net::SocketAddr;
use std::process::Command;

use system_tests::collector::Collector;
use system_tests::flows::{Side, Udp};
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::udp::ask;

const FAMILIES: [(Family, u16); 2] = [(Family::V4, 7004), (Family::V6, 7006)];
/// Empty, small, one packet, fragmented.
const SIZES: [usize; 5] = [0, 1, 512, 1_400, 9_000];

/// What the client of one round of [`SIZES`] with answers twice as long sees.
fn one_round() -> Udp {
    let sent = SIZES.iter().sum::<usize>() as i64;
    Udp { read: 2 * sent, written: sent }
}

#[test]
fn datagrams_of_connected_sockets_are_counted_by_their_payload() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for (family, port) in FAMILIES {
        let server = hosts.server.bind_udp(hosts.server_address(family, port));
        let client = hosts.client.any_udp(family);
        client.connect(hosts.server_address(family, port)).expect("the address is routed");
        for size in SIZES {
            ask(&client, None, &server, size, 2 * size);
        }
    }
    collector.stop();

    let seen = receiver.netflow();
    for (family, port) in FAMILIES {
        hosts.assert_udp(&seen, port, one_round());
        let client = seen.of(&hosts.client).on(Side::Client, port);
        assert_eq!(client.values("family"), [family.to_string().as_str()].into());
        assert_eq!(client.values("src_port"), ["*"].into());
    }
}

#[test]
fn datagrams_of_unconnected_sockets_are_counted_by_their_payload() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    for (family, port) in FAMILIES {
        let address = hosts.server_address(family, port);
        let server = hosts.server.bind_udp(address);
        let client = hosts.client.any_udp(family);
        for size in SIZES {
            ask(&client, Some(address), &server, size, 2 * size);
        }
    }
    collector.stop();

    let seen = receiver.netflow();
    for (_, port) in FAMILIES {
        hosts.assert_udp(&seen, port, one_round());
    }
}

#[test]
fn a_server_bound_to_all_addresses_is_reported_with_the_address_it_was_asked_on() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let server = hosts.server.bind_udp("[::]:7100".parse().expect("an address"));
    for family in [Family::V4, Family::V6] {
        let client = hosts.client.any_udp(family);
        ask(&client, Some(hosts.server_address(family, 7100)), &server, 100, 300);
    }
    collector.stop();

    let seen = receiver.netflow();
    for family in [Family::V4, Family::V6] {
        let of_family = seen.with("family", family);
        hosts.assert_udp(&of_family, 7100, Udp { read: 300, written: 100 });
        let ip = hosts.server.ip(family).to_string();
        let server = of_family.of(&hosts.server);
        assert_eq!(server.values("src_ip"), [ip.as_str()].into(), "{server}");
    }
}

#[test]
fn one_socket_that_serves_three_thousand_peers_is_one_flow() {
    const PEERS: u16 = 3_000;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let address = hosts.server_address(Family::V4, 7200);
    let server = hosts.server.bind_udp(address);
    for port in 20_000..20_000 + PEERS {
        let client = hosts.client.bind_udp(SocketAddr::new(hosts.client.v4.into(), port));
        ask(&client, Some(address), &server, 10, 20);
    }
    collector.stop();
    let sent = 10 * i64::from(PEERS);
    hosts.assert_udp(&receiver.netflow(), 7200, Udp { read: 2 * sent, written: sent });
}

#[test]
fn a_socket_older_than_the_collector_counts_from_its_start() {
    let hosts = Hosts::new();
    let address = hosts.server_address(Family::V6, 7300);
    let server = hosts.server.bind_udp(address);
    let client = hosts.client.any_udp(Family::V6);
    client.connect(address).expect("the address is routed");
    ask(&client, None, &server, 1_000, 1_000);

    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    ask(&client, None, &server, 70, 90);
    collector.stop();
    hosts.assert_udp(&receiver.netflow(), 7300, Udp { read: 90, written: 70 });
}

#[test]
fn dig_asks_and_dnsmasq_serves() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    dnsmasq.args(["--user=root", "--pid-file=", "--bind-interfaces"]);
    dnsmasq.arg("--address=/example.test/192.0.2.7");
    let dnsmasq = hosts.server.spawn(dnsmasq.arg(format!("--listen-address={}", hosts.server.v4)));
    hosts.server.wait_for_port("udp", 53);

    let collector = Collector::start(&receiver);
    let mut dig = Command::new("dig");
    dig.arg(format!("@{}", hosts.server.v4)).args(["example.test", "A", "+qr", "+tries=1"]);
    let (pid, answer) = hosts.client.run(&mut dig);
    assert!(answer.contains("192.0.2.7"), "{answer}");
    collector.stop();

    let seen = receiver.netflow();
    let size = |label: &str| {
        let (_, after) = answer.split_once(label).unwrap_or_else(|| panic!("{label}: {answer}"));
        let digits = after.split_whitespace().next().expect("a number follows");
        digits.parse::<i64>().unwrap_or_else(|error| panic!("{label} {digits}: {error}"))
    };
    let client = Udp { read: size("MSG SIZE  rcvd:"), written: size("QUERY SIZE:") };
    hosts.assert_udp(&seen, 53, client);
    let pids = [pid.to_string(), dnsmasq.pid().to_string()];
    let ends = [(Side::Client, "dig", &pids[0]), (Side::Server, "dnsmasq", &pids[1])];
    for (side, name, pid) in ends {
        let flows = hosts.end(side, &seen).on(side, 53);
        assert_eq!(flows.values("process_name"), [name].into(), "{flows}");
        assert_eq!(flows.values("pid"), [pid.as_str()].into(), "{flows}");
    }
}
