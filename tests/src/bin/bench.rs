//! What the collector costs: the same load with and without it, in turn, and what its BPF programs
//! took. In: a number of rounds. Out: a table; medians, and the spread in brackets.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType};
use serde_json::Value;
use system_tests::collector::Collector;
use system_tests::hosts::Hosts;
use system_tests::nginx::Nginx;
use system_tests::receiver::Receiver;

/// A load: its name and unit, and one run of it, which returns how much was done in a second.
type Load<'a> = (&'static str, Box<dyn Fn() -> f64 + 'a>);

const CONNECTIONS: usize = 20_000;
const DATAGRAMS: usize = 200_000;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(5);
    let hosts = Hosts::new();
    let _nginx = Nginx::start(&hosts.server);
    let redis = Redis::start();
    let loads: [Load<'_>; 5] = [
        ("nginx + wrk, requests/s", Box::new(|| wrk(&hosts))),
        ("redis-benchmark GET, requests/s", Box::new(|| redis.benchmark())),
        ("short connections/s", Box::new(short_connections)),
        ("UDP datagrams/s", Box::new(datagrams)),
        ("file reads/s (no network at all)", Box::new(file_reads)),
    ];

    println!("{rounds} rounds, off and on in turn; ratio of medians, and of the rounds one by one");
    println!("{:<34} {:>10} {:>10} {:>7}  [min max]", "load", "off", "on", "on/off");
    for (name, load) in &loads {
        let (mut off, mut on, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        load();
        for _ in 0..rounds {
            let without = load();
            let receiver = Receiver::start();
            let collector = start(&receiver);
            let with = load();
            collector.stop();
            off.push(without);
            on.push(with);
            ratios.push(with / without);
        }
        let (off, on) = (median(&mut off), median(&mut on));
        median(&mut ratios);
        let spread = format!("[{:.3} {:.3}]", ratios[0], ratios[ratios.len() - 1]);
        println!("{name:<34} {off:>10.0} {on:>10.0} {:>7.3}  {spread}", on / off);
    }
    programs(&loads);
    many_connections();
}

fn start(receiver: &Receiver) -> Collector {
    Collector::setup(receiver).args(["--include-loopback"]).start()
}

/// What each program took, by the kernel's own statistics. They cost time themselves: `nothing`
/// does nothing, on each packet received, and shows how much.
fn programs(loads: &[Load<'_>]) {
    println!("\nBPF programs under each load (kernel.bpf_stats_enabled=1, its own cost included)");
    for (name, load) in loads {
        let receiver = Receiver::start();
        let collector = start(&receiver);
        let _nothing = Nothing::attach();
        statistics(true);
        let before = Instant::now();
        let per_second = load();
        let done = per_second * before.elapsed().as_secs_f64();
        let (shown, cpu_ms) = (program_runs(), cpu_ms(&collector));
        statistics(false);
        collector.stop();
        println!("{name}: about {done:.0} in this run; the collector used {cpu_ms} ms of CPU");
        for (program, runs, ns) in shown {
            println!("  {program:<22} {runs:>9} runs  {:>6.0} ns each", ns / runs);
        }
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

/// Memory, and CPU of one report, with many connections open.
fn many_connections() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let (before, pairs) = (resident_kib(&collector), open_pairs());
    // Every connection says something, and is reported.
    let cpu = cpu_ms(&collector);
    let rounds = 5;
    for _ in 0..rounds {
        for (client, _) in &pairs {
            write_one(client);
        }
        thread::sleep(Duration::from_secs(1));
    }
    let cpu = (cpu_ms(&collector) - cpu) / rounds;
    println!(
        "\n{} busy connections, both ends here: {} KiB resident (before: {before}), {cpu} ms CPU \
         per report of {} sockets",
        pairs.len(),
        resident_kib(&collector),
        2 * pairs.len()
    );
    collector.stop();
}

fn open_pairs() -> Vec<(TcpStream, TcpStream)> {
    // Both ends count against the limit of open files.
    let limit = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limit.lines().find(|line| line.starts_with("Max open files"));
    let files: usize = limit
        .and_then(|line| line.split_whitespace().nth(3))
        .and_then(|word| word.parse().ok())
        .unwrap_or(1024);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (0..CONNECTIONS.min((files - 100) / 2))
        .map(|_| {
            let client = TcpStream::connect(address).expect("it listens");
            (client, listener.accept().expect("a client").0)
        })
        .collect()
}

fn write_one(mut stream: &TcpStream) {
    use std::io::Write as _;
    stream.write_all(b"x").expect("the other end is open");
}

fn wrk(hosts: &Hosts) -> f64 {
    let url = format!("http://{}/nginx.conf", hosts.server.v4);
    let (_, text) = hosts.client.run(Command::new("wrk").args(["-t1", "-c16", "-d3s", &url]));
    number_after(&text, "Requests/sec:")
}

struct Redis {
    server: std::process::Child,
    port: String,
}

impl Redis {
    fn start() -> Self {
        let port = system_tests::ports::free_address().port().to_string();
        let server = Command::new("redis-server")
            .args(["--port", &port, "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        thread::sleep(Duration::from_millis(500));
        Self { server, port }
    }

    fn benchmark(&self) -> f64 {
        let text = output(
            Command::new("redis-benchmark")
                .args(["-p", &self.port, "-t", "get", "-n", "300000", "-c", "16", "--csv"]),
        );
        let line = text.lines().last().unwrap_or_default();
        line.split(',').nth(1).and_then(|word| word.trim_matches('"').parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).expect("it was running");
    }
}

fn short_connections() -> f64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    per_second(CONNECTIONS, || {
        let client = TcpStream::connect(address).expect("it listens");
        let (server, _) = listener.accept().expect("a client");
        drop((client, server));
    })
}

fn datagrams() -> f64 {
    let [one, other] = [0; 2].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    let to: SocketAddr = other.local_addr().expect("it is bound");
    let mut buffer = [0; 64];
    per_second(DATAGRAMS, || {
        one.send_to(&[0; 64], to).expect("loopback takes it");
        other.recv(&mut buffer).expect("it was sent");
    })
}

fn file_reads() -> f64 {
    per_second(100_000, || drop(fs::read("/proc/self/comm").expect("we exist")))
}

fn per_second(times: usize, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..times).for_each(|_| run());
    times as f64 / start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn number_after(text: &str, label: &str) -> f64 {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(label)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {label} in {text}"))
}

fn statistics(on: bool) {
    fs::write("/proc/sys/kernel/bpf_stats_enabled", if on { "1" } else { "0" })
        .expect("root may switch them");
}

/// Name, runs and nanoseconds of every program that has run.
fn program_runs() -> Vec<(String, f64, f64)> {
    let text = output(Command::new("bpftool").args(["prog", "show", "-j"]));
    let programs: Vec<Value> = serde_json::from_str(&text).expect("bpftool writes JSON");
    programs
        .iter()
        .filter_map(|program| {
            let name = program["name"].as_str()?.to_owned();
            Some((name, program["run_cnt"].as_f64()?, program["run_time_ns"].as_f64()?))
        })
        .collect()
}

fn cpu_ms(collector: &Collector) -> u64 {
    (collector.status()["cpu_seconds"].as_f64().unwrap_or(0.0) * 1000.0) as u64
}

fn resident_kib(collector: &Collector) -> u64 {
    collector.status()["resident_bytes"].as_u64().unwrap_or(0) / 1024
}
