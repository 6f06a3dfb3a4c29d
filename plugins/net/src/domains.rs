//! By which name an address was asked for. In: answers of DNS servers, per network namespace. Out:
//! the last name that a namespace has resolved to an address.
//!
//! An entry lives as long as its answer says, and longer while flows bear its name: connections
//! outlive the answer that led to them. Bounded: when it is full, those that would leave next do.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use plugin_proto::dns::{Data, Message, Name};

/// Addresses with a name.
const MAX_ADDRESSES: usize = 65_536;

/// The part of a full table that makes room.
const EVICTED_PART: usize = 8;

/// Aliases of one answer that are followed, and the name that was asked for.
const MAX_CHAIN: usize = 16;

/// Aliases come in the order in which they lead on; where they do not, a few passes find them.
const MOST_PASSES: usize = 4;

const SECOND_NS: u64 = 1_000_000_000;

/// Programs keep addresses for longer than they may, if that is short.
const LEAST_NS: u64 = 60 * SECOND_NS;
const MOST_NS: u64 = 24 * 60 * 60 * SECOND_NS;

/// How long a name stays after a flow bore it.
const AFTER_USE_NS: u64 = 10 * 60 * SECOND_NS;

/// Names of addresses.
#[derive(Debug)]
pub(crate) struct Domains {
    entries: HashMap<(u32, IpAddr), Entry>,
    most: usize,
    evicted: u64,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    until_ns: u64,
    is_used: Cell<bool>,
}

impl Default for Domains {
    fn default() -> Self {
        Self { entries: HashMap::new(), most: MAX_ADDRESSES, evicted: 0 }
    }
}

impl Domains {
    /// The name by which the namespace `netns` asked for `ip`.
    pub(crate) fn name(&self, netns: u32, ip: IpAddr) -> Option<&str> {
        let entry = self.entries.get(&(netns, ip.to_canonical()))?;
        entry.is_used.set(true);
        Some(&entry.name)
    }

    /// Takes an answer that `netns` has got to its question.
    pub(crate) fn learn(&mut self, netns: u32, answer: &Message<'_>, now_ns: u64) {
        let Some(question) = answer.question else { return };
        let chain = chain(answer, question.name);
        let mut name: Option<Arc<str>> = None;
        for found in answer.answers() {
            let ip = match found.data {
                Data::A(ip) => IpAddr::V4(ip),
                Data::Aaaa(ip) => IpAddr::V6(ip).to_canonical(),
                Data::Cname(_) => continue,
            };
            if !chain.iter().any(|alias| alias.same(found.owner)) {
                continue;
            }
            if name.is_none() {
                name = question.name.text().map(Arc::from);
            }
            let Some(name) = &name else { return };
            let lifetime = (u64::from(found.ttl) * SECOND_NS).clamp(LEAST_NS, MOST_NS);
            self.insert((netns, ip), Arc::clone(name), now_ns + lifetime);
        }
    }

    /// Forgets what is no longer valid. To be called after each report, so that a connection that
    /// was opened since the last one finds its name in this one.
    pub(crate) fn age(&mut self, now_ns: u64) {
        self.entries.retain(|_, entry| {
            if entry.is_used.take() {
                entry.until_ns = entry.until_ns.max(now_ns + AFTER_USE_NS);
            }
            entry.until_ns > now_ns
        });
    }

    /// How many entries had to leave early so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn insert(&mut self, key: (u32, IpAddr), name: Arc<str>, until_ns: u64) {
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            self.evict();
        }
        self.entries.insert(key, Entry { name, until_ns, is_used: Cell::new(false) });
    }

    /// A part at a time, so that a full table is not searched for each new entry.
    fn evict(&mut self) {
        let mut ends: Vec<u64> = self.entries.values().map(|entry| entry.until_ns).collect();
        let (_, last, _) = ends.select_nth_unstable(self.most / EVICTED_PART);
        let (last, before) = (*last, self.entries.len());
        self.entries.retain(|_, entry| entry.until_ns > last);
        self.evicted += (before - self.entries.len()) as u64;
    }
}

/// The name that was asked for and all that it is an alias of, in almost whatever order they came.
fn chain<'a>(answer: &Message<'a>, asked: Name<'a>) -> Vec<Name<'a>> {
    let mut chain = vec![asked];
    for _ in 0..MOST_PASSES {
        let before = chain.len();
        for found in answer.answers() {
            let Data::Cname(target) = found.data else { continue };
            let is_known = |name: Name<'_>| chain.iter().any(|known| known.same(name));
            if chain.len() < MAX_CHAIN && is_known(found.owner) && !is_known(target) {
                chain.push(target);
            }
        }
        if chain.len() == before {
            break;
        }
    }
    chain
}
