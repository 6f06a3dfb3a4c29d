//! Where plugins put points, from any thread, and where the pipeline takes them out. Nobody who
//! puts waits: what finds it full is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};
use plugin_api::Points;
use tracing::warn;

use crate::pipeline::Treatment;
use crate::pipeline::ledger::{Account, DropReason};

/// Batches that may wait: one full report of the busiest plugin, which comes all at once.
const BATCHES: usize = 160;

/// Where plugins put points.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: Sender<Item>,
    is_overflowing: Arc<AtomicBool>,
}

/// What comes out.
pub(crate) enum Item {
    Batch(Points, Arc<Account>),
    Change(Box<Treatment>),
    End,
}

/// The other end of an inbox.
pub(crate) struct Delivery {
    receiver: Receiver<Item>,
}

impl Inbox {
    pub(crate) fn new() -> (Self, Delivery) {
        let (sender, receiver) = flume::bounded(BATCHES);
        (Self { sender, is_overflowing: Arc::default() }, Delivery { receiver })
    }

    /// Says that nothing follows, once there is room to say it. False if nobody listens.
    pub(crate) fn end(&self) -> bool {
        self.sender.send(Item::End).is_ok()
    }

    /// Says that what follows is to be treated differently, once there is room to say it. False
    /// if nobody listens.
    pub(crate) fn change(&self, treatment: Treatment) -> bool {
        self.sender.send(Item::Change(Box::new(treatment))).is_ok()
    }

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

impl Delivery {
    /// The next item; `None` when there was none for as long as `patience`, if it is limited.
    pub(crate) fn next(&self, patience: Option<Duration>) -> Option<Item> {
        let Some(patience) = patience else {
            return Some(self.receiver.recv().unwrap_or(Item::End));
        };
        match self.receiver.recv_timeout(patience) {
            Ok(item) => Some(item),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Item::End),
        }
    }
}
