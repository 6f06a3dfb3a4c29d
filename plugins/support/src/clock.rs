//! The time that points carry, and the one that records carry.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds by the monotonic clock, which is that of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// How far the host's clock is ahead of the monotonic one. Whoever tells the times of several
/// moments takes one for all of them, or their order may change.
#[derive(Debug, Clone, Copy)]
pub struct Offset(i64);

impl Offset {
    /// As it is now. The two clocks are read one after the other, and somebody else may run in
    /// between: of several attempts, the quickest counts.
    pub fn now() -> Self {
        const ATTEMPTS: usize = 8;
        let attempt = |_| {
            let before = monotonic_ns();
            let unix = unix_time_ns();
            let took = monotonic_ns().saturating_sub(before);
            (took, unix.saturating_sub_unsigned(before + took / 2))
        };
        Self((0..ATTEMPTS).map(attempt).min().unwrap_or_default().1)
    }

    /// The host's time at a moment in the recent past, of which the monotonic time is known.
    pub fn unix_time_of(self, monotonic: u64) -> i64 {
        self.0.saturating_add_unsigned(monotonic)
    }
}

/// Nanoseconds since 1970 in UTC, by the host's clock.
pub fn unix_time_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Offset, monotonic_ns, unix_time_ns};

    /// What the adjustment of a clock may add within a moment.
    const SLACK: i64 = 1_000_000;

    #[test]
    fn a_moment_between_two_others_has_a_time_between_theirs() {
        let before = unix_time_ns();
        let moment = monotonic_ns();
        let after = unix_time_ns();
        let time = Offset::now().unix_time_of(moment);
        assert!((before - SLACK..=after + SLACK).contains(&time), "{before} {time} {after}");
    }
}
