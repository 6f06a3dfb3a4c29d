//! The way of a point through the host, top to bottom.
//!
//! ```text
//! plugin --Points--> Inbox ==bounded==> sample -> enrich -> sink: console, file, or
//!                                       encode -> Backlog ==bounded==> upload --> DataKit
//! ```
//!
//! Plugins never wait: where a channel is full, points are dropped and counted.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};
use plugin_api::{Category, Points};
use tokio::sync::Notify;
use tracing::warn;

pub(crate) mod backlog;
pub(crate) mod encode;
pub(crate) mod enrich;
mod entry;
pub(crate) mod ledger;
mod queue;
mod sample;
mod spool;
pub(crate) mod upload;
pub(crate) mod wire;

use crate::config::Sampling;
use crate::output::Sink;
use backlog::Backlog;
use enrich::Enricher;
use ledger::{Account, DropReason};
use sample::Sampler;
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

/// What share of the latest points was kept, by category.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    by_category: Mutex<BTreeMap<&'static str, f64>>,
}

impl Rates {
    pub(crate) fn all(&self) -> BTreeMap<&'static str, f64> {
        self.by_category.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, category: Category, rate: f64) {
        let name = match category {
            Category::Network => "network",
            Category::Logging => "logging",
            Category::Tracing => "tracing",
        };
        self.by_category.lock().unwrap_or_else(PoisonError::into_inner).insert(name, rate);
    }
}

/// What is done to every point on its way.
pub(crate) struct Stages {
    pub(crate) sampling: Sampling,
    /// Add the field `sampling_rate` to what is kept, so that sums can be scaled back.
    pub(crate) tells_rate: bool,
    pub(crate) enricher: Enricher,
    pub(crate) outlet: Outlet,
}

/// The pipeline's thread.
pub(crate) struct Pipeline {
    inbox: Inbox,
    thread: JoinHandle<()>,
    ended: Arc<Notify>,
    rates: Arc<Rates>,
}

impl Pipeline {
    pub(crate) fn start(stages: Stages) -> Result<Self> {
        let (sender, inbox) = flume::bounded(INBOX_BATCHES);
        let ended = Arc::new(Notify::new());
        let at_end = NotifyAtEnd(Arc::clone(&ended));
        let rates = Arc::<Rates>::default();
        let told = Arc::clone(&rates);
        let thread = Builder::new()
            .name("pipeline".into())
            .spawn(move || {
                let _at_end = at_end;
                run(&inbox, stages, &told);
            })
            .context("start the pipeline's thread")?;
        Ok(Self { inbox: Inbox { sender, is_overflowing: Arc::default() }, thread, ended, rates })
    }

    /// What the sampler keeps.
    pub(crate) fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates)
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

fn run(inbox: &Receiver<Item>, stages: Stages, rates: &Rates) {
    let Stages { sampling, tells_rate, enricher, mut outlet } = stages;
    let mut sampler = Sampler::new(sampling);
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(Item::Batch(points, account)) => {
                let decision = sampler.keep(&points, Instant::now());
                let rate = sampler.rate(points.category());
                account.sampled_out(decision.left_out());
                rates.set(points.category(), rate);
                let mut batch = Batch::of_kept(points, |index| decision.keeps(index));
                if tells_rate {
                    batch.add_field("sampling_rate", rate);
                }
                let batch = enricher.tag(batch);
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
