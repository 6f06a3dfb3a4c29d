//! Whether the collector can run for long. In: `MINUTES` from the environment, 30 unless given. Out: a line a minute; at the end exit
//! code 0, or a sentence for each thing that grew, got lost or did not add up.
//!
//! | module | what it does |
//! | --- | --- |
//! | `churn` | keeps the host busy, and counts with what |
//! | `reported` | sums up the points that came |
//! | `judge` | says what is wrong |

mod churn;
mod judge;
mod reported;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use churn::{Done, Place};
use judge::Sample;
use reported::{Ends, Reported};
use system_tests::collector::Collector;
use system_tests::receiver::Receiver;
use system_tests::usage;

const PER_MINUTE: u64 = 6;
/// Tables and caches have their size after that; of a shorter soak it is half.
const WARM_UP_MINUTES: u64 = 5;
/// Less would not be a test of churn.
const PROCESSES_PER_HOUR: f64 = 100_000.0;

fn main() -> ExitCode {
    let minutes = match env::var("MINUTES").unwrap_or_default().as_str() {
        "" => 30,
        text => match text.parse() {
            Ok(minutes) if minutes > 0 => minutes,
            _ => {
                eprintln!("MINUTES is a number above 0, not {text}");
                return ExitCode::FAILURE;
            }
        },
    };
    let complaints = soak(minutes);
    for complaint in &complaints {
        println!("soak: {complaint}");
    }
    if complaints.is_empty() {
        println!("soak: {minutes} minutes, nothing grew, nothing was lost uncounted");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn soak(minutes: u64) -> Vec<String> {
    let place = Place::new();
    let reported = Arc::<Reported>::default();
    let (sums, ends) = (Arc::clone(&reported), Ends::of(&place));
    let receiver = Receiver::watched(move |points| sums.add(points, &ends));
    // Operators have a minute between reports; more of them are more of a test.
    let mut collector = Collector::setup(&receiver)
        .seldom()
        .enabled("ebpf-net,ebpf-bash,ebpf-conntrack")
        .args(["--min-interval", "1s", "--interval", "10s"])
        .args(["--include-loopback", "--l7net-enabled", "httpflow,httpflow-tls"])
        .start();
    system_tests::wait::until_true(
        "nginx's library is attached to",
        || collector.metric("ebpf-net", "tls_files_attached") > 0,
        || collector.status().to_string(),
    );
    let (done, stop) = (Done::default(), AtomicBool::new(false));
    let (mut samples, mut complaints) = (Vec::new(), Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        let workers = churn::start(scope, &place, &done, &stop);
        for number in 1..=minutes * PER_MINUTE {
            let due = start + Duration::from_mins(1) / PER_MINUTE as u32 * number as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Some(status) = collector.ended() {
                complaints.push(format!("the collector ended with {status}"));
            } else if workers.iter().any(thread::ScopedJoinHandle::is_finished) {
                complaints.push("a part of the load ended; see above".to_owned());
            } else {
                let sample = look(&collector, &mut complaints);
                samples.push(sample);
                if number % PER_MINUTE == 0 {
                    say(number / PER_MINUTE, &sample, &done);
                }
                continue;
            }
            break;
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            // It has said why.
            worker.join().ok();
        }
    });
    if samples.len() as u64 != minutes * PER_MINUTE {
        return complaints;
    }
    let per_hour = done.processes.load(Ordering::Relaxed) as f64 * 60.0 / minutes as f64;
    println!("{per_hour:.0} processes an hour");
    if per_hour < PROCESSES_PER_HOUR {
        complaints.push(format!(
            "only {per_hour:.0} processes an hour were started, not {PROCESSES_PER_HOUR}: this machine is too busy"
        ));
    }
    complaints.extend(end(collector, &done, &reported));
    let warm_up = WARM_UP_MINUTES.min(minutes / 2) * PER_MINUTE;
    complaints.extend(judge::growth(&samples[warm_up as usize..], PER_MINUTE as usize));
    complaints
}

fn look(collector: &Collector, complaints: &mut Vec<String>) -> Sample {
    let ledger = collector.ledger();
    if !ledger.balances() {
        complaints.push(format!("the ledger does not balance: {ledger:?}"));
    }
    let pid = collector.pid();
    Sample { resident_kib: usage::resident_kib(pid), held: usage::held(pid) }
}

fn say(minute: u64, sample: &Sample, done: &Done) {
    let Sample { resident_kib, held } = sample;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "minute {minute}: {:.1} MiB resident, {} files, {} maps, {} programs, {} links; {} processes, {} containers, \
         {} connections, {} requests, {} through TLS, {} questions, {} lines",
        *resident_kib as f64 / 1024.0,
        held.files,
        held.maps,
        held.programs,
        held.links,
        count(&done.processes),
        count(&done.containers),
        count(&done.connections),
        count(&done.requests),
        count(&done.tls_requests),
        count(&done.questions),
        count(&done.lines),
    );
}

/// Ends the collector, which reports the rest, and compares.
fn end(mut collector: Collector, done: &Done, reported: &Reported) -> Vec<String> {
    // What has ended just now needs a look of the collector before its last one.
    thread::sleep(Duration::from_secs(15));
    let losses = usage::losses(&collector.metrics());
    let ledger = collector.ledger();
    println!("{ledger:?}");
    let mut complaints = Vec::new();
    if !ledger.balances() {
        complaints.push(format!("the ledger does not balance: {ledger:?}"));
    }
    let status = collector.terminate();
    if !status.success() {
        complaints.push(format!("the collector ended with {status}"));
    }
    let compared = reported.compared_with(done);
    for (name, done, reported) in compared {
        println!("{name}: {done} done, {reported} reported");
    }
    for (counter, count) in &losses {
        println!("lost: {counter} {count}");
    }
    complaints.extend(judge::losses(&compared, losses.values().sum()));
    complaints
}
