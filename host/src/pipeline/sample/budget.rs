//! A target of points per minute for one category. In come batches, out goes which points of each
//! are kept. Nothing is remembered of single points.
//!
//! 1. **Pace.** A batch stands for the time since its feed's last one, and may keep what the target
//!    gives for that time: a sixtieth after a second, all of it after a minute, whatever the load
//!    has just become. Feeds share the target by their volume. What a batch has no points for is
//!    left to the feed's next ones; what it leaves out for other reasons is not.
//! 2. **Haste.** A flush may come in several batches, and nobody knows which is the last. Expected
//!    are as many as last time, and the first ones get more than their share, so that a flush of
//!    half as many still gets nine tenths of the target.
//! 3. **Floor and ceiling.** If a minute's points are below [`FLOOR`], a batch fills them up at
//!    once. More than [`CEILING`] are never kept, and nothing is left out of a minute that offers
//!    less than the target.
//!
//! So every minute since the start has 90 to 110 % of the target if there are points for it all the
//! time, however the load steps, or if they come in bursts of which as many are in every minute. At
//! the start, and on a rise from below the target, nobody knows if more is to come: the first are
//! served first. Each minute that begins with such a bunch begins the next with a smaller one; when
//! that has evened out, after ten minutes at most, any sixty seconds hold the target.
//!
//! Not promised is what nobody can do without knowing the future: a load that stops after it was
//! paced, or flushes every 45 s, of which one minute has one and another two. A flush with less than
//! half the batches of the last one, none of them larger, gets too little once. Flushes may come
//! two seconds early; one that is later than half a second keeps its first batches.

use std::collections::BTreeMap;
use std::time::Instant;

use plugin_api::Points;

use super::choice::{Wanted, lowest};
use super::window::Window;
use super::{Decision, MINUTE, key};

/// The part of the target that every minute has if there are points.
const FLOOR: f64 = 0.92;

/// The part of the target that no minute goes beyond.
const CEILING: f64 = 1.04;

/// The part of the target that chance may add or take.
const CHANCE: f64 = 0.01;

/// The first `x` of the expected batches spend `1 - (1 - x)^HASTE` of the allowance: of a half that
/// is 94 %.
const HASTE: f64 = 4.0;

/// A minute in half seconds, as those that follow.
const WHOLE_MINUTE: u64 = 120;

/// A minute, and what a flush may be late.
const LATE_MINUTE: u64 = 122;

/// A minute, less what a flush may be early.
const EARLY_MINUTE: u64 = 116;

/// What is now, not the minute before. A flush takes less.
const RECENTLY: u64 = 10;

/// What may be kept of one category.
#[derive(Debug)]
pub(super) struct Budget {
    target: f64,
    rate: f64,
    kept: Window,
    feeds: BTreeMap<&'static str, Feed>,
    /// What should have been kept lately, less what chance has kept.
    owed: f64,
}

/// One stream of batches.
#[derive(Debug)]
struct Feed {
    offered: Window,
    batches: Window,
    latest: Option<Instant>,
    /// How many points it may keep.
    allowance: f64,
    /// How many batches are expected to share that.
    expected: f64,
}

impl Budget {
    pub(super) fn new(target: f64, now: Instant) -> Self {
        Self { target, rate: 1.0, kept: Window::new(now), feeds: BTreeMap::new(), owed: 0.0 }
    }

    /// The share of keys below the latest threshold.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn keep(&mut self, points: &Points, now: Instant) -> Decision {
        let count = points.len() as f64;
        let pace = self.pace(points.feed(), points.len(), now);
        let offered: f64 =
            self.feeds.values().map(|feed| feed.offered.sum(0..LATE_MINUTE, now)).sum();

        let floor = FLOOR * self.target - self.kept.sum(0..LATE_MINUTE, now);
        let room = CEILING * self.target - self.kept.sum(0..EARLY_MINUTE, now);
        let (floor, room) = (floor.clamp(0.0, count), room.clamp(0.0, count));
        let aim = if offered <= self.target { count } else { pace.max(floor).min(room) };

        let decision =
            if aim >= count { Decision::All } else { self.choose(points, aim, floor, room) };
        let kept = points.len() - decision.left_out();
        if aim >= count {
            self.rate = 1.0;
        }
        self.kept.add(kept, now);
        let chance = CHANCE * self.target;
        self.owed = (self.owed + aim - kept as f64).clamp(-chance, chance);
        decision
    }

    /// How many points the time since the feed's last batch is good for.
    fn pace(&mut self, name: &'static str, count: usize, now: Instant) -> f64 {
        let feed = self.feeds.entry(name).or_insert_with(|| Feed::new(now));
        feed.offered.add(count, now);
        feed.batches.add(1, now);
        let all: f64 = self.feeds.values().map(|feed| volume(&feed.offered, now)).sum();
        let Some(feed) = self.feeds.get_mut(name) else { return 0.0 };
        feed.spend(self.target / all.max(1.0), count as f64, now)
    }

    fn choose(&mut self, points: &Points, aim: f64, floor: f64, room: f64) -> Decision {
        let keys: Vec<u64> = points.iter().map(|point| key(points, point)).collect();
        let groups: Vec<bool> = points.iter().map(|point| point.group() != 0).collect();
        let chance = CHANCE * self.target;
        let wanted = Wanted {
            share: aim / points.len() as f64,
            least: (aim + self.owed - chance).max(floor) as usize,
            // At least one if there is room, or small batches would never have any.
            most: (aim + self.owed + chance).min(room).max(0.0).ceil() as usize,
        };
        // A group is divided only if it could never fit.
        let divisible = |index: usize, tied: usize| !groups[index] || tied as f64 > self.target;
        let (kept, rate) = lowest(&keys, &wanted, divisible);
        self.rate = rate;
        kept.into_iter().collect()
    }
}

impl Feed {
    fn new(now: Instant) -> Self {
        let (offered, batches) = (Window::new(now), Window::new(now));
        Self { offered, batches, latest: None, allowance: 0.0, expected: 0.0 }
    }

    /// How many of a batch of `count` points may be kept if it were `rate` of a steady load.
    fn spend(&mut self, rate: f64, count: f64, now: Instant) -> f64 {
        let (points, batches) = (volume(&self.offered, now), volume(&self.batches, now));
        // The first batch may be a minute's flush.
        let silence = self.latest.map_or(MINUTE, |latest| now.saturating_duration_since(latest));
        let time = silence.min(MINUTE).div_duration_f64(MINUTE);
        self.latest = Some(now);
        self.allowance = (self.allowance + time * rate * points).min(rate * points);
        self.expected = (self.expected + time * batches).min(batches).max(1.0);
        let pace = self.allowance * (1.0 - (1.0 - 1.0 / self.expected).powf(HASTE));
        self.expected -= 1.0;
        let spent = pace.min(count);
        self.allowance -= spent;
        spent
    }
}

/// What a minute brings: what the minute before this flush did or, if that is more, this flush.
fn volume(offered: &Window, now: Instant) -> f64 {
    let before = offered.sum(RECENTLY..RECENTLY + WHOLE_MINUTE, now);
    before.max(offered.sum(0..RECENTLY, now))
}
