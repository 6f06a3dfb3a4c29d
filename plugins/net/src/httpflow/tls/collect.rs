//! httpflow-tls's thread: pieces out of the kernel, points to the host once per interval; and a look
//! at who uses a TLS library, when a program starts, and at all of them now and then.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plugin_api::{Host, Metric, ProbeVerdict};
use plugin_support::clock::{monotonic_ns, unix_time_ns};
use plugin_support::loader::Loaded;
use plugin_support::process::Processes;
use plugin_support::ring::Ring;
use plugin_support::worker::Waiter;

use super::super::aggregate::Aggregate;
use super::super::point;
use super::decode;
use super::files::Files;
use super::follow::Sessions;
use crate::batches;
use crate::config::Config;
use crate::domains::Domains;

/// Time between two looks at who uses what.
const LONGEST_SWEEP: Duration = Duration::from_secs(10);
/// A session that was quiet for so long has ended, or begins anew.
const LONGEST_QUIET_NS: u64 = 3600 * 1_000_000_000;

/// What happened, for `/metrics` and `/status`.
#[derive(Debug, Default)]
pub(crate) struct Told {
    files_attached: AtomicU64,
    files_refused: AtomicU64,
    processes_unseen: AtomicU64,
    exchanges: AtomicU64,
    streams_refused: AtomicU64,
    without_socket: AtomicU64,
    not_understood: AtomicU64,
    summaries_refused: AtomicU64,
    undecodable: AtomicU64,
    files: Mutex<Vec<ProbeVerdict>>,
}

impl Told {
    /// Each file with TLS in it that is watched, and which processes cannot be seen.
    pub(crate) fn files(&self) -> Vec<ProbeVerdict> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `lost` and `starts_lost`: what the kernel side has counted itself.
    pub(crate) fn metrics(&self, lost: u64, starts_lost: u64) -> Vec<Metric> {
        let counted = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let counters = [
            ("tls_exchanges", "HTTP exchanges seen through TLS.", counted(&self.exchanges)),
            (
                "tls_pieces_lost",
                "Pieces of TLS sessions that found their ring full, or could not be told.",
                lost,
            ),
            (
                "tls_starts_lost",
                "Starts of programs that found their ring full; the next look finds them.",
                starts_lost,
            ),
            (
                "tls_streams_refused",
                "Pieces of TLS sessions that found the table of sessions full.",
                counted(&self.streams_refused),
            ),
            (
                "tls_without_socket",
                "HTTP exchanges through TLS whose connection never became known.",
                counted(&self.without_socket),
            ),
            (
                "tls_not_understood",
                "HTTP requests and responses through TLS that could not be told or paired.",
                counted(&self.not_understood),
            ),
            (
                "tls_summaries_refused",
                "HTTP exchanges through TLS that found the table of an interval full.",
                counted(&self.summaries_refused),
            ),
            (
                "tls_files_refused",
                "Times that a file with TLS in it was not watched because too many are.",
                counted(&self.files_refused),
            ),
            (
                "tls_records_undecodable",
                "Kernel records of TLS that made no sense.",
                counted(&self.undecodable),
            ),
        ]
        .map(|(name, help, value)| Metric::counter(name, help, value));
        let attached = Metric::gauge(
            "tls_files_attached",
            "Files with TLS in them that programs are attached to.",
            counted(&self.files_attached) as f64,
        );
        let unseen = Metric::gauge(
            "tls_processes_unseen",
            "Processes with TLS that cannot be seen.",
            counted(&self.processes_unseen) as f64,
        );
        counters.into_iter().chain([attached, unseen]).collect()
    }
}

pub(crate) struct Collector {
    host: Host,
    interval: Duration,
    loaded: Arc<Mutex<Loaded>>,
    pieces: Ring,
    starts: Ring,
    files: Files,
    sessions: Sessions,
    aggregate: Aggregate,
    /// As the thread of dnsflow learns them.
    domains: Arc<Mutex<Domains>>,
    processes: Processes,
    told: Arc<Told>,
}

impl Collector {
    /// Attaches to what is used already.
    pub(crate) fn new(
        loaded: Arc<Mutex<Loaded>>,
        config: &Config,
        host: Host,
        domains: Arc<Mutex<Domains>>,
        told: Arc<Told>,
    ) -> Result<Self> {
        let ring = |name| loaded.lock().unwrap_or_else(PoisonError::into_inner).ring(name);
        let (pieces, starts) = (ring("tls_pieces")?, ring("tls_starts")?);
        let mut collector = Self {
            host,
            interval: config.interval,
            loaded,
            pieces,
            starts,
            files: Files::default(),
            sessions: Sessions::default(),
            aggregate: Aggregate::new(
                config.include_loopback,
                config.ephemeral_port,
                config.http_paths,
            ),
            domains,
            processes: Processes::default(),
            told,
        };
        collector.sweep();
        Ok(collector)
    }

    /// Runs until it is told to stop, and reports a last time then.
    pub(crate) fn run(mut self, waiter: &Waiter) -> Result<()> {
        for ring in [&self.pieces, &self.starts] {
            waiter.watch(ring.as_fd()).context("watch a ring")?;
        }
        let sweep = self.interval.min(LONGEST_SWEEP);
        self.aggregate.refresh_nat(&self.host);
        let mut report_due = Instant::now() + self.interval;
        let mut sweep_due = Instant::now() + sweep;
        loop {
            let due = report_due.min(sweep_due);
            let due = self.files.due().map_or(due, |look| look.min(due));
            if !waiter.wait(due).context("wait for records")? {
                break;
            }
            self.look_at_starts();
            let is_due = report_due <= Instant::now();
            if is_due {
                self.aggregate.refresh_nat(&self.host);
            }
            self.drain();
            if sweep_due <= Instant::now() {
                self.sweep();
                sweep_due = Instant::now() + sweep;
            }
            if is_due {
                self.report();
                report_due = (report_due + self.interval).max(Instant::now());
            }
        }
        self.aggregate.refresh_nat_unless_held(&self.host);
        self.drain();
        self.end_where(|_, _| true);
        self.report();
        Ok(())
    }

    fn drain(&mut self) {
        let Self { pieces, sessions, aggregate, told, .. } = self;
        let mut exchanges = 0;
        pieces.drain(|bytes| match decode::record(bytes) {
            Ok(record) => sessions.observe(&record, &mut |exchange| {
                exchanges += 1;
                aggregate.observe(exchange);
            }),
            Err(error) => {
                told.undecodable.fetch_add(1, Ordering::Relaxed);
                log::debug!(error:%; "undecodable record");
            }
        });
        told.exchanges.fetch_add(exchanges, Ordering::Relaxed);
    }

    /// A start is acted upon before anything else: a first request may follow any moment.
    fn look_at_starts(&mut self) {
        let Self { starts, files, told, loaded, .. } = self;
        let mut started = Vec::new();
        starts.drain(|bytes| match decode::start(bytes) {
            Ok(pid) => started.push(pid),
            Err(error) => {
                told.undecodable.fetch_add(1, Ordering::Relaxed);
                log::debug!(error:%; "undecodable record");
            }
        });
        let is_due = files.due().is_some_and(|due| due <= Instant::now());
        if started.is_empty() && !is_due {
            return;
        }
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in started {
            files.started(&mut loaded, pid);
        }
        files.look_again(&mut loaded);
        drop(loaded);
        self.tell_files();
    }

    fn tell_files(&mut self) {
        if !self.files.take_changed() {
            return;
        }
        let Told { files, files_attached, files_refused, processes_unseen, .. } =
            self.told.as_ref();
        *files.lock().unwrap_or_else(PoisonError::into_inner) = self.files.verdicts();
        files_attached.store(self.files.attached() as u64, Ordering::Relaxed);
        files_refused.store(self.files.refused(), Ordering::Relaxed);
        processes_unseen.store(self.files.unseen() as u64, Ordering::Relaxed);
    }

    /// Looks at who uses what, and ends the sessions of those that are gone.
    fn sweep(&mut self) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.files.sweep(&mut loaded) {
            log::warn!(error:% = format!("{error:#}"); "could not look for TLS libraries in use, will try again");
        }
        drop(loaded);
        let now = monotonic_ns();
        let mut gone = self.sessions.processes();
        gone.retain(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        // What they said last may be in the ring still.
        self.drain();
        let quiet_since = now.saturating_sub(LONGEST_QUIET_NS);
        // A process that is there under the same pid by now has said something later.
        self.end_where(|pid, latest_ns| {
            latest_ns < quiet_since || latest_ns < now && gone.contains(&pid)
        });
        self.tell_files();
    }

    fn end_where(&mut self, mut has_ended: impl FnMut(u32, u64) -> bool) {
        let Self { sessions, aggregate, told, .. } = self;
        let mut exchanges = 0;
        let keep = |session: decode::Session, latest_ns: u64| !has_ended(session.pid, latest_ns);
        sessions.retain(keep, &mut |exchange| {
            exchanges += 1;
            aggregate.observe(exchange);
        });
        told.exchanges.fetch_add(exchanges, Ordering::Relaxed);
    }

    fn report(&mut self) {
        self.drain();
        let losses = self.sessions.take_losses();
        let flush = self.aggregate.flush();
        let told = &self.told;
        told.streams_refused.fetch_add(losses.sessions_refused, Ordering::Relaxed);
        told.without_socket.fetch_add(losses.without_socket, Ordering::Relaxed);
        told.not_understood.fetch_add(losses.not_understood, Ordering::Relaxed);
        told.summaries_refused.fetch_add(flush.refused, Ordering::Relaxed);
        let time_ns = unix_time_ns();
        let domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        batches::send(&self.host, point::FEED, flush.each(), |points, summary| {
            point::httpflow(points, &self.processes, &domains, summary, time_ns);
        });
    }
}
