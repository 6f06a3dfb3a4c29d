//! More requests than fit: the oldest go, and every point is accounted for.

use std::collections::BTreeMap;
use std::thread;

use tempfile::tempdir;

use super::{drain, id, next, open, push, request, segments, sum};
use crate::pipeline::spool::Spool;

#[test]
fn the_oldest_make_room_and_every_plugin_is_told() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 4000);
    let mut dropped = BTreeMap::<String, usize>::new();
    for id in 1..=20 {
        let plugin = ["a", "b"][id % 2];
        for (plugin, points) in spool.push(plugin, &request(id, 400)).unwrap().dropped {
            *dropped.entry(plugin).or_default() += points;
        }
        assert!(spool.bytes() <= 4000);
        let on_disk =
            segments(folder.path()).into_iter().map(|path| path.metadata().unwrap().len());
        assert_eq!(spool.bytes(), on_disk.sum::<u64>());
    }
    let ids = drain(&spool);
    assert!(ids.iter().copied().eq(21 - ids.len()..=20), "{ids:?}");
    assert!(ids.len() >= 7, "most of the room is used");
    let expected = |rest| (1..=20 - ids.len()).filter(|id| id % 2 == rest).sum::<usize>();
    assert_eq!(dropped, BTreeMap::from([("a".into(), expected(0)), ("b".into(), expected(1))]));
}

#[test]
fn a_request_larger_than_the_spool_is_dropped_alone() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 1000);
    push(&spool, [1], 100);
    let outcome = spool.push("big", &request(2, 1000)).unwrap();
    assert_eq!(outcome.dropped, [("big".to_owned(), 2)]);
    assert_eq!(drain(&spool), [1]);
}

#[test]
fn a_request_under_way_that_makes_room_can_still_be_delivered() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 1000);
    push(&spool, 1..=2, 400);
    let first = next(&spool).unwrap();
    let outcome = spool.push("net", &request(3, 400)).unwrap();
    assert_eq!(outcome.dropped, [], "it is under way");
    let outcome = spool.push("net", &request(4, 400)).unwrap();
    assert_eq!(outcome.dropped, [("net".to_owned(), 2)]);
    assert_eq!(next(&spool).as_ref(), Some(&first));
    assert_eq!(spool.points(), 1 + 3 + 4);
    spool.commit(&first);
    assert_eq!(spool.close(), []);
    assert_eq!(drain(&spool), [3, 4]);
}

#[test]
fn a_request_under_way_that_made_room_is_reported_at_the_end() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 1000);
    push(&spool, 1..=2, 400);
    next(&spool).unwrap();
    push(&spool, [3], 400);
    assert_eq!(spool.close(), [("net".to_owned(), 1)]);
    assert_eq!(spool.len(), 2);
    drop(spool);
    assert_eq!(drain(&open(folder.path(), 1000)), [2, 3]);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn every_point_is_delivered_dropped_or_waiting_whatever_happens() {
    // Not more of them: a segment here holds few requests, and each is synced.
    for seed in 1..=10 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ seed);
        let folder = tempdir().unwrap();
        let cap_bytes = 2000 << random.below(5);
        let mut spool = open(folder.path(), cap_bytes);
        let (mut pushed, mut delivered, mut dropped) = (0, 0, 0);
        let (mut id_pushed, mut id_taken) = (0, 0);
        for step in 0..300 {
            match random.below(20) {
                0..12 => {
                    id_pushed += 1;
                    pushed += id_pushed;
                    let plugin = ["a", "b", "c"][random.below(3)];
                    let limit = [300, 300, 300, 3000][random.below(4)];
                    let bytes = random.below(limit);
                    let request = request(id_pushed, bytes);
                    dropped += sum(&spool.push(plugin, &request).unwrap().dropped);
                }
                12..18 => {
                    if let Some(entry) = next(&spool) {
                        assert!(id(&entry) > id_taken, "in order, and once");
                        id_taken = id(&entry);
                        delivered += id_taken;
                        spool.commit(&entry);
                    }
                }
                18 => {
                    next(&spool);
                }
                _ => {
                    // What is under way when a process is killed may be on disk no more; here it
                    // is delivered before.
                    if random.below(2) == 0 {
                        dropped += sum(&spool.close());
                    } else if let Some(entry) = next(&spool) {
                        id_taken = id(&entry);
                        delivered += id_taken;
                        spool.commit(&entry);
                    }
                    let (requests, points) = (spool.len(), spool.points());
                    drop(spool);
                    let (reopened, recovered) = Spool::open(folder.path(), cap_bytes).unwrap();
                    assert_eq!(recovered.requests, requests);
                    assert_eq!(recovered.points.values().sum::<usize>(), points);
                    assert_eq!(recovered.lost_records, 0);
                    spool = reopened;
                }
            }
            assert!(spool.bytes() <= cap_bytes);
            let remaining = spool.points();
            assert_eq!(pushed, delivered + dropped + remaining, "seed {seed}, step {step}");
        }
        let rest: usize = drain(&spool).into_iter().sum();
        assert_eq!(pushed, delivered + dropped + rest, "seed {seed}");
    }
}

#[test]
fn one_thread_pushes_while_another_takes() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 64_000);
    let mut ids = Vec::new();
    let dropped: usize = thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            let push = |id| sum(&spool.push("net", &request(id, 500)).unwrap().dropped);
            (1..=500).map(push).sum()
        });
        while !pusher.is_finished() {
            ids.extend(drain(&spool));
        }
        pusher.join().unwrap()
    });
    ids.extend(drain(&spool));
    assert!(ids.is_sorted());
    assert_eq!(ids.iter().sum::<usize>() + dropped, 500 * 501 / 2);
}
