//! The way of a point through the host, top to bottom.
//!
//! ```text
//! plugin --Points--> Inbox ==bounded==> enrich -> sink: console, file, or
//!                                       encode -> Queue ==bounded==> upload --> DataKit
//! ```
//!
//! Plugins never wait: where a channel is full, points are dropped and counted.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};
use plugin_api::Points;
use tracing::{error, warn};

pub(crate) mod encode;
pub(crate) mod enrich;
pub(crate) mod ledger;
pub(crate) mod queue;
pub(crate) mod upload;
pub(crate) mod wire;

use crate::output::Sink;
use enrich::Enricher;
use ledger::{Account, DropReason};
use queue::{Entry, Queue};
use wire::Batch;

/// Batches that may wait; the pipeline never blocks, so it is empty nearly always.
const INBOX_BATCHES: usize = 64;

/// How often a sink that shows something is asked to refresh it.
const TICK: Duration = Duration::from_millis(500);

/// Where plugins put points.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: Sender<Item>,
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
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                account.dropped(count, DropReason::InboxFull);
                warn!(points = count, "points dropped: the pipeline is behind");
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
    Upload(Arc<Queue>),
    /// Written here.
    Sink(Box<dyn Sink + Send>),
}

/// The pipeline's thread.
pub(crate) struct Pipeline {
    inbox: Inbox,
    thread: JoinHandle<()>,
}

impl Pipeline {
    pub(crate) fn start(enricher: Enricher, outlet: Outlet) -> Result<Self> {
        let (sender, inbox) = flume::bounded(INBOX_BATCHES);
        let thread = Builder::new()
            .name("pipeline".into())
            .spawn(move || run(&inbox, &enricher, outlet))
            .context("start the pipeline's thread")?;
        Ok(Self { inbox: Inbox { sender }, thread })
    }

    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Lets everything through that is in it, then ends.
    pub(crate) fn finish(self) {
        if self.inbox.sender.send(Item::End).is_err() || self.thread.join().is_err() {
            error!("the pipeline had ended before its time");
        }
    }
}

fn run(inbox: &Receiver<Item>, enricher: &Enricher, mut outlet: Outlet) {
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(Item::Batch(points, account)) => {
                let batch = enricher.tag(Batch::from(points));
                outlet.take(batch, &account);
            }
            Err(RecvTimeoutError::Timeout) => outlet.tick(),
            Ok(Item::End) | Err(RecvTimeoutError::Disconnected) => return outlet.tick(),
        }
    }
}

impl Outlet {
    fn take(&mut self, batch: Batch, account: &Arc<Account>) {
        match self {
            Self::Upload(queue) => {
                for request in encode::encode(batch) {
                    queue.push(Entry::new(request, Arc::clone(account)));
                }
            }
            Self::Sink(sink) => {
                let points = batch.points.len();
                match sink.write(&batch) {
                    Ok(()) => account.uploaded(points),
                    Err(error) => {
                        account.dropped(points, DropReason::OutputFailed);
                        warn!(%error, points, "points dropped: the output cannot be written");
                    }
                }
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
