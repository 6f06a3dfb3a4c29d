//! From records to points: what the kernel copies is written by hand, and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bpf::net::abi;
use plugin_api::{Category, Points, Value};
use zerocopy::IntoBytes as _;

use super::{Counts, Dnsflow, decode, point};
use crate::config::Config;
use crate::domains::Domains;

pub(crate) const CLIENT: &str = "10.0.0.5:40000";
pub(crate) const SERVER: &str = "10.0.0.2:53";

const MS: u64 = 1_000_000;
const NETNS: u32 = 4_026_531_840;
const A: u16 = 1;

/// A record: the client's socket, number 7, sends or gets a datagram.
#[derive(Clone)]
struct Copied {
    packet: abi::dns_packet,
    payload: Vec<u8>,
}

fn addr(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn copied(sent: bool, time_ns: u64, payload: &[u8]) -> Copied {
    let [local, remote]: [SocketAddr; 2] = [CLIENT, SERVER].map(|end| end.parse().unwrap());
    let packet = abi::dns_packet {
        tuple: abi::tuple {
            local_addr: addr(local.ip()),
            remote_addr: addr(remote.ip()),
            local_port: local.port(),
            remote_port: remote.port(),
            netns: NETNS,
        },
        socket: 7,
        time_ns,
        len: payload.len() as u32,
        copied: payload.len() as u32,
        family: abi::FAMILY_IPV4 as u8,
        transport: abi::TRANSPORT_UDP as u8,
        sent: sent.into(),
        ..abi::dns_packet::default()
    };
    Copied { packet, payload: payload.to_vec() }
}

impl Copied {
    fn bytes(&self) -> Vec<u8> {
        [self.packet.as_bytes(), &self.payload].concat()
    }

    /// The same at the server's socket, number 8.
    fn at_server(mut self) -> Self {
        let tuple = &mut self.packet.tuple;
        std::mem::swap(&mut tuple.local_addr, &mut tuple.remote_addr);
        std::mem::swap(&mut tuple.local_port, &mut tuple.remote_port);
        self.packet.sent ^= 1;
        self.packet.socket = 8;
        self
    }

    fn remote(mut self, end: &str) -> Self {
        let end: SocketAddr = end.parse().unwrap();
        self.packet.tuple.remote_addr = addr(end.ip());
        self.packet.tuple.remote_port = end.port();
        self
    }

    /// As a piece of a TCP connection.
    fn tcp(mut self, sequence: u32) -> Self {
        let len = self.payload.len() as u16;
        self.payload.splice(..0, len.to_be_bytes());
        let packet = &mut self.packet;
        (packet.len, packet.copied) = (u32::from(len) + 2, u32::from(len) + 2);
        packet.transport = abi::TRANSPORT_TCP as u8;
        packet.sequence = sequence;
        self
    }
}

fn message(id: u16, flags: u16, name: &str, answers: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, 1, answers, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(wire_name(name));
    bytes.extend([0, A as u8, 0, 1]);
    bytes
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    message(id, 0x100, name, 0)
}

pub(crate) fn answer(id: u16, rcode: u16, name: &str) -> Vec<u8> {
    message(id, 0x8180 | rcode, name, 0)
}

/// An answer with records: owner, kind, time to live in seconds, data.
pub(crate) fn answer_with(name: &str, records: &[(&str, u16, u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = message(7, 0x8180, name, records.len() as u16);
    for (owner, kind, ttl, data) in records {
        bytes.extend(wire_name(owner));
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

pub(crate) fn cname(owner: &'static str, target: &str) -> (&'static str, u16, u32, Vec<u8>) {
    (owner, 5, 300, wire_name(target))
}

pub(crate) fn a(owner: &'static str, ttl: u32, ip: [u8; 4]) -> (&'static str, u16, u32, Vec<u8>) {
    (owner, A, ttl, ip.to_vec())
}

/// One point: its tags, and its fields.
type Shown = (BTreeMap<&'static str, String>, BTreeMap<&'static str, i64>);

struct Run {
    dns: Dnsflow,
    domains: Domains,
    counts: Arc<Counts>,
}

impl Run {
    fn new(settings: &str) -> Self {
        let counts = Arc::<Counts>::default();
        let dns = Dnsflow::new(&Config::parse(settings).unwrap(), Arc::clone(&counts));
        Self { dns, domains: Domains::default(), counts }
    }

    fn observe(&mut self, copied: &[Copied]) {
        for copied in copied {
            self.dns.observe(&copied.bytes(), &mut self.domains);
        }
    }

    fn points(&mut self, now_ns: u64) -> Vec<Shown> {
        let mut points = Points::new(Category::Network, point::FEED);
        for (key, stats) in self.dns.flush(now_ns) {
            point::dnsflow(&mut points, &key, &stats, 17);
        }
        let shown = points.iter().map(|point| {
            let tags = point.tags().map(|(key, value)| (key, points.resolve(value).to_owned()));
            let fields = point.fields().map(|(key, value)| match value {
                Value::I64(value) => (key, value),
                other => panic!("{key} is {other:?}"),
            });
            (tags.collect(), fields.collect())
        });
        shown.collect()
    }

    /// `rcode count latency latency_max` of each point.
    fn fields(&mut self, now_ns: u64) -> Vec<[i64; 4]> {
        let names = ["rcode", "count", "latency", "latency_max"];
        let points = self.points(now_ns).into_iter();
        let mut fields: Vec<_> = points.map(|(_, fields)| names.map(|name| fields[name])).collect();
        fields.sort_unstable();
        fields
    }
}

/// The points of these packets, long after them.
fn fields_of(copied: &[Copied]) -> Vec<[i64; 4]> {
    let mut run = Run::new("");
    run.observe(copied);
    run.fields(60_000 * MS)
}

#[test]
fn every_truncation_of_a_record_is_an_error() {
    let record = copied(true, 0, &query(7, "www.a.com")).bytes();
    for len in 0..record.len() {
        assert!(decode::packet(&record[..len]).is_err(), "{len} bytes");
    }
    assert!(decode::packet(&record).is_ok());
    let mut odd = copied(true, 0, b"");
    odd.packet.transport = 9;
    assert!(decode::packet(&odd.bytes()).is_err());
}

#[test]
fn an_answered_question_is_one_exchange_with_its_latency() {
    let mut run = Run::new("");
    run.observe(&[
        copied(true, 5 * MS, &query(7, "www.a.com")),
        copied(false, 8 * MS, &answer(7, 3, "www.a.com")),
    ]);
    let points = run.points(10 * MS);
    let (tags, fields) = &points[0];
    let expected = [
        ("client_ip", "10.0.0.5"),
        ("client_port", "*"),
        ("conn_side", "client"),
        ("direction", "outgoing"),
        ("dst_ip", "10.0.0.2"),
        ("dst_ip_type", "private"),
        ("dst_port", "53"),
        ("family", "IPv4"),
        ("server_ip", "10.0.0.2"),
        ("server_port", "53"),
        ("src_ip", "10.0.0.5"),
        ("src_ip_type", "private"),
        ("src_port", "*"),
        ("transport", "udp"),
    ];
    assert_eq!(*tags, expected.map(|(key, value)| (key, value.to_owned())).into());
    let latency = 3_000_000;
    let expected = [("count", 1), ("latency", latency), ("latency_max", latency), ("rcode", 3)];
    assert_eq!(*fields, expected.into());
    assert_eq!(points.len(), 1);
    assert!(run.points(60_000 * MS).is_empty(), "nothing is left, not even a timeout");
}

#[test]
fn on_the_servers_side_this_host_is_the_server() {
    let mut run = Run::new("");
    run.observe(&[
        copied(true, 5 * MS, &query(7, "www.a.com")).at_server(),
        copied(false, 8 * MS, &answer(7, 0, "www.a.com")).at_server(),
    ]);
    let points = run.points(10 * MS);
    let (tags, fields) = &points[0];
    for (tag, value) in [
        ("direction", "incoming"),
        ("conn_side", "server"),
        ("src_ip", "10.0.0.2"),
        ("src_port", "53"),
        ("dst_ip", "10.0.0.5"),
        ("dst_port", "*"),
        ("server_ip", "10.0.0.2"),
        ("server_port", "53"),
        ("client_ip", "10.0.0.5"),
        ("client_port", "*"),
    ] {
        assert_eq!(tags[tag], value, "{tag}");
    }
    assert_eq!((fields["rcode"], fields["count"]), (0, 1));
    assert_eq!(points.len(), 1);
}

#[test]
fn exchanges_with_the_same_code_are_one_point_with_their_mean_and_maximum() {
    let mut all = Vec::new();
    for (id, latency) in [(1, 2), (2, 4), (3, 9)] {
        all.push(copied(true, 100 * MS, &query(id, "www.a.com")));
        all.push(copied(false, (100 + latency) * MS, &answer(id, 0, "www.a.com")));
    }
    all.push(copied(true, 100 * MS, &query(4, "no.a.com")));
    all.push(copied(false, 101 * MS, &answer(4, 3, "no.a.com")));
    assert_eq!(fields_of(&all), [[0, 3, 5_000_000, 9_000_000], [3, 1, 1_000_000, 1_000_000]]);
}

#[test]
fn a_question_that_is_asked_again_is_one_and_counts_from_the_first_time() {
    let all = [
        copied(true, 0, &query(7, "www.a.com")),
        copied(true, 5_000 * MS, &query(7, "www.a.com")),
        copied(false, 5_001 * MS, &answer(7, 0, "www.a.com")),
        copied(false, 5_002 * MS, &answer(7, 0, "www.a.com")),
    ];
    assert_eq!(fields_of(&all), [[0, 1, 5_001_000_000, 5_001_000_000]]);
}

#[test]
fn a_question_without_an_answer_is_given_up_after_six_seconds() {
    let mut run = Run::new("");
    run.observe(&[copied(true, MS, &query(7, "www.a.com"))]);
    assert!(run.fields(6_001 * MS).is_empty());
    assert_eq!(run.fields(6_001 * MS + 1), [[-1, 1, 0, 0]]);
    assert!(run.fields(60_000 * MS).is_empty());
}

#[test]
fn an_answer_to_another_question_socket_or_side_is_none() {
    let question = copied(true, 0, &query(7, "www.a.com"));
    let mut other_socket = copied(false, MS, &answer(7, 0, "www.a.com"));
    other_socket.packet.socket = 9;
    for wrong in [
        copied(false, MS, &answer(7, 0, "www.b.com")),
        copied(false, MS, &answer(8, 0, "www.a.com")),
        copied(true, MS, &answer(7, 0, "www.a.com")),
        other_socket,
    ] {
        assert_eq!(fields_of(&[question.clone(), wrong]), [[-1, 1, 0, 0]]);
    }
    let in_other_letters = copied(false, MS, &answer(7, 0, "WWW.a.Com"));
    assert_eq!(fields_of(&[question, in_other_letters]), [[0, 1, 1_000_000, 1_000_000]]);
}

#[test]
fn two_servers_asked_at_once_are_two_exchanges() {
    let all = [
        copied(true, 0, &query(7, "www.a.com")),
        copied(true, 0, &query(7, "www.a.com")).remote("10.0.0.3:53"),
        copied(false, MS, &answer(7, 2, "www.a.com")).remote("10.0.0.3:53"),
        copied(false, 2 * MS, &answer(7, 0, "www.a.com")),
    ];
    assert_eq!(fields_of(&all), [[0, 1, 2_000_000, 2_000_000], [2, 1, 1_000_000, 1_000_000]]);
}

#[test]
fn an_answer_from_a_translated_address_answers_the_question() {
    let mut run = Run::new("");
    run.observe(&[
        copied(true, 0, &query(7, "www.a.com")).remote("10.0.0.99:53"),
        copied(false, MS, &answer(7, 0, "www.a.com")),
    ]);
    let points = run.points(60_000 * MS);
    assert_eq!((points.len(), points[0].0["dst_ip"].as_str()), (1, "10.0.0.2"));
}

#[test]
fn a_servers_clients_with_the_same_number_are_not_mixed_up() {
    let from = |client: &str, time, payload: &[u8], sent| {
        copied(sent, time, payload).at_server().remote(client)
    };
    let (one, other) = ("10.0.0.5:1", "10.0.0.6:1");
    let all = [
        from(one, 0, &query(7, "www.a.com"), true),
        from(other, MS, &query(7, "www.a.com"), true),
        from(other, 3 * MS, &answer(7, 0, "www.a.com"), false),
        from(one, 4 * MS, &answer(7, 0, "www.a.com"), false),
    ];
    assert_eq!(fields_of(&all), [[0, 1, 2_000_000, 2_000_000], [0, 1, 4_000_000, 4_000_000]]);
}

#[test]
fn over_tcp_messages_are_exchanges_as_well() {
    let all = [
        copied(true, 0, &query(7, "www.a.com")).tcp(100),
        copied(false, 2 * MS, &answer(7, 0, "www.a.com")).tcp(900),
    ];
    let mut run = Run::new("");
    run.observe(&all);
    let points = run.points(MS);
    assert_eq!(points[0].0["transport"], "tcp");
    assert_eq!(points[0].1["latency"], 2_000_000);
}

#[test]
fn questions_of_a_connection_that_cannot_be_read_are_not_given_up_as_unanswered() {
    let mut run = Run::new("");
    run.observe(&[
        copied(true, 0, &query(7, "www.a.com")).tcp(100),
        copied(false, MS, b"not a message at all").tcp(900),
    ]);
    assert!(run.fields(60_000 * MS).is_empty());
    assert_eq!(run.counts.connections_lost.load(Ordering::Relaxed), 1);
    assert_eq!(run.counts.undecodable.load(Ordering::Relaxed), 1);
}

#[test]
fn loopback_is_left_out_unless_asked_for_and_names_are_learned_from_it() {
    let local = "127.0.0.53:53";
    let all = [
        copied(true, 0, &query(7, "www.a.com")).remote(local),
        copied(false, MS, &answer_with("www.a.com", &[a("www.a.com", 5, [1, 2, 3, 4])]))
            .remote(local),
    ];
    for (settings, points) in [("", 0), ("[collector]\ninclude_loopback = true\n", 1)] {
        let mut run = Run::new(settings);
        run.observe(&all);
        assert_eq!(run.points(10 * MS).len(), points, "{settings}");
        assert_eq!(run.domains.name(NETNS, [1, 2, 3, 4].into()), Some("www.a.com"));
    }
}

#[test]
fn names_are_learned_from_answers_to_our_questions_only() {
    let answer = answer_with("www.a.com", &[a("www.a.com", 5, [1, 2, 3, 4])]);
    let named = |copied: &[Copied]| {
        let mut run = Run::new("");
        run.observe(copied);
        run.domains.name(NETNS, [1, 2, 3, 4].into()).is_some()
    };
    let question = copied(true, 0, &query(7, "www.a.com"));
    let received = copied(false, MS, &answer);
    assert!(named(&[question.clone(), received.clone()]));
    assert!(!named(std::slice::from_ref(&received)), "nobody asked");
    assert!(named(&[received.clone().remote("127.0.0.11:53")]), "its question was translated");
    assert!(!named(&[question.at_server(), received.at_server()]), "the server knew before");
}

#[test]
fn what_is_no_message_is_counted() {
    let mut run = Run::new("");
    run.observe(&[copied(true, 0, b"\x12\x34")]);
    run.dns.observe(b"short", &mut run.domains);
    assert_eq!(run.counts.undecodable.load(Ordering::Relaxed), 2);
    assert!(run.fields(60_000 * MS).is_empty());
}

#[test]
fn more_questions_with_one_number_than_servers_are_refused() {
    let mut run = Run::new("");
    for n in 0..20 {
        run.observe(&[copied(true, 0, &query(7, &format!("n{n}.a.com")))]);
    }
    assert_eq!(run.counts.exchanges_refused.load(Ordering::Relaxed), 4);
    assert_eq!(run.fields(60_000 * MS), [[-1, 16, 0, 0]]);
}

#[test]
fn the_end_of_an_ipv6_exchange_is_shown_as_such() {
    let mut question = copied(true, 0, &query(7, "www.a.com"));
    question.packet.family = abi::FAMILY_IPV6 as u8;
    question.packet.tuple.local_addr = "fd00::5".parse::<Ipv6Addr>().unwrap().octets();
    question.packet.tuple.remote_addr = "fd00::2".parse::<Ipv6Addr>().unwrap().octets();
    let mut run = Run::new("");
    run.observe(&[question]);
    let points = run.points(60_000 * MS);
    assert_eq!(points[0].0["family"], "IPv6");
    assert_eq!(points[0].0["server_ip"], "fd00::2");
}
