//! Totals of TCP connections to what they did since they were last reported, for kernels whose
//! programs cannot keep that. In: records in the order of their making. Out: the same, less what
//! was reported. Reads no clock and does no I/O; bounded, and says what found no room.

use std::collections::HashMap;

use crate::decode::Delta;

/// Connections at most; an entry has about 50 bytes.
const MOST: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    known: HashMap<u64, Known>,
    scan: u32,
}

/// How much of a connection was reported.
#[derive(Debug, Default)]
struct Known {
    sent: i64,
    received: i64,
    retransmits: u32,
    is_closed: bool,
    seen_by: u32,
}

impl Totals {
    /// Leaves in `delta` what was not reported yet. `false`: there is no room for one more.
    pub(crate) fn subtract(&mut self, cookie: u64, delta: &mut Delta) -> bool {
        let is_new = !self.known.contains_key(&cookie);
        if is_new && self.known.len() >= MOST {
            return false;
        }
        let known = self.known.entry(cookie).or_default();
        known.seen_by = self.scan;
        let Some(tcp) = &mut delta.tcp else { return true };
        tcp.opened = is_new;
        tcp.closed &= !known.is_closed;
        known.is_closed |= tcp.closed;
        let retransmits = tcp.retransmits;
        tcp.retransmits = retransmits.saturating_sub(known.retransmits);
        known.retransmits = retransmits.max(known.retransmits);
        (delta.sent, known.sent) = (delta.sent - known.sent, delta.sent);
        (delta.received, known.received) = (delta.received - known.received, delta.received);
        true
    }

    /// A new scan begins. Whoever the last two have not seen is gone: a closed one stays that
    /// long, so that its end is not taken for a connection of its own if it is reported twice.
    pub(crate) fn begin_scan(&mut self, scan: u32) {
        self.known.retain(|_, known| scan.wrapping_sub(known.seen_by) <= 2);
        self.scan = scan;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{MOST, Totals};
    use crate::decode::{Delta, Direction, Endpoint, Owner, Tcp};

    fn total(sent: i64, closed: bool) -> Delta {
        let end = Endpoint { ip: Ipv4Addr::LOCALHOST.into(), port: Some(80) };
        Delta {
            local: end,
            remote: end,
            direction: Direction::Incoming,
            owner: Owner { pid: 1, comm: [0; 16] },
            netns: 0,
            translated: None,
            sent,
            received: 2 * sent,
            tcp: Some(Tcp { opened: true, closed, retransmits: 3, rtt: None }),
        }
    }

    fn subtracted(
        totals: &mut Totals,
        cookie: u64,
        mut delta: Delta,
    ) -> (i64, i64, bool, bool, u32) {
        assert!(totals.subtract(cookie, &mut delta));
        let tcp = delta.tcp.unwrap();
        (delta.sent, delta.received, tcp.opened, tcp.closed, tcp.retransmits)
    }

    #[test]
    fn each_byte_and_each_event_is_reported_once() {
        let mut totals = Totals::default();
        assert_eq!(subtracted(&mut totals, 7, total(10, false)), (10, 20, true, false, 3));
        assert_eq!(subtracted(&mut totals, 7, total(15, false)), (5, 10, false, false, 0));
        assert_eq!(subtracted(&mut totals, 8, total(1, false)), (1, 2, true, false, 3));
        assert_eq!(subtracted(&mut totals, 7, total(16, true)), (1, 2, false, true, 0));
        assert_eq!(subtracted(&mut totals, 7, total(16, true)), (0, 0, false, false, 0));
    }

    #[test]
    fn a_connection_that_no_scan_sees_any_more_is_forgotten() {
        let mut totals = Totals::default();
        totals.begin_scan(1);
        subtracted(&mut totals, 7, total(10, false));
        subtracted(&mut totals, 8, total(10, true));
        for scan in 2..=3 {
            totals.begin_scan(scan);
            subtracted(&mut totals, 7, total(10, false));
        }
        assert_eq!(totals.known.len(), 2);
        totals.begin_scan(4);
        assert_eq!(totals.known.len(), 1);
    }

    #[test]
    fn there_is_no_room_for_more_than_the_most() {
        let mut totals = Totals::default();
        for cookie in 0..MOST as u64 {
            assert!(totals.subtract(cookie, &mut total(1, false)));
        }
        assert!(!totals.subtract(u64::MAX, &mut total(1, false)));
        assert!(totals.subtract(0, &mut total(2, false)), "a known one has its place");
    }
}
