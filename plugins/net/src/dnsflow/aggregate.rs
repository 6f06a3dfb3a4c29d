//! Exchanges to flows: those that differ only in the client's port become one.

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;

use bpf::net::abi::DNS_PORTS_MOST;

use crate::decode::{Direction, Endpoint};
use crate::dnsflow::exchanges::Exchange;
use crate::netflow::aggregate::Transport;

/// Ports of DNS servers; 0 is none.
pub(crate) type DnsPorts = [u16; DNS_PORTS_MOST as usize];

/// Flows of one interval at most.
const MAX_FLOWS: usize = 16_384;

/// The flows of an interval.
pub(crate) type Flows = HashMap<FlowKey, FlowStats>;

/// What one flow is told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    /// This host's end.
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) transport: Transport,
    pub(crate) direction: Direction,
    /// `None`: no answer.
    pub(crate) rcode: Option<u16>,
}

/// What happened in one flow during an interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FlowStats {
    pub(crate) count: u64,
    pub(crate) latency_max_ns: u64,
    latency_sum_ns: u64,
}

impl FlowStats {
    /// Mean latency; 0 where there was no answer.
    pub(crate) fn latency_ns(&self) -> u64 {
        self.latency_sum_ns / self.count.max(1)
    }
}

/// The flows of an interval, and what found no room.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    pub(crate) flows: Flows,
    /// Exchanges that found the table full.
    pub(crate) refused: u64,
}

/// Collects the exchanges of an interval.
#[derive(Debug)]
pub(crate) struct Aggregate {
    include_loopback: bool,
    ports: DnsPorts,
    max_flows: usize,
    interval: Flush,
}

impl Aggregate {
    /// Ports other than `ports` are masked.
    pub(crate) fn new(include_loopback: bool, ports: DnsPorts) -> Self {
        Self { include_loopback, ports, max_flows: MAX_FLOWS, interval: Flush::default() }
    }

    pub(crate) fn observe(&mut self, exchange: &Exchange) {
        let Exchange { direction, transport, local, remote, answer } = *exchange;
        let is_loopback = |end: SocketAddr| end.ip().to_canonical().is_loopback();
        if !self.include_loopback && (is_loopback(local) || is_loopback(remote)) {
            return;
        }
        let key = FlowKey {
            source: self.masked(local),
            destination: self.masked(remote),
            transport,
            direction,
            rcode: answer.map(|answer| answer.rcode),
        };
        let Flush { flows, refused } = &mut self.interval;
        if flows.len() >= self.max_flows && !flows.contains_key(&key) {
            *refused += 1;
            return;
        }
        let stats = flows.entry(key).or_default();
        let latency_ns = answer.map_or(0, |answer| answer.latency_ns);
        stats.count += 1;
        stats.latency_sum_ns += latency_ns;
        stats.latency_max_ns = stats.latency_max_ns.max(latency_ns);
    }

    pub(crate) fn flush(&mut self) -> Flush {
        mem::take(&mut self.interval)
    }

    fn masked(&self, end: SocketAddr) -> Endpoint {
        let port = Some(end.port()).filter(|port| self.ports.contains(port));
        Endpoint { ip: end.ip(), port }
    }
}
