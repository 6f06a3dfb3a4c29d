//! A target of points per minute for one category. In come batches, out goes a threshold for the
//! keys of each. Nothing is remembered of single points.
//!
//! 1. A batch's share of the target is its share of the minute's volume: one threshold for all
//!    batches while the load is steady, whether it comes evenly or in one flush a minute.
//! 2. The volume is what the feeds have sent in their present cycles or, where that is more, what
//!    their last cycles make expect. A cycle is 58 s from a batch on, and the silence behind.
//! 3. In no 57 s more than the target is kept, so a rise that nobody expected cannot go past it.
//!    Not in a minute, because flushes may come early.
//! 4. Unused target becomes credit, so a fall that nobody expected costs little.
//! 5. Chance may add or take 3 % of the target; to go no further, a threshold moves.
//!
//! What cannot be known is served first come: of the first minute and of a sudden rise the first
//! batches are kept, up to the target. A feed that flushes fewer batches than last time gets too
//! little once.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use plugin_api::{Point, Points};

use super::{Decision, KEYS, MINUTE, key, threshold};

/// In how many seconds, the present one among them, the target is never exceeded, and how many a
/// cycle has at least. A flush a minute may thus come two seconds early.
const WINDOW: u64 = 58;

/// How long after its last batch a feed still counts.
const FEED_LIVES: Duration = Duration::from_secs(65);

/// The part of the target that chance may add or take, and that credit may reach unspent.
const SLACK: f64 = 0.03;

/// The part of the target that credit may reach. One batch may get it all, so it is not much.
const CREDIT: f64 = 0.3;

/// The part of its credit that a minute takes away, or the feeds that come when it is highest
/// would always get more than the others.
const FORGOTTEN: f64 = 0.3;

/// What may be kept of one category.
#[derive(Debug)]
pub(super) struct Budget {
    target: f64,
    rate: f64,
    began: Instant,
    kept: Window,
    feeds: BTreeMap<&'static str, Feed>,
    /// What should have been kept lately, less what chance has kept.
    owed: f64,
    /// What the target would have allowed until `earned`, less what was kept.
    credit: f64,
    earned: Instant,
    /// The highest credit since `reviewed`.
    peak: f64,
    reviewed: Instant,
}

/// How many points of a batch to keep.
struct Bite {
    /// On average; may be a fraction.
    aim: f64,
    least: usize,
    most: usize,
}

impl Budget {
    pub(super) fn new(target: f64, now: Instant) -> Self {
        Self {
            target,
            rate: 1.0,
            began: now,
            kept: Window::default(),
            feeds: BTreeMap::new(),
            owed: 0.0,
            credit: 0.0,
            earned: now,
            peak: 0.0,
            reviewed: now,
        }
    }

    /// The share of keys below the latest threshold.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn keep(&mut self, points: &Points, now: Instant) -> Decision {
        self.kept.advance(now.saturating_duration_since(self.began).as_secs());
        self.earn(now);
        let bite = self.bite(points.feed(), points.len(), now);
        let decision = if bite.least == points.len() {
            self.rate = 1.0;
            Decision::All
        } else {
            self.choose(points, &bite)
        };
        let kept = points.len() - decision.left_out();
        self.kept.add(kept);
        self.credit -= kept as f64;
        let slack = SLACK * self.target;
        self.owed = (self.owed + bite.aim - kept as f64).clamp(-slack, slack);
        decision
    }

    /// Adds the credit of the time that has passed; a silence gives none, for what follows it may
    /// be a flush. After a flush there are debts, but before it there should be none: debts of a
    /// whole minute are a rise's, and forgiven.
    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.earned);
        let limit = if passed.as_secs() < WINDOW { CREDIT * self.target } else { 0.0 };
        let earned = self.target * passed.div_duration_f64(MINUTE);
        self.credit = (self.credit + earned).min(limit);
        self.earned = now;
        self.peak = self.peak.max(self.credit);
        if now.saturating_duration_since(self.reviewed) >= MINUTE {
            self.credit -= if self.peak < 0.0 { self.peak } else { FORGOTTEN * self.peak };
            self.peak = f64::NEG_INFINITY;
            self.reviewed = now;
        }
    }

    fn bite(&mut self, feed: &'static str, count: usize, now: Instant) -> Bite {
        self.feeds.entry(feed).or_insert_with(|| Feed::new(now)).add(count, now);
        let lives = |feed: &&Feed| now.saturating_duration_since(feed.latest) <= FEED_LIVES;
        let volume: f64 = self.feeds.values().filter(lives).map(Feed::volume).sum();

        let count = count as f64;
        let slack = SLACK * self.target;
        let share = (self.target / volume).min(1.0) * count;
        let room = (self.target - self.kept.sum as f64).clamp(0.0, count);
        let aim = (share + (self.credit - slack).max(0.0)).min(room);
        let least = if aim < count { (aim + self.owed - slack).max(0.0) } else { count };
        // At least one if there is room, or small batches would never have any.
        let most = (aim + self.owed + slack).min(room).ceil();
        Bite { aim, least: least as usize, most: most as usize }
    }

    /// Chooses the points with the lowest keys.
    fn choose(&mut self, points: &Points, bite: &Bite) -> Decision {
        let keys: Vec<u64> = points.iter().map(|point| key(points, point)).collect();
        let below = |threshold| keys.iter().filter(|key| **key < threshold).count();

        self.rate = bite.aim / points.len() as f64;
        let smooth = threshold(self.rate);
        let expected = below(smooth);
        let wanted = expected.clamp(bite.least, bite.most);
        if wanted == expected {
            return keys.iter().map(|key| *key < smooth).collect();
        }

        // `wanted` is less than all: `least` is, and so is anything less than `expected`.
        let exact = *keys.clone().select_nth_unstable(wanted).1;
        self.rate = exact as f64 / KEYS;
        // Of points with the same key some may be kept, but not of a group that can fit whole.
        let tied = keys.iter().filter(|key| **key == exact).count();
        let mut spare = wanted - below(exact);
        let keep = |(point, key): (Point<'_>, &u64)| {
            let divisible = point.group() == 0 || tied as f64 > self.target;
            let lucky = *key == exact && divisible && spare > 0;
            spare -= usize::from(lucky);
            *key < exact || lucky
        };
        points.iter().zip(&keys).map(keep).collect()
    }
}

/// Points of the last seconds.
#[derive(Debug)]
struct Window {
    by_second: [usize; WINDOW as usize],
    newest: u64,
    sum: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { by_second: [0; WINDOW as usize], newest: 0, sum: 0 }
    }
}

impl Window {
    fn advance(&mut self, second: u64) {
        let passed = second.saturating_sub(self.newest).min(WINDOW);
        self.newest = self.newest.max(second);
        for second in self.newest + 1 - passed..=self.newest {
            self.sum -= mem::take(&mut self.by_second[(second % WINDOW) as usize]);
        }
    }

    fn add(&mut self, points: usize) {
        self.by_second[(self.newest % WINDOW) as usize] += points;
        self.sum += points;
    }
}

/// The volume of one stream of batches.
#[derive(Debug)]
struct Feed {
    latest: Instant,
    cycle: Cycle,
    /// The cycle before; if it was shorter than a minute, extended to one.
    before: Option<Cycle>,
}

#[derive(Debug)]
struct Cycle {
    began: Instant,
    points: f64,
    batches: f64,
    /// The points of the largest batch.
    largest: f64,
}

impl Feed {
    fn new(now: Instant) -> Self {
        Self { latest: now, cycle: Cycle::new(now), before: None }
    }

    fn add(&mut self, count: usize, now: Instant) {
        let length = now.saturating_duration_since(self.cycle.began);
        if length >= Duration::from_secs(WINDOW) {
            let extend = MINUTE.div_duration_f64(length).max(1.0);
            let mut cycle = mem::replace(&mut self.cycle, Cycle::new(now));
            cycle.points *= extend;
            cycle.batches *= extend;
            self.before = Some(cycle);
        }
        self.latest = now;
        self.cycle.points += count as f64;
        self.cycle.batches += 1.0;
        self.cycle.largest = self.cycle.largest.max(count as f64);
    }

    /// Points a minute. Expected are as many batches as before, but none larger than now.
    fn volume(&self) -> f64 {
        let expected = self
            .before
            .as_ref()
            .map_or(0.0, |before| before.points.min(before.batches * self.cycle.largest));
        expected.max(self.cycle.points)
    }
}

impl Cycle {
    fn new(now: Instant) -> Self {
        Self { began: now, points: 0.0, batches: 0.0, largest: 0.0 }
    }
}
