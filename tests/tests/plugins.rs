//! A plugin cannot take the collector down. In: plugins that are missing, foreign, of the wrong ABI, or broken on purpose, next to
//! the real net plugin. Out: each is `failed` with a reason, `DataKit` hears of it, and the net plugin's points still arrive.

use std::fs;
use std::path::Path;

use serde_json::Value;
use system_tests::collector::{Collector, Setup};
use system_tests::flows::Tcp;
use system_tests::hosts::{Family, Hosts};
use system_tests::plugins::PluginFolder;
use system_tests::receiver::Receiver;
use system_tests::{wait, workspace};

/// Everything that holds whatever is wrong with a plugin. `text` is what its reason must contain.
#[track_caller]
fn fails_alone(plugin: &str, text: &str, prepare: impl FnOnce(&PluginFolder, Setup) -> Setup) {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let plugins = PluginFolder::new();
    let setup = Collector::setup(&receiver)
        .enabled(&format!("{plugin},ebpf-net"))
        .plugin_folder(plugins.path());
    let collector = prepare(&plugins, setup).launch();
    collector.wait_for("ebpf-net", "running");
    let entry = collector.wait_for(plugin, "failed");
    let reason = entry["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(text), "the reason shall contain `{text}`: {entry}");
    wait_for_failure(&receiver, plugin);

    hosts.connect(Family::V4, 5000).up(12_345);
    hosts.settle();
    collector.stop();
    let client = Tcp { read: 0, written: 12_345, established: 1, closed: 1 };
    hosts.assert_tcp(&receiver.netflow(), 5000, client);
}

/// Waits until the failure of a plugin is posted, as `DataKit` wants it.
#[track_caller]
fn wait_for_failure(receiver: &Receiver, plugin: &str) {
    let error = receiver.wait_for_last_error(plugin);
    assert_eq!(error["input"], "ebpf", "{error}");
    assert_eq!(error["source"], "", "{error}");
}

#[test]
fn a_plugin_that_is_not_there_fails_alone() {
    fails_alone("no-such-plugin", "libno_such_plugin.so", |_, setup| setup);
}

#[test]
fn a_file_that_is_no_library_fails_alone() {
    fails_alone("not-a-library", "libnot_a_library.so", |plugins, setup| {
        let text = workspace().join("Cargo.toml");
        plugins.add("libnot_a_library.so", &text);
        setup
    });
}

#[test]
fn a_truncated_library_fails_alone() {
    fails_alone("cut-short", "libcut_short.so", |plugins, setup| {
        let whole = fs::read(plugins.path().join("libebpf_net.so")).expect("it was copied");
        let half = plugins.path().join("libcut_short.so");
        fs::write(half, &whole[..whole.len() / 2]).expect("a new file");
        setup
    });
}

#[test]
fn a_library_that_is_no_plugin_fails_alone() {
    // Any shared library of the system does.
    fails_alone("foreign", "", |plugins, setup| {
        let maps = fs::read_to_string("/proc/self/maps").expect("this process has libraries");
        let mut paths = maps.lines().filter_map(|line| line.split_whitespace().last());
        let libc = paths.find(|path| path.contains("/libc.so")).expect("libc is mapped");
        plugins.add("libforeign.so", Path::new(libc));
        setup
    });
}

#[test]
fn a_plugin_of_another_abi_fails_alone() {
    fails_alone("wrong-abi", "", |plugins, setup| {
        plugins.add_fixture("wrong-abi");
        setup
    });
}

/// The fixture `faulty`, told where to fail.
#[track_caller]
fn faulty(fault: &str, text: &str) {
    fails_alone("faulty", text, |plugins, setup| {
        plugins.add_fixture("faulty");
        setup.config(&format!("[plugins.faulty]\nfault = \"{fault}\"\n"))
    });
}

#[test]
fn a_plugin_that_panics_when_it_is_made_fails_alone() {
    faulty("panic-in-new", "panic");
}

#[test]
fn a_plugin_that_panics_when_it_starts_fails_alone() {
    faulty("panic-in-start", "panic");
}

#[test]
fn a_plugin_that_cannot_start_fails_alone() {
    faulty("error-in-start", "");
}

#[test]
fn a_plugin_whose_thread_panics_fails_alone() {
    faulty("panic-in-thread", "panic");
}

#[test]
fn unknown_settings_of_a_plugin_are_an_error_that_names_them() {
    let receiver = Receiver::start();
    let config = "[plugins.ebpf-net]\nno_such_setting = 1\n";
    let collector = Collector::setup(&receiver).config(config).launch();
    let entry = collector.wait_for("ebpf-net", "failed");
    let reason = entry["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("no_such_setting"), "{entry}");
    wait_for_failure(&receiver, "ebpf-net");
}

#[test]
fn a_third_partys_plugin_is_uploaded_like_any_other() {
    let receiver = Receiver::start();
    let plugins = PluginFolder::new();
    plugins.add_fixture("heartbeat");
    let collector = Collector::setup(&receiver)
        .enabled("heartbeat")
        .plugin_folder(plugins.path())
        .tags("a=1")
        .start();
    wait::until("a heartbeat arrives", || {
        let beats = receiver.measurement("heartbeat");
        if beats.is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
    });
    collector.stop();
    let beats = receiver.measurement("heartbeat");
    assert_eq!(beats.values("a"), ["1"].into());
    assert_eq!(beats.values("host"), [system_tests::collector::HOSTNAME].into());
    let requests = receiver.requests();
    let of_heartbeat = requests.iter().find(|r| r.points.iter().any(|p| p.name == "heartbeat"));
    assert_eq!(of_heartbeat.expect("it arrived").query, "input=heartbeat");
}

/// A plugin that was built against version 1 of the interface.
#[track_caller]
fn an_older_plugin_works(isolation: &[&str]) {
    let receiver = Receiver::start();
    let plugins = PluginFolder::new();
    plugins.add_fixture("previous-api");
    let collector = Collector::setup(&receiver)
        .enabled("previous-api")
        .plugin_folder(plugins.path())
        .args(isolation)
        .start();
    wait::until("two beats arrive", || {
        let beats = receiver.measurement("heartbeat");
        let count = beats.points().len();
        if count < 2 { Err(format!("{count} so far")) } else { Ok(()) }
    });
    let entry = collector.plugin("previous-api").expect("it is enabled");
    assert_eq!(entry["process"].is_u64(), !isolation.is_empty(), "{entry}");
    // Its calls answer; what it does not know of does not keep it from being asked.
    assert_eq!((&entry["state"], &entry["version"]), (&"running".into(), &"1.0.0".into()));
    assert!(!collector.log().contains("could not say how it is"), "{}", collector.log());
    collector.stop();
    assert_eq!(receiver.measurement("heartbeat").values("kind"), ["steady"].into());
}

#[test]
fn a_plugin_of_the_previous_interface_works_as_before() {
    an_older_plugin_works(&[]);
}

#[test]
fn a_plugin_of_the_previous_interface_works_in_a_process_of_its_own() {
    an_older_plugin_works(&["--isolate", "previous-api"]);
}

#[test]
fn the_status_names_every_probe_and_how_it_is_attached() {
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let entry = collector.plugin("ebpf-net").expect("it is enabled");
    assert_eq!(entry["reason"], Value::Null, "{entry}");
    assert!(entry["version"].as_str().is_some_and(|version| !version.is_empty()), "{entry}");
    let probes = entry["probes"].as_array().expect("a list of probes");
    assert!(!probes.is_empty(), "{entry}");
    for probe in probes {
        for key in ["name", "hook", "status", "detail"] {
            assert!(probe.get(key).is_some_and(Value::is_string), "`{key}` in {probe}");
        }
    }
    let status = collector.status();
    assert!(status["version"].is_string() && status["uptime_seconds"].is_number(), "{status}");
    let metrics = collector.metrics();
    let of_plugin = |line: &&str| line.contains(r#"plugin="ebpf-net""#);
    assert!(metrics.lines().any(|line| of_plugin(&line)), "{metrics}");
    collector.stop();
}
