//! Exchanges to summaries: those that differ only in a masked port become one, and so do those
//! whose paths are the same route.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::net::IpAddr;

use plugin_api::Host;
use plugin_proto::http1::Version;
use plugin_proto::path::{self, Paths};

use super::decode::{Ends, Exchange};
use crate::decode::{Direction, Endpoint, Owner};
use crate::nat::Nat;
use crate::netflow::filter::has_reported_ends;

/// Summaries of one interval at most. When half of them are taken, paths are merged as they come.
const MAX_SUMMARIES: usize = 65_536;

/// Connections of an interval whose translation is remembered. Of others it is looked up each time.
const MAX_TRANSLATIONS: usize = 16_384;

/// Whose exchanges they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Conversation {
    /// This host's end.
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    pub(super) direction: Direction,
    pub(super) owner: Owner,
    pub(super) netns: u32,
    /// Where the destination really is, if that is elsewhere.
    pub(super) translated: Option<Endpoint>,
}

/// The server's end, by namespace: its paths are one set.
type Service = (u32, IpAddr, Option<u16>);

impl Conversation {
    fn service(&self) -> Service {
        let server = match self.direction {
            Direction::Outgoing => self.destination,
            Direction::Incoming => self.source,
        };
        (self.netns, server.ip, server.port)
    }
}

/// What exchanges of a path are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) method: Cow<'static, str>,
    pub(super) status: u16,
    pub(super) version: Version,
    pub(super) truncated: bool,
    pub(super) grpc_status: Option<u32>,
}

/// What they add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) count: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    latency_sum_ns: u64,
}

impl Stats {
    /// The mean time to the first byte of the response.
    pub(super) fn latency_ns(&self) -> u64 {
        self.latency_sum_ns / self.count.max(1)
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.latency_sum_ns = self.latency_sum_ns.saturating_add(other.latency_sum_ns);
    }
}

type Outcomes = Vec<(Outcome, Stats)>;
type ByPath = HashMap<Box<str>, Outcomes>;

/// The summaries of an interval.
#[derive(Debug, Default)]
pub(super) struct Flush {
    pub(super) conversations: HashMap<Conversation, ByPath>,
    /// Exchanges that found the table full.
    pub(super) refused: u64,
}

impl Flush {
    /// Each summary.
    pub(super) fn each(&self) -> impl Iterator<Item = (&Conversation, &str, &Outcome, &Stats)> {
        self.conversations.iter().flat_map(|(conversation, paths)| {
            paths.iter().flat_map(move |(path, outcomes)| {
                let each = outcomes.iter();
                each.map(move |(outcome, stats)| (conversation, &**path, outcome, stats))
            })
        })
    }
}

/// Collects the exchanges of an interval.
#[derive(Debug)]
pub(super) struct Aggregate {
    include_loopback: bool,
    ephemeral_port: u16,
    max_summaries: usize,
    summaries: usize,
    paths: Paths<Service>,
    nat: Nat,
    /// What the table of translations says of connections of this interval.
    translations: HashMap<(u32, Endpoint, Endpoint), Option<Endpoint>>,
    interval: Flush,
}

impl Aggregate {
    /// `ephemeral_port`: a client's port from this one on is masked.
    pub(super) fn new(include_loopback: bool, ephemeral_port: u16, paths: path::Limits) -> Self {
        Self {
            include_loopback,
            ephemeral_port,
            max_summaries: MAX_SUMMARIES,
            summaries: 0,
            paths: Paths::new(paths),
            nat: Nat::default(),
            translations: HashMap::new(),
            interval: Flush::default(),
        }
    }

    /// Paths that were merged so far.
    pub(super) fn merged(&self) -> u64 {
        self.paths.counters().merged
    }

    /// Asks for the table of translated connections; what is asked for before is not translated.
    pub(super) fn refresh_nat(&mut self, host: &Host) {
        self.nat.refresh(host);
    }

    /// See [`Nat::refresh_unless_held`].
    pub(super) fn refresh_nat_unless_held(&mut self, host: &Host) {
        self.nat.refresh_unless_held(host);
    }

    pub(super) fn observe(&mut self, exchange: &Exchange<'_>) {
        let Ends { local, remote, .. } = exchange.ends;
        if !has_reported_ends([local, remote], self.include_loopback) {
            return;
        }
        let conversation = self.conversation_of(&exchange.ends);
        let stats = Stats {
            count: exchange.count,
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
            latency_sum_ns: exchange.latency_sum_ns,
        };
        // Names are made at the end, out of the whole set; unless that becomes too large.
        let path = if self.summaries < self.max_summaries / 2 {
            Cow::Borrowed(&*exchange.path)
        } else {
            self.paths.name(conversation.service(), &exchange.path)
        };
        let by_path = self.interval.conversations.entry(conversation).or_default();
        if let Some(outcomes) = by_path.get_mut(&*path)
            && let Some((_, sum)) = outcomes.iter_mut().find(|(outcome, _)| outcome.is_of(exchange))
        {
            sum.add(&stats);
            return;
        }
        if self.summaries >= self.max_summaries {
            self.interval.refused += exchange.count;
            return;
        }
        self.summaries += 1;
        by_path.entry(path.as_ref().into()).or_default().push((Outcome::of(exchange), stats));
    }

    /// What was collected, paths under their names.
    pub(super) fn flush(&mut self) -> Flush {
        let Flush { conversations, refused } = mem::take(&mut self.interval);
        self.summaries = 0;
        self.translations.clear();
        for (conversation, paths) in &conversations {
            for path in paths.keys() {
                self.paths.observe(conversation.service(), path);
            }
        }
        let mut named = Flush { conversations: HashMap::new(), refused };
        for (conversation, paths) in conversations {
            // A conversation whose only path was refused.
            if paths.is_empty() {
                continue;
            }
            let by_name = named.conversations.entry(conversation).or_default();
            for (path, outcomes) in paths {
                let name = self.paths.name(conversation.service(), &path);
                match by_name.get_mut(&*name) {
                    Some(known) => merge(known, outcomes),
                    None => {
                        by_name.insert(name.into(), outcomes);
                    }
                }
            }
        }
        self.paths.end_round();
        named
    }

    fn conversation_of(&mut self, ends: &Ends) -> Conversation {
        let Ends { local, remote, direction, owner, netns } = *ends;
        let translated = match direction {
            Direction::Outgoing if self.nat.has_table() => self.translation(netns, local, remote),
            Direction::Outgoing | Direction::Incoming => None,
        };
        let masked = |Endpoint { ip, port }| Endpoint {
            ip,
            port: port.filter(|port| *port < self.ephemeral_port),
        };
        let (source, destination) = match direction {
            Direction::Outgoing => (masked(local), remote),
            Direction::Incoming => (local, masked(remote)),
        };
        Conversation { source, destination, direction, owner, netns, translated }
    }

    /// A connection carries many exchanges, and a look into the table is a system call.
    fn translation(&mut self, netns: u32, from: Endpoint, to: Endpoint) -> Option<Endpoint> {
        let key = (netns, from, to);
        if let Some(known) = self.translations.get(&key) {
            return *known;
        }
        let translated = self.nat.tcp_destination(netns, from, to);
        if self.translations.len() < MAX_TRANSLATIONS {
            self.translations.insert(key, translated);
        }
        translated
    }
}

impl Outcome {
    fn of(exchange: &Exchange<'_>) -> Self {
        Self {
            method: exchange.method.clone(),
            status: exchange.status,
            version: exchange.version,
            truncated: exchange.truncated,
            grpc_status: exchange.grpc_status,
        }
    }

    fn is_of(&self, exchange: &Exchange<'_>) -> bool {
        self.status == exchange.status
            && self.method == exchange.method
            && self.version == exchange.version
            && self.truncated == exchange.truncated
            && self.grpc_status == exchange.grpc_status
    }
}

fn merge(known: &mut Outcomes, more: Outcomes) {
    for (outcome, stats) in more {
        match known.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, sum)) => sum.add(&stats),
            None => known.push((outcome, stats)),
        }
    }
}
