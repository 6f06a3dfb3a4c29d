//! Leaves more points out while the collector is near a limit of its own. It comes behind the
//! sampler and multiplies its share, so it decides by other bits of the same key: what belongs
//! together is kept together here too, and a quarter is a part of the half.

use std::sync::atomic::{AtomicU32, Ordering};

use plugin_api::Points;

use crate::pipeline::sample::{self, Decision};

/// How often the share that the sampler keeps is halved; changed by others at any time.
#[derive(Debug, Default)]
pub(crate) struct Thinner {
    halvings: AtomicU32,
}

impl Thinner {
    /// 0: everything is kept.
    pub(crate) fn set(&self, halvings: u32) {
        self.halvings.store(halvings.min(u64::BITS), Ordering::Relaxed);
    }

    /// Takes points out of what the sampler keeps. Returns also the share of it that is left.
    pub(crate) fn thin(&self, decision: Decision, points: &Points) -> (Decision, f64) {
        let halvings = self.halvings.load(Ordering::Relaxed);
        if halvings == 0 {
            return (decision, 1.0);
        }
        // The lowest bits; the sampler looks at the highest.
        let keeps = |key: u64| key.trailing_zeros() >= halvings;
        let thinned = points
            .iter()
            .enumerate()
            .map(|(index, point)| decision.keeps(index) && keeps(sample::key(points, point)));
        (thinned.collect(), 0.5_f64.powi(halvings as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::Thinner;
    use crate::config::Sampling;
    use crate::pipeline::sample::{Decision, Sampler};
    use plugin_api::{Category, Points};
    use std::time::Instant;

    const POINTS: usize = 100_000;

    /// Two points for each group, one after the other.
    fn pairs() -> Points {
        let mut points = Points::new(Category::Network, "f");
        for group in 1..=POINTS as u64 / 2 {
            points.point("m", 1).group(group);
            points.point("m", 2).group(group);
        }
        points
    }

    fn kept(decision: &Decision) -> Vec<bool> {
        (0..POINTS).map(|index| decision.keeps(index)).collect()
    }

    #[test]
    fn it_multiplies_the_samplers_share() {
        let points = pairs();
        let thinner = Thinner::default();
        for rate in [1.0, 0.5, 0.3] {
            let mut sampler = Sampler::new(Sampling::Rate(rate));
            for halvings in 0..4 {
                thinner.set(halvings);
                let decision = sampler.keep(&points, Instant::now());
                let (decision, share) = thinner.thin(decision, &points);
                let found = 1.0 - decision.left_out() as f64 / POINTS as f64;
                let expected = rate * share;
                assert!((found - expected).abs() < 0.005, "{found} instead of {expected}");
            }
        }
    }

    #[test]
    fn groups_stay_together_and_less_is_a_part_of_more() {
        let points = pairs();
        let thinner = Thinner::default();
        let [half, quarter] = [1, 2].map(|halvings| {
            thinner.set(halvings);
            kept(&thinner.thin(Decision::All, &points).0)
        });
        assert!(half.chunks(2).all(|pair| pair[0] == pair[1]));
        assert!(half.iter().zip(&quarter).all(|(half, quarter)| *half || !quarter));
    }
}
