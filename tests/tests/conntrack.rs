//! Translated connections. In: real rules of nftables in the client's own namespace and on a node that forwards for it, and traffic
//! of known size. Out: netflow shows where each connection really goes, and nothing is counted twice.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, connect, socket};
use system_tests::collector::Collector;
use system_tests::flows::{Flows, Tcp, Udp};
use system_tests::hosts::{Family, Netns};
use system_tests::receiver::Receiver;
use system_tests::routed::Routed;
use system_tests::tcp::{Pair, accept, receive};
use system_tests::udp::ask;
use system_tests::wait;

const NET: &str = "ebpf-net";
const CONNTRACK: &str = "ebpf-conntrack";
const BOTH: &str = "ebpf-net,ebpf-conntrack";

/// A table of rules that translate destinations.
fn rules(family: &str, hook: &str, rules: &str) -> String {
    let priority = if hook == "postrouting" { 100 } else { -100 };
    format!(
        "table {family} {hook}_nat {{ chain {hook} {{ \
         type nat hook {hook} priority {priority}; {rules}; }}; }}"
    )
}

fn rule_family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

impl Service<'_> {
    /// Connections to the service end at the server's real port.
    fn dnat(&self, on: &Netns, hook: &str) {
        let Self { address, real, .. } = self;
        let (family, ip, port) = (rule_family(*address), address.ip(), address.port());
        let rule = format!("{family} daddr {ip} tcp dport {port} dnat to {real}");
        on.nft(&rules(family, hook, &rule));
    }
}

/// A service, and where it really is.
struct Service<'a> {
    hosts: &'a Routed,
    address: SocketAddr,
    real: SocketAddr,
    listener: TcpListener,
}

impl<'a> Service<'a> {
    fn new(hosts: &'a Routed, family: Family) -> Self {
        let real = hosts.real(family, 8080);
        let listener = hosts.server.listen(real);
        Self { hosts, address: hosts.service(family, 80), real, listener }
    }

    fn connect(&self) -> Pair {
        let client = self.hosts.client.dial(self.address);
        Pair { client, server: accept(&self.listener) }
    }
}

/// What the client's side of the flows to an address shows.
fn towards(seen: &Flows, client: &Netns, address: SocketAddr) -> Flows {
    let outgoing = seen.of(client).with("direction", "outgoing");
    outgoing.with("dst_ip", address.ip()).with("dst_port", address.port())
}

#[track_caller]
fn assert_translated(flows: &Flows, to: SocketAddr) {
    assert!(!flows.is_empty());
    assert_eq!(flows.values("dst_nat_ip"), [to.ip().to_string().as_str()].into(), "{flows}");
    assert_eq!(flows.values("dst_nat_port"), [to.port().to_string().as_str()].into(), "{flows}");
}

#[track_caller]
fn assert_not_translated(flows: &Flows) {
    assert!(!flows.is_empty());
    assert_eq!(flows.values("dst_nat_ip"), ["N/A"].into(), "{flows}");
    assert_eq!(flows.values("dst_nat_port"), ["N/A"].into(), "{flows}");
}

#[track_caller]
fn wait_for_report(receiver: &Receiver, client: &Netns, address: SocketAddr) {
    wait::until("the connection is reported", || {
        let seen = receiver.netflow();
        if towards(&seen, client, address).is_empty() { Err(seen.to_string()) } else { Ok(()) }
    });
}

/// Waits until the plugin holds so many connections, those of other tests aside: never fewer.
#[track_caller]
fn wait_for_translations(collector: &Collector, count: u64) {
    wait::until(&format!("{count} connections are in the table"), || {
        let held = collector.metric(CONNTRACK, "translations");
        if held >= count { Ok(()) } else { Err(format!("{held}")) }
    });
}

fn start(receiver: &Receiver) -> Collector {
    Collector::setup(receiver).enabled(BOTH).start()
}

/// One connection of known size; its bytes are counted once, on the flow that shows its real end.
#[track_caller]
fn shows_the_real_end(service: &Service<'_>, end: SocketAddr, connect: impl Fn() -> Pair) {
    let receiver = Receiver::start();
    shows_to(&receiver, start(&receiver), service, end, connect);
}

#[track_caller]
fn shows_to(
    receiver: &Receiver,
    collector: Collector,
    service: &Service<'_>,
    end: SocketAddr,
    connect: impl Fn() -> Pair,
) {
    let pair = connect();
    wait_for_translations(&collector, 1);
    pair.up(1_000);
    pair.down(3_000);
    drop(pair);
    let client = &service.hosts.client;
    wait::until("the connection is reported", || {
        let seen = towards(&receiver.netflow(), client, service.address);
        if seen.tcp().closed == 1 { Ok(()) } else { Err(seen.to_string()) }
    });
    collector.stop();
    let seen = towards(&receiver.netflow(), client, service.address);
    assert_eq!(
        seen.tcp(),
        Tcp { read: 3_000, written: 1_000, established: 1, closed: 1 },
        "{seen}"
    );
    assert_translated(&seen, end);
    for host in [client, &service.hosts.node, &service.hosts.server] {
        let incoming = receiver.netflow().of(host).with("direction", "incoming");
        let other: Vec<_> =
            incoming.values("dst_nat_ip").into_iter().filter(|ip| *ip != "N/A").collect();
        assert!(other.is_empty(), "who is called is not translated: {incoming}");
    }
}

#[test]
fn a_container_is_shown_where_its_node_sends_it() {
    for family in [Family::V4, Family::V6] {
        let hosts = Routed::new();
        let service = Service::new(&hosts, family);
        service.dnat(&hosts.node, "prerouting");
        shows_the_real_end(&service, service.real, || service.connect());
    }
}

#[test]
fn a_masquerading_node_makes_no_difference() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    hosts.node.nft(&rules("ip", "postrouting", "oifname eth1 masquerade"));
    shows_the_real_end(&service, service.real, || service.connect());
}

#[test]
fn masquerade_alone_is_no_translation_of_the_destination() {
    let hosts = Routed::new();
    let real = hosts.real(Family::V4, 8080);
    let listener = hosts.server.listen(real);
    hosts.node.nft(&rules("ip", "postrouting", "oifname eth1 masquerade"));
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let pair = Pair { client: hosts.client.dial(real), server: accept(&listener) };
    pair.up(1_000);
    wait_for_report(&receiver, &hosts.client, real);
    drop(pair);
    collector.stop();
    let seen = towards(&receiver.netflow(), &hosts.client, real);
    assert_eq!(seen.tcp().written, 1_000);
    assert_not_translated(&seen);
}

#[test]
fn a_redirect_on_the_node_ends_at_the_node() {
    let hosts = Routed::new();
    let end = SocketAddr::new(hosts.node.ip(Family::V4), 8080);
    let service = hosts.service(Family::V4, 80);
    let listener = hosts.node.listen(end);
    let redirect = Service { hosts: &hosts, address: service, real: end, listener };
    hosts.node.nft(&rules("ip", "prerouting", "tcp dport 80 redirect to :8080"));
    shows_the_real_end(&redirect, end, || redirect.connect());
}

#[test]
fn a_translation_in_the_clients_own_namespace_is_shown() {
    for family in [Family::V4, Family::V6] {
        let hosts = Routed::new();
        let service = Service::new(&hosts, family);
        service.dnat(&hosts.client, "output");
        shows_the_real_end(&service, service.real, || service.connect());
    }
}

#[test]
fn a_redirect_in_the_clients_own_namespace_ends_at_its_proxy() {
    let hosts = Routed::new();
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, 15_001));
    let service = hosts.service(Family::V4, 80);
    let redirect = Service {
        hosts: &hosts,
        address: service,
        real: proxy,
        listener: hosts.client.listen(proxy),
    };
    hosts.client.nft(&rules("ip", "output", "tcp dport 80 redirect to :15001"));
    shows_the_real_end(&redirect, proxy, || redirect.connect());
}

#[test]
fn a_connection_that_is_translated_twice_is_shown_at_its_last_end() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    let middle = SocketAddr::new(service.address.ip(), 81);
    hosts.client.nft(&rules("ip", "output", &format!("tcp dport 80 dnat to {middle}")));
    let real = service.real;
    hosts.node.nft(&rules("ip", "prerouting", &format!("tcp dport 81 dnat to {real}")));
    shows_the_real_end(&service, real, || service.connect());
}

#[test]
fn an_ipv6_socket_with_an_ipv4_peer_is_found_too() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    let IpAddr::V4(ip) = service.address.ip() else { unreachable!("the service is IPv4") };
    let mapped = SockaddrIn6::from(SocketAddrV6::new(ip.to_ipv6_mapped(), 80, 0, 0));
    shows_the_real_end(&service, service.real, || {
        let client = hosts.client.enter(|| {
            let client = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::empty(), None);
            let client = client.expect("a socket");
            connect(client.as_raw_fd(), &mapped).expect("the service answers");
            client
        });
        Pair { client: client.into(), server: accept(&service.listener) }
    });
}

#[test]
fn a_connection_that_is_older_than_the_plugin_is_found() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    let pair = service.connect();
    let receiver = Receiver::start();
    let collector = start(&receiver);
    pair.up(1_000);
    wait_for_report(&receiver, &hosts.client, service.address);
    collector.stop();
    let seen = towards(&receiver.netflow(), &hosts.client, service.address);
    assert_eq!(seen.tcp(), Tcp { read: 0, written: 1_000, established: 0, closed: 0 }, "{seen}");
    assert_translated(&seen, service.real);
}

#[test]
fn a_plugin_that_is_enabled_later_starts_to_fill_the_tags_and_counts_nothing_again() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    let receiver = Receiver::start();
    let file = |plugins: &str| format!("enabled = [{plugins}]\n");
    // What the second plugin needs is given up at the start otherwise.
    let setup = Collector::setup(&receiver).args(["--keep-capabilities"]);
    let collector = setup.enabled_by_file(&file("\"ebpf-net\"")).start();
    collector.wait_for(NET, "running");
    let pair = service.connect();
    let written = |expected: i64| {
        wait::until("the bytes are reported", || {
            let seen = towards(&receiver.netflow(), &hosts.client, service.address);
            let written = seen.tcp().written;
            if written == expected { Ok(seen) } else { Err(seen.to_string()) }
        })
    };
    pair.up(1_000);
    assert_not_translated(&written(1_000));

    collector.reload(&file("\"ebpf-net\", \"ebpf-conntrack\""));
    collector.wait_for(CONNTRACK, "running");
    pair.up(2_000);
    let seen = written(3_000);
    assert_eq!(seen.with("dst_nat_ip", "N/A").tcp().written, 1_000);
    assert_translated(&seen.with("dst_nat_ip", service.real.ip()), service.real);

    collector.reload(&file("\"ebpf-net\""));
    wait::until("the plugin is gone", || match collector.plugin(CONNTRACK) {
        Some(entry) if entry["state"] == "running" => Err(entry.to_string()),
        _ => Ok(()),
    });
    pair.up(4_000);
    drop(pair);
    written(7_000);
    collector.stop();
    let seen = towards(&receiver.netflow(), &hosts.client, service.address);
    assert_eq!(seen.tcp(), Tcp { read: 0, written: 7_000, established: 1, closed: 1 }, "{seen}");
}

#[test]
fn it_may_run_in_a_process_of_its_own() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    let receiver = Receiver::start();
    let setup = Collector::setup(&receiver).enabled(BOTH).args(["--isolate", CONNTRACK]);
    shows_to(&receiver, setup.start(), &service, service.real, || service.connect());
}

#[test]
fn udp_is_shown_where_it_goes_too() {
    let hosts = Routed::new();
    let (service, real) = (hosts.service(Family::V4, 53), hosts.real(Family::V4, 5353));
    let rule = format!("udp dport 53 dnat to {real}");
    hosts.node.nft(&rules("ip", "prerouting", &rule));
    let server = hosts.server.bind_udp(real);
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let client = hosts.client.any_udp(Family::V4);
    client.connect(service).expect("UDP only remembers its peer");
    ask(&client, None, &server, 100, 300);
    wait_for_report(&receiver, &hosts.client, service);
    collector.stop();
    let seen = towards(&receiver.netflow(), &hosts.client, service);
    assert_eq!(seen.udp(), Udp { read: 300, written: 100 }, "{seen}");
    assert_translated(&seen, real);
}

#[test]
fn without_the_right_to_ask_it_fails_alone_and_says_why() {
    let hosts = Routed::new();
    let real = hosts.real(Family::V4, 8080);
    let listener = hosts.server.listen(real);
    let receiver = Receiver::start();
    let setup = Collector::setup(&receiver).enabled(BOTH).without_capability("net_admin");
    let collector = setup.launch();
    let entry = collector.wait_for(CONNTRACK, "failed");
    let reason = entry["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("CAP_NET_ADMIN"), "{entry}");
    collector.wait_for(NET, "running");
    let pair = Pair { client: hosts.client.dial(real), server: accept(&listener) };
    pair.up(1_000);
    drop(pair);
    collector.stop();
    let seen = towards(&receiver.netflow(), &hosts.client, real);
    assert_eq!(seen.tcp().written, 1_000, "{seen}");
}

/// An exchange by hand, so that client and server are one test.
fn exchange(pair: &Pair) {
    let talk = |mut stream: &TcpStream, text: &str| {
        stream.write_all(text.as_bytes()).expect("the other end reads");
    };
    let request = "GET /items HTTP/1.1\r\nHost: shop\r\n\r\n";
    talk(&pair.client, request);
    receive(&pair.server, request.len());
    let response = "HTTP/1.1 204 No Content\r\nServer: shop\r\n\r\n";
    talk(&pair.server, response);
    receive(&pair.client, response.len());
}

/// Two exchanges over a connection to the service, which is there before the collector or comes after it.
#[track_caller]
fn requests_show_the_real_end(service: &Service<'_>, is_older: bool) {
    let older = is_older.then(|| service.connect());
    let receiver = Receiver::start();
    let collector =
        Collector::setup(&receiver).enabled(BOTH).args(["--l7net-enabled", "httpflow"]).start();
    let pair = older.unwrap_or_else(|| service.connect());
    wait_for_translations(&collector, 1);
    exchange(&pair);
    exchange(&pair);
    drop(pair);
    let client = &service.hosts.client;
    let requests = || towards(&receiver.measurement("httpflow"), client, service.address);
    wait::until_true(
        "both exchanges are reported",
        || requests().sum("count") == 2,
        || requests().to_string(),
    );
    collector.stop();
    assert_translated(&requests(), service.real);
    assert_eq!(requests().sum("count"), 2, "{}", requests());
}

#[test]
fn requests_show_the_real_end_too() {
    for family in [Family::V4, Family::V6] {
        let hosts = Routed::new();
        let service = Service::new(&hosts, family);
        service.dnat(&hosts.node, "prerouting");
        requests_show_the_real_end(&service, false);
    }
}

#[test]
fn requests_over_older_connections_show_the_real_end_too() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    requests_show_the_real_end(&service, true);
}

#[test]
fn requests_that_are_redirected_or_masqueraded_show_the_real_end_too() {
    let hosts = Routed::new();
    let service = Service::new(&hosts, Family::V4);
    service.dnat(&hosts.node, "prerouting");
    hosts.node.nft(&rules("ip", "postrouting", "oifname eth1 masquerade"));
    requests_show_the_real_end(&service, false);

    let hosts = Routed::new();
    let end = SocketAddr::new(hosts.node.ip(Family::V4), 8080);
    let address = hosts.service(Family::V4, 80);
    let redirect = Service { hosts: &hosts, address, real: end, listener: hosts.node.listen(end) };
    hosts.node.nft(&rules("ip", "prerouting", "tcp dport 80 redirect to :8080"));
    requests_show_the_real_end(&redirect, false);
}
