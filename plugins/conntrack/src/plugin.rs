//! The plugin as the host sees it: start, stop, and what it says about itself.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use bpf::conntrack::{MAP, OBJECT};
use plugin_api::{Host, Metric, Plugin, PluginError, ProbeVerdict};
use plugin_support::loader::{self, Facts, Loaded};
use plugin_support::log;
use plugin_support::worker::Worker;

use crate::collect::{Collector, Counts};
use crate::config::Config;
use crate::netlink::Events;
use crate::probes::{self, FILTER, PROBES};
use crate::table::Table;

/// `ebpf-conntrack`.
pub(crate) struct Conntrack {
    config: Config,
    host: Host,
    counts: Arc<Counts>,
    running: Option<Running>,
}

struct Running {
    worker: Worker,
    verdicts: Vec<ProbeVerdict>,
    loaded: Loaded,
}

impl Plugin for Conntrack {
    const NAME: &'static str = "ebpf-conntrack";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    /// To enter network namespaces, and to hear of what happens in all of them.
    const CAPABILITIES: &'static str = "SYS_ADMIN NET_BROADCAST";

    fn new(settings: &str, host: Host) -> Result<Self, PluginError> {
        log::install(host.clone());
        let config = Config::parse(settings)?;
        Ok(Self { config, host, counts: Arc::default(), running: None })
    }

    fn start(&mut self) -> Result<(), PluginError> {
        self.running = Some(self.run()?);
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.worker.stop();
        }
    }

    fn probes(&self) -> Vec<ProbeVerdict> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.verdicts.clone())
    }

    fn metrics(&self) -> Vec<Metric> {
        let counted = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let Counts {
            connections,
            namespaces,
            refused,
            namespaces_refused,
            events,
            events_lost,
            events_unplaced,
            overruns,
            overruns_healed,
            dumps,
            dumps_failed,
            undecodable,
            failed,
        } = self.counts.as_ref();
        let now = [
            ("translations", "Translated connections in the table.", connections),
            ("namespaces", "Network namespaces that are watched.", namespaces),
        ]
        .map(|(name, help, cell)| Metric::gauge(name, help, counted(cell) as f64));
        let so_far = [
            ("translations_refused", "Translated connections that found the table full.", refused),
            (
                "namespaces_refused",
                "Network namespaces beyond the limit, at each look.",
                namespaces_refused,
            ),
            ("events", "Conntrack events that were read.", events),
            (
                "events_lost",
                "Conntrack events that found no room, by the kernel's count.",
                events_lost,
            ),
            (
                "events_unplaced",
                "Conntrack events of network namespaces that were not found, or not yet.",
                events_unplaced,
            ),
            ("overruns", "Times that events were found to be lost.", overruns),
            ("overruns_healed", "Of those, how many a dump has made good.", overruns_healed),
            ("dumps", "Dumps of a network namespace's connections.", dumps),
            ("dumps_failed", "Dumps that failed and were tried again later.", dumps_failed),
            ("messages_undecodable", "Conntrack messages that made no sense.", undecodable),
            ("operations_failed", "Operations on table or sockets that failed.", failed),
        ]
        .map(|(name, help, cell)| Metric::counter(name, help, counted(cell)));
        let usage = self.running.as_ref().map(|running| running.loaded.usage()).unwrap_or_default();
        now.into_iter().chain(so_far).chain(usage.metrics()).collect()
    }
}

impl Conntrack {
    fn run(&self) -> Result<Running> {
        let facts = Facts::of_this_host()?.under(&self.config.policy);
        let loaded = loader::load(facts, OBJECT, &[], PROBES)?;
        let (events, others) = Events::open()?;
        if let Err(error) = loaded.filter(FILTER, &events) {
            ::log::warn!(error:% = format!("{error:#}"); "all conntrack events are read");
        }
        let table = Table::new(loaded.map(MAP)?, self.config.grace);
        let collector = Collector::new(events, table, Arc::clone(&self.counts))?;
        let offered = self.host.offer_map(MAP, collector.table().map().as_fd());
        ensure!(offered, "offer the table to other plugins: the host's log says why it refused");
        let worker =
            Worker::spawn(Self::NAME, self.host.clone(), move |waiter| collector.run(waiter))
                .context("start the collecting thread")?;
        let verdicts = [probes::verdicts(others.as_deref()), loaded.verdicts().to_vec()].concat();
        Ok(Running { worker, verdicts, loaded })
    }
}
