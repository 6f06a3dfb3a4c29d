//! Which points of a batch are kept. In comes a batch as a plugin made it, out goes a decision.
//! Nothing is converted, removed, scaled or entered in the ledger here, and no clock is read.
//!
//! A point is kept if its key, a fixed 64-bit hash, is below a threshold. The key is that of the
//! group, or else of measurement, tags and minute. A rate is a constant threshold; so a group is
//! kept or dropped as a whole, in every batch and on every host. For points without a group it moves
//! where needed: then what was kept is never more than [`CHANCE`] points away from the rate's share,
//! be they a thousand or a million. Of groups, chance keeps a few more or less: at a rate of 0.01, of
//! a million, usually within 2 %. [`budget`] says how a target per minute makes a threshold.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

use plugin_api::{Category, Point, Points};

use crate::config::Sampling;

mod budget;
mod choice;
mod window;

use budget::Budget;
use choice::{Wanted, lowest};

const MINUTE: Duration = Duration::from_mins(1);

/// How many keys there are.
const KEYS: f64 = 18_446_744_073_709_551_616.0;

/// How many points a rate may be ahead or behind, of those that have no group.
const CHANCE: f64 = 25.0;

/// Decides which points are kept.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    /// With a rate: what should have been kept, less what was, of points without a group.
    owed: HashMap<Category, f64>,
    budgets: HashMap<Category, Budget>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// All points are kept.
    All,
    /// Not all are.
    Part {
        /// For every point, whether it is kept.
        kept: Vec<bool>,
        /// How many are not.
        left_out: usize,
    },
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self { sampling, owed: HashMap::new(), budgets: HashMap::new() }
    }

    /// Decides on a batch that has come in at `now`.
    pub(crate) fn keep(&mut self, points: &Points, now: Instant) -> Decision {
        match self.sampling {
            Sampling::Off => Decision::All,
            Sampling::Rate(rate) if rate >= 1.0 => Decision::All,
            Sampling::Rate(rate) => {
                keep_share(rate, points, self.owed.entry(points.category()).or_default())
            }
            Sampling::PointsPerMinute(_) if points.is_empty() => Decision::All,
            Sampling::PointsPerMinute(target) => self
                .budgets
                .entry(points.category())
                .or_insert_with(|| Budget::new(target, now))
                .keep(points, now),
        }
    }

    /// The share of keys that is kept; with a target per minute, in the category's latest batch.
    pub(crate) fn rate(&self, category: Category) -> f64 {
        match self.sampling {
            Sampling::Off => 1.0,
            Sampling::Rate(rate) => rate,
            Sampling::PointsPerMinute(_) => self.budgets.get(&category).map_or(1.0, Budget::rate),
        }
    }
}

impl Decision {
    /// Whether the point at `index` is kept.
    pub(crate) fn keeps(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Part { kept, .. } => kept.get(index).copied().unwrap_or_default(),
        }
    }

    /// How many points are not kept.
    pub(crate) fn left_out(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Part { left_out, .. } => *left_out,
        }
    }
}

impl FromIterator<bool> for Decision {
    fn from_iter<I: IntoIterator<Item = bool>>(kept: I) -> Self {
        let kept: Vec<bool> = kept.into_iter().collect();
        match kept.iter().filter(|kept| !**kept).count() {
            0 => Self::All,
            left_out => Self::Part { kept, left_out },
        }
    }
}

/// Groups by their keys alone, so that all batches agree; the others so that chance never adds up.
fn keep_share(rate: f64, points: &Points, owed: &mut f64) -> Decision {
    let loose = points.iter().filter(|point| point.group() == 0);
    let keys: Vec<u64> = loose.map(|point| key(points, point)).collect();
    let aim = rate * keys.len() as f64 + *owed;
    let wanted = Wanted {
        share: rate,
        least: (aim - CHANCE).max(0.0).ceil() as usize,
        most: (aim + CHANCE).max(0.0) as usize,
    };
    let (kept, _) = lowest(&keys, &wanted, |_, _| true);
    *owed = aim - kept.iter().filter(|kept| **kept).count() as f64;

    let (mut kept, threshold) = (kept.into_iter(), threshold(rate));
    let keep = |point: Point<'_>| match point.group() {
        0 => kept.next().unwrap_or_default(),
        _ => key(points, point) < threshold,
    };
    points.iter().map(keep).collect()
}

/// What decides on a point: evenly spread over all numbers, and the same in every process.
pub(super) fn key(points: &Points, point: Point<'_>) -> u64 {
    if point.group() != 0 {
        return mix(point.group());
    }
    let mut hasher = DefaultHasher::new();
    let mut text = |text: &str| {
        hasher.write(text.as_bytes());
        // In no text, so that the same letters split differently are not the same.
        hasher.write_u8(0xff);
    };
    text(point.measurement());
    for (key, value) in point.tags() {
        text(key);
        text(points.resolve(value));
    }
    hasher.write_i64(point.time_ns().div_euclid(MINUTE.as_nanos() as i64));
    hasher.finish()
}

/// The output function of `SplitMix64`. Unlike that of `DefaultHasher` it is the same in every
/// release of Rust, so hosts agree on a group even if their versions differ.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The number that this share of all keys is below.
fn threshold(share: f64) -> u64 {
    (share * KEYS) as u64
}

#[cfg(test)]
mod tests;
