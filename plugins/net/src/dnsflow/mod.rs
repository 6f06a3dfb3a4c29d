//! dnsflow: how DNS servers answer, and how this host's do.
//!
//! ```text
//! kernel --dns_packet--> decode --Packet--> (TCP: streams) --message--> exchanges
//!        --Exchange--> aggregate --Flow--> point --Points--> host
//!                  `-- answers --> crate::domains
//! ```
//!
//! A packet between two sockets of this host comes twice, once from each of them, and is part of
//! two exchanges: the client's and the server's.

pub(crate) mod aggregate;
mod decode;
mod exchanges;
pub(crate) mod point;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plugin_api::Metric;
use plugin_proto::dns::{DnsError, Message};

use crate::config::Config;
use crate::decode::Direction;
use crate::dnsflow::aggregate::{Aggregate, Flows};
use crate::dnsflow::decode::{Packet, Way};
use crate::dnsflow::exchanges::{Exchanges, Outcome};
use crate::dnsflow::streams::{Fed, Streams};
use crate::domains::Domains;
use crate::netflow::aggregate::Transport;

/// What could not be made use of, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    undecodable: AtomicU64,
    connections_lost: AtomicU64,
    connections_refused: AtomicU64,
    exchanges_refused: AtomicU64,
    flows_refused: AtomicU64,
    pub(crate) domains_evicted: AtomicU64,
}

/// From copied packets to flows.
#[derive(Debug)]
pub(crate) struct Dnsflow {
    streams: Streams,
    exchanges: Exchanges,
    aggregate: Aggregate,
    counts: Arc<Counts>,
}

impl Dnsflow {
    pub(crate) fn new(config: &Config, counts: Arc<Counts>) -> Self {
        Self {
            streams: Streams::default(),
            exchanges: Exchanges::default(),
            aggregate: Aggregate::new(config.include_loopback, config.dns_ports),
            counts,
        }
    }

    /// Takes a `dns_packet`; tells `domains` what names stand for.
    pub(crate) fn observe(&mut self, record: &[u8], domains: &mut Domains) {
        let packet = match decode::packet(record) {
            Ok(packet) => packet,
            Err(error) => {
                self.counts.undecodable.fetch_add(1, Ordering::Relaxed);
                log::debug!(error:%; "undecodable record");
                return;
            }
        };
        let Self { streams, exchanges, aggregate, counts } = self;
        let mut read = |bytes: &[u8]| {
            let message = Message::parse(bytes);
            match &message {
                Ok(message) => {
                    meet(exchanges, aggregate, counts, domains, &packet, message);
                }
                Err(_) => add(&counts.undecodable, 1),
            }
            message.err()
        };
        match packet.transport {
            Transport::Udp => {
                read(packet.bytes);
            }
            Transport::Tcp => {
                match streams.feed(&packet, |bytes| read(bytes) != Some(DnsError::NotDns)) {
                    Fed::Fine => {}
                    Fed::Lost => {
                        add(&counts.connections_lost, 1);
                        exchanges.forget(packet.socket);
                    }
                    Fed::Refused => add(&counts.connections_refused, 1),
                }
            }
        }
    }

    /// The flows since the last time, with the questions that nobody answered.
    pub(crate) fn flush(&mut self, now_ns: u64) -> Flows {
        let Self { streams, exchanges, aggregate, counts } = self;
        streams.give_up(now_ns, |socket| {
            add(&counts.connections_lost, 1);
            exchanges.forget(socket);
        });
        exchanges.give_up(now_ns, |exchange| aggregate.observe(&exchange));
        let flush = aggregate.flush();
        add(&counts.flows_refused, flush.refused);
        flush.flows
    }
}

impl Counts {
    pub(crate) fn metrics(&self) -> impl Iterator<Item = Metric> {
        let Self {
            undecodable,
            connections_lost,
            connections_refused,
            exchanges_refused,
            flows_refused,
            domains_evicted,
        } = self;
        [
            ("dns_undecodable", "Packets of DNS ports that hold no DNS message.", undecodable),
            (
                "dns_connections_lost",
                "DNS connections that could not be read on, because a piece was missed.",
                connections_lost,
            ),
            (
                "dns_connections_refused",
                "Pieces of DNS connections that found the table of connections full.",
                connections_refused,
            ),
            (
                "dns_exchanges_refused",
                "DNS questions that found the table of open ones full.",
                exchanges_refused,
            ),
            ("dns_flows_refused", "DNS exchanges that found the flow table full.", flows_refused),
            (
                "domains_evicted",
                "Addresses whose names were forgotten early because the table was full.",
                domains_evicted,
            ),
        ]
        .into_iter()
        .map(|(name, help, cell)| Metric::counter(name, help, cell.load(Ordering::Relaxed)))
    }
}

/// Pairs a message with its other half.
fn meet(
    exchanges: &mut Exchanges,
    aggregate: &mut Aggregate,
    counts: &Counts,
    domains: &mut Domains,
    packet: &Packet<'_>,
    message: &Message<'_>,
) {
    if exchanges.is_full(packet.time_ns) {
        exchanges.give_up(packet.time_ns, |exchange| aggregate.observe(&exchange));
    }
    let is_answered = match exchanges.meet(packet, message) {
        Outcome::Asked => false,
        Outcome::Answered(exchange) => {
            aggregate.observe(&exchange);
            exchange.direction == Direction::Outgoing
        }
        // Only processes of the same host can send from there. Such a resolver may be reached
        // through a translation of the question, which then goes to another port.
        Outcome::Unasked => packet.way == Way::Received && packet.remote.ip().is_loopback(),
        Outcome::Refused => {
            add(&counts.exchanges_refused, 1);
            false
        }
    };
    if is_answered {
        domains.learn(packet.netns, message, packet.time_ns);
    }
}

fn add(cell: &AtomicU64, count: u64) {
    cell.fetch_add(count, Ordering::Relaxed);
}

#[cfg(test)]
pub(crate) mod tests;
