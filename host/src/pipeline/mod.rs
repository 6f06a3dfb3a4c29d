//! The way of a point through the host, top to bottom.
//!
//! ```text
//! plugin --Points--> Inbox ==bounded==> enrich -> sink: console, file, or
//!                                       encode -> Backlog ==bounded==> upload --> DataKit
//! ```
//!
//! Plugins never wait: where a channel is full, points are dropped and counted.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};
use plugin_api::Points;
use tokio::sync::Notify;
use tracing::warn;

pub(crate) mod backlog;
pub(crate) mod encode;
pub(crate) mod enrich;
mod entry;
pub(crate) mod ledger;
mod queue;
mod spool;
pub(crate) mod upload;
pub(crate) mod wire;

use crate::output::Sink;
use backlog::Backlog;
use enrich::Enricher;
use ledger::{Account, DropReason};
use wire::Batch;

/// Batches that may wait: one full report of the busiest plugin, which comes all at once.
const INBOX_BATCHES: usize = 160;

/// How often a sink that shows something is asked to refresh it.
const TICK: Duration = Duration::from_millis(500);

/// Where plugins put points.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: Sender<Item>,
    is_overflowing: Arc<AtomicBool>,
}

enum Item {
    Batch(Points, Arc<Account>),
    End,
}

impl Inbox {
    /// Takes a batch, or counts it as dropped. Never waits.
    pub(crate) fn put(&self, points: Points, account: &Arc<Account>) -> bool {
        let count = points.len();
        account.emitted(count);
        match self.sender.try_send(Item::Batch(points, Arc::clone(account))) {
            Ok(()) => {
                self.is_overflowing.store(false, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Full(_)) => {
                account.dropped(count, DropReason::InboxFull);
                // Said once per jam; how many is in the ledger.
                if !self.is_overflowing.swap(true, Ordering::Relaxed) {
                    warn!("the pipeline is behind, dropping points");
                }
                false
            }
            Err(TrySendError::Disconnected(_)) => {
                account.dropped(count, DropReason::Shutdown);
                false
            }
        }
    }
}

/// What comes behind enrichment.
pub(crate) enum Outlet {
    /// Encoded and uploaded.
    Upload(Arc<Backlog>),
    /// Written here.
    Sink(Box<dyn Sink + Send>),
}

/// The pipeline's thread.
pub(crate) struct Pipeline {
    inbox: Inbox,
    thread: JoinHandle<()>,
    ended: Arc<Notify>,
}

impl Pipeline {
    pub(crate) fn start(enricher: Enricher, outlet: Outlet) -> Result<Self> {
        let (sender, inbox) = flume::bounded(INBOX_BATCHES);
        let ended = Arc::new(Notify::new());
        let at_end = NotifyAtEnd(Arc::clone(&ended));
        let thread = Builder::new()
            .name("pipeline".into())
            .spawn(move || {
                let _at_end = at_end;
                run(&inbox, &enricher, outlet);
            })
            .context("start the pipeline's thread")?;
        Ok(Self { inbox: Inbox { sender, is_overflowing: Arc::default() }, thread, ended })
    }

    /// Told when the thread has ended, for whatever reason.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Lets everything through that is in it, then ends.
    pub(crate) fn finish(self) {
        if self.inbox.sender.send(Item::End).is_err() || self.thread.join().is_err() {
            warn!("the pipeline had ended before");
        }
    }
}

struct NotifyAtEnd(Arc<Notify>);

impl Drop for NotifyAtEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn run(inbox: &Receiver<Item>, enricher: &Enricher, mut outlet: Outlet) {
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(Item::Batch(points, account)) => {
                let batch = enricher.tag(Batch::from(points));
                if let Flow::Ended = outlet.take(batch, &account) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => outlet.tick(),
            Ok(Item::End) | Err(RecvTimeoutError::Disconnected) => return outlet.tick(),
        }
    }
}

/// Whether it makes sense to go on.
enum Flow {
    Open,
    /// Nobody reads any more.
    Ended,
}

impl Outlet {
    fn take(&mut self, batch: Batch, account: &Arc<Account>) -> Flow {
        match self {
            Self::Upload(backlog) => {
                for request in encode::encode(batch) {
                    backlog.push(request, account);
                }
                Flow::Open
            }
            Self::Sink(sink) => {
                let points = batch.points.len();
                match sink.write(&batch) {
                    Ok(()) => account.uploaded(points),
                    Err(error) => {
                        account.dropped(points, DropReason::OutputFailed);
                        if error.kind() == ErrorKind::BrokenPipe {
                            return Flow::Ended;
                        }
                        warn!(%error, points, "points dropped: the output cannot be written");
                    }
                }
                Flow::Open
            }
        }
    }

    fn tick(&mut self) {
        if let Self::Sink(sink) = self
            && let Err(error) = sink.tick()
        {
            warn!(%error, "the output cannot be refreshed");
        }
    }
}
