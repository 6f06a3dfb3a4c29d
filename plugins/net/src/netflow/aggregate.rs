//! Deltas to flows: conversations that differ only in a masked port become one.

use std::collections::HashMap;
use std::mem;
use std::net::IpAddr;

use crate::decode::{Delta, Direction, Endpoint, Owner, Rtt};
use crate::netflow::filter::is_reported;

/// Flows of one interval at most. A host with more distinct ones than this is being scanned.
const MAX_FLOWS: usize = 65_536;

/// What one flow is told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) transport: Transport,
    pub(crate) direction: Direction,
    pub(crate) owner: Owner,
    pub(crate) netns: u32,
    /// Connections to one address that go to different places are different flows. This is no part
    /// of a connection's identity: what it did before this was known is in the flow without it,
    /// and is not counted again.
    pub(crate) translated: Option<Endpoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// What happened in one flow during an interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FlowStats {
    /// Payload bytes, seen from this host's socket.
    pub(crate) sent: i64,
    pub(crate) received: i64,
    pub(crate) retransmits: u64,
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    rtt_sum_us: u64,
    rtt_var_sum_us: u64,
    rtt_samples: u64,
}

impl FlowStats {
    /// Mean round-trip time and deviation in µs over the connections that have a sample; 0
    /// when none has.
    pub(crate) fn rtt(&self) -> Rtt {
        let mean = |sum: u64| (sum / self.rtt_samples.max(1)) as u32;
        Rtt { mean_us: mean(self.rtt_sum_us), deviation_us: mean(self.rtt_var_sum_us) }
    }

    fn add(&mut self, delta: &Delta) {
        self.sent += delta.sent;
        self.received += delta.received;
        let Some(tcp) = &delta.tcp else { return };
        self.retransmits += u64::from(tcp.retransmits);
        self.opened += u64::from(tcp.opened);
        self.closed += u64::from(tcp.closed);
        if let Some(Rtt { mean_us, deviation_us }) = tcp.rtt {
            self.rtt_sum_us += u64::from(mean_us);
            self.rtt_var_sum_us += u64::from(deviation_us);
            self.rtt_samples += 1;
        }
    }
}

/// The flows of an interval.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    pub(crate) flows: HashMap<FlowKey, FlowStats>,
    /// Deltas that found the table full, and their bytes.
    pub(crate) refused: u64,
    pub(crate) refused_bytes: u64,
}

/// Collects the deltas of an interval.
#[derive(Debug)]
pub(crate) struct Aggregate {
    include_loopback: bool,
    ephemeral_port: u16,
    max_flows: usize,
    interval: Flush,
}

impl Aggregate {
    /// `ephemeral_port`: a client's port from this one on is masked.
    pub(crate) fn new(include_loopback: bool, ephemeral_port: u16) -> Self {
        Self { include_loopback, ephemeral_port, max_flows: MAX_FLOWS, interval: Flush::default() }
    }

    pub(crate) fn observe(&mut self, delta: &Delta) {
        if !is_reported(delta, self.include_loopback) {
            return;
        }
        let key = self.key_of(delta);
        let Flush { flows, refused, refused_bytes } = &mut self.interval;
        if flows.len() >= self.max_flows && !flows.contains_key(&key) {
            *refused += 1;
            *refused_bytes += (delta.sent + delta.received).max(0) as u64;
            return;
        }
        flows.entry(key).or_default().add(delta);
    }

    pub(crate) fn flush(&mut self) -> Flush {
        mem::take(&mut self.interval)
    }

    fn key_of(&self, delta: &Delta) -> FlowKey {
        let masked = |Endpoint { ip, port }| Endpoint {
            ip,
            port: port.filter(|port| *port < self.ephemeral_port),
        };
        let (source, destination) = match delta.direction {
            Direction::Outgoing => (masked(delta.local), delta.remote),
            Direction::Incoming => (delta.local, masked(delta.remote)),
        };
        FlowKey {
            source,
            destination,
            transport: if delta.tcp.is_some() { Transport::Tcp } else { Transport::Udp },
            direction: delta.direction,
            owner: delta.owner,
            netns: delta.netns,
            translated: delta.translated,
        }
    }
}

/// How addresses are classified on the wire.
pub(crate) fn ip_type(ip: IpAddr) -> &'static str {
    let (private, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_private(), ip.is_multicast()),
        IpAddr::V6(ip) => (ip.is_unique_local(), ip.is_multicast()),
    };
    match (private, ip.is_loopback(), multicast) {
        (true, _, _) => "private",
        (_, true, _) => "loopback",
        (_, _, true) => "multicast",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::{Aggregate, Transport, ip_type};
    use crate::decode::tests::closed;
    use crate::decode::{Delta, Direction, Endpoint, Rtt, tcp};
    use zerocopy::IntoBytes as _;

    fn delta() -> Delta {
        tcp(closed().as_bytes()).unwrap()
    }

    fn ports(delta: &Delta, ephemeral_port: u16) -> (Option<u16>, Option<u16>) {
        let mut aggregate = Aggregate::new(false, ephemeral_port);
        aggregate.observe(delta);
        let key = aggregate.flush().flows.into_keys().next().unwrap();
        (key.source.port, key.destination.port)
    }

    #[test]
    fn by_default_every_client_port_is_masked_and_no_server_port() {
        assert_eq!(ports(&delta(), 0), (None, Some(443)));
        let mut incoming = delta();
        incoming.direction = Direction::Incoming;
        incoming.local.port = Some(80);
        incoming.remote.port = Some(51000);
        assert_eq!(ports(&incoming, 0), (Some(80), None));
    }

    #[test]
    fn ports_below_the_ephemeral_one_are_shown() {
        let mut delta = delta();
        delta.local.port = Some(20000);
        assert_eq!(ports(&delta, 32768), (Some(20000), Some(443)));
        delta.local.port = Some(32768);
        assert_eq!(ports(&delta, 32768), (None, Some(443)));
    }

    #[test]
    fn connections_that_differ_in_a_masked_port_are_one_flow() {
        let mut aggregate = Aggregate::new(false, 0);
        let mut other = delta();
        other.local.port = Some(40001);
        other.tcp.as_mut().unwrap().rtt = Some(Rtt { mean_us: 201, deviation_us: 3 });
        let mut first = delta();
        first.tcp.as_mut().unwrap().rtt = Some(Rtt { mean_us: 100, deviation_us: 1 });
        let mut without_sample = delta();
        without_sample.tcp.as_mut().unwrap().rtt = None;
        for delta in [first, other, without_sample] {
            aggregate.observe(&delta);
        }
        let flush = aggregate.flush();
        let (key, stats) = flush.flows.iter().next().unwrap();
        assert_eq!(flush.flows.len(), 1);
        assert_eq!(key.transport, Transport::Tcp);
        assert_eq!((stats.sent, stats.received), (3 * 820, 3 * 5120));
        assert_eq!((stats.opened, stats.closed, stats.retransmits), (3, 3, 6));
        assert_eq!(stats.rtt(), Rtt { mean_us: 150, deviation_us: 2 });
    }

    #[test]
    fn processes_are_told_apart() {
        let mut aggregate = Aggregate::new(false, 0);
        aggregate.observe(&delta());
        let mut other = delta();
        other.owner.pid += 1;
        aggregate.observe(&other);
        assert_eq!(aggregate.flush().flows.len(), 2);
        assert!(aggregate.flush().flows.is_empty(), "a flush empties the table");
    }

    #[test]
    fn a_translation_that_becomes_known_counts_nothing_again() {
        let mut aggregate = Aggregate::new(false, 0);
        let mut later = delta();
        later.translated = Some(Endpoint { ip: "10.0.0.9".parse().unwrap(), port: Some(8080) });
        later.tcp.as_mut().unwrap().opened = false;
        aggregate.observe(&delta());
        aggregate.observe(&later);
        let flows = aggregate.flush().flows;
        assert_eq!(flows.len(), 2);
        assert_eq!(flows.values().map(|stats| stats.opened).sum::<u64>(), 1);
        assert_eq!(flows.values().map(|stats| stats.sent).sum::<i64>(), 2 * 820);
    }

    #[test]
    fn what_finds_the_table_full_is_counted() {
        let mut aggregate = Aggregate::new(false, 0);
        aggregate.max_flows = 1;
        aggregate.observe(&delta());
        aggregate.observe(&delta());
        let mut other = delta();
        other.owner.pid += 1;
        aggregate.observe(&other);
        let flush = aggregate.flush();
        assert_eq!((flush.flows.len(), flush.refused, flush.refused_bytes), (1, 1, 5940));
    }

    #[test]
    fn addresses_are_classified_as_documented() {
        for (ip, expected) in [
            ("10.1.2.3", "private"),
            ("172.16.0.1", "private"),
            ("172.32.0.1", "other"),
            ("192.168.0.1", "private"),
            ("127.0.0.1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("169.254.1.1", "other"),
            ("100.64.0.1", "other"),
            ("93.184.216.34", "other"),
            ("fd00::1", "private"),
            ("::1", "loopback"),
            ("ff02::1", "multicast"),
            ("fe80::1", "other"),
            ("2001:db8::1", "other"),
        ] {
            assert_eq!(ip_type(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
