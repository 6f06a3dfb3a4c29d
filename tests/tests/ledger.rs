//! Every point is accounted for. In: a plugin that floods the collector, a receiver that is stopped by a signal or closed, and the
//! collector's end in the middle of it. Out: at every look emitted = sampled out + uploaded + queued + dropped, and what was
//! uploaded is what the receiver has.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use system_tests::collector::{Collector, Ledger};
use system_tests::plugins::PluginFolder;
use system_tests::receiver::{Answer, Receiver};
use system_tests::wait;

/// A collector with a plugin that sends about 4,000 points a second.
fn flooded(receiver: &Receiver, plugins: &PluginFolder, args: &[&str]) -> Collector {
    plugins.add_fixture("faulty");
    Collector::setup(receiver)
        .enabled("faulty")
        .plugin_folder(plugins.path())
        .args(args)
        .config("[plugins.faulty]\nfault = \"flood\"\n")
        .start()
}

/// Looks until `holds`; every look must balance.
#[track_caller]
fn look(collector: &Collector, what: &str, holds: impl Fn(&Ledger) -> bool) -> Ledger {
    collector.wait_for_ledger(what, |ledger| {
        assert!(ledger.balances(), "{ledger:?}");
        holds(ledger)
    })
}

/// The numbers of the points that the receiver has; none twice.
#[track_caller]
fn arrived(receiver: &Receiver) -> BTreeSet<String> {
    let points = receiver.measurement("flood");
    let numbers: Vec<String> =
        points.points().iter().filter_map(|point| point.tag("number").map(str::to_owned)).collect();
    let distinct: BTreeSet<String> = numbers.iter().cloned().collect();
    assert_eq!(distinct.len(), numbers.len(), "no point comes twice");
    distinct
}

/// The last lines of the log tell how many points were left.
fn ends(collector: &mut Collector) -> (Ledger, String) {
    let last = collector.ledger();
    let status = collector.terminate();
    assert!(status.success(), "{status}");
    (last, collector.log())
}

#[test]
fn under_overload_every_point_is_uploaded_queued_or_dropped_for_a_reason() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let mut collector = flooded(&receiver, &plugins, &["--queue-size", "1MiB", "--gzip=false"]);
    look(&collector, "it works", |ledger| ledger.uploaded > 4_000);
    // As if the receiver were stopped: it takes requests and answers nothing.
    receiver.answer(Answer::Hang);
    let full = look(&collector, "the queue overflows", |ledger| {
        ledger.dropped.get("queue_full").is_some_and(|points| *points > 4_000)
    });
    assert!(full.queued > 0, "{full:?}");
    receiver.answer(Answer::Take);
    look(&collector, "it works again", |ledger| ledger.uploaded > full.uploaded + 8_000);
    let (last, log) = ends(&mut collector);
    let arrived = arrived(&receiver).len() as u64;
    assert!(arrived >= last.uploaded, "{arrived} arrived, {last:?}");
    assert!(!log.contains("did not take all points"), "{log}");
}

#[test]
fn a_spool_loses_nothing_while_the_receiver_is_away_and_the_collector_is_killed() {
    let (receiver, plugins) = (Receiver::closed(), PluginFolder::new());
    let folder = tempfile::tempdir().expect("a folder");
    let spool = ["--spool-dir", folder.path().to_str().expect("it is text")];
    let first = flooded(&receiver, &plugins, &spool);
    let on_disk = |collector: &Collector| {
        collector.status()["spool"]["points"].as_u64().expect("the status tells of the spool")
    };
    wait::until_true("much is on disk", || on_disk(&first) > 8_000, || first.status().to_string());
    let before = first.ledger().emitted;
    // Killed, not asked.
    drop(first);
    let mut second = flooded(&receiver, &plugins, &spool);
    let found = on_disk(&second);
    let crashed = second.ledger().dropped.get("crash").copied().unwrap_or_default();
    assert!(found + crashed >= before, "{found} survive and {crashed} crashed, of {before}");
    assert!(crashed <= 8_000, "{crashed} are more than those of two seconds");
    look(&second, "more comes", |ledger| ledger.emitted > 8_000);
    receiver.open();
    look(&second, "the disk is empty", |ledger| ledger.uploaded > found);
    let (last, _) = ends(&mut second);
    assert_eq!(last.dropped.values().sum::<u64>(), crashed, "{last:?}");
    let arrived = arrived(&receiver).len() as u64;
    assert!(arrived >= found, "{arrived} arrived, {found} had survived");
}

#[test]
fn points_of_a_shutdown_without_a_receiver_are_named_in_the_log() {
    let (receiver, plugins) = (Receiver::closed(), PluginFolder::new());
    let mut collector = flooded(&receiver, &plugins, &[]);
    look(&collector, "points wait", |ledger| ledger.queued > 1_000);
    let (_, log) = ends(&mut collector);
    assert!(log.contains("did not take all points"), "{log}");
}

#[test]
fn the_metrics_say_what_the_status_says() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let collector = flooded(&receiver, &plugins, &["--sampling-rate", "0.5"]);
    look(&collector, "something is sampled out", |ledger| ledger.sampled_out > 1_000);
    let text = collector.metrics();
    let value = |name: &str| -> u64 {
        let start = format!("datakit_ebpf_{name}{{plugin=\"faulty\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    let (emitted, out) = (value("points_emitted_total"), value("points_sampled_out_total"));
    let dropped: u64 = text
        .lines()
        .filter(|line| line.starts_with("datakit_ebpf_points_dropped_total{plugin=\"faulty\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    let elsewhere = value("points_uploaded_total") + value("points_queued") + dropped;
    assert_eq!(emitted, out + elsewhere, "{text}");
    let by_plugin = collector.status()["ledger_by_plugin"]["faulty"].clone();
    assert!(by_plugin.get("emitted").is_some_and(Value::is_number), "{by_plugin}");
    assert!(fs::metadata(collector.pidfile()).is_ok(), "it still runs");
}

/// `SPOOL_MINUTES` of 5,000 points a second without a receiver, with a kill in the middle.
#[test]
#[ignore = "takes SPOOL_MINUTES, 10 unless given: run it by hand"]
fn a_spool_loses_nothing_in_minutes_without_a_receiver() {
    let minutes = std::env::var("SPOOL_MINUTES").ok().and_then(|text| text.parse().ok());
    let seconds = minutes.unwrap_or(10) * 60;
    let (receiver, plugins) = (Receiver::closed(), PluginFolder::new());
    plugins.add_fixture("faulty");
    let folder = tempfile::tempdir().expect("a folder");
    let spool = folder.path().to_str().expect("it is text").to_owned();
    let start = || {
        Collector::setup(&receiver)
            .enabled("faulty")
            .plugin_folder(plugins.path())
            .args(["--spool-dir", &spool, "--spool-size", "4GiB"])
            .config("[plugins.faulty]\nfault = \"stream\"\n")
            .start()
    };
    let run = |collector: &Collector| {
        let long = wait::patience() * 20;
        wait::within(long, "half of the time has passed", || {
            let (status, ledger) = (collector.status(), collector.ledger());
            assert!(ledger.balances(), "{ledger:?}");
            let up = status["uptime_seconds"].as_u64().unwrap_or_default();
            if up >= seconds / 2 { Ok(ledger) } else { Err(format!("{up} s, {ledger:?}")) }
        })
    };
    let first = start();
    let before = run(&first);
    drop(first);
    let mut second = start();
    let crashed = second.ledger().dropped.get("crash").copied().unwrap_or_default();
    let then = run(&second);
    println!("before the kill {before:?}; lost in it {crashed}; at the end {then:?}");
    receiver.open();
    wait::within(wait::patience() * 10, "the disk is empty", || {
        let ledger = second.ledger();
        if ledger.uploaded >= then.queued { Ok(()) } else { Err(format!("{ledger:?}")) }
    });
    let (last, _) = ends(&mut second);
    let arrived = receiver.measurement("stream").points().len() as u64;
    println!("{last:?}; {arrived} arrived");
    assert_eq!(last.dropped.values().sum::<u64>(), crashed, "{last:?}");
    assert!(crashed <= 10_000, "{crashed} are more than those of two seconds");
    assert!(arrived + crashed >= last.emitted, "{arrived} arrived, {crashed} lost, {last:?}");
}
