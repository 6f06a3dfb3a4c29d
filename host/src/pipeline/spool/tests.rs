//! The spool as its callers see it, on real files. In `damage`: torn ends and flipped bits; in
//! `room`: more requests than fit.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::tempdir;

use super::{Dropped, Entry, Recovered, Spool, segment};
use crate::pipeline::encode::{CONTENT_TYPE, Request};

mod damage;
mod room;

const ROOMY: u64 = 1 << 20;

/// Request `id`: as many points, a body that shows it.
fn request(id: usize, bytes: usize) -> Request {
    let mut body = id.to_le_bytes().to_vec();
    body.resize(bytes.max(8), id as u8);
    let target = format!("/v1/write/network?input={id}");
    let (content_type, is_gzip) = (Some(CONTENT_TYPE), id % 2 == 1);
    Request { target, content_type, is_gzip, body: body.into(), points: id }
}

fn id(entry: &Entry) -> usize {
    let id = entry.request.points;
    assert_eq!(entry.request, request(id, entry.request.body.len()), "as it was pushed");
    id
}

fn open(dir: &Path, cap_bytes: u64) -> Spool {
    Spool::open(dir, cap_bytes).unwrap().0
}

fn recover(dir: &Path) -> (Spool, Recovered) {
    Spool::open(dir, ROOMY).unwrap()
}

/// Pushes `ids`, for which there is room.
fn push(spool: &Spool, ids: impl IntoIterator<Item = usize>, bytes: usize) {
    for id in ids {
        assert_eq!(spool.push("net", &request(id, bytes)).unwrap().dropped, []);
    }
}

fn next(spool: &Spool) -> Option<Entry> {
    let next = spool.next().unwrap();
    assert_eq!(next.damaged, []);
    next.entry
}

/// Takes and commits everything.
fn drain(spool: &Spool) -> Vec<usize> {
    let mut ids = Vec::new();
    while let Some(entry) = next(spool) {
        ids.push(id(&entry));
        spool.commit(&entry);
    }
    ids
}

/// Of points.
fn sum(dropped: &Dropped) -> usize {
    dropped.iter().map(|(_, points)| points).sum()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| segment::number(path.file_name().unwrap()).is_some()).collect();
    paths.sort();
    paths
}

#[test]
fn requests_come_out_in_order_over_many_segments_and_restarts() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 16_000);
    push(&spool, 1..=20, 300);
    assert!(segments(folder.path()).len() > 4);
    assert_eq!((spool.len(), spool.points()), (20, 210));
    drop(spool);

    let (spool, recovered) = Spool::open(folder.path(), 16_000).unwrap();
    let points = BTreeMap::from([("net".to_owned(), 210)]);
    assert_eq!(recovered, Recovered { requests: 20, points, ..Recovered::default() });
    push(&spool, 21..=30, 300);
    assert!(drain(&spool).into_iter().eq(1..=30));
    assert_eq!((spool.len(), spool.points()), (0, 0));
    drop(spool);

    assert_eq!(recover(folder.path()).1, Recovered::default());
    assert!(segments(folder.path()).is_empty(), "nothing is kept that is delivered");
}

#[test]
fn a_request_is_kept_and_returned_until_it_is_settled() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), ROOMY);
    push(&spool, 1..=3, 100);
    let first = next(&spool).unwrap();
    assert_eq!(next(&spool).as_ref(), Some(&first));
    assert_eq!(spool.len(), 3);
    spool.commit(&first);
    let second = next(&spool).unwrap();
    assert_eq!(id(&second), 2);
    spool.commit(&first);
    assert_eq!(next(&spool), Some(second), "an entry settles nothing but itself");
    assert_eq!(spool.points(), 2 + 3);
}

#[test]
fn a_killed_process_repeats_only_the_request_under_way() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), 16_000);
    push(&spool, 1..=20, 300);
    drop(spool);
    for last in 1..=20 {
        let spool = open(folder.path(), 16_000);
        assert_eq!(spool.len(), 21 - last);
        let entry = next(&spool).unwrap();
        assert_eq!(id(&entry), last);
        drop(spool);
        let spool = open(folder.path(), 16_000);
        let entry = next(&spool).unwrap();
        assert_eq!(id(&entry), last, "it was not committed");
        spool.commit(&entry);
    }
    assert_eq!(open(folder.path(), 16_000).len(), 0);
}

#[test]
fn what_is_pushed_after_everything_was_delivered_is_kept() {
    let folder = tempdir().unwrap();
    for first in [1, 4, 7] {
        let spool = open(folder.path(), 16_000);
        push(&spool, first..first + 3, 500);
        drop(spool);
        let spool = open(folder.path(), 16_000);
        assert!(drain(&spool).into_iter().eq(first..first + 3));
    }
}

#[test]
fn a_second_opener_is_refused_and_told_where() {
    let folder = tempdir().unwrap();
    let spool = open(folder.path(), ROOMY);
    let error = Spool::open(folder.path(), ROOMY).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
    drop(spool);
    open(folder.path(), ROOMY);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Not even root may write to these.
    for dir in ["/proc/self", "/proc/self/spool", "/dev/null"] {
        let error = format!("{:#}", Spool::open(Path::new(dir), ROOMY).unwrap_err());
        assert!(error.contains(&format!("spool folder {dir}: ")), "{error}");
    }
}

#[test]
fn a_push_that_fails_leaves_the_spool_as_it_was() {
    let folder = tempdir().unwrap();
    let dir = folder.path().join("spool");
    let spool = open(&dir, ROOMY);
    fs::remove_dir_all(&dir).unwrap();
    let error = format!("{:#}", spool.push("net", &request(1, 100)).unwrap_err());
    assert!(error.contains(dir.to_str().unwrap()), "{error}");
    assert_eq!((spool.len(), spool.points(), spool.bytes()), (0, 0, 0));
    assert_eq!(next(&spool), None);
    fs::create_dir(&dir).unwrap();
    push(&spool, [1], 100);
    assert_eq!(drain(&spool), [1]);
}

#[test]
fn foreign_files_are_left_alone() {
    let folder = tempdir().unwrap();
    let names = ["notes.txt", "1.spool1", "00000000000000000001.spool2"];
    for name in names {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let directory = segment::path(folder.path(), 5);
    fs::create_dir(&directory).unwrap();
    let spool = open(folder.path(), 1000);
    for id in 1..=20 {
        spool.push("net", &request(id, 400)).unwrap();
    }
    drain(&spool);
    drop(spool);
    open(folder.path(), 1000);
    for name in names {
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), name.as_bytes());
    }
    assert!(directory.is_dir());
}

#[test]
fn only_the_owner_may_read_what_is_spooled() {
    let folder = tempdir().unwrap();
    let dir = folder.path().join("some/spool");
    let spool = open(&dir, ROOMY);
    push(&spool, [1], 100);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let files = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let modes: Vec<_> = files.map(|path| mode(&path)).collect();
    assert_eq!(modes, [0o600; 3]);
}
