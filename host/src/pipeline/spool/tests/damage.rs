//! What a spool makes of files that are not as it left them.

use std::fs;
use std::path::Path;

use tempfile::{TempDir, tempdir};

use super::{ROOMY, drain, id, next, open, push, recover, request, segments, sum};

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A spool with the requests 1, 2 and 3 in one segment, and the bytes of each record.
fn three() -> (TempDir, usize) {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), ROOMY);
    push(&spool, 1..=3, 100);
    assert_eq!(segments(folder.path()).len(), 1);
    let bytes = spool.bytes() as usize;
    assert_eq!(bytes % 3, 0);
    (folder, bytes / 3)
}

#[test]
fn the_end_is_cut_off_wherever_it_is_torn() {
    let (folder, record) = three();
    let path = segments(folder.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    for len in record * 2..record * 3 {
        fs::write(&path, &bytes[..len]).unwrap();
        let (spool, recovered) = recover(folder.path());
        let torn = len - record * 2;
        assert_eq!(recovered.requests, 2, "len {len}");
        assert_eq!(recovered.lost_records, usize::from(torn > 0), "len {len}");
        assert_eq!(recovered.lost_bytes, torn as u64, "len {len}");
        drop(spool);
        let (_, recovered) = recover(folder.path());
        assert_eq!((recovered.requests, recovered.lost_records), (2, 0), "counted once");
    }
    let (spool, _) = recover(folder.path());
    push(&spool, [4], 100);
    assert_eq!(drain(&spool), [1, 2, 4]);
}

#[test]
fn zeros_at_the_end_are_cut_off() {
    let (folder, record) = three();
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes.resize(4096, 0);
    fs::write(&path, bytes).unwrap();
    let (spool, recovered) = recover(folder.path());
    assert_eq!(recovered.lost_bytes, (4096 - 3 * record) as u64);
    assert_eq!(drain(&spool), [1, 2, 3]);
}

#[test]
fn a_byte_flipped_before_the_start_costs_its_record_or_the_rest_of_the_segment() {
    for at in 0.. {
        let (folder, record) = three();
        if at == record {
            break;
        }
        flip(&segments(folder.path())[0], record + at);
        let (spool, recovered) = recover(folder.path());
        push(&spool, [4], 100);
        let mut ids = Vec::new();
        let mut damaged = 0;
        loop {
            let next = spool.next().unwrap();
            damaged += sum(&next.damaged);
            let Some(entry) = next.entry else { break };
            ids.push(id(&entry));
            spool.commit(&entry);
        }
        if at < record - 100 {
            assert_eq!((recovered.requests, recovered.lost_records), (1, 1), "head, byte {at}");
            assert_eq!(recovered.lost_bytes, 2 * record as u64, "head, byte {at}");
            assert_eq!((ids, damaged), (vec![1, 4], 0), "head, byte {at}");
        } else {
            assert_eq!((recovered.requests, recovered.lost_records), (3, 0), "body, byte {at}");
            assert_eq!((ids, damaged), (vec![1, 3, 4], 2), "body, byte {at}");
        }
    }
}

#[test]
fn damage_while_running_is_reported_to_the_point() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 16_000);
    push(&spool, 1..=6, 300);
    let paths = segments(folder.path());
    assert_eq!(paths.len(), 3, "two in each");
    let first = next(&spool).unwrap();
    let record = fs::metadata(&paths[0]).unwrap().len() as usize / 2;
    // The head of the second, and the third segment as a whole.
    flip(&paths[0], record + 5);
    fs::remove_file(&paths[2]).unwrap();
    assert_eq!(id(&first), 1);
    spool.commit(&first);

    let second = spool.next().unwrap();
    assert_eq!(second.damaged, [("net".to_owned(), 2)]);
    let entry = second.entry.unwrap();
    assert_eq!(id(&entry), 3);
    spool.commit(&entry);
    let entry = next(&spool).unwrap();
    spool.commit(&entry);
    let end = spool.next().unwrap();
    assert_eq!((end.entry, end.damaged), (None, vec![("net".to_owned(), 5 + 6)]));
    assert_eq!((spool.len(), spool.points(), spool.bytes()), (0, 0, 0));
    push(&spool, [7], 300);
    assert_eq!(drain(&spool), [7]);
}

#[test]
fn a_damaged_position_repeats_and_loses_nothing() {
    let (folder, _) = three();
    let (spool, _) = recover(folder.path());
    let first = next(&spool).unwrap();
    spool.commit(&first);
    drop(spool);
    flip(&folder.path().join("spool.position"), 8);
    let (spool, recovered) = recover(folder.path());
    assert_eq!((recovered.requests, recovered.lost_records), (3, 0));
    assert_eq!(drain(&spool), [1, 2, 3]);
}

#[test]
fn a_segment_that_could_not_be_removed_is_not_sent_again() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 4000);
    push(&spool, 1..=4, 400);
    let old: Vec<_> =
        segments(folder.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let first = next(&spool).unwrap();
    spool.commit(&first);
    let mut pushed = 4;
    while segments(folder.path()).contains(&old[2].1) {
        pushed += 1;
        spool.push("net", &request(pushed, 400)).unwrap();
    }
    let requests = spool.len();
    drop(spool);
    for (bytes, path) in &old[..3] {
        fs::write(path, bytes).unwrap();
    }
    let spool = open(folder.path(), 4000);
    assert!(!old[0].1.exists());
    assert!(drain(&spool).into_iter().eq(pushed - requests + 1..=pushed));
}
