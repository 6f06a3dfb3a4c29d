//! A point for every program that starts: its pid, its name, and who has started it.
#![forbid(unsafe_code)]

use plugin_api::{Category, Host, Metric, Plugin, PluginError, Points, ProbeVerdict};
use plugin_support::loader::{self, Facts, Loaded};
use plugin_support::map::Counters;
use plugin_support::probe::{Hook, Need, Probe, Way};
use plugin_support::settings::{self, NoSettings};
use plugin_support::worker::Worker;
use plugin_support::{clock, log, object};

const PROBES: &[Probe] = &[Probe {
    name: "program start",
    need: Need::Required,
    ways: &[Way { program: "on_exec", hook: Hook::Tracepoint("sched_process_exec") }],
}];

struct ExecLog {
    host: Host,
    /// In the order in which they end: the thread, then the probe.
    running: Option<(Worker, Loaded, Counters)>,
}

plugin_api::export_plugin!(ExecLog);

impl Plugin for ExecLog {
    const NAME: &'static str = "exec-log";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn new(settings: &str, host: Host) -> Result<Self, PluginError> {
        log::install(host.clone());
        let (_of_all_plugins, NoSettings {}) = settings::parse(settings)?;
        Ok(Self { host, running: None })
    }

    fn start(&mut self) -> Result<(), PluginError> {
        let mut loaded = loader::load(Facts::of_this_host()?, object!("exec.bpf.o"), &[], PROBES)?;
        let (mut ring, lost) = (loaded.ring("records")?, loaded.counters("lost")?);
        let host = self.host.clone();
        let worker = Worker::spawn(Self::NAME, self.host.clone(), move |waiter| {
            Ok(waiter.follow(&mut ring, |ring| {
                let mut points = Points::new(Category::Logging, Self::NAME);
                ring.drain(|record| add(&mut points, record));
                host.send(points);
            })?)
        })?;
        self.running = Some((worker, loaded, lost));
        Ok(())
    }

    fn stop(&mut self) {
        self.running = None;
    }

    fn probes(&self) -> Vec<ProbeVerdict> {
        self.running.as_ref().map_or_else(Vec::new, |(_, loaded, _)| loaded.verdicts().to_vec())
    }

    fn metrics(&self) -> Vec<Metric> {
        let lost = self.running.as_ref().map_or(0, |(_, _, lost)| lost.sum(0));
        vec![Metric::counter("starts_lost", "Program starts that found the ring full.", lost)]
    }
}

/// Adds the point of one `struct record`.
fn add(points: &mut Points, record: &[u8]) {
    let Some((pid, names)) = record.split_first_chunk() else { return };
    let [parent, command] = [0, 16].map(|start| name(names.get(start..start + 16)));
    let mut point = points.point("exec", clock::unix_time_ns());
    point.tag_display("parent", &parent).tag_display("command", &command);
    point.field_display("message", format_args!("{parent} has started {command}"));
    point.field("pid", i64::from(u32::from_ne_bytes(*pid)));
}

/// The text before the first NUL, as the kernel writes names.
fn name(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).trim_end_matches('\0').to_owned()
}
