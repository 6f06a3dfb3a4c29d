//! The way of a point through the host, top to bottom.
//!
//! ```text
//! plugin --Points--> Inbox ==bounded==> sample -> thin -> enrich -> sink: console, file, or
//!                                       encode -> Backlog ==bounded==> upload --> DataKit
//! ```
//!
//! Plugins never wait: where a channel is full, points are dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result};
use plugin_api::Points;
use tokio::sync::Notify;
use tracing::warn;

pub(crate) mod backlog;
pub(crate) mod encode;
pub(crate) mod enrich;
mod entry;
mod in_flight;
pub(crate) mod inbox;
pub(crate) mod ledger;
pub(crate) mod outlet;
mod queue;
pub(crate) mod rates;
mod sample;
mod spool;
pub(crate) mod thin;
pub(crate) mod upload;
pub(crate) mod wire;

use crate::config::Sampling;
use enrich::Enricher;
use inbox::{Delivery, Inbox, Item};
use ledger::Account;
use outlet::{Flow, Outlet};
use rates::Rates;
use sample::Sampler;
use thin::Thinner;
use wire::Batch;

/// What is done to every point on its way.
#[derive(Debug)]
pub(crate) struct Treatment {
    pub(crate) sampling: Sampling,
    /// Add the field `sampling_rate` to what is kept, so that sums can be scaled back.
    pub(crate) tells_rate: bool,
    pub(crate) enricher: Enricher,
}

/// The pipeline's thread.
pub(crate) struct Pipeline {
    inbox: Inbox,
    thread: JoinHandle<()>,
    ended: Arc<Ended>,
    rates: Arc<Rates>,
    thinner: Arc<Thinner>,
}

impl Pipeline {
    pub(crate) fn start(treatment: Treatment, outlet: Outlet) -> Result<Self> {
        let (inbox, delivery) = Inbox::new();
        let ended = Arc::<Ended>::default();
        let at_end = TellAtEnd(Arc::clone(&ended));
        let rates = Arc::<Rates>::default();
        let thinner = Arc::<Thinner>::default();
        let shared = Shared { rates: Arc::clone(&rates), thinner: Arc::clone(&thinner) };
        let thread = Builder::new()
            .name("pipeline".into())
            .spawn(move || {
                let _at_end = at_end;
                run(&delivery, treatment, outlet, shared);
            })
            .context("start the pipeline's thread")?;
        Ok(Self { inbox, thread, ended, rates, thinner })
    }

    /// What the sampler keeps.
    pub(crate) fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates)
    }

    /// Leaves out more than the sampler does.
    pub(crate) fn thinner(&self) -> Arc<Thinner> {
        Arc::clone(&self.thinner)
    }

    /// Told when the thread has ended, for whatever reason.
    pub(crate) fn ended(&self) -> Arc<Ended> {
        Arc::clone(&self.ended)
    }

    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Treats what comes from now on differently.
    pub(crate) fn change(&self, treatment: Treatment) {
        if !self.inbox.change(treatment) {
            warn!("the pipeline had ended before");
        }
    }

    /// Lets everything through that is in it, then ends.
    pub(crate) fn finish(self) {
        if !self.inbox.end() || self.thread.join().is_err() {
            warn!("the pipeline had ended before");
        }
    }
}

/// Whether the thread has ended, and how.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    told: Notify,
    has_panicked: AtomicBool,
}

impl Ended {
    /// Waits for it; true if it was a panic.
    pub(crate) async fn wait(&self) -> bool {
        self.told.notified().await;
        self.has_panicked.load(Ordering::Acquire)
    }
}

struct TellAtEnd(Arc<Ended>);

impl Drop for TellAtEnd {
    fn drop(&mut self) {
        self.0.has_panicked.store(thread::panicking(), Ordering::Release);
        self.0.told.notify_one();
    }
}

/// What others look at or change while the thread runs.
struct Shared {
    rates: Arc<Rates>,
    thinner: Arc<Thinner>,
}

fn run(delivery: &Delivery, treatment: Treatment, mut outlet: Outlet, shared: Shared) {
    let mut line = Line::new(treatment, shared);
    loop {
        match delivery.next(outlet.tick_interval()) {
            Some(Item::Batch(points, account)) => {
                let batch = line.process(points, &account);
                if let Flow::Ended = outlet.take(batch, &account) {
                    return;
                }
            }
            Some(Item::Change(treatment)) => line.change(*treatment),
            Some(Item::End) => return outlet.tick(),
            None => outlet.tick(),
        }
    }
}

/// The stages in front of the outlet.
struct Line {
    sampling: Sampling,
    sampler: Sampler,
    shared: Shared,
    tells_rate: bool,
    enricher: Enricher,
}

impl Line {
    fn new(treatment: Treatment, shared: Shared) -> Self {
        let Treatment { sampling, tells_rate, enricher } = treatment;
        Self { sampling, sampler: Sampler::new(sampling), shared, tells_rate, enricher }
    }

    /// A sampler whose task is unchanged keeps what it knows.
    fn change(&mut self, treatment: Treatment) {
        let Treatment { sampling, tells_rate, enricher } = treatment;
        if sampling != self.sampling {
            (self.sampling, self.sampler) = (sampling, Sampler::new(sampling));
        }
        (self.tells_rate, self.enricher) = (tells_rate, enricher);
    }

    fn process(&mut self, points: Points, account: &Account) -> Batch {
        let category = points.category();
        let decision = self.sampler.keep(&points, Instant::now());
        let (decision, share) = self.shared.thinner.thin(decision, &points);
        let rate = self.sampler.rate(category) * share;
        account.sampled_out(decision.left_out());
        self.shared.rates.set(category, rate);
        let mut batch = Batch::of_kept(points, |index| decision.keeps(index));
        if self.tells_rate {
            batch.add_field("sampling_rate", rate);
        }
        self.enricher.tag(batch)
    }
}
