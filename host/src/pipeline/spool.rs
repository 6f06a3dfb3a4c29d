//! Encoded requests on disk, first in, first out, until they are delivered: in come requests from
//! the pipeline, out goes the oldest to the uploader. Both may be restarted in between. Nothing is
//! sent or entered into the ledger here; what is lost is reported to the caller, once.
//!
//! Delivery is *at least once*. A request stays on disk until it is committed, and each commit
//! writes the position, so a killed process repeats at most the one request that was under way.
//! What is handed to the kernel survives `kill -9`. It is synced where a segment ends and at
//! [`Spool::close`]; a power loss may therefore take what the last segment holds, and may undo
//! recent commits, whose requests are sent again.
//!
//! | module | what it knows |
//! | --- | --- |
//! | `folder` | which files are ours, and that we are alone |
//! | `log` | the segments in order, and the request under way |
//! | `segment` | one file, and what of it is not yet delivered |
//! | `record` | the bytes of one request |
//! | `position` | how far delivery has come |

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tracing::warn;

use crate::pipeline::encode::Request;

mod folder;
mod log;
mod position;
mod record;
mod segment;
#[cfg(test)]
mod tests;

use folder::Folder;
use log::Log;

/// Requests to drop at once when there is no room: a sixteenth of them, at most this much.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Points that will not be delivered, and whose they are.
pub(crate) type Dropped = Vec<(String, usize)>;

/// The spool. One thread pushes, another takes; neither waits for more than a read or a write.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: Folder,
    cap_bytes: u64,
    log: Mutex<Log>,
}

/// What an earlier process left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) requests: usize,
    /// By plugin: they are waiting, and no account of this process has heard of them.
    pub(crate) points: BTreeMap<String, usize>,
    /// Cut off: one for a torn end. At least that many if the middle of a segment is damaged:
    /// what follows cannot be told apart.
    pub(crate) lost_records: usize,
    pub(crate) lost_bytes: u64,
}

/// A request that was pushed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PushOutcome {
    /// The oldest, which made room; or this one, if it is larger than the spool.
    pub(crate) dropped: Dropped,
}

/// The answer of [`Spool::next`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) entry: Option<Entry>,
    /// Found damaged on the way to it, and gone.
    pub(crate) damaged: Dropped,
}

/// The oldest request. It is in the spool until it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) plugin: String,
    pub(crate) request: Request,
    /// Counts what was taken, so that an entry settles nothing but itself.
    ticket: u64,
}

impl Spool {
    /// Opens the spool in `dir`, which is created if need be, and cuts off what cannot be read.
    /// Reads the head of each waiting record, not the bodies.
    pub(crate) fn open(dir: &Path, cap_bytes: u64) -> Result<(Self, Recovered)> {
        let folder = Folder::open(dir)?;
        let segment_bytes = (cap_bytes / 16).min(SEGMENT_BYTES);
        let (log, recovered) = Log::recover(dir, folder.segments()?, segment_bytes)
            .with_context(|| format!("open the spool {}", dir.display()))?;
        Ok((Self { folder, cap_bytes, log: Mutex::new(log) }, recovered))
    }

    /// Appends a request; until it is written, the cap may be exceeded by it. After an error (a
    /// full disk, say) nothing that waits is lost, and the request is the caller's.
    pub(crate) fn push(&self, plugin: &str, request: &Request) -> Result<PushOutcome> {
        let head = record::head(plugin, request)?;
        if (head.len() + request.body.len()) as u64 > self.cap_bytes {
            return Ok(PushOutcome { dropped: vec![(plugin.to_owned(), request.points)] });
        }
        let (outcome, finished) = {
            let mut log = self.log();
            let outcome = log
                .append(plugin, request, &head)
                .map(|()| PushOutcome { dropped: log.make_room(self.cap_bytes) });
            (outcome, log.finished())
        };
        // Not under the lock: the uploader need not wait for the disk.
        if let Some(finished) = finished {
            self.sync(&finished);
        }
        outcome
    }

    /// The oldest request that is not settled, the same one until it is. An error means that it
    /// could not be read now and may be later.
    pub(crate) fn next(&self) -> Result<Next> {
        self.log().next()
    }

    /// It is delivered, or never will be: forgets it.
    pub(crate) fn commit(&self, entry: &Entry) {
        self.log().settle(entry);
    }

    /// Requests that wait, the one under way among them.
    pub(crate) fn len(&self) -> usize {
        self.log().requests()
    }

    /// Bytes on disk, which is what the cap is for.
    pub(crate) fn bytes(&self) -> u64 {
        self.log().bytes()
    }

    /// Points that wait, those under way among them.
    pub(crate) fn points(&self) -> usize {
        self.log().points()
    }

    /// Makes everything durable. Returns what will not be there at the next start: a request under
    /// way that has made room in the meantime.
    pub(crate) fn close(&self) -> Dropped {
        let mut log = self.log();
        if let Some(file) = log.seal() {
            self.sync(&file);
        }
        log.forget_homeless()
    }

    /// An error costs durability, and only after a power loss: no reason to stop.
    fn sync(&self, file: &File) {
        if let Err(error) = file.sync_data().and_then(|()| self.folder.sync()) {
            warn!(%error, "the spool cannot be synced");
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
