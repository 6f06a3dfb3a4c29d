//! Which points of a batch are kept. In comes a batch as a plugin made it, out goes a decision.
//! Nothing is converted, removed, scaled or counted in the ledger here, and no clock is read.
//!
//! A point is kept if its key, a fixed 64-bit hash, is below a threshold. The key is that of the
//! group, or else of measurement, tags and minute; so groups stay whole, and what a low rate
//! keeps a higher one keeps too. A rate is a constant threshold. A target per minute T works per
//! category:
//!
//! - Every feed has cycles, each the first 58 s after a batch and the silence behind. How many
//!   points a minute brings is the sum over feeds of the cycle so far or, if that is more, what
//!   the last cycle makes expect. A flush once a minute thus has one rate, in a single batch too.
//! - A batch's share of T is its share of that volume: the same threshold for all, smooth in time.
//! - Where the load falls, credit of T per minute builds up. What is above 5 % of T is spent.
//! - In no 58 s more than T is kept, whatever was expected: a rise cannot go past the target. The
//!   three seconds less than a minute are for flushes that come early.
//! - If chance keeps 5 % of T too many or too few in a batch, its threshold moves.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

use plugin_api::{Category, Point, Points};

use crate::config::Sampling;

const MINUTE: Duration = Duration::from_secs(60);

/// In how many seconds no more than the target is kept, and how long a feed's cycle is at least.
const WINDOW: u64 = 58;

/// How long after its last batch a feed is expected to go on.
const FEED_LIVES: Duration = Duration::from_secs(65);

/// The part of the target that chance may add or take.
const SLACK: f64 = 0.05;

/// The part of the target that credit may reach. More would be spent at once after a silence.
const CREDIT: f64 = 0.3;

/// Decides which points are kept.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    budgets: HashMap<Category, Budget>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// All points are kept.
    All,
    /// Some are.
    Some {
        /// For every point, whether it is kept.
        kept: Vec<bool>,
        /// How many are not.
        left_out: usize,
    },
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self { sampling, budgets: HashMap::new() }
    }

    /// Decides on the points of one batch that has come in at `now`.
    pub(crate) fn keep(&mut self, points: &Points, now: Instant) -> Decision {
        match self.sampling {
            _ if points.is_empty() => Decision::All,
            Sampling::Off => Decision::All,
            Sampling::Rate(rate) if rate >= 1.0 => Decision::All,
            Sampling::Rate(rate) => {
                let threshold = threshold(rate);
                points.iter().map(|point| key(points, point) < threshold).collect()
            }
            Sampling::PointsPerMinute(target) => self
                .budgets
                .entry(points.category())
                .or_insert_with(|| Budget::new(target, now))
                .keep(points, now),
        }
    }

    /// The share of keys that is kept; with a target per minute, that of the latest batch.
    pub(crate) fn rate(&self, category: Category) -> f64 {
        match self.sampling {
            Sampling::Off => 1.0,
            Sampling::Rate(rate) => rate,
            Sampling::PointsPerMinute(_) => {
                self.budgets.get(&category).map_or(1.0, |budget| budget.rate)
            }
        }
    }
}

impl Decision {
    /// Whether the point at `index` is kept.
    pub(crate) fn keeps(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Some { kept, .. } => kept.get(index).copied().unwrap_or_default(),
        }
    }

    /// How many points are not kept.
    pub(crate) fn left_out(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Some { left_out, .. } => *left_out,
        }
    }
}

impl FromIterator<bool> for Decision {
    fn from_iter<I: IntoIterator<Item = bool>>(kept: I) -> Self {
        let kept: Vec<bool> = kept.into_iter().collect();
        match kept.iter().filter(|kept| !**kept).count() {
            0 => Self::All,
            left_out => Self::Some { kept, left_out },
        }
    }
}

/// What a point is known by, evenly spread over all numbers, in every process the same.
fn key(points: &Points, point: Point<'_>) -> u64 {
    if point.group() != 0 {
        return mix(point.group());
    }
    let mut hasher = DefaultHasher::new();
    let mut text = |text: &str| {
        hasher.write(text.as_bytes());
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

/// The output function of `SplitMix64`. Unlike `DefaultHasher` it stays the same in every release
/// of Rust, so hosts agree on a group even if their versions differ.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The key below which `share` of all keys are.
fn threshold(share: f64) -> u64 {
    (share * 2_f64.powi(64)) as u64
}

/// How many points of a category may be kept.
#[derive(Debug)]
struct Budget {
    target: f64,
    began: Instant,
    /// When credit was last added to.
    updated: Instant,
    /// What the target would have allowed, less what was kept.
    credit: f64,
    /// The highest credit since `reviewed`.
    peak: f64,
    reviewed: Instant,
    kept: Window,
    feeds: HashMap<&'static str, Feed>,
    rate: f64,
}

/// How many points of a batch to keep.
struct Bite {
    /// At best; may be a fraction.
    aim: f64,
    least: usize,
    most: usize,
}

impl Budget {
    fn new(target: f64, now: Instant) -> Self {
        Self {
            target,
            began: now,
            updated: now,
            credit: 0.0,
            peak: 0.0,
            reviewed: now,
            kept: Window::default(),
            feeds: HashMap::new(),
            rate: 1.0,
        }
    }

    fn keep(&mut self, points: &Points, now: Instant) -> Decision {
        let bite = self.bite(points.feed(), points.len(), now);
        let (decision, rate) = if bite.least == points.len() {
            (Decision::All, 1.0)
        } else {
            self.choose(points, &bite)
        };
        let kept = points.len() - decision.left_out();
        self.kept.add(kept);
        self.credit -= kept as f64;
        self.rate = rate;
        decision
    }

    fn bite(&mut self, feed: &'static str, count: usize, now: Instant) -> Bite {
        self.kept.advance(now.saturating_duration_since(self.began).as_secs());
        self.earn(now);
        self.feeds.entry(feed).or_insert_with(|| Feed::new(now)).add(count, now);
        let volume: f64 = self
            .feeds
            .values()
            .filter(|feed| now.saturating_duration_since(feed.latest) <= FEED_LIVES)
            .map(Feed::volume)
            .sum();
        let room = (self.target - self.kept.sum as f64).max(0.0).min(count as f64);
        let aim = if volume <= self.target {
            room
        } else {
            let share = self.target * count as f64 / volume;
            let extra = (self.credit - SLACK * self.target).max(0.0);
            (share + extra).min(room)
        };
        let slack = SLACK * self.target;
        let most = (aim + slack).min(room).ceil();
        let least = if aim >= count as f64 { aim } else { (aim - slack).max(0.0).floor() };
        Bite { aim, least: least as usize, most: most as usize }
    }

    /// Adds the credit of the time that has passed. Once a minute forgives what the load's rise
    /// has cost: there are debts after every flush, but before it there should be none.
    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.updated);
        let most = if passed.as_secs() < WINDOW { CREDIT * self.target } else { 0.0 };
        let earned = self.target * passed.div_duration_f64(MINUTE);
        self.credit = (self.credit + earned).min(most);
        self.updated = now;
        self.peak = self.peak.max(self.credit);
        if now.saturating_duration_since(self.reviewed) >= MINUTE {
            self.credit -= self.peak.min(0.0);
            self.peak = f64::NEG_INFINITY;
            self.reviewed = now;
        }
    }

    /// The points of a batch with the lowest keys, and the rate that they are kept with.
    fn choose(&self, points: &Points, bite: &Bite) -> (Decision, f64) {
        let mut keys: Vec<u64> = points.iter().map(|point| key(points, point)).collect();
        let mut rate = bite.aim / points.len() as f64;
        let mut edge = threshold(rate);
        let below = |keys: &[u64], edge| keys.iter().filter(|key| **key < edge).count();
        let expected = below(&keys, edge);
        let wanted = expected.clamp(bite.least, bite.most);
        if wanted == expected {
            return (keys.iter().map(|key| *key < edge).collect(), rate);
        }
        let unsorted = keys.clone();
        edge = *keys.select_nth_unstable(wanted).1;
        rate = edge as f64 / 2_f64.powi(64);
        // Points with the same key: of a group all are left out unless there will never be room
        // for them.
        let ties = unsorted.iter().filter(|key| **key == edge).count();
        let mut spare = wanted - below(&unsorted, edge);
        let kept = unsorted.iter().zip(points.iter()).map(|(key, point)| {
            let cut = point.group() == 0 || ties as f64 > self.target;
            let tied = *key == edge && cut && spare > 0;
            spare -= usize::from(tied);
            *key < edge || tied
        });
        (kept.collect(), rate)
    }
}

/// Points by the second.
#[derive(Debug)]
struct Window {
    slots: [usize; WINDOW as usize],
    newest: u64,
    sum: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { slots: [0; WINDOW as usize], newest: 0, sum: 0 }
    }
}

impl Window {
    fn advance(&mut self, second: u64) {
        let passed = second.saturating_sub(self.newest).min(WINDOW);
        self.newest = self.newest.max(second);
        for second in self.newest + 1 - passed..=self.newest {
            self.sum -= std::mem::take(&mut self.slots[(second % WINDOW) as usize]);
        }
    }

    fn add(&mut self, count: usize) {
        self.slots[(self.newest % WINDOW) as usize] += count;
        self.sum += count;
    }
}

/// The volume of one stream of batches.
#[derive(Debug)]
struct Feed {
    latest: Instant,
    cycle: Cycle,
    /// What the cycle before had a minute.
    before: Option<Cycle>,
}

#[derive(Debug)]
struct Cycle {
    began: Instant,
    points: f64,
    batches: f64,
    /// Points in the largest batch.
    largest: f64,
}

impl Feed {
    fn new(now: Instant) -> Self {
        Self { latest: now, cycle: Cycle::new(now), before: None }
    }

    fn add(&mut self, count: usize, now: Instant) {
        let length = now.saturating_duration_since(self.cycle.began);
        if length >= Duration::from_secs(WINDOW) {
            let stretch = MINUTE.div_duration_f64(length).max(1.0);
            // Not only what came: batches may have grown late in the cycle.
            let points = if self.growth() > 1.0 { self.volume() } else { self.cycle.points };
            let Cycle { batches, largest, .. } = self.cycle;
            self.before = Some(Cycle {
                points: points * stretch,
                batches: batches * stretch,
                largest,
                ..Cycle::new(now)
            });
            self.cycle = Cycle::new(now);
        }
        self.latest = now;
        self.cycle.points += count as f64;
        self.cycle.batches += 1.0;
        self.cycle.largest = self.cycle.largest.max(count as f64);
    }

    /// Points a minute. What is expected is what was before, in batches as large as now.
    fn volume(&self) -> f64 {
        let expected = self.before.as_ref().map_or(0.0, |before| {
            before.points.min(before.batches * self.cycle.largest) * self.growth()
        });
        expected.max(self.cycle.points)
    }

    /// How many times larger batches are than before; 1 if they are not.
    fn growth(&self) -> f64 {
        self.before.as_ref().map_or(1.0, |before| (self.cycle.largest / before.largest).max(1.0))
    }
}

impl Cycle {
    fn new(now: Instant) -> Self {
        Self { began: now, points: 0.0, batches: 0.0, largest: 0.0 }
    }
}

#[cfg(test)]
mod tests;
