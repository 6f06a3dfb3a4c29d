//! When to take a step towards less, when to take it back, and when it is enough. In come shares
//! of a limit, one a second; out go moves. Nothing is measured or done here, and no clock is read.

use super::step::Step;

/// From this share of a limit on, steps are taken.
const NEAR: f64 = 0.8;

/// Seconds between two steps, so that the first can show what it does. Beyond the limit there is
/// no time for that.
const BETWEEN_STEPS: u32 = 10;

/// Below this share, steps are taken back. Half of [`NEAR`] would be sure to cause no new step; a
/// little more may, which `patience` sees to.
const LOW: f64 = 0.5;

/// Seconds below [`LOW`] before a step is taken back.
const FIRST_PATIENCE: u32 = 30;
const LONGEST_PATIENCE: u32 = 600;

/// What to do about a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Stay,
    Take(Step),
    Undo(Step),
    /// Nothing has helped for so many seconds.
    GiveUp(u32),
}

/// The steps of one resource, from the mildest to the hardest. All fields count seconds.
#[derive(Debug)]
pub(super) struct Ladder {
    steps: Vec<Step>,
    taken: usize,
    /// How long the limit may be exceeded.
    grace: u32,
    over_for: u32,
    low_for: u32,
    since_taken: u32,
    since_undone: u32,
    patience: u32,
}

impl Ladder {
    pub(super) fn new(steps: Vec<Step>, grace: u32) -> Self {
        Self {
            steps,
            taken: 0,
            grace,
            over_for: 0,
            low_for: 0,
            since_taken: BETWEEN_STEPS,
            since_undone: LONGEST_PATIENCE,
            patience: FIRST_PATIENCE,
        }
    }

    /// All steps.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps that are taken.
    pub(super) fn taken(&self) -> &[Step] {
        self.steps.get(..self.taken).unwrap_or_default()
    }

    /// Decides on the share of the limit that was used in the last second.
    pub(super) fn observe(&mut self, share: f64) -> Move {
        let is_over = share > 1.0;
        self.since_taken = self.since_taken.saturating_add(1);
        self.since_undone = self.since_undone.saturating_add(1);
        self.over_for = if is_over { self.over_for + 1 } else { 0 };
        self.low_for = if share < LOW { self.low_for + 1 } else { 0 };
        if self.over_for >= self.grace {
            return Move::GiveUp(self.over_for);
        }
        if share >= NEAR && (is_over || self.since_taken >= BETWEEN_STEPS) {
            return self.take();
        }
        if self.low_for >= self.patience {
            return self.undo();
        }
        Move::Stay
    }

    /// Something else was done about the excess: it is counted from now on.
    pub(super) fn begin_anew(&mut self) {
        self.over_for = 0;
    }

    fn take(&mut self) -> Move {
        let Some(step) = self.steps.get(self.taken) else { return Move::Stay };
        self.taken += 1;
        self.since_taken = 0;
        // It was taken back too early: not so soon again.
        self.patience = if self.since_undone < self.patience {
            (self.patience * 2).min(LONGEST_PATIENCE)
        } else {
            FIRST_PATIENCE
        };
        Move::Take(*step)
    }

    fn undo(&mut self) -> Move {
        self.low_for = 0;
        let Some(step) = self.taken().last().copied() else { return Move::Stay };
        self.taken -= 1;
        self.since_undone = 0;
        Move::Undo(step)
    }
}

#[cfg(test)]
mod tests {
    use super::{BETWEEN_STEPS, FIRST_PATIENCE, Ladder, Move, Step};

    fn ladder() -> Ladder {
        Ladder::new(vec![Step::SmallerQueue, Step::SampleHalf], 5)
    }

    /// Observes one share for some seconds; what was done, and in which second.
    fn moves(ladder: &mut Ladder, share: f64, seconds: u32) -> Vec<(u32, Move)> {
        let all = (1..=seconds).map(|second| (second, ladder.observe(share)));
        all.filter(|(_, done)| *done != Move::Stay).collect()
    }

    #[test]
    fn below_four_fifths_nothing_is_done() {
        assert!(moves(&mut ladder(), 0.79, 10_000).is_empty());
    }

    #[test]
    fn near_the_limit_one_step_follows_the_other_and_the_process_stays() {
        let expected = [
            (1, Move::Take(Step::SmallerQueue)),
            (1 + BETWEEN_STEPS, Move::Take(Step::SampleHalf)),
        ];
        assert_eq!(moves(&mut ladder(), 1.0, 10_000), expected);
    }

    #[test]
    fn beyond_the_limit_steps_come_at_once_and_then_the_end() {
        let expected = [
            (1, Move::Take(Step::SmallerQueue)),
            (2, Move::Take(Step::SampleHalf)),
            (5, Move::GiveUp(5)),
        ];
        assert_eq!(moves(&mut ladder(), 1.1, 5), expected);
    }

    #[test]
    fn only_an_unbroken_excess_ends_it() {
        let mut ladder = ladder();
        for _ in 0..100 {
            let done = moves(&mut ladder, 3.0, 4);
            assert!(!done.iter().any(|(_, done)| matches!(done, Move::GiveUp(_))), "{done:?}");
            ladder.observe(0.99);
        }
    }

    #[test]
    fn steps_are_undone_in_turn_after_a_while_well_below() {
        let mut ladder = ladder();
        moves(&mut ladder, 0.9, 1 + BETWEEN_STEPS);
        assert_eq!(ladder.taken(), [Step::SmallerQueue, Step::SampleHalf]);
        assert!(moves(&mut ladder, 0.6, 10_000).is_empty(), "neither high nor low");
        let expected = [
            (FIRST_PATIENCE, Move::Undo(Step::SampleHalf)),
            (2 * FIRST_PATIENCE, Move::Undo(Step::SmallerQueue)),
        ];
        assert_eq!(moves(&mut ladder, 0.4, 10_000), expected);
        assert!(ladder.taken().is_empty());
    }

    #[test]
    fn a_step_that_was_undone_too_early_is_kept_longer_the_next_time() {
        let mut ladder = Ladder::new(vec![Step::SampleHalf], 5);
        let mut kept_for = Vec::new();
        for _ in 0..7 {
            assert_eq!(ladder.observe(0.9), Move::Take(Step::SampleHalf));
            kept_for.extend((1..=1000).find(|_| ladder.observe(0.45) != Move::Stay));
        }
        assert_eq!(kept_for, [30, 60, 120, 240, 480, 600, 600]);
    }
}
