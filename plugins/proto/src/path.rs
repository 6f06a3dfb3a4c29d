//! Which paths of a service are the same route: `/user/17` and `/user/18` are. In: paths as they
//! were asked for, per service. Out: the names under which they are counted, never more per service
//! than its budget. It knows no clock: its owner says when a round is over.
//!
//! As long as a service has no more distinct paths than the budget, each is its own name. Then:
//!
//! 1. Segments that look like a value rather than a word become `*`: numbers and dates, UUIDs,
//!    hexadecimal digits, base64. If that is not enough,
//! 2. the position (first, second.. segment) with the most distinct segments becomes `*` in all
//!    paths, the last of them if there are several, and again until the rest fits.
//! 3. If even then there are too many, for their lengths differ, every path is `*`.
//!
//! A rule that was made stays as long as the service is heard of, so that names do not change to and
//! fro. What a service's names are depends on the set of its paths and not on their order, if all
//! of them are shown with [`Paths::observe`] before the first is named, and are no more than eight
//! times the budget.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Put in place of a segment, or of the whole path.
pub const MERGED: &str = "*";

/// What [`Paths`] may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Distinct names per service. 0 switches merging off: each path is its own name.
    pub budget: usize,
    /// Services. Paths of those beyond are all `*`.
    pub services: usize,
    /// Bytes of text of all services together. When they are used up, services merge early.
    pub text: usize,
    /// Rounds after which a service that was not heard of is forgotten, with its rules.
    pub idle_rounds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { budget: 100, services: 1024, text: 4 << 20, idle_rounds: 60 }
    }
}

/// How often something was merged or refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Paths that were named otherwise than they were written.
    pub merged: u64,
    /// Paths that became `*` because there are too many services.
    pub refused: u64,
}

/// How many times the budget may be observed before rules are made, so that they are made from the
/// whole set and not from what came first.
const FORESIGHT: usize = 8;

/// Segments behind this one are merged with it as soon as anything is.
const MAX_SEGMENTS: usize = 32;

/// The rules of a service. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    values: bool,
    /// One bit per position.
    positions: u64,
    all: bool,
}

#[derive(Debug, Default)]
struct Service {
    names: BTreeSet<Box<str>>,
    rules: Rules,
    idle: u32,
}

/// The names of the paths of all services.
#[derive(Debug)]
pub struct Paths<K> {
    limits: Limits,
    services: HashMap<K, Service>,
    text: usize,
    counters: Counters,
}

impl<K: Hash + Eq> Paths<K> {
    /// Nothing seen yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, services: HashMap::new(), text: 0, counters: Counters::default() }
    }

    /// Takes note of a path without naming it.
    pub fn observe(&mut self, service: K, path: &str) {
        if self.limits.budget > 0 {
            self.learn(service, path, self.limits.budget.saturating_mul(FORESIGHT));
        }
    }

    /// The name of a path. It is taken note of, if it was not yet.
    pub fn name<'a>(&mut self, service: K, path: &'a str) -> Cow<'a, str> {
        if self.limits.budget == 0 {
            return Cow::Borrowed(path);
        }
        let Some(rules) = self.learn(service, path, self.limits.budget) else {
            self.counters.refused += 1;
            self.counters.merged += u64::from(path != MERGED);
            return Cow::Borrowed(MERGED);
        };
        let name = rules.apply(path);
        self.counters.merged += u64::from(name != path);
        name
    }

    /// A round is over: services that were not heard of for long are forgotten.
    pub fn end_round(&mut self) {
        let (idle_rounds, text) = (self.limits.idle_rounds, &mut self.text);
        self.services.retain(|_, service| {
            service.idle += 1;
            let kept = service.idle <= idle_rounds;
            if !kept {
                *text -= service.text();
            }
            kept
        });
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of text that are kept.
    pub fn text(&self) -> usize {
        self.text
    }

    fn learn(&mut self, service: K, path: &str, most: usize) -> Option<Rules> {
        if self.services.len() >= self.limits.services && !self.services.contains_key(&service) {
            return None;
        }
        let service = self.services.entry(service).or_default();
        service.idle = 0;
        let name = service.rules.apply(path);
        let known = service.names.contains(&*name);
        if known && service.names.len() <= most {
            return Some(service.rules);
        }
        let before = service.text();
        if !known {
            service.names.insert(name.into());
        }
        let room = self.limits.text - (self.text - before);
        service.fit(most, room);
        self.text = self.text - before + service.text();
        Some(service.rules)
    }
}

impl Service {
    fn text(&self) -> usize {
        self.names.iter().map(|name| name.len()).sum()
    }

    /// Makes rules until the names are within the budget and the room for text.
    fn fit(&mut self, budget: usize, room: usize) {
        while !self.rules.all && (self.names.len() > budget || self.text() > room) {
            self.rules = self.stricter();
            let rules = self.rules;
            self.names = self.names.iter().map(|name| rules.apply(name).into()).collect();
        }
        if self.text() > room {
            self.names.clear();
        }
    }

    fn stricter(&self) -> Rules {
        if !self.rules.values {
            return Rules { values: true, ..self.rules };
        }
        // Distinct segments by position.
        let mut distinct: Vec<BTreeSet<&str>> = Vec::new();
        for name in &self.names {
            for (position, segment) in segments(name).enumerate() {
                if distinct.len() <= position {
                    distinct.push(BTreeSet::new());
                }
                distinct[position].insert(segment);
            }
        }
        let most = distinct
            .iter()
            .enumerate()
            .filter(|(position, _)| self.rules.positions & 1 << position == 0)
            .max_by_key(|(position, segments)| (segments.len(), *position));
        match most {
            Some((position, segments)) if segments.len() > 1 => {
                Rules { positions: self.rules.positions | 1 << position, ..self.rules }
            }
            _ => Rules { all: true, ..self.rules },
        }
    }
}

impl Rules {
    fn apply(self, path: &str) -> Cow<'_, str> {
        if self.all {
            return Cow::Borrowed(MERGED);
        }
        if !self.values || !self.changes(path) {
            return Cow::Borrowed(path);
        }
        let mut name = String::with_capacity(path.len());
        for (position, segment) in segments(path).enumerate() {
            if position > 0 {
                name.push('/');
            }
            name.push_str(if self.merges(position, segment) { MERGED } else { segment });
        }
        Cow::Owned(name)
    }

    fn changes(self, path: &str) -> bool {
        let mut segments = segments(path).enumerate();
        segments.any(|(position, segment)| segment != MERGED && self.merges(position, segment))
    }

    fn merges(self, position: usize, segment: &str) -> bool {
        position + 1 >= MAX_SEGMENTS
            || !segment.is_empty() && (self.positions & 1 << position != 0 || is_value(segment))
    }
}

/// The parts between slashes; what follows the last position is one part. The first is what is
/// before the first slash, usually nothing.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.splitn(MAX_SEGMENTS, '/')
}

/// Looks like a value: is nothing that a person would name a route.
fn is_value(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return false;
    }
    let all = |allowed: fn(&u8) -> bool| bytes.iter().all(allowed);
    // Numbers, dates, addresses, coordinates.
    if !bytes.iter().any(u8::is_ascii_alphabetic) && segment.is_ascii() {
        return true;
    }
    // Hashes and UUIDs, with or without their dashes.
    if bytes.len() >= 8 && all(|byte| byte.is_ascii_hexdigit() || *byte == b'-') {
        return true;
    }
    // Tokens. Words with a number have one case, or few digits.
    let mixed =
        bytes.iter().any(u8::is_ascii_uppercase) && bytes.iter().any(u8::is_ascii_lowercase);
    bytes.len() >= 16
        && all(|byte| byte.is_ascii_alphanumeric() || b"-_=+~.%".contains(byte))
        && (mixed && digits >= 2 || digits * 4 >= bytes.len())
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
