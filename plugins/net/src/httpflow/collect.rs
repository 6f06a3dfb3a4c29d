//! httpflow's thread: exchanges out of the kernel as they end, points to the host once per interval.
//!
//! It is not the thread of netflow: walking all sockets takes time, in which the ring of a busy host
//! would run full.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bpf::net::abi;
use plugin_api::{Host, Metric};
use plugin_support::clock::unix_time_ns;
use plugin_support::iter::Iterator;
use plugin_support::loader::Loaded;
use plugin_support::map::Number;
use plugin_support::process::Processes;
use plugin_support::ring::Ring;
use plugin_support::worker::Waiter;

use super::aggregate::Aggregate;
use super::decode::{self, Exchange, Kind, Part, Read};
use super::follow::{Follow, FollowCounts};
use super::point;
use crate::batches;
use crate::config::Config;
use crate::decode::DecodeError;
use crate::domains::Domains;
use crate::probes::{WALK_HTTP, WALK_HTTP_OF_FILES};

/// Walks for one report at most, each of which fills half a ring: enough for a million connections.
/// What is left is reported the next time.
const MOST_WALKS: usize = 64;

/// Connections in doubt that are remembered: far more than are at any time.
const MOST_DOUBTFUL: usize = 4096;

/// What happened, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    exchanges: AtomicU64,
    not_understood: AtomicU64,
    undecodable: AtomicU64,
    /// On connections that are followed here.
    pieces_not_understood: AtomicU64,
    connections_refused: AtomicU64,
    summaries_refused: AtomicU64,
    paths_merged: AtomicU64,
}

impl Counts {
    /// `not_understood` and `lost`: what the kernel side has counted itself.
    pub(crate) fn metrics(&self, not_understood: u64, lost: u64, refused: u64) -> Vec<Metric> {
        let counted = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        [
            ("http_exchanges", "HTTP exchanges seen.", counted(&self.exchanges)),
            (
                "http_lost",
                "HTTP exchanges, or packets of HTTP connections, that found their ring full.",
                lost,
            ),
            (
                "http_not_understood",
                "HTTP requests and responses that could not be told or paired.",
                not_understood
                    + counted(&self.not_understood)
                    + counted(&self.pieces_not_understood),
            ),
            (
                "http_connections_refused",
                "Connections with HTTP for which there was no room.",
                refused + counted(&self.connections_refused),
            ),
            (
                "http_summaries_refused",
                "HTTP exchanges that found the table of an interval full.",
                counted(&self.summaries_refused),
            ),
            (
                "http_paths_merged",
                "Paths that are reported under a common name.",
                counted(&self.paths_merged),
            ),
            (
                "http_records_undecodable",
                "Kernel records of HTTP that made no sense.",
                counted(&self.undecodable),
            ),
        ]
        .map(|(name, help, value)| Metric::counter(name, help, value))
        .into()
    }
}

pub(crate) struct Collector {
    host: Host,
    interval: Duration,
    incoming: Ring,
    outgoing: Ring,
    pieces: Ring,
    follow: Follow,
    /// Connections on which the next request may be the rest of the one before.
    doubtful: HashSet<u64>,
    /// `None` where idle connections cannot be walked; the verdicts say why.
    walk: Option<Iterator>,
    walks: u32,
    walk_number: Number,
    aggregate: Aggregate,
    /// As the thread of dnsflow learns them.
    domains: Arc<Mutex<Domains>>,
    processes: Processes,
    counts: Arc<Counts>,
}

impl Collector {
    pub(crate) fn new(
        loaded: &mut Loaded,
        config: &Config,
        host: Host,
        domains: Arc<Mutex<Domains>>,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let walk = if loaded.is_loaded(WALK_HTTP) {
            loaded.iterator(WALK_HTTP, Some("http_conns"))
        } else {
            loaded.iterator(WALK_HTTP_OF_FILES, None)
        };
        let walk = walk
            .inspect_err(
                |error| log::warn!(error:% = format!("{error:#}"); "idle HTTP connections are not walked"),
            )
            .ok();
        Ok(Self {
            host,
            interval: config.interval,
            incoming: loaded.ring("http_incoming")?,
            outgoing: loaded.ring("http_outgoing")?,
            pieces: loaded.ring("http_pieces")?,
            follow: Follow::default(),
            doubtful: HashSet::new(),
            walk,
            walks: 0,
            walk_number: loaded.number("http_walk_number")?,
            aggregate: Aggregate::new(
                config.include_loopback,
                config.ephemeral_port,
                config.http_paths,
            ),
            domains,
            processes: Processes::default(),
            counts,
        })
    }

    /// Runs until it is told to stop, and reports a last time then.
    pub(crate) fn run(mut self, waiter: &Waiter) -> Result<()> {
        for ring in [&self.incoming, &self.outgoing, &self.pieces] {
            waiter.watch(ring.as_fd()).context("watch a ring")?;
        }
        self.aggregate.refresh_nat(&self.host);
        let mut due = Instant::now() + self.interval;
        while waiter.wait(due).context("wait for records")? {
            let is_due = Instant::now() >= due;
            if is_due {
                self.aggregate.refresh_nat(&self.host);
            }
            self.drain();
            if is_due {
                self.walk();
                self.report();
                due = (due + self.interval).max(Instant::now());
            }
        }
        self.aggregate.refresh_nat_unless_held(&self.host);
        // What was quiet at the first walk is let go of by the second.
        self.walk();
        self.walk();
        let Self { follow, aggregate, counts, .. } = &mut self;
        follow.end(&mut |exchange| add(aggregate, counts, exchange));
        self.report();
        Ok(())
    }

    fn walk(&mut self) {
        if let Err(error) = self.try_walk() {
            log::warn!(error:%; "could not walk HTTP connections, next interval tries again");
        }
    }

    /// Fetches what the kernel side has added up. A ring that is half full means that the walk has
    /// left some out.
    fn try_walk(&mut self) -> Result<()> {
        self.walks = self.walks.wrapping_add(1).max(1);
        self.walk_number.set(self.walks)?;
        for _ in 0..MOST_WALKS {
            self.drain();
            let Some(walk) = &mut self.walk else { break };
            walk.run_silent()?;
            if self.drain() < abi::HTTP_EXCHANGES_BYTES as usize / 2 {
                break;
            }
        }
        Ok(())
    }

    /// Gives how much the fuller ring of exchanges held, in bytes.
    fn drain(&mut self) -> usize {
        let Self { incoming, outgoing, pieces, follow, doubtful, aggregate, counts, .. } = self;
        if doubtful.len() > MOST_DOUBTFUL {
            doubtful.clear();
        }
        let mut each = |record: &[u8]| match decode::exchange(record) {
            Ok((cookie, _)) if !doubtful.is_empty() && doubtful.remove(&cookie) => {
                one_more(&counts.not_understood);
            }
            Ok((_, Read::Exchange(exchange))) => add(aggregate, counts, &exchange),
            Ok((_, Read::Crowded(exchange))) => {
                add(aggregate, counts, &exchange);
                more(&counts.not_understood, exchange.count);
            }
            Ok((cookie, Read::Cut { first, count })) => {
                add(aggregate, counts, &first);
                more(&counts.not_understood, count - 1);
                doubtful.insert(cookie);
            }
            Ok((_, Read::WithoutPath)) => {}
            Ok((_, Read::NotUnderstood)) => one_more(&counts.not_understood),
            Err(error) => undecodable(counts, &error),
        };
        let drained = incoming.drain(&mut each).max(outgoing.drain(&mut each));
        pieces.drain(|record| match decode::part(record) {
            Ok(Part { kind: Kind::Earlier(_), cookie, .. }) if doubtful.remove(&cookie) => {
                one_more(&counts.not_understood);
            }
            Ok(part) => follow.observe(&part, &mut |exchange| add(aggregate, counts, exchange)),
            Err(error) => undecodable(counts, &error),
        });
        drained
    }

    fn report(&mut self) {
        self.drain();
        let Self { follow, aggregate, counts, .. } = self;
        follow.expire(&mut |exchange| add(aggregate, counts, exchange));
        let FollowCounts { not_understood, refused } = follow.counts();
        counts.pieces_not_understood.store(not_understood, Ordering::Relaxed);
        counts.connections_refused.store(refused, Ordering::Relaxed);
        let flush = self.aggregate.flush();
        self.counts.summaries_refused.fetch_add(flush.refused, Ordering::Relaxed);
        self.counts.paths_merged.store(self.aggregate.merged(), Ordering::Relaxed);
        let time_ns = unix_time_ns();
        let domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        batches::send(&self.host, point::FEED, flush.each(), |points, summary| {
            point::httpflow(points, &self.processes, &domains, summary, time_ns);
        });
    }
}

fn add(aggregate: &mut Aggregate, counts: &Counts, exchange: &Exchange<'_>) {
    more(&counts.exchanges, exchange.count);
    aggregate.observe(exchange);
}

fn one_more(counter: &AtomicU64) {
    more(counter, 1);
}

fn more(counter: &AtomicU64, by: u64) {
    // This thread is the only one that writes, and a locked instruction per exchange adds up.
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

fn undecodable(counts: &Counts, error: &DecodeError) {
    one_more(&counts.undecodable);
    log::debug!(error:%; "undecodable record");
}
