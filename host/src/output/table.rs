//! What the console knows: conversations seen of late, with what they moved. Works on the tags
//! that all network points share, whoever sent them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::pipeline::wire::PbPoint;

/// Conversations that are remembered at most; the one seen longest ago makes room.
const MAX_ROWS: usize = 4096;

/// A conversation that said nothing for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    pub(crate) process: String,
    pub(crate) pid: String,
    pub(crate) transport: String,
    pub(crate) is_incoming: bool,
    pub(crate) local: String,
    pub(crate) remote: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Bytes since the collector started.
    pub(crate) sent: i64,
    pub(crate) received: i64,
    /// Bytes in the last report, sent and received.
    pub(crate) recent: i64,
    /// Connections opened.
    pub(crate) opened: i64,
    pub(crate) retransmits: i64,
    /// Round-trip time in µs; 0 when unknown.
    pub(crate) rtt_us: i64,
    seen: Instant,
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: HashMap<RowKey, Row>,
}

impl RowKey {
    pub(crate) fn of(point: &PbPoint) -> Self {
        let end = |ip: &str, port: &str| {
            let (ip, port) = (point.tag(ip), point.tag(port));
            if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
        };
        let process = point.tag("process_name");
        Self {
            process: if process.is_empty() { "?".into() } else { process.into_owned() },
            pid: point.tag("pid").into_owned(),
            transport: point.tag("transport").into_owned(),
            is_incoming: point.tag("direction") == "incoming",
            local: end("src_ip", "src_port"),
            remote: end("dst_ip", "dst_port"),
        }
    }
}

/// Whether a network point says what a conversation moved. Others say what was asked in it, and are
/// counted (`count`); what that moved is in the conversation's own point.
pub(crate) fn is_conversation(point: &PbPoint) -> bool {
    point.integer("bytes_read").is_some() && point.integer("count").is_none()
}

impl Table {
    pub(crate) fn add(&mut self, point: &PbPoint, now: Instant) {
        let key = RowKey::of(point);
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
            self.make_room();
        }
        let row = self.rows.entry(key).or_insert(Row {
            sent: 0,
            received: 0,
            recent: 0,
            opened: 0,
            retransmits: 0,
            rtt_us: 0,
            seen: now,
        });
        let field = |name| point.integer(name).unwrap_or(0);
        let (sent, received) = (field("bytes_written"), field("bytes_read"));
        row.sent += sent;
        row.received += received;
        row.recent = sent + received;
        row.opened += field("tcp_established");
        row.retransmits += field("retransmits");
        row.rtt_us = field("rtt");
        row.seen = now;
    }

    /// The rows by bytes of the last report, then by bytes in all; the most first.
    pub(crate) fn sorted(&mut self, now: Instant) -> Vec<(&RowKey, &Row)> {
        self.rows.retain(|_, row| now.duration_since(row.seen) < FORGET_AFTER);
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|(a_key, a), (b_key, b)| {
            let order = |row: &Row| (row.recent, row.sent + row.received);
            order(b).cmp(&order(a)).then_with(|| a_key.local.cmp(&b_key.local))
        });
        rows
    }

    /// What was said before the latest report is no longer recent.
    pub(crate) fn age(&mut self) {
        self.rows.values_mut().for_each(|row| row.recent = 0);
    }

    fn make_room(&mut self) {
        let oldest = self.rows.iter().min_by_key(|(_, row)| row.seen);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.rows.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FORGET_AFTER, Table, is_conversation};
    use crate::pipeline::wire::{Batch, PbPoint};
    use plugin_api::{Category, Points};
    use std::time::Instant;

    fn point(process: &'static str, written: i64) -> PbPoint {
        let mut points = Points::new(Category::Network, "f");
        let mut point = points.point("m", 1);
        point.tag("process_name", process).tag("src_ip", "::1").tag("src_port", "80");
        point.field("bytes_written", written).field("bytes_read", 1_i64);
        Batch::from(points).points.remove(0)
    }

    #[test]
    fn points_that_count_requests_are_no_conversations() {
        let counted = |fields: &[&'static str]| {
            let mut points = Points::new(Category::Network, "f");
            let mut point = points.point("m", 1);
            for field in fields {
                point.field(field, 1_i64);
            }
            is_conversation(&Batch::from(points).points[0])
        };
        assert!(counted(&["bytes_read", "bytes_written"]));
        assert!(!counted(&["bytes_read", "bytes_written", "count"]));
        assert!(!counted(&["latency", "count"]));
    }

    #[test]
    fn the_busiest_conversation_comes_first_and_totals_add_up() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.add(&point("quiet", 5), now);
        table.add(&point("busy", 70), now);
        table.add(&point("busy", 20), now);
        let rows = table.sorted(now);
        let shown: Vec<_> = rows
            .iter()
            .map(|(key, row)| (key.process.as_str(), row.sent, row.received, row.recent))
            .collect();
        assert_eq!(shown, [("busy", 90, 2, 21), ("quiet", 5, 1, 6)]);
        assert_eq!(rows[0].0.local, "[::1]:80");
    }

    #[test]
    fn a_silent_conversation_is_forgotten() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.add(&point("gone", 5), now);
        assert!(table.sorted(now + FORGET_AFTER).is_empty());
    }
}
