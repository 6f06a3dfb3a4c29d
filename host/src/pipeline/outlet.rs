//! The end of the pipeline: requests for the uploader, or an output on this machine.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::output::Sink;
use crate::pipeline::backlog::Backlog;
use crate::pipeline::encode::encode;
use crate::pipeline::ledger::{Account, DropReason};
use crate::pipeline::wire::Batch;

/// How often an output that shows something is asked to refresh it.
const TICK: Duration = Duration::from_millis(500);

/// What comes behind enrichment.
pub(crate) enum Outlet {
    /// Encoded, compressed if so, and uploaded.
    Upload(Arc<Backlog>, bool),
    /// Written here.
    Sink(Box<dyn Sink + Send>),
}

/// Whether it makes sense to go on.
pub(crate) enum Flow {
    Open,
    /// Nobody reads any more.
    Ended,
}

impl Outlet {
    /// How often it wants to be asked to refresh what it shows.
    pub(crate) fn tick_interval(&self) -> Option<Duration> {
        matches!(self, Self::Sink(_)).then_some(TICK)
    }

    pub(crate) fn take(&mut self, batch: Batch, account: &Arc<Account>) -> Flow {
        match self {
            Self::Upload(backlog, gzip) => {
                for request in encode(batch, *gzip) {
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

    pub(crate) fn tick(&mut self) {
        if let Self::Sink(sink) = self
            && let Err(error) = sink.tick()
        {
            warn!(%error, "the output cannot be refreshed");
        }
    }
}
