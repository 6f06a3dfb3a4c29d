//! The collector runs with few rights, and keeps few. In: a copy with file capabilities run by nobody, and one run by root. Out:
//! the same exact netflow, and processes whose threads hold a short list.

use std::collections::BTreeMap;
use std::fs;

use system_tests::collector::{Collector, Setup};
use system_tests::flows::{Side, Tcp};
use system_tests::hosts::{Family, Hosts};
use system_tests::nginx::{Fetched, Nginx, fetch_big};
use system_tests::plugins::{Installation, NOBODY};
use system_tests::receiver::Receiver;

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SETPCAP: u64 = 1 << 8;
const SYS_PTRACE: u64 = 1 << 19;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// What no collector can do without.
const REQUIRED: u64 = BPF | PERFMON | NET_ADMIN;

/// What one run by root keeps.
const KEPT: u64 = REQUIRED | SYS_PTRACE | DAC_READ_SEARCH;

/// `CapEff` and the like of a thread, as the kernel tells them.
fn sets(status: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(status).unwrap_or_else(|error| panic!("{status}: {error}"));
    let lines = text.lines().filter_map(|line| line.split_once(":\t"));
    let hex = |text| u64::from_str_radix(text, 16).expect("sets are numbers");
    let known = lines.filter(|(name, _)| name.starts_with("Cap") || *name == "NoNewPrivs");
    known.map(|(name, text)| (name.to_owned(), hex(text))).collect()
}

/// Asserts what every thread of the process that collects may do.
#[track_caller]
fn holds(collector: &Collector, permitted: u64, bounding: Option<u64>) {
    let pid = fs::read_to_string(collector.pidfile()).expect("it has written its pid");
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut threads = 0;
    for task in tasks {
        let status = task.expect("a folder can be listed").path().join("status");
        let held = sets(status.to_str().expect("numbers are text"));
        assert_eq!(held["CapEff"], permitted, "{held:x?}");
        assert_eq!(held["CapPrm"], permitted, "{held:x?}");
        assert_eq!(held["CapInh"], 0, "{held:x?}");
        assert_eq!(held["CapAmb"], 0, "{held:x?}");
        assert_eq!(held["NoNewPrivs"], 1, "{held:x?}");
        if let Some(bounding) = bounding {
            assert_eq!(held["CapBnd"], bounding, "{held:x?}");
        }
        threads += 1;
    }
    assert!(threads > 2, "the plugin's thread and ours are among them: {threads}");
}

/// What this test, which is run by root, may do itself.
fn own() -> u64 {
    sets("/proc/self/status")["CapEff"]
}

/// Runs it, and asserts that it sees every byte of a conversation between others.
#[track_caller]
fn counts_to_the_byte(prepare: impl FnOnce(Setup) -> Setup, check: impl FnOnce(&Collector)) {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let nginx = Nginx::start(&hosts.server);
    let collector = prepare(Collector::setup(&receiver)).start();
    check(&collector);
    let entry = collector.plugin("ebpf-net").expect("it is enabled");
    let probes = entry["probes"].as_array().expect("a list of probes");
    assert!(probes.iter().all(|probe| probe["status"] == "attached"), "{entry}");
    let Fetched { pid, read, written } =
        fetch_big(&hosts.client, hosts.server_address(Family::V4, 80));
    hosts.settle();
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 80, Tcp { read, written, established: 1, closed: 1 });
    // Processes of root, who is another user to some of these collectors.
    for (side, pid) in [(Side::Client, pid), (Side::Server, nginx.worker())] {
        let points = hosts.end(side, &seen).on(side, 80);
        assert_eq!(points.values("pid"), [pid.to_string().as_str()].into(), "{points}");
    }
}

fn supervised(setup: Setup) -> Setup {
    setup.args(["--supervise", "on"])
}

/// A copy that any user may run, with these file capabilities.
fn with_capabilities(capabilities: &str) -> Installation {
    let installation = Installation::new();
    installation.setcap(capabilities);
    installation
}

#[test]
fn a_user_with_three_file_capabilities_sees_what_root_sees() {
    let installation = with_capabilities("cap_bpf,cap_perfmon,cap_net_admin+ep");
    let prepare = |setup: Setup| setup.program(&installation.program()).user(NOBODY);
    counts_to_the_byte(prepare, |collector| {
        holds(collector, REQUIRED, None);
        let told = &collector.status()["capabilities"];
        let expected = serde_json::json!(["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(told["effective"], expected, "{told}");
        assert_eq!(told["no_new_privileges"], true, "{told}");
    });
}

#[test]
fn a_supervised_collector_of_that_user_has_its_capabilities_too() {
    let installation = with_capabilities("cap_bpf,cap_perfmon,cap_net_admin+ep");
    let prepare = |setup: Setup| supervised(setup).program(&installation.program()).user(NOBODY);
    counts_to_the_byte(prepare, |collector| holds(collector, REQUIRED, None));
}

#[test]
fn a_file_with_more_capabilities_than_are_kept_can_be_supervised() {
    let more = "cap_setpcap,cap_net_raw,cap_bpf,cap_perfmon,cap_net_admin+ep";
    let installation = with_capabilities(more);
    let prepare = |setup: Setup| supervised(setup).program(&installation.program());
    counts_to_the_byte(
        |setup| prepare(setup).user(NOBODY),
        |collector| holds(collector, REQUIRED, None),
    );
    counts_to_the_byte(prepare, |collector| {
        holds(collector, own() & KEPT, Some(own() & KEPT));
    });
}

#[test]
fn a_collector_run_by_root_keeps_a_short_list() {
    let own = own();
    assert_ne!(own & !KEPT, 0, "root has more than is kept: {own:x}");
    counts_to_the_byte(
        |setup| setup,
        |collector| {
            holds(collector, own & KEPT, Some(own & KEPT));
        },
    );
}

#[test]
fn a_supervised_collector_run_by_root_keeps_a_short_list() {
    counts_to_the_byte(supervised, |collector| {
        holds(collector, own() & KEPT, Some(own() & KEPT));
        let supervisor = sets(&format!("/proc/{}/status", collector.pid()));
        // With the first one, the process that collects cuts its own bounding set.
        assert_eq!(supervisor["CapEff"], own() & (SETPCAP | KEPT), "{supervisor:x?}");
    });
}

#[test]
fn root_may_write_where_it_is_told_to_although_the_folder_is_another_users() {
    let prepare = |setup: Setup| setup.folder_of(NOBODY);
    counts_to_the_byte(prepare, |collector| {
        let kept = KEPT | DAC_OVERRIDE;
        holds(collector, own() & kept, Some(own() & kept));
        assert!(collector.log().contains("plugin runs"), "{}", collector.log());
    });
}

#[test]
fn all_capabilities_are_kept_on_request() {
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(["--keep-capabilities"]).start();
    let held = sets(&format!("/proc/{}/status", collector.pid()));
    let own = sets("/proc/self/status");
    assert_eq!(held, own);
    collector.stop();
}
