//! Requests that wait for the receiver: bounded by bytes, oldest dropped first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::warn;

use crate::pipeline::encode::Request;
use crate::pipeline::ledger::{Account, DropReason};

/// A request, and whose points it carries. Its points are entered into the ledger exactly once:
/// by one of its methods, or as lost in the shutdown when it is dropped without.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) request: Request,
    account: Option<Arc<Account>>,
}

impl Entry {
    pub(crate) fn new(request: Request, account: Arc<Account>) -> Self {
        Self { request, account: Some(account) }
    }

    pub(crate) fn uploaded(mut self) {
        if let Some(account) = self.account.take() {
            account.uploaded(self.request.points);
        }
    }

    pub(crate) fn dropped(mut self, reason: DropReason) {
        self.settle(reason);
    }

    fn settle(&mut self, reason: DropReason) {
        if let Some(account) = self.account.take() {
            account.dropped(self.request.points, reason);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.settle(DropReason::Shutdown);
    }
}

/// The queue. Pushing never waits.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    limit_bytes: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: u64,
    closed: bool,
    is_overflowing: bool,
}

impl Queue {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), limit_bytes }
    }

    pub(crate) fn push(&self, entry: Entry) {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.bytes += size_of(&entry);
            waiting.entries.push_back(entry);
            let mut dropped = 0;
            while waiting.bytes > self.limit_bytes {
                let Some(oldest) = waiting.take() else { break };
                dropped += oldest.request.points;
                oldest.dropped(DropReason::QueueFull);
            }
            // Said once per outage; how many is in the ledger.
            if dropped > 0 && !waiting.is_overflowing {
                warn!(limit_bytes = self.limit_bytes, "upload queue is full, dropping the oldest");
            }
            waiting.is_overflowing = dropped > 0;
        }
        self.arrived.notify_one();
    }

    /// The oldest entry, when there is one; `None` once the queue is closed and empty.
    pub(crate) async fn pop(&self) -> Option<Entry> {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(entry) = waiting.take() {
                    return Some(entry);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// The oldest entry, if there is one.
    pub(crate) fn try_pop(&self) -> Option<Entry> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes `entry` the oldest one again.
    pub(crate) fn put_back(&self, entry: Entry) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += size_of(&entry);
        waiting.entries.push_front(entry);
    }

    /// Nothing more will be pushed.
    pub(crate) fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.arrived.notify_one();
    }
}

impl Waiting {
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
    use super::{Entry, Queue};
    use crate::pipeline::encode::Request;
    use crate::pipeline::ledger::{Account, DropReason};
    use std::sync::Arc;

    fn entry(name: &str, account: &Arc<Account>) -> Entry {
        account.emitted(1);
        let body = vec![0; 1000].into();
        let request = Request { target: name.to_owned(), content_type: None, body, points: 1 };
        Entry::new(request, Arc::clone(account))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_oldest_entries_make_room_and_are_counted() {
        let account = Arc::default();
        let queue = Queue::new(2500);
        for name in ["a", "b", "c"] {
            queue.push(entry(name, &account));
        }
        queue.close();
        assert_eq!(queue.pop().await.unwrap().request.target, "b");
        assert_eq!(queue.pop().await.unwrap().request.target, "c");
        assert!(queue.pop().await.is_none());
        assert_eq!(account.tally().dropped[&DropReason::QueueFull], 1);
    }

    #[test]
    fn an_entry_is_entered_into_the_ledger_once() {
        let account = Arc::default();
        entry("a", &account).uploaded();
        entry("b", &account).dropped(DropReason::Rejected);
        drop(entry("c", &account));
        let tally = account.tally();
        assert_eq!((tally.emitted, tally.uploaded, tally.queued), (3, 1, 0));
        assert_eq!(tally.dropped[&DropReason::Rejected], 1);
        assert_eq!(tally.dropped[&DropReason::Shutdown], 1);
    }
}
