//! Requests that wait for the receiver: on disk if there is a spool, in memory otherwise, or when
//! the disk does not take them. One uploader takes them out, oldest first.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde::Serialize;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::pipeline::encode::Request;
use crate::pipeline::entry::Entry;
use crate::pipeline::in_flight::InFlight;
use crate::pipeline::ledger::{Account, DropReason, Ledger};
use crate::pipeline::queue::Queue;
use crate::pipeline::spool::{Dropped, Next, Recovered, Spool};

/// All that waits. Pushing never waits for the receiver.
#[derive(Debug)]
pub(crate) struct Backlog {
    memory: Queue,
    memory_bytes: u64,
    disk: Option<Arc<Spool>>,
    ledger: Arc<Ledger>,
    arrived: Notify,
    is_closed: AtomicBool,
    disk_fails: AtomicBool,
}

/// What waits on disk.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct OnDisk {
    requests: usize,
    points: usize,
    bytes: u64,
}

impl Backlog {
    /// In memory only.
    pub(crate) fn in_memory(limit_bytes: u64, ledger: Arc<Ledger>) -> Self {
        Self {
            memory: Queue::new(limit_bytes),
            memory_bytes: limit_bytes,
            disk: None,
            ledger,
            arrived: Notify::new(),
            is_closed: AtomicBool::new(false),
            disk_fails: AtomicBool::new(false),
        }
    }

    /// Adds a spool in `folder`; what an earlier process left there is entered as emitted.
    pub(crate) fn with_spool(mut self, folder: &Path, limit_bytes: u64) -> Result<Self> {
        let (spool, recovered) = Spool::open(folder, limit_bytes)?;
        let Recovered { requests, points, lost_records, lost_bytes } = recovered;
        let (in_flight, lost) = InFlight::open(folder)?;
        self.ledger.note_in(in_flight);
        for (plugin, points) in points {
            let account = self.ledger.account(&plugin);
            account.put_on_disk(points);
            account.emitted(points);
        }
        for (plugin, points) in lost {
            warn!(plugin, points, "points were lost in a crash");
            let account = self.ledger.account(&plugin);
            account.emitted(points);
            account.dropped(points, DropReason::Crash);
        }
        if requests > 0 || lost_bytes > 0 {
            info!(requests, lost_records, lost_bytes, "requests of an earlier run are waiting");
        }
        self.disk = Some(Arc::new(spool));
        Ok(self)
    }

    /// Takes a quarter of the memory that it may, or all of it again. What is on disk stays.
    pub(crate) fn make_small(&self, is_small: bool) {
        let limit_bytes = if is_small { self.memory_bytes / 4 } else { self.memory_bytes };
        self.memory.resize(limit_bytes);
    }

    pub(crate) fn push(&self, request: Request, account: &Arc<Account>) {
        if let Some(entry) = self.push_to_disk(request, account) {
            self.memory.push(entry);
        }
        self.arrived.notify_one();
    }

    /// Returns what is left for the memory.
    fn push_to_disk(&self, request: Request, account: &Arc<Account>) -> Option<Entry> {
        if let Some(spool) = &self.disk {
            match spool.push(account.plugin(), &request) {
                Ok(outcome) => {
                    self.disk_fails.store(false, Ordering::Relaxed);
                    account.put_on_disk(request.points);
                    self.count(outcome.dropped, DropReason::QueueFull);
                    return None;
                }
                Err(error) if !self.disk_fails.swap(true, Ordering::Relaxed) => {
                    let error = format!("{error:#}");
                    warn!(error, "the spool takes nothing, keeping requests in memory");
                }
                Err(_) => {}
            }
        }
        Some(Entry::new(request, Arc::clone(account)))
    }

    /// The oldest entry, when there is one; `None` once the backlog is closed and empty.
    pub(crate) async fn pop(&self) -> Option<Entry> {
        loop {
            // Asked first: what was pushed before the closing is still popped.
            let is_closed = self.is_closed.load(Ordering::Acquire);
            if let Some(entry) = self.try_pop() {
                return Some(entry);
            }
            if is_closed {
                return None;
            }
            self.arrived.notified().await;
        }
    }

    /// The oldest entry, if there is one. One that is on disk comes again until it is settled.
    pub(crate) fn try_pop(&self) -> Option<Entry> {
        if let Some(spool) = &self.disk {
            match spool.next() {
                Ok(Next { entry, damaged }) => {
                    self.count(damaged, DropReason::Damaged);
                    if let Some(entry) = entry {
                        let account = self.ledger.account(&entry.plugin);
                        return Some(Entry::spooled(Arc::clone(spool), entry, account));
                    }
                }
                Err(error) => warn!(error = %format!("{error:#}"), "the spool cannot be read"),
            }
        }
        self.memory.try_pop()
    }

    /// Makes an entry that was popped the oldest one again.
    pub(crate) fn put_back(&self, entry: Entry) {
        if !entry.is_on_disk() {
            self.memory.put_back(entry);
        }
    }

    /// Nothing more will be pushed.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// The uploader has ended: what is on disk stays for the next start.
    pub(crate) fn finish(&self) {
        if let Some(spool) = &self.disk {
            self.count(spool.close(), DropReason::Shutdown);
        }
    }

    /// What waits on disk, for `/status`.
    pub(crate) fn on_disk(&self) -> Option<OnDisk> {
        self.disk.as_ref().map(|spool| OnDisk {
            requests: spool.len(),
            points: spool.points(),
            bytes: spool.bytes(),
        })
    }

    fn count(&self, dropped: Dropped, reason: DropReason) {
        for (plugin, points) in dropped {
            let account = self.ledger.account(&plugin);
            account.take_off_disk(points);
            account.dropped(points, reason);
        }
    }
}
