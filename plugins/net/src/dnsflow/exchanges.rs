//! Questions and their answers. In: messages and the sockets that saw them. Out: exchanges, each
//! with its latency, or without an answer.
//!
//! A question waits under its socket, so that two clients behind the same address are not mixed
//! up. On the server's side also under the client's address; on the client's side not, because
//! where questions are translated on their way, the answer seems to come from elsewhere.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use plugin_proto::dns::{Message, Question};

use crate::decode::Direction;
use crate::dnsflow::decode::{Packet, Way};
use crate::netflow::aggregate::Transport;

/// A question that is older than this has no answer.
const TIMEOUT_NS: u64 = 6_000_000_000;

/// Questions that wait at a time.
const MAX_WAITING: usize = 65_536;

/// Questions of one socket with the same number that wait at a time: one per server, and some.
const MAX_ALIKE: usize = 16;

/// How often a full table is searched for questions that are too old.
const SEARCH_NS: u64 = 1_000_000_000;

/// A question and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Outgoing: this host asked.
    pub(crate) direction: Direction,
    pub(crate) transport: Transport,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// `None`: there was no answer in time.
    pub(crate) answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: u16,
    pub(crate) latency_ns: u64,
}

/// What a message was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A question, asked for the first time or again.
    Asked,
    Answered(Exchange),
    /// An answer to a question that nobody has seen.
    Unasked,
    /// A question for which there is no room.
    Refused,
}

/// The questions that wait for an answer.
#[derive(Debug)]
pub(crate) struct Exchanges {
    waiting: HashMap<Slot, Vec<Waiting>>,
    count: usize,
    most: usize,
    searched_ns: u64,
    /// Sockets whose questions are forgotten with the next search.
    lost: HashSet<u64>,
    hasher: RandomState,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    socket: u64,
    direction: Direction,
    transport: Transport,
    /// The client, on the server's side.
    client: Option<SocketAddr>,
    id: u16,
}

#[derive(Debug)]
struct Waiting {
    local: SocketAddr,
    remote: SocketAddr,
    /// A hash of the question; some answers come without one.
    question: Option<u64>,
    time_ns: u64,
}

impl Default for Exchanges {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            count: 0,
            most: MAX_WAITING,
            searched_ns: 0,
            lost: HashSet::new(),
            hasher: RandomState::new(),
            name: String::new(),
        }
    }
}

impl Exchanges {
    pub(crate) fn meet(&mut self, packet: &Packet<'_>, message: &Message<'_>) -> Outcome {
        let direction = match (packet.way, message.response) {
            (Way::Sent, false) | (Way::Received, true) => Direction::Outgoing,
            (Way::Received, false) | (Way::Sent, true) => Direction::Incoming,
        };
        let slot = Slot {
            socket: packet.socket,
            direction,
            transport: packet.transport,
            client: (direction == Direction::Incoming).then_some(packet.remote),
            id: message.id,
        };
        let question = message.question.and_then(|question| self.hash(question));
        if message.response {
            self.answered(&slot, packet, question, message.rcode)
        } else {
            self.asked(slot, packet, question)
        }
    }

    /// Whether old questions must be given up now to make room.
    pub(crate) fn is_full(&self, now_ns: u64) -> bool {
        self.count >= self.most && now_ns >= self.searched_ns + SEARCH_NS
    }

    /// Calls `each` for every question that has waited too long, and forgets it.
    pub(crate) fn give_up(&mut self, now_ns: u64, mut each: impl FnMut(Exchange)) {
        self.searched_ns = now_ns;
        let mut left = 0;
        self.waiting.retain(|slot, alike| {
            if self.lost.contains(&slot.socket) {
                return false;
            }
            alike.retain(|waiting| {
                let is_old = waiting.time_ns + TIMEOUT_NS < now_ns;
                if is_old {
                    each(slot.exchange(waiting.local, waiting.remote, None));
                }
                !is_old
            });
            left += alike.len();
            !alike.is_empty()
        });
        self.count = left;
        self.lost.clear();
    }

    /// The connection of this socket is not read on: nobody knows what is answered there.
    pub(crate) fn forget(&mut self, socket: u64) {
        self.lost.insert(socket);
    }

    fn asked(&mut self, slot: Slot, packet: &Packet<'_>, question: Option<u64>) -> Outcome {
        let is_full = self.count >= self.most;
        let alike = match self.waiting.get_mut(&slot) {
            Some(alike) => alike,
            None if is_full => return Outcome::Refused,
            None => self.waiting.entry(slot).or_default(),
        };
        // Asked again: the time that counts is the first one's.
        let again =
            |waiting: &Waiting| waiting.remote == packet.remote && waiting.question == question;
        if alike.iter().any(again) {
            return Outcome::Asked;
        }
        if is_full || alike.len() >= MAX_ALIKE {
            return Outcome::Refused;
        }
        let Packet { local, remote, time_ns, .. } = *packet;
        alike.push(Waiting { local, remote, question, time_ns });
        self.count += 1;
        Outcome::Asked
    }

    fn answered(
        &mut self,
        slot: &Slot,
        packet: &Packet<'_>,
        question: Option<u64>,
        rcode: u16,
    ) -> Outcome {
        let Some(alike) = self.waiting.get_mut(slot) else { return Outcome::Unasked };
        let is_it = |waiting: &Waiting| {
            question.is_none() || waiting.question.is_none() || waiting.question == question
        };
        let from_there = alike.iter().position(|w| w.remote == packet.remote && is_it(w));
        let Some(found) = from_there.or_else(|| alike.iter().position(is_it)) else {
            return Outcome::Unasked;
        };
        let waiting = alike.swap_remove(found);
        self.count -= 1;
        if alike.is_empty() {
            self.waiting.remove(slot);
        }
        let latency_ns = packet.time_ns.saturating_sub(waiting.time_ns);
        let answer = Some(Answer { rcode, latency_ns });
        Outcome::Answered(slot.exchange(packet.local, packet.remote, answer))
    }

    /// Servers may answer in other letters than they were asked.
    fn hash(&mut self, question: Question<'_>) -> Option<u64> {
        self.name.clear();
        question.name.write(&mut self.name)?;
        Some(self.hasher.hash_one((&self.name, question.kind)))
    }
}

impl Slot {
    fn exchange(&self, local: SocketAddr, remote: SocketAddr, answer: Option<Answer>) -> Exchange {
        Exchange { direction: self.direction, transport: self.transport, local, remote, answer }
    }
}
