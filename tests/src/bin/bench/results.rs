//! What was measured. In: single values. Out: medians with the least and the most, and everything as JSON.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::loads::Load;
use crate::subject::Parts;

/// A median, and what it lies between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self { median, least, most }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }
}

/// One load without a collector and with one: units per second, by round.
pub(crate) struct Comparison {
    pub(crate) key: &'static str,
    pub(crate) load: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) parts: &'static str,
    pub(crate) off: Vec<f64>,
    pub(crate) on: Vec<f64>,
}

impl Comparison {
    pub(crate) fn new(load: &Load, parts: Parts) -> Self {
        let Load { key, name, unit, run: _ } = *load;
        Self { key, load: name, unit, parts: parts.name, off: Vec::new(), on: Vec::new() }
    }

    /// With the collector, without it = 1; each round compared with itself.
    pub(crate) fn ratio(&self) -> Spread {
        Spread::of(self.on.iter().zip(&self.off).map(|(on, off)| on / off))
    }

    fn json(&self) -> Value {
        let Self { key, load, unit, parts, off, on } = self;
        json!({
            "key": key, "load": load, "unit": unit, "parts": parts,
            "per_second_off": off, "per_second_on": on, "ratio": self.ratio().json(),
        })
    }
}

/// One run of a load under the kernel's statistics.
pub(crate) struct Window {
    /// How much was done.
    pub(crate) count: u64,
    /// How many HTTP exchanges were reported, where the load is HTTP and httpflow is on.
    pub(crate) reported: Option<u64>,
    /// Runs and ns of the collector's programs.
    pub(crate) programs: BTreeMap<String, (u64, u64)>,
    /// Runs and ns of the program that does nothing.
    pub(crate) nothing: (u64, u64),
    /// CPU time of the collector's threads.
    pub(crate) cpu_ns: u64,
    pub(crate) resident_kib: u64,
}

impl Window {
    fn ns(&self) -> f64 {
        self.programs.values().map(|(_, ns)| ns).sum::<u64>() as f64 / self.count as f64
    }

    fn runs(&self) -> f64 {
        self.programs.values().map(|(runs, _)| runs).sum::<u64>() as f64 / self.count as f64
    }
}

/// What a load costs per unit.
pub(crate) struct Cost {
    pub(crate) key: &'static str,
    pub(crate) load: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) parts: &'static str,
    pub(crate) windows: Vec<Window>,
}

/// What one program takes: runs per unit, and ns per run.
pub(crate) struct ProgramCost {
    pub(crate) name: String,
    pub(crate) runs: f64,
    pub(crate) ns_each: f64,
}

impl Cost {
    pub(crate) fn new(load: &Load, parts: Parts) -> Self {
        let Load { key, name, unit, run: _ } = *load;
        Self { key, load: name, unit, parts: parts.name, windows: Vec::new() }
    }

    /// ns of all programs, per unit.
    pub(crate) fn ns(&self) -> Spread {
        self.spread(Window::ns)
    }

    /// Runs of all programs, per unit.
    pub(crate) fn runs(&self) -> Spread {
        self.spread(Window::runs)
    }

    /// CPU time of the collector, µs per 1,000 units.
    pub(crate) fn cpu_us_per_1000(&self) -> Spread {
        self.spread(|window| window.cpu_ns as f64 / window.count as f64)
    }

    pub(crate) fn resident_mib(&self) -> Spread {
        self.spread(|window| window.resident_kib as f64 / 1024.0)
    }

    fn spread(&self, value: impl Fn(&Window) -> f64) -> Spread {
        Spread::of(self.windows.iter().map(value))
    }

    /// Exchanges that were done, and those that were reported.
    pub(crate) fn reported(&self) -> Option<(u64, u64)> {
        let reported = self.windows.iter().map(|window| window.reported).sum::<Option<u64>>()?;
        Some((self.windows.iter().map(|window| window.count).sum(), reported))
    }

    /// Of all rounds together, what takes most first.
    pub(crate) fn programs(&self) -> Vec<ProgramCost> {
        let mut sums = BTreeMap::<&str, (u64, u64)>::new();
        for (name, (runs, ns)) in self.windows.iter().flat_map(|window| &window.programs) {
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + runs, sum.1 + ns);
        }
        let count = self.windows.iter().map(|window| window.count).sum::<u64>() as f64;
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(_, (_, ns))| std::cmp::Reverse(*ns));
        let cost = |(name, (runs, ns)): (&str, (u64, u64))| ProgramCost {
            name: name.to_owned(),
            runs: runs as f64 / count,
            ns_each: ns as f64 / runs as f64,
        };
        sums.into_iter().map(cost).collect()
    }

    fn json(&self) -> Value {
        let programs = self.programs().into_iter().map(|program| {
            json!({
                "name": program.name, "runs_per_unit": program.runs, "ns_per_run": program.ns_each,
            })
        });
        json!({
            "key": self.key, "load": self.load, "unit": self.unit, "parts": self.parts,
            "bpf_ns_per_unit": self.ns().json(), "bpf_runs_per_unit": self.runs().json(),
            "cpu_us_per_1000_units": self.cpu_us_per_1000().json(),
            "resident_mib": self.resident_mib().json(),
            "exchanges_done_and_reported": self.reported().map(|(done, seen)| [done, seen]),
            "programs": programs.collect::<Vec<_>>(),
        })
    }
}

/// Files read and written, and nothing done, for the same time.
#[derive(Clone, Copy, Default)]
pub(crate) struct FileUse {
    pub(crate) blocks: u64,
    pub(crate) runs: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) idle_runs: u64,
    pub(crate) idle_cpu_ns: u64,
}

/// Points per second of CPU time.
#[derive(Clone, Copy, Default)]
pub(crate) struct Encoding {
    /// Enriched, encoded and compressed.
    pub(crate) encoded_per_core: f64,
    /// With everything that the host does to them.
    pub(crate) uploaded_per_core: f64,
}

/// Times from the start of the process on.
#[derive(Clone, Default)]
pub(crate) struct Starts {
    pub(crate) running_ms: Vec<f64>,
    pub(crate) first_point_ms: Vec<f64>,
}

/// Many open connections.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sockets {
    pub(crate) ends: usize,
    pub(crate) before_kib: u64,
    pub(crate) resident_kib: u64,
    pub(crate) cpu_ns_per_report_before: u64,
    pub(crate) cpu_ns_per_report: u64,
}

/// What collectors counted as lost or not taken in, by what was measured and counter.
#[derive(Default)]
pub(crate) struct Losses(pub(crate) BTreeMap<String, BTreeMap<String, u64>>);

impl Losses {
    pub(crate) fn add(&mut self, run: &str, losses: BTreeMap<String, u64>) {
        for (counter, count) in losses {
            *self.0.entry(run.to_owned()).or_default().entry(counter).or_default() += count;
        }
    }
}

/// Everything of one benchmark; what was not asked for is missing.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) rounds: usize,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) costs: Vec<Cost>,
    pub(crate) file_use: Option<FileUse>,
    pub(crate) encoding: Option<Encoding>,
    pub(crate) starts: Option<Starts>,
    pub(crate) sockets: Option<Sockets>,
    pub(crate) losses: Losses,
}

impl Results {
    /// Whether nothing at all was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.comparisons.is_empty()
            && self.costs.is_empty()
            && self.file_use.is_none()
            && self.encoding.is_none()
            && self.starts.is_none()
            && self.sockets.is_none()
    }

    /// ns of a run of a program that does nothing.
    pub(crate) fn nothing_ns(&self) -> Spread {
        let windows = self.costs.iter().flat_map(|cost| &cost.windows);
        let ran = windows.filter(|window| window.nothing.0 > 1000);
        Spread::of(ran.map(|window| window.nothing.1 as f64 / window.nothing.0 as f64))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "machine": machine(),
            "rounds": self.rounds,
            "comparisons": self.comparisons.iter().map(Comparison::json).collect::<Vec<_>>(),
            "costs": self.costs.iter().map(Cost::json).collect::<Vec<_>>(),
            "nothing_ns_per_run": self.nothing_ns().json(),
            "files": self.file_use.map(|file_use| json!({
                "blocks": file_use.blocks, "bpf_runs": file_use.runs, "cpu_ms": ms(file_use.cpu_ns),
                "idle_bpf_runs": file_use.idle_runs, "idle_cpu_ms": ms(file_use.idle_cpu_ns),
            })),
            "points_per_second_and_core": self.encoding.map(|encoding| json!({
                "encoded": encoding.encoded_per_core, "uploaded": encoding.uploaded_per_core,
            })),
            "start": self.starts.clone().map(|starts| json!({
                "running_ms": Spread::of(starts.running_ms).json(),
                "first_point_ms": Spread::of(starts.first_point_ms).json(),
            })),
            "sockets": self.sockets.map(|sockets| json!({
                "ends": sockets.ends, "resident_kib": sockets.resident_kib,
                "resident_kib_before": sockets.before_kib,
                "cpu_ms_per_report": ms(sockets.cpu_ns_per_report),
                "cpu_ms_per_report_before": ms(sockets.cpu_ns_per_report_before),
            })),
            "losses": self.losses.0,
        })
    }
}

/// Cores and kernel.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}, {}", kernel.trim(), std::env::consts::ARCH)
}

pub(crate) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
