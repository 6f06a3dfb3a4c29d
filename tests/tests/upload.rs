//! From the collector to `DataKit`: nothing is lost, sent twice or dropped without a count. In: traffic of known size and a receiver
//! that is down, refuses, hangs or takes. Out: sums at the receiver, and counters that balance in `/status`.

use std::fs;
use std::net::TcpStream;
use std::thread;

use system_tests::collector::{Collector, Ledger};
use system_tests::flows::Tcp;
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::{Answer, Receiver, Request};
use system_tests::tcp::accept;
use system_tests::{ports, wait};

#[test]
fn nothing_is_lost_while_the_receiver_is_down_at_first() {
    let hosts = Hosts::new();
    let receiver = Receiver::closed();
    let collector = Collector::start(&receiver);
    hosts.talk(6000, 11_111);
    collector.wait_for_ledger("points wait for the receiver", |ledger| ledger.queued > 0);
    receiver.open();
    hosts.wait_for_both_ends(&receiver, 6000);
    hosts.talk(6001, 22_222);
    let ledger =
        collector.wait_for_ledger("all is uploaded", |now| now.queued == 0 && now.balances());
    assert!(ledger.dropped.is_empty() || ledger.dropped.values().all(|n| *n == 0), "{ledger:?}");
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 6000, Tcp::once(0, 11_111));
    hosts.assert_tcp(&seen, 6001, Tcp::once(0, 22_222));
}

#[test]
fn a_refused_upload_is_repeated_until_it_is_taken_and_no_longer() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    receiver.answer(Answer::Refuse(500));
    let collector = Collector::start(&receiver);
    hosts.talk(6010, 33_333);
    wait::until("the receiver has refused", || match receiver.answered(Answer::Refuse(500)) {
        0 => Err("no request yet".to_owned()),
        _ => Ok(()),
    });
    receiver.answer(Answer::Take);
    hosts.wait_for_both_ends(&receiver, 6010);
    collector.stop();
    hosts.assert_tcp(&receiver.netflow(), 6010, Tcp::once(0, 33_333));
}

#[test]
fn what_the_receiver_will_never_take_is_dropped_and_counted() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    receiver.answer(Answer::Refuse(400));
    let collector = Collector::start(&receiver);
    hosts.talk(6020, 44_444);
    let dropped = |ledger: &Ledger| ledger.dropped.values().sum::<u64>();
    collector.wait_for_ledger("refused points are counted", |ledger| dropped(ledger) >= 2);
    receiver.answer(Answer::Take);
    hosts.talk(6021, 55_555);
    hosts.wait_for_both_ends(&receiver, 6021);
    let ledger = collector.wait_for_ledger("the counters balance", Ledger::balances);
    assert!(ledger.uploaded >= 2 && dropped(&ledger) >= 2, "{ledger:?}");
    assert!(ledger.dropped.keys().all(|reason| !reason.is_empty()), "{ledger:?}");
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 6021, Tcp::once(0, 55_555));
    hosts.assert_nothing_on(&seen, 6020);
}

#[test]
fn a_receiver_that_hangs_delays_points_but_stops_no_counting() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    receiver.answer(Answer::Hang);
    let collector = Collector::start(&receiver);
    hosts.talk(6030, 66_666);
    wait::until("an upload hangs", || match receiver.answered(Answer::Hang) {
        0 => Err("no request yet".to_owned()),
        _ => Ok(()),
    });
    // The kernel's events and the flushes go on behind the upload that hangs.
    let before = collector.ledger();
    for port in 6031..6040 {
        hosts.talk(port, 1_000);
    }
    collector.wait_for_ledger("points are still made", |now| now.emitted >= before.emitted + 18);
    receiver.answer(Answer::Take);
    for port in 6030..6040 {
        hosts.wait_for_both_ends(&receiver, port);
    }
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 6030, Tcp::once(0, 66_666));
    for port in 6031..6040 {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 1_000));
    }
}

#[test]
fn sigterm_delivers_what_happened_just_before_and_cleans_up() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    // Flushes once a minute: what arrives is what the end of the process flushed.
    let mut collector = Collector::setup(&receiver).seldom().start();
    let pidfile = collector.pidfile();
    let pid = fs::read_to_string(&pidfile).expect("a running collector has a pid file");
    assert_eq!(pid, collector.pid().to_string());
    hosts.talk(6041, 88_888);
    let open = hosts.connect(Family::V6, 6040);
    open.up(77_777);
    let status = collector.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(!pidfile.exists(), "the pid file is gone");

    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 6041, Tcp::once(0, 88_888));
    let live = Tcp { read: 0, written: 77_777, established: 1, closed: 0 };
    hosts.assert_tcp(&seen, 6040, live);
    drop(open);
}

#[test]
fn sigterm_does_not_wait_for_a_receiver_that_is_gone() {
    let hosts = Hosts::new();
    let receiver = Receiver::closed();
    let mut collector = Collector::start(&receiver);
    hosts.talk(6042, 1_000);
    assert_eq!(collector.terminate().code(), Some(0));
}

#[test]
fn a_request_holds_at_most_256_points() {
    const PORTS: u16 = 400;
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).seldom().start();
    let listeners: Vec<_> = (0..PORTS).map(|n| hosts.listen(Family::V4, 30_000 + n)).collect();
    hosts.client.enter(|| {
        for listener in &listeners {
            let address = listener.local_addr().expect("a listener has an address");
            drop(TcpStream::connect(address).expect("the server listens"));
            drop(accept(listener));
        }
    });
    hosts.settle();
    collector.stop();

    let requests = receiver.requests();
    let sizes: Vec<usize> = requests.iter().map(|request| request.points.len()).collect();
    assert!(sizes.iter().all(|size| (1..=256).contains(size)), "{sizes:?}");
    assert!(sizes.contains(&256), "800 points at once fill a request: {sizes:?}");
    let seen = receiver.netflow();
    for port in 30_000..30_000 + PORTS {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 0));
    }
}

#[test]
fn requests_are_what_datakit_expects() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    hosts.talk(6050, 1_000);
    collector.stop();
    let requests = receiver.requests();
    let mut netflow = requests.iter().filter(|r| r.points.iter().any(|p| p.name == "netflow"));
    let request = netflow.next().expect("an upload of netflow");
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/write/network"));
    assert_eq!(request.query, "input=ebpf-net%2Fnetflow");
    let content_type = Some("application/protobuf; proto=com.guance.Point");
    assert_eq!(request.header("content-type"), content_type);
    assert_eq!(request.header("content-length"), Some(request.len.to_string().as_str()));
    let encoding = (request.plain_len > 1024).then_some("gzip");
    assert_eq!(request.header("content-encoding"), encoding);
    assert!(request.points.iter().all(|point| point.name == "netflow"), "one feed a request");
    assert!(receiver.last_errors().is_empty(), "{:?}", receiver.last_errors());
}

#[test]
fn all_arguments_that_datakit_can_pass_are_accepted_with_an_empty_environment() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let pprof = ports::free_address();
    let (host, port) = (pprof.ip().to_string(), pprof.port().to_string());
    // In the order of its source, every option set. The collector's harness clears the environment.
    let between: [&[&str]; 15] = [
        &["--l7net-enabled", "httpflow,httpflow-tls"],
        &["--pprof-host", &host, "--pprof-port", &port],
        &["--ipv6-disabled"],
        &["--ephemeral_port", "0"],
        &["--netlog-metric", "--netlog-log"],
        &["--trace-server", "http://127.0.0.1:1"],
        &["--trace-allprocess"],
        &["--trace-env-list", "A,B", "--trace-env-blacklist", "C"],
        &["--trace-name-list", "a,b", "--trace-name-blacklist", "c"],
        &["--conv-to-ddtrace"],
        &["--res-cpu", "64.0"],
        &["--res-mem", "64GiB"],
        &["--res-net", "640GiB/s"],
        &["--sampling-rate", "1.00"],
        &[],
    ];
    let setup = Collector::setup(&receiver).args(between.concat());
    let collector = setup.tags("k1=v1;k2=v2").start();
    hosts.talk(6060, 1_234);
    collector.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 6060, Tcp::once(0, 1_234));
    for (tag, value) in [("k1", "v1"), ("k2", "v2"), ("service", "ebpf")] {
        assert_eq!(seen.values(tag), [value].into());
    }
}

#[test]
fn counters_balance_and_no_event_is_lost_under_load() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            for port in 6100..6200 {
                drop(hosts.connect(Family::V4, port));
            }
        });
        while !load.is_finished() {
            collector.wait_for_ledger("the counters balance", Ledger::balances);
        }
    });
    hosts.settle();
    let lost = collector.metrics();
    let lost = lost.lines().filter(|line| !line.starts_with('#') && line.contains("lost"));
    assert!(lost.clone().all(|line| line.ends_with(" 0")), "{:?}", lost.collect::<Vec<_>>());
    collector.stop();
    let seen = receiver.netflow();
    for port in 6100..6200 {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 0));
    }
}

/// What is uploaded of a hundred flows, which arrive as they were.
fn uploads_of_many_flows(receiver: &Receiver, args: &[&str]) -> Vec<Request> {
    const PORTS: u16 = 100;
    let hosts = Hosts::new();
    let collector = Collector::setup(receiver).seldom().args(args).start();
    for port in 31_000..31_000 + PORTS {
        hosts.talk(port, 100);
    }
    collector.stop();
    let seen = receiver.netflow();
    for port in 31_000..31_000 + PORTS {
        hosts.assert_tcp(&seen, port, Tcp::once(0, 100));
    }
    receiver.requests()
}

#[test]
fn large_requests_are_compressed_and_small_ones_are_not() {
    let receiver = Receiver::start();
    let requests = uploads_of_many_flows(&receiver, &[]);
    assert!(requests.iter().any(|request| request.plain_len > 20_000), "one is large");
    for request in requests {
        let is_large = request.plain_len > 1024;
        assert_eq!(request.header("content-encoding"), is_large.then_some("gzip"));
        assert_eq!(request.header("content-length"), Some(request.len.to_string().as_str()));
        let content_type = Some("application/protobuf; proto=com.guance.Point");
        assert_eq!(request.header("content-type"), content_type);
        assert!(!is_large || request.len < request.plain_len, "{} bytes", request.len);
    }
}

#[test]
fn nothing_is_compressed_when_gzip_is_off() {
    let receiver = Receiver::start();
    let requests = uploads_of_many_flows(&receiver, &["--gzip=false"]);
    assert!(requests.iter().any(|request| request.plain_len > 20_000), "one is large");
    assert!(requests.iter().all(|request| request.header("content-encoding").is_none()));
}

#[test]
fn a_receiver_that_does_not_know_gzip_gets_the_request_without() {
    let receiver = Receiver::start();
    receiver.refuse_gzip();
    let requests = uploads_of_many_flows(&receiver, &[]);
    let taken = requests.iter().filter(|request| request.answer == Answer::Take);
    assert!(taken.clone().any(|request| request.plain_len > 20_000), "a large one is taken");
    assert!(receiver.answered(Answer::Refuse(415)) > 0);
}
