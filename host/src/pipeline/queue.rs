//! Requests that wait in memory: bounded by bytes, oldest dropped first. Nobody waits here; see
//! [`backlog`](super::backlog).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::pipeline::encode::Request;
use crate::pipeline::entry::Entry;
use crate::pipeline::ledger::DropReason;

/// The queue. Pushing never waits.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: u64,
    limit_bytes: u64,
    is_overflowing: bool,
}

impl Queue {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let waiting = Waiting { limit_bytes, ..Waiting::default() };
        Self { waiting: Mutex::new(waiting) }
    }

    /// Holds no more than this from now on.
    pub(crate) fn resize(&self, limit_bytes: u64) {
        let mut waiting = self.waiting();
        waiting.limit_bytes = limit_bytes;
        waiting.drop_oldest();
        waiting.entries.shrink_to_fit();
    }

    pub(crate) fn push(&self, entry: Entry) {
        let mut waiting = self.waiting();
        waiting.bytes += size_of(&entry);
        waiting.entries.push_back(entry);
        waiting.drop_oldest();
    }

    /// The oldest entry, if there is one.
    pub(crate) fn try_pop(&self) -> Option<Entry> {
        self.waiting().take()
    }

    /// Makes `entry` the oldest one again.
    pub(crate) fn put_back(&self, entry: Entry) {
        let mut waiting = self.waiting();
        waiting.bytes += size_of(&entry);
        waiting.entries.push_front(entry);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn drop_oldest(&mut self) {
        let mut dropped = 0;
        while self.bytes > self.limit_bytes {
            let Some(oldest) = self.take() else { break };
            dropped += oldest.request.points;
            oldest.dropped(DropReason::QueueFull);
        }
        // Said once per outage; how many is in the ledger.
        if dropped > 0 && !self.is_overflowing {
            warn!(limit_bytes = self.limit_bytes, "upload queue is full, dropping the oldest");
        }
        self.is_overflowing = dropped > 0;
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= size_of(&entry);
        Some(entry)
    }
}

/// The body and what surrounds it.
fn size_of(entry: &Entry) -> u64 {
    let Request { target, body, .. } = &entry.request;
    (std::mem::size_of::<Entry>() + target.len() + body.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::pipeline::entry::tests::entry;
    use crate::pipeline::ledger::DropReason;
    use std::sync::Arc;

    #[test]
    fn the_oldest_entries_make_room_and_are_counted() {
        let account = Arc::default();
        let queue = Queue::new(2500);
        for name in ["a", "b", "c"] {
            queue.push(entry(name, &account));
        }
        assert_eq!(queue.try_pop().unwrap().request.target, "b");
        assert_eq!(queue.try_pop().unwrap().request.target, "c");
        assert!(queue.try_pop().is_none());
        assert_eq!(account.tally().dropped[&DropReason::QueueFull], 1);
    }
    #[test]
    fn a_queue_that_shrinks_drops_its_oldest_entries_at_once() {
        let account = Arc::default();
        let queue = Queue::new(10_000);
        for name in ["a", "b", "c"] {
            queue.push(entry(name, &account));
        }
        queue.resize(1250);
        assert_eq!(account.tally().dropped[&DropReason::QueueFull], 2);
        assert_eq!(queue.try_pop().unwrap().request.target, "c");
        queue.resize(10_000);
        queue.push(entry("d", &account));
        queue.push(entry("e", &account));
        assert_eq!(account.tally().dropped[&DropReason::QueueFull], 2);
    }
}
