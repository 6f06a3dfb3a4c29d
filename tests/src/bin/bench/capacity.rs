//! What does not depend on a load of the host's own. In: nothing. Out: how many points one core encodes, how long a start takes,
//! and what very many open connections cost.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::collector::Collector;
use system_tests::plugins::PluginFolder;
use system_tests::receiver::Receiver;
use system_tests::{usage, wait};

use crate::results::{Encoding, Sockets, Starts};
use crate::subject::{HTTP, Reports, Subject, WINDOW};

const CONNECTIONS: usize = 20_000;
const REPORTS: u64 = 5;

/// A plugin sends points like those of netflow; the CPU time of its own thread is left out.
pub(crate) fn encoding() -> Encoding {
    let plugins = PluginFolder::new();
    plugins.add_fixture("faulty");
    let receiver = Receiver::watched(|_| {});
    let mut collector = Collector::setup(&receiver)
        .enabled("faulty")
        .plugin_folder(plugins.path())
        .args(["--global-tags", "env=bench"])
        .config("[plugins.faulty]\nfault = \"flows\"\n")
        .start();
    collector.wait_for_ledger("it works", |ledger| ledger.uploaded > 10_000);
    let (ledger, cpu) = (collector.ledger(), usage::cpu_by_thread(collector.pid()));
    thread::sleep(WINDOW);
    let (ledger_then, cpu_then) = (collector.ledger(), usage::cpu_by_thread(collector.pid()));
    let took = |name: &str| {
        let ns = |cpu: &std::collections::BTreeMap<_, u64>| cpu.get(name).copied();
        ns(&cpu_then).unwrap_or_default() - ns(&cpu).unwrap_or_default()
    };
    let all: u64 = cpu_then.keys().map(|name| took(name)).sum();
    assert_eq!(ledger_then.dropped, ledger.dropped, "the collector is fast enough");
    assert!(collector.terminate().success(), "{}", collector.log());
    let points = (ledger_then.uploaded - ledger.uploaded) as f64;
    Encoding {
        encoded_per_core: points * 1e9 / took("pipeline") as f64,
        uploaded_per_core: points * 1e9 / (all - took("flows")) as f64,
    }
}

/// From the start of the process until its plugin runs, and until the first point has come; it reports every second.
pub(crate) fn starts(rounds: usize) -> Starts {
    let mut starts = Starts::default();
    for _ in 0..rounds {
        let has_come = Arc::<AtomicBool>::default();
        let come = Arc::clone(&has_come);
        let receiver = Receiver::watched(move |_| come.store(true, Ordering::Relaxed));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let start = Instant::now();
        let setup = Collector::setup(&receiver).args(["--include-loopback"]);
        let mut collector = setup.start();
        starts.running_ms.push(start.elapsed().as_secs_f64() * 1000.0);
        while !has_come.load(Ordering::Relaxed) {
            assert!(start.elapsed() < wait::patience(), "no point comes: {}", collector.log());
            // Something to report.
            socket.send_to(b"x", address).expect("loopback takes it");
            thread::sleep(Duration::from_millis(5));
        }
        starts.first_point_ms.push(start.elapsed().as_secs_f64() * 1000.0);
        assert!(collector.terminate().success(), "{}", collector.log());
    }
    starts
}

/// Memory, and CPU time of a report, with many connections of which each says something.
pub(crate) fn sockets() -> Sockets {
    let subject = Subject::start(HTTP, Reports::Often);
    let pid = subject.collector.pid();
    let before_kib = usage::resident_kib(pid);
    let cpu = usage::cpu_ns(pid);
    thread::sleep(Duration::from_secs(REPORTS));
    let cpu_ns_per_report_before = (usage::cpu_ns(pid) - cpu) / REPORTS;
    let pairs = open_pairs();
    let cpu = usage::cpu_ns(pid);
    for _ in 0..REPORTS {
        for (client, _) in &pairs {
            let mut client: &TcpStream = client;
            client.write_all(b"x").expect("the other end is open");
        }
        thread::sleep(Duration::from_secs(1));
    }
    let cpu_ns_per_report = (usage::cpu_ns(pid) - cpu) / REPORTS;
    let resident_kib = usage::resident_kib(pid);
    let ends = 2 * pairs.len();
    subject.finish();
    Sockets { ends, before_kib, resident_kib, cpu_ns_per_report_before, cpu_ns_per_report }
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
