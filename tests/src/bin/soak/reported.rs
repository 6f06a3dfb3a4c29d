//! What the collector says was done. In: its points, as they come. Out: sums, to be compared with what really was done.

use std::sync::atomic::{AtomicU64, Ordering};

use system_tests::hosts::Netns;
use system_tests::wire::Point;

use crate::churn::{Done, Place, marker};

/// Sums over the points that came; the same things as in [`Done`].
#[derive(Default)]
pub(crate) struct Reported {
    connections: AtomicU64,
    requests: AtomicU64,
    tls_requests: AtomicU64,
    questions: AtomicU64,
    lines: AtomicU64,
}

/// Whose points count.
pub(crate) struct Ends {
    /// The inodes of the namespaces, as `netns` has them.
    client: String,
    server: String,
    asker: String,
    marker: String,
}

impl Ends {
    pub(crate) fn of(place: &Place) -> Self {
        let [client, server] = [&place.hosts.client, &place.hosts.server].map(Netns::inode);
        Self {
            client: client.to_string(),
            server: server.to_string(),
            asker: place.asker.to_string(),
            marker: marker(),
        }
    }
}

impl Reported {
    pub(crate) fn add(&self, points: &[Point], ends: &Ends) {
        for point in points {
            let tag = |name| point.tag(name).unwrap_or_default();
            let is_in = |netns: &String| tag("netns") == *netns;
            let is_outgoing = tag("direction") == "outgoing";
            let (counter, field) = match point.name.as_str() {
                "netflow" if is_in(&ends.client) && is_outgoing => {
                    (&self.connections, "tcp_established")
                }
                "httpflow" if is_in(&ends.server) && tag("src_port") == "443" => {
                    (&self.tls_requests, "count")
                }
                "httpflow" if is_in(&ends.server) => (&self.requests, "count"),
                "dnsflow" if tag("src_ip") == ends.asker && point.int("rcode") == Some(0) => {
                    (&self.questions, "count")
                }
                "bash" if point.text("cmd").is_some_and(|cmd| cmd.contains(&ends.marker)) => {
                    self.lines.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                _ => continue,
            };
            let count = point.int(field).unwrap_or_default().cast_unsigned();
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// What was done, its count, and the count that was reported.
    pub(crate) fn compared_with(&self, done: &Done) -> [(&'static str, u64, u64); 5] {
        let pair = |name, done: &AtomicU64, reported: &AtomicU64| {
            (name, done.load(Ordering::Relaxed), reported.load(Ordering::Relaxed))
        };
        [
            pair("connections", &done.connections, &self.connections),
            pair("requests", &done.requests, &self.requests),
            pair("requests through TLS", &done.tls_requests, &self.tls_requests),
            pair("DNS questions", &done.questions, &self.questions),
            pair("typed lines", &done.lines, &self.lines),
        ]
    }
}
