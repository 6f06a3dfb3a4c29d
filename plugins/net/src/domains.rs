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

#[cfg(test)]
mod tests {
    use super::{AFTER_USE_NS, Domains, LEAST_NS, SECOND_NS};
    use crate::dnsflow::tests::{a, answer_with, cname};
    use plugin_proto::dns::Message;
    use std::net::IpAddr;

    const NETNS: u32 = 1;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn learn(domains: &mut Domains, netns: u32, bytes: &[u8], now_ns: u64) {
        domains.learn(netns, &Message::parse(bytes).unwrap(), now_ns);
    }

    fn one(domains: &mut Domains, name: &'static str, ttl: u32, last: u8, now_ns: u64) {
        let record = a(name, ttl, [192, 0, 2, last]);
        learn(domains, NETNS, &answer_with(name, &[record]), now_ns);
    }

    #[test]
    fn an_address_has_the_name_that_was_asked_for_whatever_it_is_an_alias_of() {
        let chain = [
            cname("www.a.com", "x.cdn.net"),
            cname("x.cdn.net", "y.cdn.net"),
            a("y.cdn.net", 60, [192, 0, 2, 1]),
            a("Y.CDN.net", 60, [192, 0, 2, 2]),
            a("unasked.com", 60, [192, 0, 2, 3]),
        ];
        let mut backwards = chain.clone();
        backwards.reverse();
        for records in [chain, backwards] {
            let mut domains = Domains::default();
            learn(&mut domains, NETNS, &answer_with("WWW.a.com", &records), 0);
            assert_eq!(domains.name(NETNS, ip(1)), Some("www.a.com"));
            assert_eq!(domains.name(NETNS, ip(2)), Some("www.a.com"));
            assert_eq!(domains.name(NETNS, ip(3)), None, "it is not what was asked for");
        }
    }

    #[test]
    fn aliases_in_a_circle_and_long_chains_end() {
        let mut records = vec![cname("a.com", "b.com"), cname("b.com", "a.com")];
        records.resize(200, cname("b.com", "c.com"));
        records.push(a("c.com", 60, [192, 0, 2, 1]));
        let mut domains = Domains::default();
        learn(&mut domains, NETNS, &answer_with("a.com", &records), 0);
        assert_eq!(domains.name(NETNS, ip(1)), Some("a.com"));
    }

    #[test]
    fn each_namespace_has_its_own_names_and_the_last_one_counts() {
        let mut domains = Domains::default();
        one(&mut domains, "first.com", 60, 1, 0);
        one(&mut domains, "second.com", 60, 1, 0);
        let record = a("other.com", 60, [192, 0, 2, 1]);
        learn(&mut domains, 2, &answer_with("other.com", &[record]), 0);
        assert_eq!(domains.name(NETNS, ip(1)), Some("second.com"));
        assert_eq!(domains.name(2, ip(1)), Some("other.com"));
        assert_eq!(domains.name(3, ip(1)), None);
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(domains.name(NETNS, mapped), Some("second.com"));
    }

    #[test]
    fn a_name_lives_as_long_as_its_answer_says_but_not_too_short() {
        for (ttl, lives) in [(0, LEAST_NS), (5, LEAST_NS), (300, 300 * SECOND_NS)] {
            let mut domains = Domains::default();
            one(&mut domains, "www.com", ttl, 1, 7);
            domains.age(7 + lives - 1);
            assert_eq!(domains.entries.len(), 1, "ttl {ttl}");
            domains.age(7 + lives);
            assert_eq!(domains.entries.len(), 0, "ttl {ttl}");
        }
    }

    #[test]
    fn a_name_outlives_its_answer_while_flows_bear_it() {
        let mut domains = Domains::default();
        one(&mut domains, "www.com", 60, 1, 0);
        let mut now_ns = 0;
        for _ in 0..10 {
            now_ns += 60 * SECOND_NS;
            assert!(domains.name(NETNS, ip(1)).is_some());
            domains.age(now_ns);
        }
        domains.age(now_ns + AFTER_USE_NS - 1);
        assert_eq!(domains.entries.len(), 1);
        domains.age(now_ns + AFTER_USE_NS);
        assert_eq!(domains.entries.len(), 0);
    }

    #[test]
    fn in_a_full_table_those_leave_that_would_leave_next() {
        let mut domains = Domains { most: 16, ..Domains::default() };
        for last in 0..16 {
            one(&mut domains, "www.com", 1000 - u32::from(last), last, 0);
        }
        assert_eq!((domains.entries.len(), domains.evicted()), (16, 0));
        one(&mut domains, "new.com", 60, 100, 0);
        assert_eq!((domains.entries.len(), domains.evicted()), (14, 3));
        assert!(domains.name(NETNS, ip(100)).is_some());
        assert!(domains.name(NETNS, ip(0)).is_some() && domains.name(NETNS, ip(13)).is_none());
    }
}
