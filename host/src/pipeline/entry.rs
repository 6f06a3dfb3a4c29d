//! A request on its way, wherever it waits. Its points are entered into the ledger exactly once.

use std::sync::Arc;

use crate::pipeline::encode::Request;
use crate::pipeline::ledger::{Account, DropReason};
use crate::pipeline::spool::{self, Spool};

/// A request, and whose points it carries. Ends with one of its methods. Dropped without, it is
/// lost in the shutdown, unless it is on disk: there it waits for the next start.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) request: Request,
    account: Option<Arc<Account>>,
    on_disk: Option<(Arc<Spool>, spool::Entry)>,
}

impl Entry {
    /// A request in memory.
    pub(crate) fn new(request: Request, account: Arc<Account>) -> Self {
        Self { request, account: Some(account), on_disk: None }
    }

    /// The oldest request of a spool.
    pub(crate) fn spooled(spool: Arc<Spool>, entry: spool::Entry, account: Arc<Account>) -> Self {
        let request = entry.request.clone();
        Self { request, account: Some(account), on_disk: Some((spool, entry)) }
    }

    /// Takes it off the disk, so that the spool goes on to the next one.
    pub(crate) fn keep_in_memory(&mut self) {
        if let Some((spool, entry)) = self.on_disk.take() {
            spool.commit(&entry);
            if let Some(account) = &self.account {
                account.take_off_disk(self.request.points);
            }
        }
    }

    pub(crate) fn is_on_disk(&self) -> bool {
        self.on_disk.is_some()
    }

    pub(crate) fn uploaded(mut self) {
        self.keep_in_memory();
        if let Some(account) = self.account.take() {
            account.uploaded(self.request.points);
        }
    }

    pub(crate) fn dropped(mut self, reason: DropReason) {
        self.keep_in_memory();
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
        if self.on_disk.is_none() {
            self.settle(DropReason::Shutdown);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Entry;
    use crate::pipeline::encode::Request;
    use crate::pipeline::ledger::{Account, DropReason};
    use std::sync::Arc;

    /// An emitted point in a request of about a thousand bytes.
    pub(crate) fn entry(name: &str, account: &Arc<Account>) -> Entry {
        account.emitted(1);
        let body = vec![0; 1000].into();
        let target = name.to_owned();
        let request = Request { target, content_type: None, is_gzip: false, body, points: 1 };
        Entry::new(request, Arc::clone(account))
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
