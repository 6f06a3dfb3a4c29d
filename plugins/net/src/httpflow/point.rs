//! Summaries to points: the names on the wire, and nothing else.

use plugin_api::Points;
use plugin_support::process::Processes;

use super::aggregate::{Conversation, Outcome, Stats};
use crate::conversation;
use crate::decode::Direction;
use crate::domains::Domains;

pub(super) const FEED: &str = "ebpf-net/httpflow";
const MEASUREMENT: &str = "httpflow";

/// Adds the point of one summary. `source` is this host's end.
pub(super) fn httpflow(
    points: &mut Points,
    processes: &Processes,
    domains: &Domains,
    (whose, path, outcome, stats): (&Conversation, &str, &Outcome, &Stats),
    time_ns: i64,
) {
    let Conversation { source, destination, direction, owner, netns, translated } = whose;
    let mut point = points.point(MEASUREMENT, time_ns);
    let tags = conversation::Conversation {
        source,
        destination,
        translated: translated.as_ref(),
        direction: *direction,
        transport: "tcp",
        owner,
        netns: *netns,
    };
    tags.tag(&mut point, processes, domains);

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
