//! The plugin's thread: records out of the kernel, points to the host.
//!
//! Closed connections and DNS packets come through rings, as they are seen. Everything else is asked
//! for once per interval: first who holds which socket, then what each conversation did.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bpf::net::abi;
use plugin_api::Host;
use plugin_support::clock::{monotonic_ns, unix_time_ns};
use plugin_support::iter::Iterator;
use plugin_support::loader::Loaded;
use plugin_support::map::Number;
use plugin_support::process::Processes;
use plugin_support::ring::Ring;
use plugin_support::worker::Waiter;

use crate::batches;
use crate::config::Config;
use crate::decode::{self, DecodeError, Delta};
use crate::dnsflow::{self, Dnsflow};
use crate::domains::Domains;
use crate::nat::Nat;
use crate::netflow::aggregate::{Aggregate, Flush};
use crate::netflow::point;
use crate::netflow::totals::Totals;
use crate::netflow::udp::Conversations;
use crate::probes::{REPORT_TCP, REPORT_TCP_OF_FILES};

/// Records that fit into the ring of reports.
const fn reports_in_full_ring(record: usize) -> usize {
    abi::TCP_REPORTS_BYTES as usize / (record + abi::RING_HEADER_BYTES as usize)
}

/// Walks for one report at most: enough for a million busy connections. What is left is reported
/// the next time.
const MOST_WALKS: usize = 64;

/// dnsflow is reported at least this often, however long the interval is.
const DNS_INTERVAL: Duration = Duration::from_secs(30);

/// What went wrong on the way, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) undecodable: AtomicU64,
    pub(crate) failed_passes: AtomicU64,
    pub(crate) flows_refused: AtomicU64,
    pub(crate) flow_bytes_refused: AtomicU64,
    pub(crate) dns: Arc<dnsflow::Counts>,
}

pub(crate) struct Collector {
    host: Host,
    interval: Duration,
    scans: u32,
    scan_number: Number,
    /// `None` where the kernel cannot look at the sockets of others.
    scan_sockets: Option<Iterator>,
    closed: Ring,
    tcp_walk: Iterator,
    reports: Ring,
    /// Where records of TCP connections are totals.
    totals: Option<Totals>,
    udp: Conversations,
    nat: Nat,
    aggregate: Aggregate,
    dns_packets: Ring,
    dns: Dnsflow,
    /// Others read them, and wait no longer than one pass over a ring takes.
    domains: Arc<Mutex<Domains>>,
    processes: Processes,
    counts: Arc<Counts>,
}

impl Collector {
    /// Learns what is open already. Probes must be attached.
    pub(crate) fn new(
        loaded: &mut Loaded,
        is_early: bool,
        config: &Config,
        host: Host,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        if !is_early {
            let mut listeners = loaded.iterator("scan_listeners", None)?;
            listeners.run_silent().context("scan for listening sockets")?;
        }
        let mut collector = Self {
            host,
            interval: config.interval,
            scans: 0,
            scan_number: loaded.number("scan_number")?,
            scan_sockets: if is_early {
                None
            } else {
                Some(loaded.iterator("scan_sockets", None)?)
            },
            closed: loaded.ring("tcp_closed")?,
            tcp_walk: if loaded.is_loaded(REPORT_TCP) {
                loaded.iterator(REPORT_TCP, Some("tcp_conns"))?
            } else {
                loaded.iterator(REPORT_TCP_OF_FILES, None)?
            },
            reports: loaded.ring("tcp_reports")?,
            totals: is_early.then(Totals::default),
            udp: Conversations::open(loaded)?,
            nat: Nat::default(),
            aggregate: Aggregate::new(config.include_loopback, config.ephemeral_port),
            dns_packets: loaded.ring("dns_packets")?,
            dns: Dnsflow::new(config, Arc::clone(&counts.dns)),
            domains: Arc::default(),
            processes: Processes::default(),
            counts,
        };
        collector.scan().context("scan for open sockets")?;
        Ok(collector)
    }

    /// Names of addresses, for others that report them.
    pub(crate) fn domains(&self) -> Arc<Mutex<Domains>> {
        Arc::clone(&self.domains)
    }

    /// Runs until it is told to stop, and reports a last time then.
    pub(crate) fn run(mut self, waiter: &Waiter) -> Result<()> {
        waiter.watch(self.closed.as_fd()).context("watch the ring")?;
        waiter.watch(self.dns_packets.as_fd()).context("watch the ring of DNS packets")?;
        let dns_interval = self.interval.min(DNS_INTERVAL);
        let mut due = Instant::now() + self.interval;
        let mut dns_due = Instant::now() + dns_interval;
        while waiter.wait(due.min(dns_due)).context("wait for records")? {
            self.nat.refresh(&self.host);
            self.drain_closed();
            self.drain_dns();
            if Instant::now() >= due {
                self.report();
                due = (due + self.interval).max(Instant::now());
            }
            if Instant::now() >= dns_due {
                self.report_dns();
                dns_due = (dns_due + dns_interval).max(Instant::now());
            }
        }
        self.nat.refresh_unless_held(&self.host);
        // A walk leaves out, once, what nobody is known to hold yet. Nothing comes after this report.
        self.walk_tcp();
        self.report();
        self.report_dns();
        Ok(())
    }

    fn report(&mut self) {
        let scanned = self.scan();
        self.note("scan for open sockets", scanned);
        self.walk_tcp();
        let Self { udp, nat, aggregate, counts, .. } = self;
        let read = udp.read(|decoded| observe(nat, aggregate, counts, decoded));
        self.note("read UDP counters", read.map_err(Into::into));
        self.drain_closed();
        // What the flows are named by.
        self.drain_dns();
        let flush = self.aggregate.flush();
        self.send(&flush);
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        domains.age(monotonic_ns());
    }

    fn walk_tcp(&mut self) {
        let read = self.read_tcp();
        self.note("read TCP counters", read.map_err(Into::into));
    }

    fn report_dns(&mut self) {
        self.drain_dns();
        let flows = self.dns.flush(monotonic_ns());
        let time_ns = unix_time_ns();
        batches::send(&self.host, dnsflow::point::FEED, &flows, |points, (key, stats)| {
            dnsflow::point::dnsflow(points, key, stats, time_ns);
        });
    }

    /// Who holds which socket.
    fn scan(&mut self) -> Result<()> {
        self.scans = self.scans.wrapping_add(1);
        self.scan_number.set(self.scans)?;
        if let Some(totals) = &mut self.totals {
            totals.begin_scan(self.scans);
        }
        if let Some(scan_sockets) = &mut self.scan_sockets {
            scan_sockets.run_silent()?;
        }
        Ok(())
    }

    fn drain_closed(&mut self) {
        let Self { closed, totals, nat, aggregate, counts, .. } = self;
        closed.drain(|record| observe_tcp(totals.as_mut(), nat, aggregate, counts, record));
    }

    fn drain_dns(&mut self) {
        let Self { dns_packets, dns, domains, counts, .. } = self;
        let mut domains = domains.lock().unwrap_or_else(PoisonError::into_inner);
        dns_packets.drain(|record| dns.observe(record, &mut domains));
        counts.dns.domains_evicted.store(domains.evicted(), Ordering::Relaxed);
    }

    /// A ring that a walk has filled means that there is more to report.
    fn read_tcp(&mut self) -> io::Result<()> {
        let Self { tcp_walk, reports, totals, nat, aggregate, counts, .. } = self;
        let full = reports_in_full_ring(match totals {
            Some(_) => size_of::<abi::tcp_total>(),
            None => size_of::<abi::tcp_delta>(),
        });
        for _ in 0..MOST_WALKS {
            tcp_walk.run_silent()?;
            let mut read = 0;
            reports.drain(|record| {
                read += 1;
                observe_tcp(totals.as_mut(), nat, aggregate, counts, record);
            });
            if read < full {
                break;
            }
        }
        Ok(())
    }

    fn send(&self, flush: &Flush) {
        let Flush { flows, refused, refused_bytes } = flush;
        self.counts.flows_refused.fetch_add(*refused, Ordering::Relaxed);
        self.counts.flow_bytes_refused.fetch_add(*refused_bytes, Ordering::Relaxed);
        let time_ns = unix_time_ns();
        let domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        batches::send(&self.host, point::FEED, flows, |points, (key, stats)| {
            point::netflow(points, &self.processes, &domains, key, stats, time_ns);
        });
    }

    fn note(&self, attempt: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.counts.failed_passes.fetch_add(1, Ordering::Relaxed);
            log::warn!(error:% = format!("{error:#}"); "could not {attempt}, next interval tries again");
        }
    }
}

fn observe_tcp(
    totals: Option<&mut Totals>,
    nat: &Nat,
    aggregate: &mut Aggregate,
    counts: &Counts,
    record: &[u8],
) {
    let Some(totals) = totals else {
        return observe(nat, aggregate, counts, decode::tcp(record));
    };
    let decoded = decode::tcp_total(record).map(|(cookie, mut delta)| {
        let has_room = totals.subtract(cookie, &mut delta);
        (delta, has_room)
    });
    match decoded {
        Ok((delta, true)) if delta.is_nothing() => {}
        Ok((delta, false)) => {
            // Once, and not with each of its reports.
            if delta.tcp.is_some_and(|tcp| tcp.closed) {
                counts.flows_refused.fetch_add(1, Ordering::Relaxed);
                let bytes = (delta.sent + delta.received).unsigned_abs();
                counts.flow_bytes_refused.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        decoded => observe(nat, aggregate, counts, decoded.map(|(delta, _)| delta)),
    }
}

fn observe(
    nat: &Nat,
    aggregate: &mut Aggregate,
    counts: &Counts,
    decoded: Result<Delta, DecodeError>,
) {
    match decoded {
        Ok(mut delta) => {
            delta.translated = nat.destination(&delta);
            aggregate.observe(&delta);
        }
        Err(error) => {
            counts.undecodable.fetch_add(1, Ordering::Relaxed);
            log::debug!(error:%; "undecodable record");
        }
    }
}
