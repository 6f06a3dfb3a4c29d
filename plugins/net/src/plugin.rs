//! The plugin as the host sees it: start, stop, and what it says about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Error, Result};
use bpf::net::{EARLY_OBJECT, OBJECT, abi};
use plugin_api::{Host, Metric, Plugin, PluginError, ProbeVerdict};
use plugin_support::loader::{self, Facts, Global, Loaded};
use plugin_support::log;
use plugin_support::map::Counters;
use plugin_support::probe::Probe;
use plugin_support::uprobe;
use plugin_support::worker::Worker;

use crate::collect::{Collector, Counts};
use crate::config::Config;
use crate::domains::Domains;
use crate::httpflow::collect as httpflow;
use crate::httpflow::tls::collect as tls;
use crate::httpflow::tls::explain::explain;
use crate::probes::{EARLY_HTTP, EARLY_PROBES, PACKETS, PROBES, SOCKET_RELEASE, START, TLS_PROBES};

/// Maps that are of no use without httpflow or httpflow-tls, and how small they can be.
const WITHOUT_HTTP: &[(&str, u32)] = &[
    ("http_incoming", SMALLEST_RING),
    ("http_outgoing", SMALLEST_RING),
    ("http_pieces", SMALLEST_RING),
];
const WITHOUT_TLS: &[(&str, u32)] = &[
    ("tls_streams", 1),
    ("go_calls", 1),
    ("tls_pieces", SMALLEST_RING),
    ("tls_starts", SMALLEST_RING),
];
/// A page of the largest size that Linux has.
const SMALLEST_RING: u32 = 64 * 1024;

/// `ebpf-net`.
pub(crate) struct Net {
    config: Config,
    host: Host,
    counts: Arc<Counts>,
    http_counts: Arc<httpflow::Counts>,
    tls_told: Arc<tls::Told>,
    running: Option<Running>,
}

struct Running {
    worker: Worker,
    http_worker: Option<Worker>,
    tls_worker: Option<Worker>,
    kernel_counts: Counters,
    /// Shared with the thread of httpflow-tls, which attaches to files as they appear.
    loaded: Arc<Mutex<Loaded>>,
}

impl Running {
    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plugin for Net {
    const NAME: &'static str = "ebpf-net";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    /// The kernel lets nobody else attach to the code of programs.
    const CAPABILITIES: &'static str = "SYS_ADMIN/httpflow-tls";

    const COMMANDS: &'static str = "tls";

    fn new(settings: &str, host: Host) -> Result<Self, PluginError> {
        log::install(host.clone());
        let config = Config::parse(settings)?;
        Ok(Self {
            config,
            host,
            counts: Arc::default(),
            http_counts: Arc::default(),
            tls_told: Arc::default(),
            running: None,
        })
    }

    fn start(&mut self) -> Result<(), PluginError> {
        self.running = Some(self.run()?);
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.worker.stop();
            drop(running.http_worker.take());
            drop(running.tls_worker.take());
        }
    }

    fn probes(&self) -> Vec<ProbeVerdict> {
        let Some(running) = &self.running else { return Vec::new() };
        let mut verdicts = running.loaded().verdicts().to_vec();
        verdicts.extend(self.tls_told.files());
        verdicts
    }

    fn answer(words: &[&str]) -> Result<String, PluginError> {
        Ok(explain(words)?)
    }

    fn metrics(&self) -> Vec<Metric> {
        let counted = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let in_kernel =
            |index| self.running.as_ref().map_or(0, |running| running.kernel_counts.sum(index));
        let Counts { undecodable, failed_passes, flows_refused, flow_bytes_refused, dns } =
            self.counts.as_ref();
        let usage =
            self.running.as_ref().map(|running| running.loaded().usage()).unwrap_or_default();
        let own = [
            (
                "closes_lost",
                "Closing TCP connections whose last report found the ring full.",
                in_kernel(abi::COUNTER_CLOSES_LOST),
            ),
            (
                "connections_refused",
                "TCP connections for which the kernel had no memory.",
                in_kernel(abi::COUNTER_CONNS_REFUSED),
            ),
            (
                "udp_packets_refused",
                "UDP packets of conversations that found the table full.",
                in_kernel(abi::COUNTER_UDP_PACKETS_REFUSED),
            ),
            (
                "udp_bytes_refused",
                "Payload bytes of those packets.",
                in_kernel(abi::COUNTER_UDP_BYTES_REFUSED),
            ),
            (
                "listeners_refused",
                "Ports listened on at the start that found their table full.",
                in_kernel(abi::COUNTER_LISTENERS_REFUSED),
            ),
            (
                "dns_packets_lost",
                "Packets of DNS ports that found the ring full.",
                in_kernel(abi::COUNTER_DNS_PACKETS_LOST),
            ),
            (
                "flows_refused",
                "Reports of conversations that found the flow table full.",
                counted(flows_refused),
            ),
            ("flow_bytes_refused", "Payload bytes of those reports.", counted(flow_bytes_refused)),
            ("records_undecodable", "Kernel records that made no sense.", counted(undecodable)),
            (
                "passes_failed",
                "Passes over the kernel's sockets that failed and were tried again later.",
                counted(failed_passes),
            ),
        ]
        .map(|(name, help, value)| Metric::counter(name, help, value));
        let http = self.http_counts.metrics(
            in_kernel(abi::COUNTER_HTTP_NOT_UNDERSTOOD),
            in_kernel(abi::COUNTER_HTTP_LOST),
            in_kernel(abi::COUNTER_HTTP_CONNS_REFUSED),
        );
        let tls = self.tls_told.metrics(
            in_kernel(abi::COUNTER_TLS_PIECES_LOST),
            in_kernel(abi::COUNTER_TLS_STARTS_LOST),
        );
        let more = dns.metrics().chain(http).chain(tls);
        own.into_iter().chain(more).chain(usage.metrics()).collect()
    }
}

impl Net {
    fn run(&self) -> Result<Running> {
        let (mut loaded, is_early) = match self.load() {
            Ok(loaded) => (loaded, false),
            Err(error) => (self.load_early().map_err(|early| refused(error, &early))?, true),
        };
        let kernel_counts = loaded.counters("counters")?;
        let (host, counts) = (self.host.clone(), Arc::clone(&self.counts));
        let collector = Collector::new(&mut loaded, is_early, &self.config, host, counts)?;
        let domains = collector.domains();
        let worker =
            Worker::spawn(Self::NAME, self.host.clone(), move |waiter| collector.run(waiter))
                .context("start the collecting thread")?;
        if is_early {
            ::log::warn!(
                "this kernel is too old for all of ebpf-net: netflow and dnsflow of connections \
                 that begin from now on; see docs/kernels.md"
            );
            let loaded = Arc::new(Mutex::new(loaded));
            return Ok(Running {
                worker,
                http_worker: None,
                tls_worker: None,
                kernel_counts,
                loaded,
            });
        }
        let http_worker = self.follow_http(&mut loaded, Arc::clone(&domains))?;
        let loaded = Arc::new(Mutex::new(loaded));
        let tls_worker = self.follow_tls(&loaded, domains)?;
        Ok(Running { worker, http_worker, tls_worker, kernel_counts, loaded })
    }

    /// `None` if it is not wanted, or if one of its programs is missing; the verdicts say why.
    fn follow_tls(
        &self,
        loaded: &Arc<Mutex<Loaded>>,
        domains: Arc<Mutex<Domains>>,
    ) -> Result<Option<Worker>> {
        let is_attached = |loaded: &Mutex<Loaded>| {
            let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
            let mut needed = TLS_PROBES.iter().filter(|probe| probe.name != START);
            needed.all(|probe| loaded.is_attached(probe.name))
        };
        if !self.config.httpflow_tls || !is_attached(loaded) {
            return Ok(None);
        }
        let (loaded, told) = (Arc::clone(loaded), Arc::clone(&self.tls_told));
        let collector =
            tls::Collector::new(loaded, &self.config, self.host.clone(), domains, told)?;
        Worker::spawn("httpflow-tls", self.host.clone(), move |waiter| collector.run(waiter))
            .context("start the thread of httpflow-tls")
            .map(Some)
    }

    /// `None` if it is not wanted, or if packets cannot be seen; the verdicts say why.
    fn follow_http(
        &self,
        loaded: &mut Loaded,
        domains: Arc<Mutex<Domains>>,
    ) -> Result<Option<Worker>> {
        if !self.config.httpflow || !PACKETS.iter().all(|probe| loaded.is_attached(probe)) {
            return Ok(None);
        }
        let counts = Arc::clone(&self.http_counts);
        let collector =
            httpflow::Collector::new(loaded, &self.config, self.host.clone(), domains, counts)?;
        Worker::spawn("httpflow", self.host.clone(), move |waiter| collector.run(waiter))
            .context("start the thread of httpflow")
            .map(Some)
    }

    fn load(&self) -> Result<Loaded> {
        let http_enabled = [u8::from(self.config.httpflow)];
        let tls_places = [u8::from(uprobe::has_cookies())];
        let (mut sizes, mut probes) = (Vec::new(), PROBES.to_vec());
        if !self.config.httpflow {
            sizes.extend_from_slice(WITHOUT_HTTP);
        }
        if self.config.httpflow_tls {
            probes.extend_from_slice(TLS_PROBES);
        } else {
            sizes.extend_from_slice(WITHOUT_TLS);
        }
        let http = Global { name: "http_enabled", value: &http_enabled };
        let places = Global { name: "tls_places", value: &tls_places };
        self.load_object(OBJECT, &[http, places], &sizes, &probes)
    }

    /// What runs on kernels before 5.12.
    fn load_early(&self) -> Result<Loaded> {
        let mut probes = EARLY_PROBES.to_vec();
        if self.config.httpflow || self.config.httpflow_tls {
            probes.push(EARLY_HTTP);
        }
        self.load_object(EARLY_OBJECT, &[], &[], &probes)
    }

    /// A program must know whether another one is attached, which is only known afterwards.
    fn load_object(
        &self,
        object: &[u8],
        globals: &[Global<'_>],
        sizes: &[(&'static str, u32)],
        probes: &[Probe],
    ) -> Result<Loaded> {
        let ephemeral_port = self.config.ephemeral_port.to_ne_bytes();
        let dns_ports = self.config.dns_ports.map(u16::to_ne_bytes);
        let load = |facts, release_is_seen: bool| {
            let release = [u8::from(release_is_seen)];
            let common = [
                Global { name: "release_is_seen", value: &release },
                Global { name: "ephemeral_port", value: &ephemeral_port },
                Global { name: "dns_ports", value: dns_ports.as_flattened() },
            ];
            loader::load_sized(facts, object, &[&common, globals].concat(), sizes, probes)
        };
        let facts = || Ok::<_, Error>(Facts::of_this_host()?.under(&self.config.policy));
        let first = facts()?;
        let expects_release = first.has_cgroup();
        let loaded = load(first, expects_release)?;
        if expects_release && !loaded.is_attached(SOCKET_RELEASE) {
            drop(loaded);
            return load(facts()?, false);
        }
        Ok(loaded)
    }
}

/// Neither the object of today's kernels nor that of early ones can be had.
fn refused(error: Error, early: &Error) -> Error {
    ::log::debug!(error:% = format!("{early:#}"); "what early kernels run cannot be had either");
    error
}
