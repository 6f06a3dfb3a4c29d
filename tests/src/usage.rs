//! What a process costs and holds, and what a collector has lost. In: a process id, or a text of `/metrics`. Out: numbers, as the
//! kernel and the collector count them. It judges nothing.

use std::collections::BTreeMap;
use std::fs;

use aya::programs::loaded_programs;

/// Endings of the names of counters of what was lost, or not taken in.
const LOSSES: [&str; 7] = [
    "_lost_total",
    "_refused_total",
    "_undecodable_total",
    "_not_understood_total",
    "_without_socket_total",
    "_unreadable_total",
    "_truncated_total",
];

/// Open files by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// All of them.
    pub files: u64,
    /// BPF maps, each once.
    pub maps: u64,
    /// BPF programs, each once.
    pub programs: u64,
    /// BPF links, each once.
    pub links: u64,
}

/// What one BPF program did since it was loaded, as long as `kernel.bpf_stats_enabled` was 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its name, at most 15 characters.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// How long that took, in ns.
    pub ns: u64,
}

/// CPU time of all threads of a process that still run, in ns.
pub fn cpu_ns(pid: u32) -> u64 {
    cpu_by_thread(pid).values().sum()
}

/// The same by the threads' names.
pub fn cpu_by_thread(pid: u32) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for thread in files(&format!("/proc/{pid}/task")) {
        // A thread may end at any time.
        let read = |name: &str| fs::read_to_string(format!("{thread}/{name}")).unwrap_or_default();
        let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        *sums.entry(read("comm").trim_end().to_owned()).or_default() += ns.unwrap_or_default();
    }
    sums
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default()
}

/// The open files of a process.
pub fn held(pid: u32) -> Held {
    let (mut maps, mut programs, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let mut held = Held::default();
    for file in files(&format!("/proc/{pid}/fdinfo")) {
        held.files += 1;
        let info = fs::read_to_string(file).unwrap_or_default();
        let number = |name: &str| number(&info, name);
        // A link names its program, and an iterator's its map.
        if let Some(id) = number("link_id:") {
            links.push(id);
        } else if let Some(id) = number("prog_id:") {
            programs.push(id);
        } else if let Some(id) = number("map_id:") {
            maps.push(id);
        }
    }
    [held.maps, held.programs, held.links] = [maps, programs, links].map(|mut ids| {
        ids.sort_unstable();
        ids.dedup();
        ids.len() as u64
    });
    held
}

/// The BPF programs that a process holds, by id.
pub fn programs(pid: u32) -> BTreeMap<u32, Program> {
    let names: BTreeMap<u32, String> = loaded_programs()
        .filter_map(Result::ok)
        .map(|info| (info.id(), String::from_utf8_lossy(info.name()).into_owned()))
        .collect();
    let mut programs = BTreeMap::new();
    for file in files(&format!("/proc/{pid}/fdinfo")) {
        let info = fs::read_to_string(file).unwrap_or_default();
        let number = |name: &str| number(&info, name);
        if let (Some(id), Some(runs), Some(ns)) =
            (number("prog_id:"), number("run_cnt:"), number("run_time_ns:"))
        {
            let id = id as u32;
            let name = names.get(&id).cloned().unwrap_or_default();
            programs.insert(id, Program { name, runs, ns });
        }
    }
    programs
}

/// What the collector has not taken in or lost, by counter; only what is not 0.
pub fn losses(metrics: &str) -> BTreeMap<String, u64> {
    let mut losses = BTreeMap::new();
    for line in metrics.lines() {
        let Some((name_and_labels, value)) = line.rsplit_once(' ') else { continue };
        let name = name_and_labels.split('{').next().unwrap_or_default();
        let is_loss = name == "datakit_ebpf_points_dropped_total"
            || LOSSES.iter().any(|ending| name.ends_with(ending));
        if is_loss
            && let Ok(value) = value.parse::<u64>()
            && value > 0
        {
            losses.insert(name_and_labels.to_owned(), value);
        }
    }
    losses
}

/// The value behind `name` at the start of a line of `fdinfo`.
fn number(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn files(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path().display().to_string());
    paths.collect()
}
