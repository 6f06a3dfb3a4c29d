//! Points that wait on disk. In: a receiver that is away while the collector is killed or stopped. Out: every point arrives at
//! the next one's hands.

use system_tests::collector::{Collector, Setup};
use system_tests::flows::Tcp;
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::wait;
use tempfile::TempDir;

fn with_spool(receiver: &Receiver, folder: &TempDir) -> Setup {
    let folder = folder.path().to_str().expect("temporary paths are text");
    Collector::setup(receiver).args(["--spool-dir", folder])
}

/// Talks, and waits until the points of both ends are on disk.
fn talk_into_spool(hosts: &Hosts, collector: &Collector, port: u16, bytes: usize) {
    let before = points_on_disk(collector);
    hosts.connect(Family::V4, port).up(bytes);
    hosts.settle();
    wait::until("points are on disk", || match points_on_disk(collector) {
        points if points >= before + 2 => Ok(()),
        points => Err(format!("{points} points, {before} before")),
    });
    // One more report, so that none of the conversation's points is still to come.
    let reported = collector.ledger().emitted;
    hosts.connect(Family::V4, port + 1).up(1);
    hosts.settle();
    collector.wait_for_ledger("a further report", |ledger| ledger.emitted >= reported + 2);
}

fn points_on_disk(collector: &Collector) -> u64 {
    collector.status()["spool"]["points"].as_u64().expect("the status tells of the spool")
}

#[test]
fn points_survive_a_killed_collector_and_an_absent_receiver() {
    let hosts = Hosts::new();
    let receiver = Receiver::closed();
    let spool = tempfile::tempdir().expect("a folder");
    let first = with_spool(&receiver, &spool).start();
    talk_into_spool(&hosts, &first, 6500, 11_111);
    // Killed, not asked.
    drop(first);

    let second = with_spool(&receiver, &spool).start();
    talk_into_spool(&hosts, &second, 6510, 22_222);
    receiver.open();
    let ledger =
        second.wait_for_ledger("all is uploaded", |now| now.queued == 0 && now.uploaded >= 8);
    assert!(ledger.balances() && ledger.dropped.is_empty(), "{ledger:?}");
    second.stop();
    let seen = receiver.netflow();
    hosts.assert_tcp(&seen, 6500, Tcp::once(0, 11_111));
    hosts.assert_tcp(&seen, 6510, Tcp::once(0, 22_222));
}

#[test]
fn what_a_stopped_collector_could_not_deliver_is_delivered_by_the_next() {
    let hosts = Hosts::new();
    let receiver = Receiver::closed();
    let spool = tempfile::tempdir().expect("a folder");
    let mut first = with_spool(&receiver, &spool).start();
    talk_into_spool(&hosts, &first, 6520, 33_333);
    assert!(first.terminate().success());

    receiver.open();
    let second = with_spool(&receiver, &spool).start();
    second.wait_for_ledger("all is uploaded", |now| now.queued == 0 && now.uploaded >= 4);
    second.stop();
    hosts.assert_tcp(&receiver.netflow(), 6520, Tcp::once(0, 33_333));
}

#[test]
fn a_second_collector_is_refused_the_same_spool() {
    let receiver = Receiver::start();
    let spool = tempfile::tempdir().expect("a folder");
    let _first = with_spool(&receiver, &spool).start();
    let mut second = with_spool(&receiver, &spool).spawn();
    let status = wait::until("the second one ends", || second.ended().ok_or("it runs".to_owned()));
    assert!(!status.success());
    let log = second.log();
    assert!(log.contains(spool.path().to_str().expect("text")), "{log}");
}
