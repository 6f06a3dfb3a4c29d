//! Flows to points: the names on the wire, and nothing else.

use plugin_api::Points;

use crate::conversation::End;
use crate::decode::Direction;
use crate::dnsflow::aggregate::{FlowKey, FlowStats};
use crate::netflow::aggregate::Transport;

pub(crate) const FEED: &str = "ebpf-net/dnsflow";
const MEASUREMENT: &str = "dnsflow";
/// The code of a question that nobody answered.
const NO_ANSWER: i64 = -1;

/// Adds the point of one flow. `source` is this host's end.
pub(crate) fn dnsflow(points: &mut Points, key: &FlowKey, stats: &FlowStats, time_ns: i64) {
    let FlowKey { source, destination, transport, direction, rcode } = key;
    let mut point = points.point(MEASUREMENT, time_ns);
    let here = End::write(&mut point, source);
    let there = End::write(&mut point, destination);
    let (side, name, client, server) = match direction {
        Direction::Outgoing => ("client", "outgoing", here, there),
        Direction::Incoming => ("server", "incoming", there, here),
    };
    point
        .tag("family", if source.ip.is_ipv4() { "IPv4" } else { "IPv6" })
        .tag("direction", name)
        .tag("transport", if *transport == Transport::Tcp { "tcp" } else { "udp" })
        .tag("src_ip", here.ip)
        .tag("src_port", here.port)
        .tag("src_ip_type", here.ip_type)
        .tag("dst_ip", there.ip)
        .tag("dst_port", there.port)
        .tag("dst_ip_type", there.ip_type)
        .tag("conn_side", side)
        .tag("client_ip", client.ip)
        .tag("client_port", client.port)
        .tag("server_ip", server.ip)
        .tag("server_port", server.port)
        .field("rcode", rcode.map_or(NO_ANSWER, i64::from))
        .field("latency", stats.latency_ns() as i64)
        .field("latency_max", stats.latency_max_ns as i64)
        .field("count", stats.count as i64);
}
