//! Limits on what the collector uses. In: a supervised collector with a plugin that uses too much of one thing, and limits. Out:
//! near a limit it does less, beyond it ends, is started again, and `DataKit` hears why; without an excess nothing happens.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use system_tests::collector::{Collector, Setup};
use system_tests::plugins::PluginFolder;
use system_tests::receiver::Receiver;
use system_tests::wait;

/// A supervised collector whose only plugin goes wrong.
fn collector(receiver: &Receiver, plugins: &PluginFolder, fault: &str, args: &[&str]) -> Collector {
    setup(receiver, plugins, fault, args).start()
}

fn setup(receiver: &Receiver, plugins: &PluginFolder, fault: &str, args: &[&str]) -> Setup {
    plugins.add_fixture("faulty");
    Collector::setup(receiver)
        .enabled("faulty")
        .plugin_folder(plugins.path())
        // What is flooded would hardly take any bandwidth otherwise.
        .args(["--supervise", "on", "--gzip=false"])
        .args(args)
        .config(&format!("[plugins.faulty]\nfault = \"{fault}\"\n"))
}

/// The process that collects; its supervisor is the one that was started.
fn worker(collector: &Collector) -> String {
    fs::read_to_string(collector.pidfile()).unwrap_or_default()
}

/// A counter's value, or a gauge's.
#[track_caller]
fn metric(text: &str, name_and_labels: &str) -> f64 {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name_and_labels));
    let value = values.next().unwrap_or_else(|| panic!("{name_and_labels} is in:\n{text}"));
    value.trim().parse().expect("a metric is a number")
}

#[track_caller]
fn wait_for_step(collector: &Collector, resource: &str, step: &str) {
    let name = format!(r#"datakit_ebpf_limit_steps_total{{resource="{resource}",step="{step}"}}"#);
    wait::until(&format!("the step {step} is taken"), || {
        let text = collector.metrics();
        if metric(&text, &name) > 0.0 { Ok(()) } else { Err(text) }
    });
    let status = collector.status();
    let limits = status["limits"].as_array().expect("a list of limits").clone();
    let limit = limits.iter().find(|limit| limit["resource"] == resource).expect("it is limited");
    assert_eq!(limit["steps"][0], step, "{limit}");
    let log = collector.log();
    let line = log.lines().find(|line| line.contains(&format!("step=\"{step}\"")));
    assert!(line.is_some_and(|line| line.contains(" of ")), "the log has the figures:\n{log}");
}

/// Waits until another process than `first` collects, and its plugin runs.
#[track_caller]
fn wait_for_restart(collector: &Collector, first: &str) {
    wait::until("another one collects", || match worker(collector) {
        pid if pid != first && !pid.is_empty() => Ok(()),
        pid => Err(pid),
    });
    wait::until("it answers", || {
        std::net::TcpStream::connect(collector.status_address()).map_err(|error| error.to_string())
    });
    collector.wait_for("faulty", "running");
}

/// The sentence that the restarted collector has posted.
#[track_caller]
fn restart_reason(receiver: &Receiver) -> String {
    const PREFIX: &str = "the collector was started again after: ";
    let error = receiver.wait_for_last_error(PREFIX);
    let reason = error["err_content"].as_str().and_then(|text| text.strip_prefix(PREFIX));
    reason.unwrap_or_else(|| panic!("{error} begins with it")).to_owned()
}

#[test]
fn a_collector_that_burns_cpu_does_less_then_ends_and_is_started_again() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let collector = collector(&receiver, &plugins, "burn-cpu", &["--res-cpu", "0.2"]);
    let first = worker(&collector);
    wait_for_step(&collector, "cpu", "sample_1_2");
    wait_for_restart(&collector, &first);
    let reason = restart_reason(&receiver);
    assert!(reason.starts_with("over the CPU limit: "), "{reason}");
    assert!(reason.ends_with(" of 0.2 cores for 15 s"), "{reason}");
}

#[test]
fn optional_plugins_are_stopped_as_the_last_step() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    plugins.add_fixture("heartbeat");
    let limits = ["--res-cpu", "0.2", "--optional", "heartbeat"];
    let collector =
        setup(&receiver, &plugins, "burn-cpu", &limits).enabled("faulty,heartbeat").start();
    let entry = collector.wait_for("heartbeat", "stopped");
    assert_eq!(entry["reason"], "paused: a limit is near", "{entry}");
    let status = collector.status();
    let steps = &status["limits"][0]["steps"];
    let expected = ["sample_1_2", "sample_1_4", "sample_1_8", "pause_plugins"];
    assert_eq!(*steps, serde_json::json!(expected), "{status}");
    assert!(!receiver.measurement("heartbeat").is_empty(), "it ran before");
    collector.wait_for("faulty", "running");
}

#[test]
fn a_collector_that_eats_memory_does_less_then_ends_and_is_started_again() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let collector = collector(&receiver, &plugins, "eat-memory", &["--res-mem", "120MiB"]);
    let first = worker(&collector);
    wait_for_step(&collector, "memory", "smaller_queue");
    wait_for_restart(&collector, &first);
    let reason = restart_reason(&receiver);
    assert!(reason.starts_with("over the memory limit: "), "{reason}");
    assert!(reason.ends_with(" MiB of 120 MiB for 5 s"), "{reason}");
}

#[test]
fn a_step_is_taken_back_when_memory_was_given_back() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let collector = collector(&receiver, &plugins, "binge", &["--res-mem", "128MiB"]);
    wait_for_step(&collector, "memory", "smaller_queue");
    wait::until("the step is taken back", || {
        let status = collector.status();
        if status["limits"][0]["steps"] == serde_json::json!([]) {
            Ok(())
        } else {
            Err(status["limits"].to_string())
        }
    });
    assert!(collector.log().contains("well below a limit again"), "{}", collector.log());
}

#[test]
fn uploads_that_would_take_too_much_bandwidth_are_held_back_and_the_collector_stays() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let collector = collector(&receiver, &plugins, "flood", &["--res-bandwidth", "3MiB/s"]);
    let first = worker(&collector);
    wait_for_step(&collector, "bandwidth", "slower_uploads");
    wait::until("uploads keep to the limit", || {
        let text = collector.metrics();
        let used = metric(&text, r#"datakit_ebpf_limit_used_ratio{resource="bandwidth"}"#);
        let sent = metric(&text, r#"datakit_ebpf_network_bytes_total{direction="sent"}"#);
        // More than the window's worth was sent, so the beginning is forgotten.
        let is_held = used < 1.0 && sent > f64::from(36 << 20);
        if is_held { Ok(()) } else { Err(format!("{used} of the limit, {sent} bytes")) }
    });
    assert_eq!(worker(&collector), first);
    assert!(collector.ledger().balances(), "{:?}", collector.ledger());
}

#[test]
fn a_collector_that_takes_too_much_bandwidth_all_the_same_ends_and_is_started_again() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let collector = collector(&receiver, &plugins, "flood", &["--res-net", "300KiB/s"]);
    let first = worker(&collector);
    wait_for_step(&collector, "bandwidth", "slower_uploads");
    // Its uploads can be held back, but not those who ask it for its metrics.
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    // While it is started again, it does not answer.
                    collector.try_metrics().ok();
                }
            });
        }
        wait::until("it has ended", || match worker(&collector) {
            pid if pid != first => Ok(()),
            pid => Err(pid),
        });
        is_done.store(true, Ordering::Relaxed);
    });
    wait_for_restart(&collector, &first);
    let reason = restart_reason(&receiver);
    assert!(reason.starts_with("over the bandwidth limit: "), "{reason}");
    assert!(reason.ends_with("/s of 300 KiB/s for 15 s"), "{reason}");
}

#[test]
fn limits_that_are_not_exceeded_do_nothing_under_load() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let limits = ["--res-cpu", "4", "--res-mem", "2GiB", "--res-bandwidth", "100MiB/s"];
    let collector = collector(&receiver, &plugins, "flood", &limits);
    let first = worker(&collector);
    wait::until("it has worked for longer than any limit may be exceeded", || {
        let status = collector.status();
        let is_enough = status["uptime_seconds"].as_u64() > Some(20)
            && status["sent_bytes"].as_u64() > Some(20 << 20);
        if is_enough { Ok(()) } else { Err(status.to_string()) }
    });
    let bodies: usize = receiver.requests().iter().map(|request| request.len).sum();
    let text = collector.metrics();
    let sent = metric(&text, r#"datakit_ebpf_network_bytes_total{direction="sent"}"#);
    assert!(sent >= bodies as f64, "{sent} of at least {bodies} bytes were counted");
    let steps: Vec<_> =
        text.lines().filter(|line| line.starts_with("datakit_ebpf_limit_steps_total{")).collect();
    assert_eq!(steps.len(), 10, "{text}");
    assert!(steps.iter().all(|line| line.ends_with(" 0")), "{steps:#?}");
    for resource in ["cpu", "memory", "bandwidth"] {
        let used = format!(r#"datakit_ebpf_limit_used_ratio{{resource="{resource}"}}"#);
        let share = metric(&text, &used);
        assert!(share > 0.0 && share < 0.5, "{resource} is measured: {share}");
    }
    assert_eq!(worker(&collector), first);
}

#[test]
fn a_plugin_that_leaks_in_a_process_of_its_own_is_started_again_alone() {
    let (receiver, plugins) = (Receiver::start(), PluginFolder::new());
    let args = ["--res-mem", "150MiB", "--isolate", "faulty"];
    let collector = collector(&receiver, &plugins, "eat-memory", &args);
    let first = worker(&collector);
    wait::until("the plugin is started again", || {
        let entry = collector.plugin("faulty").expect("it is enabled");
        if entry["restarts"].as_u64() >= Some(1) { Ok(()) } else { Err(entry.to_string()) }
    });
    assert_eq!(worker(&collector), first, "the collector runs on");
    receiver.wait_for_last_error("over the limit");
}
