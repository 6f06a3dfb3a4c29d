//! SIGHUP. In: a configuration file that changes while the collector runs, and a connection that is open all the while. Out: what
//! was changed is in effect, and what was not has not been interrupted by a byte.

use system_tests::collector::Collector;
use system_tests::flows::Tcp;
use system_tests::hosts::{Family, Hosts};
use system_tests::plugins::PluginFolder;
use system_tests::receiver::Receiver;
use system_tests::wait;

struct Scene {
    hosts: Hosts,
    receiver: Receiver,
    _plugins: PluginFolder,
    collector: Collector,
}

impl Scene {
    fn new(config: &str, args: &[&str]) -> Self {
        let (hosts, receiver, plugins) = (Hosts::new(), Receiver::start(), PluginFolder::new());
        plugins.add_fixture("heartbeat");
        plugins.add_fixture("faulty");
        let collector = Collector::setup(&receiver)
            .enabled("")
            .plugin_folder(plugins.path())
            .config(config)
            .args(args)
            .launch();
        collector.wait_for("ebpf-net", "running");
        Self { hosts, receiver, _plugins: plugins, collector }
    }
}

fn enabling_a_second_plugin_interrupts_nothing(args: &[&str]) {
    let scene = Scene::new("enabled = [\"ebpf-net\"]\n", args);
    let Scene { hosts, receiver, collector, .. } = &scene;
    let pair = hosts.connect(Family::V4, 5000);
    pair.up(100_000);
    collector.reload("enabled = [\"ebpf-net\", \"heartbeat\"]\n");
    pair.up(20_000);
    collector.wait_for("heartbeat", "running");
    pair.up(3_000);
    let beats = || receiver.measurement("heartbeat").points().len();
    wait::until_true("the second plugin's points arrive", || beats() > 0, String::new);
    collector.reload("enabled = [\"ebpf-net\"]\n");
    collector.wait_for("heartbeat", "stopped");
    pair.up(400);
    drop(pair);
    hosts.settle();
    let restarts = collector.plugin("ebpf-net").expect("it is enabled")["restarts"].clone();
    assert_eq!(restarts, 0);
    let Scene { hosts, receiver, collector, .. } = scene;
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 5000, Tcp::once(0, 123_400));
}

#[test]
fn enabling_and_disabling_a_second_plugin_does_not_interrupt_the_first() {
    enabling_a_second_plugin_interrupts_nothing(&[]);
}

#[test]
fn the_supervising_process_passes_the_signal_on() {
    enabling_a_second_plugin_interrupts_nothing(&["--supervise", "on"]);
}

#[test]
fn a_configuration_with_an_error_changes_nothing_and_is_complained_about() {
    let scene = Scene::new("enabled = [\"ebpf-net\"]\n", &[]);
    scene.collector.reload("enabled = [\"ebpf-net\", \"heartbeat\"]\nno_such_key = 1\n");
    wait::until_true(
        "the log tells",
        || scene.collector.log().contains("no_such_key"),
        || scene.collector.log(),
    );
    assert!(scene.collector.plugin("heartbeat").is_none());
    scene.collector.wait_for("ebpf-net", "running");
    scene.collector.stop();
}

#[test]
fn only_the_plugin_whose_settings_change_is_started_again() {
    let enabled = "enabled = [\"ebpf-net\", \"faulty\"]\n";
    let scene = Scene::new(enabled, &[]);
    let collector = &scene.collector;
    collector.wait_for("faulty", "running");
    let since = collector.plugin("ebpf-net").expect("it is enabled")["since"].clone();
    collector.reload(&format!("{enabled}[plugins.faulty]\nfault = \"error-in-start\"\n"));
    let entry = collector.wait_for("faulty", "failed");
    assert!(entry["reason"].as_str().is_some_and(|why| why.contains("told to fail")), "{entry}");
    // Mended, it gets another chance.
    collector.reload(enabled);
    collector.wait_for_again("faulty", "running");
    assert_eq!(collector.plugin("ebpf-net").expect("it is enabled")["since"], since);
    scene.collector.stop();
}

#[test]
fn tags_change_with_the_next_batch_and_what_cannot_change_is_named() {
    let scene = Scene::new("enabled = [\"heartbeat\", \"ebpf-net\"]\n", &[]);
    let Scene { receiver, collector, .. } = &scene;
    let rooms = || {
        let beats = receiver.measurement("heartbeat");
        beats.points().iter().filter(|point| point.tag("room") == Some("12")).count()
    };
    collector.reload(
        "enabled = [\"heartbeat\", \"ebpf-net\"]\ntags = [\"room=12\"]\n[host]\nqueue_size = \"1MiB\"\n",
    );
    wait::until_true("the new tag arrives", || rooms() > 0, String::new);
    let log = collector.log();
    assert!(log.contains("queue-size") && log.contains("next start"), "{log}");
    scene.collector.stop();
}
