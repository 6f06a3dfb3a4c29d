//! How many points came lately, by half seconds.

use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

const SLOTS: usize = 132;

const SLOT: Duration = Duration::from_millis(500);

/// Points of the last 66 seconds.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    newest: u64,
    slots: [usize; SLOTS],
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, newest: 0, slots: [0; SLOTS] }
    }

    pub(super) fn add(&mut self, points: usize, now: Instant) {
        let slot = self.slot(now);
        for old in (self.newest + 1..=slot).take(SLOTS) {
            mem::take(&mut self.slots[old as usize % SLOTS]);
        }
        self.newest = self.newest.max(slot);
        self.slots[self.newest as usize % SLOTS] += points;
    }

    /// The points whose age in slots is in the range; what comes now has age 0.
    pub(super) fn sum(&self, ages: Range<u64>, now: Instant) -> f64 {
        let slot = self.slot(now).max(self.newest);
        let oldest = (self.newest + 1).saturating_sub(SLOTS as u64);
        let from = (slot + 1).saturating_sub(ages.end).max(oldest);
        let to = (slot + 1).saturating_sub(ages.start).min(self.newest + 1);
        let sum: usize = (from..to).map(|slot| self.slots[slot as usize % SLOTS]).sum();
        sum as f64
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).div_duration_f64(SLOT) as u64
    }
}
