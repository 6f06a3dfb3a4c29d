//! The plugin as the host sees it: start, stop, and what it says about itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use bpf::bash::{EARLY_OBJECT, OBJECT, abi};
use plugin_api::{Host, Metric, Plugin, PluginError, ProbeVerdict};
use plugin_support::loader::{self, Facts, Global};
use plugin_support::log;
use plugin_support::map::Counters;
use plugin_support::usage::Meter;
use plugin_support::worker::Worker;

use crate::collect::{Collector, Told};
use crate::config::Config;
use crate::probes::{LINE_ENTERED, PROBES};

/// `ebpf-bash`.
pub(crate) struct Bash {
    config: Config,
    host: Host,
    told: Arc<Told>,
    running: Option<Running>,
}

struct Running {
    worker: Worker,
    kernel_counts: Counters,
    verdicts: Vec<ProbeVerdict>,
    meter: Meter,
}

impl Plugin for Bash {
    const NAME: &'static str = "ebpf-bash";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    /// The kernel lets nobody else attach to the code of programs.
    const CAPABILITIES: &'static str = "SYS_ADMIN";

    fn new(settings: &str, host: Host) -> Result<Self, PluginError> {
        log::install(host.clone());
        let config = Config::parse(settings)?;
        Ok(Self { config, host, told: Arc::default(), running: None })
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
        let Some(running) = &self.running else { return Vec::new() };
        let (files, unseen) = self.told.files();
        let mut verdicts = running.verdicts.clone();
        // A file that has nothing to attach to takes nothing from the others: it is a detail.
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.name == LINE_ENTERED) {
            verdict.detail = unseen.as_str().into();
        }
        verdicts.into_iter().chain(files).collect()
    }

    fn metrics(&self) -> Vec<Metric> {
        let told = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let in_kernel =
            |index| self.running.as_ref().map_or(0, |running| running.kernel_counts.sum(index));
        let usage = self.running.as_ref().map(|running| running.meter.usage()).unwrap_or_default();
        let own = [
            ("commands", "Commands that were reported.", told(&self.told.commands)),
            (
                "commands_truncated",
                "Commands of which a piece is missing.",
                told(&self.told.truncated),
            ),
            (
                "lines_lost",
                "Lines of which a part found the ring full.",
                in_kernel(abi::COUNTER_LINES_LOST),
            ),
            (
                "lines_unreadable",
                "Lines whose memory could not be read.",
                in_kernel(abi::COUNTER_LINES_UNREADABLE),
            ),
            (
                "lines_refused",
                "Lines that found the table of unfinished commands full.",
                told(&self.told.lines_refused),
            ),
            (
                "starts_lost",
                "Starts of a shell that found the ring full; the next sweep finds the shell.",
                in_kernel(abi::COUNTER_STARTS_LOST),
            ),
            (
                "ends_lost",
                "Ends of commands that found the ring full; they end when the next one begins.",
                in_kernel(abi::COUNTER_ENDS_LOST),
            ),
            (
                "shells_refused",
                "Calls of a shell's functions for which the kernel had no memory.",
                in_kernel(abi::COUNTER_SHELLS_REFUSED),
            ),
            (
                "files_refused",
                "Times that a shell was not watched because too many files are.",
                told(&self.told.files_refused),
            ),
            (
                "users_refused",
                "Shells whose user or container could not be kept for what they do last.",
                told(&self.told.users_refused),
            ),
            (
                "contexts_lost",
                "Lines of which it is not known where they were entered.",
                in_kernel(abi::COUNTER_CONTEXTS_LOST) + told(&self.told.contexts_refused),
            ),
            (
                "cwds_unknown",
                "Working directories that are too deep, too long, or out of the shell's root.",
                in_kernel(abi::COUNTER_CWDS_UNKNOWN),
            ),
            (
                "records_undecodable",
                "Kernel records that made no sense.",
                told(&self.told.undecodable),
            ),
        ]
        .map(|(name, help, value)| Metric::counter(name, help, value));
        let watched = Metric::gauge(
            "files_watched",
            "Files, libraries among them, that programs are attached to.",
            told(&self.told.files_watched) as f64,
        );
        let unseen = Metric::gauge(
            "files_unseen",
            "Files of shells that have nothing in them to attach to: their commands are not seen.",
            told(&self.told.files_unseen) as f64,
        );
        own.into_iter().chain([watched, unseen]).chain(usage.metrics()).collect()
    }
}

impl Bash {
    fn run(&self) -> Result<Running> {
        let flavours = self.config.flavour_bits().to_ne_bytes();
        let context_parts = self.config.context_bits().to_ne_bytes();
        let globals = [
            Global { name: "flavours", value: &flavours },
            Global { name: "context_parts", value: &context_parts },
        ];
        let load = |object| {
            let facts = Facts::of_this_host()?.under(&self.config.policy);
            loader::load(facts, object, &globals, PROBES)
        };
        let mut loaded = load(OBJECT).or_else(|error| load(EARLY_OBJECT).map_err(|_| error))?;
        let kernel_counts = loaded.counters("counters")?;
        let verdicts = loaded.verdicts().to_vec();
        let meter = loaded.meter()?;
        let collector =
            Collector::new(loaded, self.config.clone(), self.host.clone(), Arc::clone(&self.told))?;
        let worker =
            Worker::spawn(Self::NAME, self.host.clone(), move |waiter| collector.run(waiter))
                .context("start the collecting thread")?;
        Ok(Running { worker, kernel_counts, verdicts, meter })
    }
}
