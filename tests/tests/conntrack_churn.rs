//! Very many translated connections. In: connections that come and go, and more of them than the collector can hear of while it
//! sleeps. Out: the table forgets what ends, and what was missed is counted and made good.
//!
//! The table is one for the whole machine: these tests run one after the other, and none beside them may translate anything.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use system_tests::collector::Collector;
use system_tests::hosts::{Family, Netns};
use system_tests::receiver::Receiver;
use system_tests::routed::Routed;
use system_tests::tcp::{Pair, accept, connections};
use system_tests::wait;

const CONNTRACK: &str = "ebpf-conntrack";

/// So often equal load may let the process grow.
const ROUNDS: usize = 5;

static ALONE: Mutex<()> = Mutex::new(());

fn start(receiver: &Receiver) -> Collector {
    Collector::setup(receiver).enabled(CONNTRACK).start()
}

/// The node sends what comes to the service to the server's port 8080.
fn translate(node: &Netns, protocol: &str, ports: &str, to: SocketAddr) {
    node.nft(&format!(
        "table ip nat {{ chain pre {{ type nat hook prerouting priority -100; \
         {protocol} dport {ports} dnat to {to}; }}; }}"
    ));
}

fn resident(collector: &Collector) -> f64 {
    let path = format!("/proc/{}/status", collector.pid());
    let status = fs::read_to_string(path).expect("the collector runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).unwrap_or_else(|| panic!("{status}"))
}

/// Lets the kernel forget connections that have timed out: it does so when somebody reads.
fn tracked(node: &Netns) -> usize {
    let table = node.enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    table.expect("conntrack lists its connections").lines().count()
}

#[track_caller]
fn wait_for_nothing(collector: &Collector, node: &Netns) {
    wait::within(wait::patience() * 3, "the table is empty", || {
        let left = (tracked(node), collector.metric(CONNTRACK, "translations"));
        if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn forget_quickly(node: &Netns) {
    for timeout in
        ["tcp_timeout_close", "tcp_timeout_time_wait", "udp_timeout", "udp_timeout_stream"]
    {
        node.sysctl(&format!("netfilter/nf_conntrack_{timeout}"), "1");
    }
}

/// So many connections to so many ports of the service, each reset at once.
fn open_and_close(hosts: &Routed, listener: &TcpListener, count: usize) {
    for index in 0..count {
        let service = hosts.service(Family::V4, 80 + (index % 20) as u16);
        let pair = Pair { client: hosts.client.dial(service), server: accept(listener) };
        // No TIME_WAIT, so that ports do not run out.
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&pair.client, sockopt::Linger, &linger).expect("a socket has this option");
    }
}

#[test]
fn connections_that_end_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hosts = Routed::new();
    let real = hosts.real(Family::V4, 8080);
    let listener = hosts.server.listen(real);
    translate(&hosts.node, "tcp", "80-99", real);
    forget_quickly(&hosts.node);
    let receiver = Receiver::start();
    let collector = start(&receiver);
    // Tables and buffers grow with the first ones, and once more when a slow machine has fallen
    // behind; what leaks grows each time.
    let after = |round: usize| {
        open_and_close(&hosts, &listener, connections());
        wait_for_nothing(&collector, &hosts.node);
        println!("{} KiB after round {round}", resident(&collector));
        resident(&collector)
    };
    let first = after(0);
    let mut before = first;
    let grows_no_more = (1..=ROUNDS).any(|round| {
        let now = after(round);
        let grown = now - std::mem::replace(&mut before, now);
        grown < first / 10.0
    });
    let counted = |name: &str| collector.metric(CONNTRACK, name);
    println!(
        "events lost {}, overruns {}",
        counted("events_lost_total"),
        counted("overruns_total")
    );
    assert!(counted("events_total") >= 4 * connections() as u64 - counted("events_lost_total"));
    assert_eq!(counted("overruns_total"), counted("overruns_healed_total"));
    assert!(grows_no_more, "from {first} to {before} KiB in {ROUNDS} rounds");
    collector.stop();
}

#[test]
fn events_that_are_lost_are_counted_and_made_good() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hosts = Routed::new();
    let real = hosts.real(Family::V4, 5353);
    let _server = hosts.server.bind_udp(real);
    translate(&hosts.node, "udp", "1-65535", real);
    // None must end while a slow machine is at it.
    hosts.node.sysctl("netfilter/nf_conntrack_udp_timeout", "300");
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let service = hosts.service(Family::V4, 0).ip();
    let client: UdpSocket = hosts.client.any_udp(Family::V4);
    let send_to_all = || {
        let sent = |port: &u16| client.send_to(b"x", (service, *port)).is_ok();
        (1..=24_000).filter(sent).count()
    };
    let numbers = || {
        ["overruns_total", "overruns_healed_total", "events_lost_total", "translations"]
            .map(|name| collector.metric(CONNTRACK, name))
    };

    // While it sleeps, more connections come than its socket holds.
    collector.signal(Signal::SIGSTOP);
    let sent = send_to_all();
    let tracked_at_first = wait::until("all are tracked", || match tracked(&hosts.node) {
        enough if enough >= sent => Ok(enough as u64),
        less => Err(format!("{less} of {sent}")),
    });
    collector.signal(Signal::SIGCONT);
    let (overruns, lost) = wait::until("the loss is made good", || {
        let [overruns, healed, lost, held] = numbers();
        let healed = overruns > 0 && overruns == healed && held >= tracked_at_first;
        if healed { Ok((overruns, lost)) } else { Err(format!("{:?}", numbers())) }
    });
    let heard = collector.metric(CONNTRACK, "events_total");
    assert!(lost > 0 && heard + lost >= tracked_at_first, "{heard} + {lost}, {tracked_at_first}");

    // While it sleeps again, all of them end: another packet takes over the new timeouts.
    forget_quickly(&hosts.node);
    collector.signal(Signal::SIGSTOP);
    send_to_all();
    wait::until("all have ended", || match tracked(&hosts.node) {
        0 => Ok(()),
        some => Err(format!("{some}")),
    });
    collector.signal(Signal::SIGCONT);
    wait_for_nothing(&collector, &hosts.node);
    let [overruns_now, healed, lost_now, _] = numbers();
    assert!(overruns_now > overruns && lost_now > lost, "{:?}", numbers());
    assert_eq!(overruns_now, healed);
    collector.stop();
}

#[test]
fn connections_that_are_older_than_the_plugin_leave_too() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hosts = Routed::new();
    let real = hosts.real(Family::V4, 8080);
    let listener = hosts.server.listen(real);
    translate(&hosts.node, "tcp", "80", real);
    forget_quickly(&hosts.node);
    let service = hosts.service(Family::V4, 80);
    let pair = Pair { client: hosts.client.dial(service), server: accept(&listener) };
    let receiver = Receiver::start();
    let collector = start(&receiver);
    assert!(collector.metric(CONNTRACK, "translations") >= 1, "it is there from the start");
    drop(pair);
    // The kernel does not tell of its end.
    wait_for_nothing(&collector, &hosts.node);
    collector.stop();
}

#[test]
fn a_namespace_that_goes_away_is_not_kept_alive_and_takes_its_connections_along() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let [namespaces, translations] = ["namespaces", "translations"]
        .map(|name| move |from: &Collector| from.metric(CONNTRACK, name));
    let before = namespaces(&collector);
    let hosts = Routed::new();
    let real = hosts.real(Family::V4, 8080);
    let listener = hosts.server.listen(real);
    translate(&hosts.node, "tcp", "80", real);
    let service = hosts.service(Family::V4, 80);
    let pair = Pair { client: hosts.client.dial(service), server: accept(&listener) };
    wait::until("the connection is seen", || {
        let seen = (namespaces(&collector), translations(&collector));
        if seen.0 >= before + 3 && seen.1 >= 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    drop((pair, listener, hosts));
    wait::until("they are forgotten", || {
        let seen = (namespaces(&collector), translations(&collector));
        if seen.0 <= before && seen.1 == 0 {
            Ok(())
        } else {
            Err(format!("{seen:?}, before {before}"))
        }
    });
    collector.stop();
}
