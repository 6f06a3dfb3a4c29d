//! What programs cost, as the kernel counts it for every loaded program.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use plugin_api::Metric;

/// The sum over some programs. Times and runs are 0 unless `kernel.bpf_stats_enabled` is 1.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds spent in them.
    pub run_time_ns: u64,
    /// How often they ran.
    pub runs: u64,
    /// How often one was skipped because it was running on that CPU already.
    pub recursion_misses: u64,
}

/// Reads it for the programs of one object.
#[derive(Debug)]
pub struct Meter {
    programs: Vec<OwnedFd>,
}

impl Meter {
    pub(crate) fn new(programs: Vec<OwnedFd>) -> Self {
        Self { programs }
    }

    /// What they have cost so far.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        self.programs.iter().for_each(|program| usage.add(program.as_fd()));
        usage
    }
}

impl Usage {
    /// Adds what the kernel says of the program behind a descriptor; nothing if it says nothing.
    pub(crate) fn add(&mut self, program: BorrowedFd<'_>) {
        let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
        self.add_text(&fs::read_to_string(path).unwrap_or_default());
    }

    fn add_text(&mut self, text: &str) {
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim().parse().unwrap_or(0);
            match name {
                "run_time_ns" => self.run_time_ns += value,
                "run_cnt" => self.runs += value,
                "recursion_misses" => self.recursion_misses += value,
                _ => {}
            }
        }
    }

    /// As metrics of a plugin.
    pub fn metrics(&self) -> [Metric; 3] {
        [
            Metric::counter(
                "bpf_run_ns",
                "Nanoseconds in this plugin's BPF programs, while kernel.bpf_stats_enabled is 1.",
                self.run_time_ns,
            ),
            Metric::counter(
                "bpf_runs",
                "Runs of this plugin's BPF programs, while kernel.bpf_stats_enabled is 1.",
                self.runs,
            ),
            Metric::counter(
                "bpf_recursion_misses",
                "Runs that the kernel skipped because the program was running on that CPU.",
                self.recursion_misses,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn the_kernels_numbers_are_added_up() {
        let mut usage = Usage::default();
        let text = "pos:\t0\nprog_id:\t7\nrun_time_ns:\t900\nrun_cnt:\t3\nrecursion_misses:\t1\n";
        usage.add_text(text);
        usage.add_text(text);
        assert_eq!(usage, Usage { run_time_ns: 1800, runs: 6, recursion_misses: 2 });
    }
}
