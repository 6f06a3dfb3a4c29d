//! Commands that were typed, as they arrive. In: a receiver, and the shells that were typed into. Out: the points of a shell, and the
//! assertion that they are all of its commands.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::collector::Collector;
use crate::receiver::Receiver;
use crate::wait;
use crate::wire::{PbValue, Point};

/// A collector of typed commands alone.
pub fn start(receiver: &Receiver) -> Collector {
    Collector::setup(receiver).enabled("ebpf-bash").start()
}

/// The same with settings of the plugin's.
pub fn start_with(receiver: &Receiver, settings: &str) -> Collector {
    let config = format!("[plugins.ebpf-bash]\n{settings}\n");
    Collector::setup(receiver).enabled("ebpf-bash").config(&config).start()
}

/// A field that is text.
#[track_caller]
pub fn text<'a>(point: &'a Point, key: &str) -> &'a str {
    match point.fields.get(key) {
        Some(PbValue::S(text)) => text,
        other => panic!("`{key}` is {other:?} in {point:?}"),
    }
}

/// The points of a shell, in the order of their times.
pub fn points_of(receiver: &Receiver, pid: u32) -> Vec<Point> {
    let pid = pid.to_string();
    let mut points = receiver.points();
    points.retain(|point| point.name == "bash" && text(point, "pid") == pid);
    points.sort_by_key(|point| point.time);
    points
}

/// Waits until a shell's commands are these, all of this user; returns their points.
#[track_caller]
pub fn expect(receiver: &Receiver, pid: u32, user: &str, commands: &[&str]) -> Vec<Point> {
    wait::until("all commands have arrived", || {
        let points = points_of(receiver, pid);
        if points.len() < commands.len() { Err(format!("{points:?}")) } else { Ok(()) }
    });
    let points = points_of(receiver, pid);
    let seen: Vec<_> = points.iter().map(|point| text(point, "cmd")).collect();
    assert_eq!(seen, commands);
    for point in &points {
        assert_eq!(text(point, "user"), user, "{point:?}");
    }
    points
}

/// Whether a file is watched; `None` if it is not known.
pub fn is_watched(collector: &Collector, file: &Path) -> Option<bool> {
    let entry = collector.plugin("ebpf-bash").expect("it is enabled");
    let inode = format!("inode {})", fs::metadata(file).expect("it exists").ino());
    let probes = entry["probes"].as_array().expect("a list");
    let mut probes = probes.iter();
    let probe = probes.find(|probe| probe["name"].as_str().is_some_and(|n| n.ends_with(&inode)))?;
    Some(probe["status"] == "attached")
}
