//! A collector that is started again. In: one that supervises itself, and a hard end of either of its processes. Out: it goes
//! on after the one, and nothing goes on after the other.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::collector::Collector;
use system_tests::flows::Tcp;
use system_tests::hosts::Hosts;
use system_tests::receiver::Receiver;
use system_tests::wait;

fn supervised(receiver: &Receiver) -> Collector {
    Collector::setup(receiver).args(["--supervise", "on"]).start()
}

/// The process that collects; its supervisor is the one that was started.
fn worker(collector: &Collector) -> i32 {
    let text = fs::read_to_string(collector.pidfile()).expect("it has written its pid");
    text.parse().expect("a pid is a number")
}

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is alive");
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_killed_collector_is_started_again_and_datakit_hears_of_it() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = supervised(&receiver);
    let first = worker(&collector);
    assert_ne!(first, i32::try_from(collector.pid()).expect("pids are small"));
    kill_hard(first);
    wait::until("another one collects", || match fs::read_to_string(collector.pidfile()) {
        Ok(pid) if pid != first.to_string() && !pid.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait::until("it answers", || match std::net::TcpStream::connect(collector.status_address()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    collector.wait_for("ebpf-net", "running");
    hosts.talk(6600, 4_321);
    receiver.wait_for_last_error("SIGKILL");
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 6600, Tcp::once(0, 4_321));
}

#[test]
fn nothing_goes_on_when_the_supervising_process_is_killed() {
    let receiver = Receiver::start();
    let collector = supervised(&receiver);
    let worker = worker(&collector);
    assert!(is_alive(worker));
    // Kills the process that was started.
    drop(collector);
    wait::until_true("the collecting process has ended", || !is_alive(worker), String::new);
}
