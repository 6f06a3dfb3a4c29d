//! A growing total to its growth a second, over a sliding window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A burst of a second is not yet an excess.
const WINDOW: Duration = Duration::from_secs(10);

/// The latest readings of a total: as many as the window needs.
#[derive(Debug)]
pub(super) struct Rate {
    readings: VecDeque<(Instant, f64)>,
}

impl Rate {
    /// Begins with the total as it is.
    pub(super) fn new(total: f64, now: Instant) -> Self {
        Self { readings: [(now, total)].into() }
    }

    /// The growth a second over the window. Before the beginning there was none.
    pub(super) fn of(&mut self, total: f64, now: Instant) -> f64 {
        self.readings.push_back((now, total));
        let age = |reading: Option<&(Instant, f64)>| {
            reading.map_or(Duration::ZERO, |(then, _)| now.duration_since(*then))
        };
        while age(self.readings.get(1)) >= WINDOW {
            self.readings.pop_front();
        }
        let oldest = self.readings.front();
        let growth = oldest.map_or(0.0, |(_, before)| total - before);
        // A process that has just ended is missing for a moment.
        growth.max(0.0) / age(oldest).max(WINDOW).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::{Rate, WINDOW};
    use std::ops::RangeInclusive;
    use std::time::{Duration, Instant};

    /// The rates of a total that grows by 20 a second for some seconds.
    fn grow(rate: &mut Rate, start: Instant, seconds: RangeInclusive<u32>) -> Vec<i64> {
        let now = |second| start + Duration::from_secs(1) * second;
        let rates = seconds.map(|second| rate.of(f64::from(second) * 20.0, now(second)));
        rates.map(|rate| rate.round() as i64).collect()
    }

    #[test]
    fn a_steady_growth_is_reached_when_the_window_is_full_and_forgotten_behind_it() {
        let start = Instant::now();
        let mut rate = Rate::new(0.0, start);
        assert_eq!(grow(&mut rate, start, 1..=10), [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]);
        assert_eq!(grow(&mut rate, start, 11..=1000), [20; 990]);
        assert!(rate.readings.len() <= 12);
        let later = start + Duration::from_secs(1000) + WINDOW;
        assert!(rate.of(20_000.0, later) < 0.001);
    }

    #[test]
    fn a_total_that_shrinks_is_no_growth() {
        let start = Instant::now();
        assert!(Rate::new(5.0, start).of(3.0, start + WINDOW) < 0.001);
    }
}
