//! Where every point went. Per plugin, at any moment:
//! emitted = sampled out + uploaded + queued + dropped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use tracing::warn;

use crate::pipeline::in_flight::{InFlight, Line};

/// Why a point was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DropReason {
    /// The pipeline did not keep up with the plugins.
    InboxFull,
    /// The receiver did not keep up, or was away; the oldest points went first.
    QueueFull,
    /// The receiver will never take them.
    Rejected,
    /// A plugin's process sent something that makes no point.
    Malformed,
    /// The process before this one has crashed with them.
    Crash,
    /// The disk gave something else back than it was given.
    Damaged,
    /// The output could not be written.
    OutputFailed,
    /// The process ended before they could be delivered.
    Shutdown,
}

impl DropReason {
    /// As in `/metrics`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::InboxFull => "inbox_full",
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::Malformed => "malformed",
            Self::Crash => "crash",
            Self::Damaged => "damaged",
            Self::OutputFailed => "output_failed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What became of points so far.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) emitted: u64,
    /// Left out on purpose.
    pub(crate) sampled_out: u64,
    pub(crate) uploaded: u64,
    pub(crate) queued: u64,
    pub(crate) dropped: BTreeMap<DropReason, u64>,
}

/// One plugin's part of the ledger.
#[derive(Debug, Default)]
pub(crate) struct Account {
    plugin: String,
    tally: Mutex<Tally>,
    /// Points that are queued on disk, where a crash does not reach them.
    on_disk: AtomicU64,
    /// Where to note how many a crash would lose, if that is noted.
    in_flight: Option<(Arc<InFlight>, Line)>,
}

impl Account {
    /// Whose it is.
    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// A plugin has handed over `points`.
    pub(crate) fn emitted(&self, points: usize) {
        self.change(|tally| {
            tally.emitted += points as u64;
            tally.queued += points as u64;
        });
    }

    /// They are on disk from now on.
    pub(crate) fn put_on_disk(&self, points: usize) {
        self.on_disk.fetch_add(points as u64, Ordering::Relaxed);
        self.change(|_| {});
    }

    /// They are on disk no more. What becomes of them is entered next.
    pub(crate) fn take_off_disk(&self, points: usize) {
        self.on_disk.fetch_sub(points as u64, Ordering::Relaxed);
    }

    /// They are left out on purpose.
    pub(crate) fn sampled_out(&self, points: usize) {
        self.change(|tally| {
            tally.queued -= points as u64;
            tally.sampled_out += points as u64;
        });
    }

    /// They have arrived.
    pub(crate) fn uploaded(&self, points: usize) {
        self.change(|tally| {
            tally.queued -= points as u64;
            tally.uploaded += points as u64;
        });
    }

    /// They never will.
    pub(crate) fn dropped(&self, points: usize, reason: DropReason) {
        self.change(|tally| {
            tally.queued -= points as u64;
            *tally.dropped.entry(reason).or_default() += points as u64;
        });
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut tally);
        if let Some((file, line)) = &self.in_flight {
            let on_disk = self.on_disk.load(Ordering::Relaxed);
            file.set(line, &self.plugin, tally.queued.saturating_sub(on_disk));
        }
    }
}

/// The accounts of all plugins.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: Mutex<BTreeMap<String, Arc<Account>>>,
    in_flight: OnceLock<Arc<InFlight>>,
}

impl Ledger {
    /// Accounts that are opened from now on note in `file` what a crash would lose.
    pub(crate) fn note_in(&self, file: InFlight) {
        if self.in_flight.set(Arc::new(file)).is_err() {
            warn!("what a crash would lose is noted elsewhere already");
        }
    }

    /// The account of `plugin`, opened if there is none.
    pub(crate) fn account(&self, plugin: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || {
            let in_flight = self.in_flight.get().map(|file| (Arc::clone(file), file.line()));
            Arc::new(Account { plugin: plugin.to_owned(), in_flight, ..Account::default() })
        };
        Arc::clone(accounts.entry(plugin.to_owned()).or_insert_with(open))
    }

    /// All tallies, by plugin.
    pub(crate) fn tallies(&self) -> BTreeMap<String, Tally> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().map(|(plugin, account)| (plugin.clone(), account.tally())).collect()
    }

    /// The sum over all plugins.
    pub(crate) fn total(&self) -> Tally {
        self.tallies().into_values().fold(Tally::default(), |mut sum, tally| {
            sum.emitted += tally.emitted;
            sum.sampled_out += tally.sampled_out;
            sum.uploaded += tally.uploaded;
            sum.queued += tally.queued;
            for (reason, points) in tally.dropped {
                *sum.dropped.entry(reason).or_default() += points;
            }
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{DropReason, Ledger};

    #[test]
    fn every_point_is_in_exactly_one_place() {
        let ledger = Ledger::default();
        let (one, other) = (ledger.account("one"), ledger.account("other"));
        one.emitted(10);
        one.uploaded(4);
        one.dropped(2, DropReason::QueueFull);
        one.sampled_out(1);
        other.emitted(5);
        other.dropped(5, DropReason::Rejected);
        let total = ledger.total();
        assert_eq!((total.emitted, total.uploaded, total.queued), (15, 4, 3));
        let elsewhere = total.sampled_out + total.queued + total.dropped.values().sum::<u64>();
        assert_eq!(total.emitted, total.uploaded + elsewhere);
        assert_eq!(ledger.tallies()["other"].dropped[&DropReason::Rejected], 5);
    }
}
