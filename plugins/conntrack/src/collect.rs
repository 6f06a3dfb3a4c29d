//! The plugin's thread: what conntrack says, into the table.
//!
//! Events are read as they come. Namespaces are looked for every few seconds, and at once when
//! the kernel hints at a new one. A namespace is dumped when it is new, after events were lost,
//! and from time to time while it holds connections whose end the kernel may not tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plugin_support::worker::Waiter;

use crate::decode::{DecodeError, Message};
use crate::netlink::{self, Events, Route};
use crate::netns;
use crate::table::{Outcome, Source, Table};

/// Time between two looks for namespaces.
const LOOK: Duration = Duration::from_secs(5);

/// A hint leads to a look after this, so that a new namespace is complete, but not sooner than
/// that after the last one.
const HINT: Duration = Duration::from_millis(100);
const LOOK_SOONEST: Duration = Duration::from_secs(1);

/// Numbers of namespaces that could not be found, remembered at most.
const MOST_UNPLACED: usize = 4096;

/// Time between two dumps of a namespace that needs them.
const DUMP_AGAIN: Duration = Duration::from_secs(30);

/// Time until a dump that failed, or that the kernel says is not whole, is tried again.
const DUMP_SOON: Duration = Duration::from_secs(1);

/// Dumps in a row take so long at most; events must not wait longer.
const DUMPS_IN_A_ROW: Duration = Duration::from_millis(500);

/// What happened, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) namespaces: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) namespaces_refused: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) events_lost: AtomicU64,
    pub(crate) events_unplaced: AtomicU64,
    pub(crate) overruns: AtomicU64,
    pub(crate) overruns_healed: AtomicU64,
    pub(crate) dumps: AtomicU64,
    pub(crate) dumps_failed: AtomicU64,
    pub(crate) undecodable: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Counts {
    fn add(cell: &AtomicU64, count: u64) {
        cell.fetch_add(count, Ordering::Relaxed);
    }
}

pub(crate) struct Collector {
    own: u32,
    events: Events,
    route: Route,
    table: Table,
    namespaces: BTreeMap<u32, Namespace>,
    by_nsid: HashMap<i32, u32>,
    /// Events come from them, and a look has not found them.
    unplaced: HashSet<i32>,
    last_look: Instant,
    next_look: Instant,
    /// Overruns that nothing was done about yet, and those that the dumps in progress heal.
    overruns: u64,
    healing: u64,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Namespace {
    nsid: Option<i32>,
    /// `None`: events tell all that happens there.
    next_dump: Option<Instant>,
    /// It cannot be dumped, which was said already.
    failing: bool,
}

/// What is learned inside a namespace.
struct Inside {
    whole: bool,
    tells_events: bool,
}

impl Collector {
    /// Learns what is there. `events` must be open, so that nothing is missed in between.
    pub(crate) fn new(events: Events, table: Table, counts: Arc<Counts>) -> Result<Self> {
        let mut collector = Self {
            own: netns::own()?,
            events,
            route: Route::open()?,
            table,
            namespaces: BTreeMap::new(),
            by_nsid: HashMap::new(),
            unplaced: HashSet::new(),
            last_look: Instant::now(),
            next_look: Instant::now(),
            overruns: 0,
            healing: 0,
            counts,
        };
        // Where this fails, nothing works; elsewhere the next look tries again.
        collector.visit(collector.own, Path::new(netns::OWN))?;
        collector.look();
        collector.show();
        Ok(collector)
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self, waiter: &Waiter) -> Result<()> {
        waiter.watch(self.events.as_fd()).context("watch conntrack events")?;
        waiter.watch(self.route.as_fd()).context("watch network namespaces")?;
        let mut more = true;
        loop {
            let deadline = if more { Instant::now() } else { self.deadline() };
            if !waiter.wait(deadline).context("wait for events")? {
                return Ok(());
            }
            self.follow_namespaces();
            more = self.read_events();
            if self.next_look <= Instant::now() {
                self.look();
            }
            let expired = self.table.expire(Instant::now());
            self.note("remove connections that are gone", expired.map_err(Into::into));
            self.show();
        }
    }

    fn deadline(&self) -> Instant {
        self.table.next_expiry().map_or(self.next_look, |expiry| expiry.min(self.next_look))
    }

    /// Returns whether there is more to read.
    fn read_events(&mut self) -> bool {
        let Self { own, events, table, by_nsid, unplaced, counts, .. } = self;
        let now = Instant::now();
        let mut hint = false;
        let drained = events.drain(|nsid, message| {
            Counts::add(&counts.events, 1);
            let Some(netns) = nsid.map_or(Some(*own), |nsid| by_nsid.get(&nsid).copied()) else {
                // A namespace that was not seen yet: it is dumped when it is found.
                Counts::add(&counts.events_unplaced, 1);
                let nsid = nsid.unwrap_or_default();
                hint |= unplaced.len() < MOST_UNPLACED && unplaced.insert(nsid);
                return;
            };
            apply(table, counts, netns, message, Source::Event, now);
        });
        if hint {
            self.hint();
        }
        match drained {
            Ok(drained) => {
                if drained.overrun {
                    Counts::add(&self.counts.overruns, 1);
                    self.overruns += 1;
                    log::warn!("conntrack events were lost, all connections are read again");
                }
                // The kernel loses everything until all that waits was read.
                if self.overruns > 0 && !drained.more {
                    self.count_lost();
                    self.healing += std::mem::take(&mut self.overruns);
                    for namespace in self.namespaces.values_mut() {
                        namespace.next_dump = Some(now);
                    }
                    self.next_look = now;
                }
                drained.more
            }
            Err(error) => {
                self.note("read conntrack events", Err(error.into()));
                false
            }
        }
    }

    /// There may be a new namespace.
    fn hint(&mut self) {
        let soon = (Instant::now() + HINT).max(self.last_look + LOOK_SOONEST);
        self.next_look = self.next_look.min(soon);
    }

    fn count_lost(&self) {
        if let Some(lost) = self.events.lost() {
            self.counts.events_lost.store(lost, Ordering::Relaxed);
        }
    }

    /// Forgets namespaces that are gone, and looks for new ones soon when there may be some.
    fn follow_namespaces(&mut self) {
        let mut gone = Vec::new();
        if self.route.drain(|nsid| gone.push(nsid)) {
            self.hint();
        }
        for nsid in gone {
            self.unplaced.remove(&nsid);
            let Some(netns) = self.by_nsid.remove(&nsid) else { continue };
            self.namespaces.remove(&netns);
            let swept = self.table.sweep(netns, self.table.mark(), Instant::now());
            self.note("remove a network namespace", swept.map(drop).map_err(Into::into));
        }
    }

    /// Looks for namespaces, and dumps those that need it.
    fn look(&mut self) {
        self.last_look = Instant::now();
        let (found, refused) = netns::find();
        Counts::add(&self.counts.namespaces_refused, refused);
        let (began, mut in_time) = (Instant::now(), true);
        for (netns, path) in &found {
            let due = self
                .namespaces
                .get(netns)
                .is_none_or(|namespace| namespace.next_dump.is_some_and(|due| due <= began));
            if due && !in_time {
                continue;
            }
            if due {
                let visited = self.visit(*netns, path);
                self.note_failing(*netns, visited);
            }
            in_time = began.elapsed() < DUMPS_IN_A_ROW;
        }
        if in_time {
            Counts::add(&self.counts.overruns_healed, std::mem::take(&mut self.healing));
        }
        // One that is held by a descriptor only cannot be entered now.
        for (netns, namespace) in &mut self.namespaces {
            if !found.contains_key(netns) && namespace.next_dump.is_some() {
                namespace.next_dump = Some(began + DUMP_AGAIN);
            }
        }
        let dumps = self.namespaces.values().filter_map(|namespace| namespace.next_dump);
        let soonest = self.last_look + LOOK_SOONEST;
        self.next_look = match dumps.min() {
            _ if !in_time => Instant::now(),
            Some(dump) if dump < self.last_look + LOOK => dump.max(soonest),
            _ => self.last_look + LOOK,
        };
    }

    fn visit(&mut self, netns: u32, path: &Path) -> Result<()> {
        let file = netns::open(netns, path)?;
        let is_own = netns == self.own;
        let nsid = netlink::nsid(&file, !is_own)?;
        if let Some(nsid) = nsid {
            self.by_nsid.insert(nsid, netns);
            self.unplaced.remove(&nsid);
        }
        self.namespaces.entry(netns).or_insert(Namespace { nsid, next_dump: None, failing: false });
        self.dump(netns, (!is_own).then_some(&file))
    }

    /// Dumps a namespace; our own without `file`.
    fn dump(&mut self, netns: u32, file: Option<&File>) -> Result<()> {
        Counts::add(&self.counts.dumps, 1);
        let Self { table, counts, .. } = self;
        let (mark, now) = (table.mark(), Instant::now());
        let mut read = || -> Result<Inside> {
            let tells_events = tells_events(file.is_none());
            // Walking the table of the whole host to find nothing is not cheap.
            if number("nf_conntrack_count") == Some(0) {
                return Ok(Inside { whole: true, tells_events });
            }
            let whole = netlink::dump(|message| {
                apply(table, counts, netns, message, Source::Dump, now);
            })?;
            Ok(Inside { whole, tells_events })
        };
        let Inside { whole, tells_events } = match file {
            Some(file) => netns::enter(file, read)?,
            None => read()?,
        };
        // What is missing in a dump that is not whole may be there all the same.
        let next = if !whole {
            Some(DUMP_SOON)
        } else if self.table.sweep(netns, mark, now)? || !tells_events {
            Some(DUMP_AGAIN)
        } else {
            None
        };
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.next_dump = next.map(|next| now + next);
            namespace.failing = false;
        }
        Ok(())
    }

    fn note_failing(&mut self, netns: u32, outcome: Result<()>) {
        let Err(error) = outcome else { return };
        Counts::add(&self.counts.dumps_failed, 1);
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            // It went away while we looked, or cannot be opened: the next look tries again.
            log::debug!(netns, error:% = format!("{error:#}"); "network namespace not visited");
            return;
        };
        let again = if namespace.failing { DUMP_AGAIN } else { DUMP_SOON };
        namespace.next_dump = Some(Instant::now() + again);
        if !std::mem::replace(&mut namespace.failing, true) {
            log::warn!(netns, nsid:? = namespace.nsid, error:% = format!("{error:#}");
                "connections of a network namespace cannot be read");
        }
    }

    fn note(&self, attempt: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            Counts::add(&self.counts.failed, 1);
            log::warn!(error:% = format!("{error:#}"); "could not {attempt}");
        }
    }

    fn show(&self) {
        let show = |cell: &AtomicU64, value: usize| cell.store(value as u64, Ordering::Relaxed);
        show(&self.counts.connections, self.table.connections());
        show(&self.counts.namespaces, self.namespaces.len());
    }
}

fn apply(
    table: &mut Table,
    counts: &Counts,
    netns: u32,
    message: Result<Message, DecodeError>,
    source: Source,
    now: Instant,
) {
    let done = match message {
        Ok(Message::There(translation)) => table.add(netns, &translation, source),
        Ok(Message::Gone(translation)) => {
            table.end(netns, &translation, now).map(|()| Outcome::Kept)
        }
        Ok(Message::Other | Message::Done | Message::Refused(_)) => return,
        Err(error) => {
            Counts::add(&counts.undecodable, 1);
            log::debug!(error:%; "undecodable message");
            return;
        }
    };
    note_outcome(counts, done);
}

fn note_outcome(counts: &Counts, outcome: io::Result<Outcome>) {
    match outcome {
        Ok(Outcome::Kept) => {}
        Ok(Outcome::Refused) => Counts::add(&counts.refused, 1),
        Err(error) => {
            Counts::add(&counts.failed, 1);
            log::debug!(error:%; "the table could not be changed");
        }
    }
}

/// Whether events of the namespace that this thread is in reach us.
fn tells_events(is_own: bool) -> bool {
    match number("nf_conntrack_events") {
        Some(0) => false,
        // Automatic: from Linux 6.3 on a listener in any namespace counts (fdf6491193e4,
        // "netfilter: ctnetlink: make event listener tracking global").
        Some(2) => is_own || kernel() >= (6, 3),
        _ => true,
    }
}

/// A number below `net.netfilter`, in the namespace that this thread is in.
fn number(name: &str) -> Option<u64> {
    let path = format!("/proc/sys/net/netfilter/{name}");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}
