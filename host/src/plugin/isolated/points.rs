//! Points as messages, and back. Names of measurements, tags and fields are constants of a plugin;
//! on this side of the socket they are kept once each, for ever, so there is a limit to them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use plugin_api::{Category, Points};
use prost::Message as _;

use crate::pipeline::wire::{Batch, PbField, PbPoint, PbValue};
use crate::plugin::isolated::frame::PbBatch;

/// What one message carries at most, unless a single point is longer.
const BATCH_BYTES: usize = 128 << 10;

/// Different names that are kept, of all plugins together, and how long one may be.
const MOST_NAMES: usize = 4096;
const LONGEST_NAME: usize = 256;

static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Cuts a batch into messages. `handed_over` is left to the sender.
pub(super) fn to_batches(points: Points) -> Vec<PbBatch> {
    let category = match points.category() {
        Category::Network => 0,
        Category::Logging => 1,
        Category::Tracing => 2,
    };
    let feed = points.feed();
    let groups: Vec<u64> = points.iter().map(|point| point.group()).collect();
    let empty = || PbBatch { category, feed: feed.to_owned(), ..PbBatch::default() };
    let (mut batches, mut length) = (vec![empty()], 0);
    for (point, group) in Batch::from(points).points.into_iter().zip(groups) {
        let more = point.encoded_len();
        if length > 0 && length + more > BATCH_BYTES {
            batches.push(empty());
            length = 0;
        }
        length += more;
        if let Some(batch) = batches.last_mut() {
            batch.points.push(point);
            batch.groups.push(group);
        }
    }
    batches
}

pub(super) fn from_batch(batch: PbBatch) -> Result<Points> {
    let category = match batch.category {
        0 => Category::Network,
        1 => Category::Logging,
        2 => Category::Tracing,
        other => anyhow::bail!("there is no category {other}"),
    };
    let mut points = Points::new(category, name(batch.feed.as_bytes())?);
    // Checked as a whole before the first is added, so that none is half there.
    for (point, group) in batch.points.iter().zip(batch.groups) {
        add(&mut points, point, group)?;
    }
    Ok(points)
}

fn add(points: &mut Points, point: &PbPoint, group: u64) -> Result<()> {
    let mut built = points.point(name(&point.name)?, point.time_ns);
    built.group(group);
    for PbField { key, value, is_tag } in &point.fields {
        let key = name(key)?;
        match value {
            Some(PbValue::Text(text)) if *is_tag => {
                built.tag_display(key, shown(text)?);
            }
            Some(PbValue::Text(text)) => {
                built.field_display(key, shown(text)?);
            }
            Some(PbValue::I64(value)) => {
                built.field(key, *value);
            }
            Some(PbValue::U64(value)) => {
                built.field(key, *value);
            }
            Some(PbValue::F64(value)) => {
                built.field(key, *value);
            }
            Some(PbValue::Bool(value)) => {
                built.field(key, *value);
            }
            None => {}
        }
    }
    Ok(())
}

fn shown(text: &Bytes) -> Result<&str> {
    str::from_utf8(text).context("text that is not UTF-8")
}

/// `bytes` as a constant.
fn name(bytes: &[u8]) -> Result<&'static str> {
    let text = str::from_utf8(bytes).context("a name that is not UTF-8")?;
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = names.get(text) {
        return Ok(name);
    }
    ensure!(text.len() <= LONGEST_NAME, "a name of {} bytes", text.len());
    ensure!(names.len() < MOST_NAMES, "more than {MOST_NAMES} names of tags and fields");
    let name: &'static str = Box::leak(text.into());
    names.insert(name);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::{BATCH_BYTES, LONGEST_NAME, from_batch, to_batches};
    use crate::pipeline::wire::Batch;
    use plugin_api::{Category, Points};
    use prost::Message as _;

    fn points(count: i64, text: &str) -> Points {
        let mut points = Points::new(Category::Logging, "feed");
        for index in 0..count {
            let mut point = points.point("thing", index);
            point.tag_display("text", text).field("index", index).field("half", 0.5).group(7);
            point.field("yes", true).field("big", u64::MAX).field_display("message", text);
        }
        points
    }

    #[test]
    fn points_are_the_same_on_the_other_side() {
        let batch = to_batches(points(3, "some text")).pop().unwrap();
        let there = from_batch(batch).unwrap();
        assert!(there.iter().all(|point| point.group() == 7));
        assert_eq!(Batch::from(there), Batch::from(points(3, "some text")));
    }

    #[test]
    fn a_large_batch_is_cut_and_nothing_is_lost() {
        let text = "x".repeat(1000);
        let batches = to_batches(points(1000, &text));
        assert!(batches.len() > 10);
        assert!(batches.iter().all(|batch| batch.encoded_len() < 2 * BATCH_BYTES));
        assert_eq!(batches.iter().map(|batch| batch.points.len()).sum::<usize>(), 1000);
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        let mut batch = to_batches(points(1, "")).remove(0);
        batch.points[0].name = vec![b'x'; LONGEST_NAME + 1].into();
        assert!(from_batch(batch.clone()).is_err());
        batch.points[0].name = vec![0xff].into();
        assert!(from_batch(batch).is_err());
    }
}
