//! Chooses points by their keys. In come the keys of a batch and how many are to be kept, out
//! goes which.

use super::{KEYS, threshold};

/// How many points of a batch to keep.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The share of keys; what chance makes of it is kept if it is in the bounds.
    pub(super) share: f64,
    pub(super) least: usize,
    pub(super) most: usize,
}

/// The points with the lowest keys, and the share of keys that they have. Where points have the
/// same key, those that `divisible` says no to are left out rather than divided.
pub(super) fn lowest(
    keys: &[u64],
    wanted: &Wanted,
    divisible: impl Fn(usize, usize) -> bool,
) -> (Vec<bool>, f64) {
    let below = |threshold| keys.iter().filter(|key| **key < threshold).count();
    let smooth = threshold(wanted.share);
    let expected = below(smooth);
    let count = expected.clamp(wanted.least, wanted.most.max(wanted.least)).min(keys.len());
    if count == expected {
        return (keys.iter().map(|key| *key < smooth).collect(), wanted.share);
    }
    if count == keys.len() {
        return (vec![true; keys.len()], 1.0);
    }
    let exact = *keys.to_vec().select_nth_unstable(count).1;
    let tied = keys.iter().filter(|key| **key == exact).count();
    let mut spare = count - below(exact);
    let keep = |(index, key): (usize, &u64)| {
        let lucky = *key == exact && spare > 0 && divisible(index, tied);
        spare -= usize::from(lucky);
        *key < exact || lucky
    };
    (keys.iter().enumerate().map(keep).collect(), exact as f64 / KEYS)
}
