//! What a plugin can do to the others: nothing. In: the fixture `faulty`, which panics, hangs, aborts or overflows its stack, in
//! the host's process or in one of its own, next to the real net plugin. Out: `/status` says what happened, the net plugin's
//! bytes are exact, and the ledger balances.

use serde_json::Value;
use system_tests::collector::{Collector, Setup};
use system_tests::flows::Tcp;
use system_tests::hosts::{Family, Hosts};
use system_tests::plugins::PluginFolder;
use system_tests::receiver::Receiver;
use system_tests::wait;

/// A collector with a plugin that goes wrong, and real traffic for the other one.
struct Scene {
    hosts: Hosts,
    receiver: Receiver,
    _plugins: PluginFolder,
    collector: Collector,
}

impl Scene {
    #[track_caller]
    fn new(fault: &str, prepare: impl FnOnce(Setup) -> Setup) -> Self {
        let (hosts, receiver, plugins) = (Hosts::new(), Receiver::start(), PluginFolder::new());
        plugins.add_fixture("faulty");
        let setup = Collector::setup(&receiver)
            .enabled("faulty,ebpf-net")
            .plugin_folder(plugins.path())
            .config(&format!("[plugins.faulty]\nfault = \"{fault}\"\n"));
        let collector = prepare(setup).launch();
        collector.wait_for("ebpf-net", "running");
        Self { hosts, receiver, _plugins: plugins, collector }
    }

    fn isolated(fault: &str) -> Self {
        Self::new(fault, |setup| setup.args(["--isolate", "faulty"]))
    }

    /// Waits until the faulty plugin's entry in `/status` is as wanted.
    #[track_caller]
    fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || {
            let entry = self.collector.plugin("faulty").expect("it is enabled");
            if holds(&entry) { Ok(entry) } else { Err(entry.to_string()) }
        })
    }

    /// What the other plugin measures is complete, and everything is accounted for.
    #[track_caller]
    fn assert_others_lose_nothing(self, ends: impl FnOnce(&mut Collector)) {
        let Self { hosts, receiver, mut collector, .. } = self;
        hosts.connect(Family::V4, 5000).up(12_345);
        hosts.settle();
        collector.wait_for_ledger("everything has arrived", |ledger| {
            assert!(ledger.balances(), "{ledger:?}");
            assert!(ledger.dropped.is_empty(), "{ledger:?}");
            ledger.emitted > 0 && ledger.queued == 0
        });
        ends(&mut collector);
        hosts.assert_tcp(&receiver.netflow(), 5000, Tcp::once(0, 12_345));
    }
}

fn ends_well(collector: &mut Collector) {
    let status = collector.terminate();
    assert!(status.success(), "{status}: {}", collector.log());
}

#[test]
fn a_plugin_that_panics_whenever_it_starts_is_given_up_after_five_times() {
    let scene = Scene::new("panic-in-start", |setup| setup);
    let entry = scene.wait_for("it is given up", |entry| entry["state"] == "quarantined");
    assert_eq!(entry["restarts"], 4, "{entry}");
    assert!(entry["reason"].as_str().is_some_and(|why| why.contains("told to panic")), "{entry}");
    scene.assert_others_lose_nothing(ends_well);
}

#[test]
fn a_plugin_whose_thread_panics_is_started_again() {
    let scene = Scene::new("panic-in-thread", |setup| setup);
    scene.wait_for("it is started again", |entry| entry["restarts"].as_u64() >= Some(1));
    scene.assert_others_lose_nothing(ends_well);
}

#[test]
fn a_plugin_that_panics_in_stop_is_only_complained_about() {
    let scene = Scene::new("panic-in-stop", |setup| setup);
    scene.collector.wait_for("faulty", "running");
    scene.assert_others_lose_nothing(|collector| {
        ends_well(collector);
        assert!(collector.log().contains("told to panic in stop"), "{}", collector.log());
    });
}

#[test]
fn a_plugin_that_never_stops_is_left_behind_and_named() {
    let scene = Scene::new("hang-in-stop", |setup| setup);
    scene.collector.wait_for("faulty", "running");
    scene.assert_others_lose_nothing(|collector| {
        let status = collector.terminate();
        assert_eq!(status.code(), Some(1), "{}", collector.log());
        let log = collector.log();
        assert!(log.contains("left behind, for they do not stop: faulty"), "{log}");
    });
}

#[test]
fn a_plugin_that_never_starts_holds_up_nobody() {
    let scene = Scene::new("hang-in-start", |setup| setup);
    let entry = scene.wait_for("the status tells", |entry| entry["reason"].is_string());
    assert_eq!(entry["state"], "starting", "{entry}");
    assert!(entry["reason"].as_str().is_some_and(|why| why.contains("start has not returned")));
    scene.assert_others_lose_nothing(|collector| {
        assert_eq!(collector.terminate().code(), Some(1), "{}", collector.log());
    });
}

#[test]
fn a_thread_that_makes_no_progress_is_noticed() {
    let scene = Scene::new("hang-in-thread", |setup| setup);
    let entry = scene.wait_for("the watchdog notices", |entry| entry["state"] == "degraded");
    assert!(entry["reason"].as_str().is_some_and(|why| why.contains("no progress")), "{entry}");
    scene.receiver.wait_for_last_error("no progress");
    scene.assert_others_lose_nothing(ends_well);
}

/// An isolated plugin whose process ends is started again in another one.
#[track_caller]
fn restarts_alone(fault: &str, reason: &str) {
    let scene = Scene::isolated(fault);
    scene.wait_for("it is started again", |entry| entry["restarts"].as_u64() >= Some(1));
    scene.receiver.wait_for_last_error(reason);
    scene.assert_others_lose_nothing(ends_well);
}

#[test]
fn an_isolated_plugin_that_aborts_ends_only_its_own_process() {
    restarts_alone("abort-in-thread", "ended by signal 6");
}

#[test]
fn an_isolated_plugin_that_violates_memory_ends_only_its_own_process() {
    restarts_alone("overflow-in-thread", "ended by signal");
}

#[test]
fn an_isolated_plugin_that_hangs_is_killed_and_started_again() {
    restarts_alone("hang-in-thread", "no progress");
}

#[test]
fn an_isolated_plugin_that_panics_says_so_like_any_other() {
    restarts_alone("panic-in-start", "told to panic in start");
}

#[test]
fn an_isolated_plugin_that_never_stops_is_killed() {
    let scene = Scene::isolated("hang-in-stop");
    let entry = scene.collector.wait_for("faulty", "running");
    let process = entry["process"].as_u64().expect("it has a process of its own");
    scene.assert_others_lose_nothing(|collector| {
        assert_eq!(collector.terminate().code(), Some(1), "{}", collector.log());
    });
    wait::until_true(
        "its process has gone",
        || !std::path::Path::new(&format!("/proc/{process}")).exists(),
        || format!("/proc/{process} exists"),
    );
}

#[test]
fn an_isolated_plugins_points_are_those_of_any_other() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    plugins.add_fixture("heartbeat");
    let collector = Collector::setup(&receiver)
        .enabled("heartbeat")
        .plugin_folder(plugins.path())
        .args(["--isolate", "heartbeat"])
        .start();
    let beats = || receiver.measurement("heartbeat");
    wait::until_true("three beats have arrived", || beats().points().len() >= 3, String::new);
    let ledger = collector.ledger();
    assert!(ledger.balances() && ledger.dropped.is_empty(), "{ledger:?}");
    collector.stop();
    assert_eq!(beats().values("kind"), ["steady"].into());
    let sum: i64 = (1..).take(beats().points().len()).sum();
    assert_eq!(beats().sum("beat"), sum, "each beat once");
}

#[test]
fn the_net_plugin_is_exact_in_a_process_of_its_own() {
    let (hosts, receiver) = (Hosts::new(), Receiver::start());
    let collector = Collector::setup(&receiver).args(["--isolate", "ebpf-net"]).start();
    let pair = hosts.connect(Family::V6, 5100);
    pair.up(1_000_000);
    pair.down(54_321);
    drop(pair);
    hosts.settle();
    collector.stop();
    let client = Tcp { read: 54_321, written: 1_000_000, established: 1, closed: 1 };
    hosts.assert_tcp(&receiver.netflow(), 5100, client);
}
