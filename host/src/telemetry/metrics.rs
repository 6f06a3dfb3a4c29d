//! All numbers in Prometheus' text format, made when somebody asks. Every metric is registered
//! in this file; plugins' own get the prefix `plugin_` and the label `plugin`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::{Context as _, Result};
use plugin_api::{Metric, MetricKind};
use prometheus::{
    CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};
use tracing::debug;

use crate::limits::Standing;
use crate::pipeline::ledger::Tally;
use crate::plugin::state::{Report, State};
use crate::telemetry::usage::Usage;

const PREFIX: &str = "datakit_ebpf";

/// What is told.
pub(crate) struct Numbers {
    pub(crate) tallies: BTreeMap<String, Tally>,
    pub(crate) plugins: Vec<Report>,
    pub(crate) rates: BTreeMap<&'static str, f64>,
    pub(crate) limits: Vec<Standing>,
    pub(crate) usage: Usage,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// The text for `/metrics`.
pub(crate) fn render(numbers: &Numbers) -> Result<String> {
    let registry = Registry::new();
    register_points(&registry, &numbers.tallies)?;
    register_rates(&registry, &numbers.rates)?;
    register_plugins(&registry, &numbers.plugins)?;
    register_limits(&registry, &numbers.limits)?;
    register_usage(&registry, numbers)?;
    TextEncoder::new().encode_to_string(&registry.gather()).context("encode the metrics")
}

fn register_points(registry: &Registry, tallies: &BTreeMap<String, Tally>) -> Result<()> {
    let plugin = &["plugin"];
    let emitted = counter(registry, "points_emitted_total", "Points that plugins sent.", plugin)?;
    let sampled_out =
        counter(registry, "points_sampled_out_total", "Points left out on purpose.", plugin)?;
    let uploaded =
        counter(registry, "points_uploaded_total", "Points that arrived at the output.", plugin)?;
    let queued = gauge(registry, "points_queued", "Points on their way.", plugin)?;
    let dropped = counter(
        registry,
        "points_dropped_total",
        "Points that will never arrive, by reason.",
        &["plugin", "reason"],
    )?;
    for (plugin, tally) in tallies {
        emitted.with_label_values(&[plugin]).inc_by(tally.emitted);
        sampled_out.with_label_values(&[plugin]).inc_by(tally.sampled_out);
        uploaded.with_label_values(&[plugin]).inc_by(tally.uploaded);
        queued.with_label_values(&[plugin]).set(tally.queued as i64);
        for (reason, points) in &tally.dropped {
            dropped.with_label_values(&[plugin.as_str(), reason.label()]).inc_by(*points);
        }
    }
    Ok(())
}

fn register_rates(registry: &Registry, rates: &BTreeMap<&'static str, f64>) -> Result<()> {
    let help = "Share of the latest points that was kept: divide sums by it.";
    let rate = register(registry, GaugeVec::new(options("sampling_rate", help), &["category"])?)?;
    for (category, share) in rates {
        rate.with_label_values(&[*category]).set(*share);
    }
    Ok(())
}

fn register_plugins(registry: &Registry, plugins: &[Report]) -> Result<()> {
    let plugin = &["plugin"];
    let running = gauge(registry, "plugin_running", "Whether points may come.", plugin)?;
    let states = gauge(
        registry,
        "plugin_state",
        "1 for the state that the plugin is in.",
        &["plugin", "state"],
    )?;
    let restarts =
        counter(registry, "plugin_restarts_total", "Failures after which it came back.", plugin)?;
    let cpu = register(
        registry,
        CounterVec::new(
            options("plugin_cpu_seconds_total", "CPU time of the plugin's threads."),
            plugin,
        )?,
    )?;
    let mut own = BTreeMap::new();
    for report in plugins {
        let plugin = report.name.as_ref();
        running.with_label_values(&[plugin]).set(i64::from(report.state.delivers()));
        for state in State::ALL {
            let is_it = i64::from(report.state == state);
            states.with_label_values(&[plugin, state.label()]).set(is_it);
        }
        restarts.with_label_values(&[plugin]).inc_by(report.restarts);
        cpu.with_label_values(&[plugin]).inc_by(report.cpu.as_secs_f64());
        for metric in &report.metrics {
            // A name that does not fit costs this one metric, not everybody's.
            if let Err(error) = register_own(registry, &mut own, plugin, metric) {
                debug!(plugin, metric = %metric.name, %error, "metric left out");
            }
        }
    }
    Ok(())
}

/// A metric of plugins' own; several plugins may have one of the same name.
enum Own {
    Counter(IntCounterVec),
    Gauge(GaugeVec),
}

fn register_own(
    registry: &Registry,
    own: &mut BTreeMap<String, Own>,
    plugin: &str,
    metric: &Metric,
) -> Result<()> {
    let name = match metric.kind {
        MetricKind::Counter => format!("plugin_{}_total", metric.name),
        MetricKind::Gauge => format!("plugin_{}", metric.name),
    };
    let made = match own.entry(name) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let options = options(entry.key(), &metric.help);
            let made = match metric.kind {
                MetricKind::Counter => {
                    Own::Counter(register(registry, IntCounterVec::new(options, &["plugin"])?)?)
                }
                MetricKind::Gauge => {
                    Own::Gauge(register(registry, GaugeVec::new(options, &["plugin"])?)?)
                }
            };
            entry.insert(made)
        }
    };
    match made {
        Own::Counter(made) => made.with_label_values(&[plugin]).inc_by(metric.value as u64),
        Own::Gauge(made) => made.with_label_values(&[plugin]).set(metric.value),
    }
    Ok(())
}

fn register_limits(registry: &Registry, limits: &[Standing]) -> Result<()> {
    let help = "What is used, as a share of the limit.";
    let used = GaugeVec::new(options("limit_used_ratio", help), &["resource"])?;
    let used = register(registry, used)?;
    let help = "Steps taken because a limit was near.";
    let steps = counter(registry, "limit_steps_total", help, &["resource", "step"])?;
    let help = "Whether the step is in force.";
    let in_force = gauge(registry, "limit_step", help, &["resource", "step"])?;
    for Standing { resource, limit, used: amount, steps: now, steps_taken } in limits {
        used.with_label_values(&[*resource]).set(amount / limit);
        for (step, times) in steps_taken {
            steps.with_label_values(&[*resource, *step]).inc_by(*times);
            in_force.with_label_values(&[*resource, *step]).set(i64::from(now.contains(step)));
        }
    }
    Ok(())
}

fn register_usage(registry: &Registry, numbers: &Numbers) -> Result<()> {
    let Numbers { usage, sent_bytes, received_bytes, .. } = numbers;
    let help = "HTTP heads and bodies that this process has sent and received.";
    let network = counter(registry, "network_bytes_total", help, &["direction"])?;
    network.with_label_values(&["sent"]).inc_by(*sent_bytes);
    network.with_label_values(&["received"]).inc_by(*received_bytes);
    let cpu = GaugeVec::new(
        options("process_cpu_seconds_total", "CPU time of this process, user and system."),
        &[],
    )?;
    register(registry, cpu)?.with_label_values::<&str>(&[]).set(usage.cpu_seconds);
    gauge(registry, "process_resident_memory_bytes", "Memory of this process.", &[])?
        .with_label_values::<&str>(&[])
        .set(usage.resident_bytes as i64);
    Ok(())
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
    register(registry, IntCounterVec::new(options(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(options(name, help), labels)?)
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("{PREFIX}_{name}"), help)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
