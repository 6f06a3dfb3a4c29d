//! Summaries to points: the names on the wire, and nothing else.

use plugin_api::Points;
use plugin_support::process::Processes;

use super::aggregate::{Conversation, Outcome, Stats};
use crate::decode::Direction;
use crate::domains::Domains;
use crate::netflow::point::{End, NOT_TRANSLATED, UNKNOWN};

pub(super) const FEED: &str = "ebpf-net/httpflow";
const MEASUREMENT: &str = "httpflow";

/// Adds the point of one summary. `source` is this host's end.
pub(super) fn httpflow(
    points: &mut Points,
    processes: &Processes,
    domains: &Domains,
    (conversation, path, outcome, stats): (&Conversation, &str, &Outcome, &Stats),
    time_ns: i64,
) {
    let Conversation { source, destination, direction, owner, netns, translated } = conversation;
    let mut point = points.point(MEASUREMENT, time_ns);
    let here = End::write(&mut point, source);
    let there = End::write(&mut point, destination);
    let real_end = translated.as_ref().map(|real| End::write(&mut point, real));
    let domain = point.text(domains.name(*netns, destination.ip).unwrap_or(UNKNOWN));
    let (side, name, client, server, server_domain) = match direction {
        Direction::Outgoing => ("client", "outgoing", here, there, domain),
        Direction::Incoming => ("server", "incoming", there, here, UNKNOWN.into()),
    };
    point
        .tag("family", if source.ip.is_ipv4() { "IPv4" } else { "IPv6" })
        .tag("direction", name)
        .tag("transport", "tcp")
        .tag("src_ip", here.ip)
        .tag("src_port", here.port)
        .tag("src_ip_type", here.ip_type)
        .tag("dst_ip", there.ip)
        .tag("dst_port", there.port)
        .tag("dst_ip_type", there.ip_type)
        .tag("dst_domain", domain)
        .tag("dst_nat_ip", real_end.map_or(NOT_TRANSLATED.into(), |end| end.ip))
        .tag("dst_nat_port", real_end.map_or(NOT_TRANSLATED.into(), |end| end.port))
        .tag_display("pid", owner.pid)
        .tag_display("process_name", processes.name(owner.pid, &owner.comm))
        .tag_display("netns", netns)
        .tag("conn_side", side)
        .tag("client_ip", client.ip)
        .tag("client_port", client.port)
        .tag("client_ip_type", client.ip_type)
        .tag("server_ip", server.ip)
        .tag("server_port", server.port)
        .tag("server_ip_type", server.ip_type)
        .tag("server_domain", server_domain);

    let Outcome { method, status, version, truncated, grpc_status } = outcome;
    let (sent, received) = (stats.request_bytes as i64, stats.response_bytes as i64);
    let (written, read) = match direction {
        Direction::Outgoing => (sent, received),
        Direction::Incoming => (received, sent),
    };
    point
        .field_display("method", method)
        .field_display("path", path)
        .field("status_code", i64::from(*status))
        .field_display("http_version", version)
        .field("latency", stats.latency_ns() as i64)
        .field("count", stats.count as i64)
        .field("bytes_read", read)
        .field("bytes_written", written)
        .field("client_sent", sent)
        .field("server_sent", received)
        .field("truncated", *truncated);
    if let Some(status) = grpc_status {
        point.field("grpc_status", i64::from(*status));
    }
}
