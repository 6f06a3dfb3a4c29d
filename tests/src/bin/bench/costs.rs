//! What the collector's BPF programs and its own threads take, by the kernel's statistics. In: how many rounds. Out: per load, ns
//! and runs of each program, and CPU time, for one request, connection or datagram.
//!
//! The statistics cost time themselves: the program `nothing` does nothing, on each packet received, and shows how much.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;
use std::thread;

use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType};
use system_tests::usage::{self, Program};

use crate::loads::{
    BULK, FILES, HTTP_APART, HTTP_EXCHANGE, HTTPS_EXCHANGE, Load, REDIS, SHORT, Servers, UDP_ASK,
    UDP_STREAM,
};
use crate::results::{Cost, FileUse, Losses, Window};
use crate::subject::{HTTP, NETFLOW, Parts, Reports, Subject, TLS, WINDOW};

/// Programs change little from round to round.
const MOST_ROUNDS: usize = 3;

const ROWS: [(&Load, Parts); 9] = [
    (&HTTP_EXCHANGE, NETFLOW),
    (&HTTP_EXCHANGE, HTTP),
    (&HTTP_APART, HTTP),
    (&HTTPS_EXCHANGE, TLS),
    (&REDIS, HTTP),
    (&BULK, HTTP),
    (&SHORT, HTTP),
    (&UDP_STREAM, HTTP),
    (&UDP_ASK, HTTP),
];

pub(crate) fn costs(
    servers: &Servers,
    rounds: usize,
    only: &str,
    losses: &mut Losses,
) -> Vec<Cost> {
    let wanted = |load: &Load| only.is_empty() || only == "costs" || only == load.key;
    let mut costs: Vec<Cost> = Vec::new();
    for (load, parts) in ROWS.into_iter().filter(|(load, _)| wanted(load)) {
        let mut cost = Cost::new(load, parts);
        for _ in 0..rounds.min(MOST_ROUNDS) {
            cost.windows.push(window(servers, load, parts, losses));
        }
        eprintln!(
            "{}, {}: {:.0} BPF ns per {}",
            load.name,
            parts.name,
            cost.ns().median,
            load.unit
        );
        costs.push(cost);
    }
    costs
}

/// One run of a load under the statistics.
fn window(servers: &Servers, load: &Load, parts: Parts, losses: &mut Losses) -> Window {
    let _nothing = Nothing::attach();
    let subject = Subject::start(parts, Reports::OncePerWindow);
    let pid = subject.collector.pid();
    let statistics = Statistics::on();
    let before = (usage::programs(pid), own_programs(), usage::cpu_ns(pid), subject.exchanges());
    let done = (load.run)(servers, WINDOW);
    let is_http = load.unit == "exchange" && parts != NETFLOW;
    if is_http {
        subject.wait_for_exchanges(before.3 + done.count);
    }
    let (programs, nothing) = (usage::programs(pid), own_programs());
    let cpu_ns = usage::cpu_ns(pid) - before.2;
    drop(statistics);
    let exchanges = subject.exchanges() - before.3;
    let seen = subject.finish();
    losses.add(&format!("{}, {}", load.key, parts.name), seen.losses);
    Window {
        count: done.count,
        reported: is_http.then_some(exchanges),
        programs: difference(&before.0, &programs),
        nothing: difference(&before.1, &nothing).remove("nothing").unwrap_or_default(),
        cpu_ns,
        resident_kib: seen.resident_kib,
    }
}

/// How often programs run while files are read and written, and while nothing is done; reports are a minute apart, as operators have them.
pub(crate) fn files(servers: &Servers) -> FileUse {
    let subject = Subject::start(TLS, Reports::Seldom);
    let pid = subject.collector.pid();
    let _statistics = Statistics::on();
    let look = |run: &mut dyn FnMut() -> u64| {
        let (before, cpu) = (usage::programs(pid), usage::cpu_ns(pid));
        let count = run();
        let programs = difference(&before, &usage::programs(pid));
        (count, programs.values().map(|(runs, _)| runs).sum(), usage::cpu_ns(pid) - cpu)
    };
    let (_, idle_runs, idle_cpu_ns) = look(&mut || {
        thread::sleep(WINDOW);
        0
    });
    let (blocks, runs, cpu_ns) = look(&mut || (FILES.run)(servers, WINDOW).count);
    subject.finish();
    FileUse { blocks, runs, cpu_ns, idle_runs, idle_cpu_ns }
}

fn own_programs() -> BTreeMap<u32, Program> {
    usage::programs(std::process::id())
}

/// Runs and ns by the programs' names; those that did not run are left out.
fn difference(
    before: &BTreeMap<u32, Program>,
    after: &BTreeMap<u32, Program>,
) -> BTreeMap<String, (u64, u64)> {
    let mut sums = BTreeMap::<String, (u64, u64)>::new();
    for (id, program) in after {
        let (runs, ns) = before.get(id).map_or((0, 0), |before| (before.runs, before.ns));
        if program.runs > runs {
            let sum = sums.entry(program.name.clone()).or_default();
            sum.0 += program.runs - runs;
            sum.1 += program.ns - ns;
        }
    }
    sums
}

/// The kernel's statistics, on until this is dropped.
struct Statistics;

impl Statistics {
    fn on() -> Self {
        Self::switch("1");
        Self
    }

    fn switch(value: &str) {
        fs::write("/proc/sys/kernel/bpf_stats_enabled", value).expect("root may switch them");
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        Self::switch("0");
    }
}

/// The program `nothing`, attached until this is dropped.
struct Nothing {
    _ebpf: Ebpf,
}

impl Nothing {
    fn attach() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let object = folder.path().join("nothing.bpf.o");
        let source = system_tests::program("nothing.bpf.c");
        let mut clang = Command::new("clang");
        clang.args(["-target", "bpf", "-O2", "-g", "-c"]).arg(source).arg("-o").arg(&object);
        system_tests::process::run(&mut clang);
        let mut ebpf = Ebpf::load_file(object).expect("it is valid");
        let program: &mut CgroupSkb = ebpf
            .program_mut("nothing")
            .and_then(|program| program.try_into().ok())
            .expect("it is in there");
        program.load().expect("it does nothing");
        program
            .attach(cgroup_root(), CgroupSkbAttachType::Ingress, CgroupAttachMode::Single)
            .expect("root may attach it");
        Self { _ebpf: ebpf }
    }
}

fn cgroup_root() -> File {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("it is mounted");
    File::open(line.split(' ').nth(4).expect("a mount has a place")).expect("root may look")
}
