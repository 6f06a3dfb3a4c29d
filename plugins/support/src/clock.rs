//! The time that points carry, and the one that records carry.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds by the monotonic clock, which is that of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The host's time at a moment in the recent past, of which the monotonic time is known.
pub fn unix_time_of(monotonic: u64) -> i64 {
    let ago = monotonic_ns().saturating_sub(monotonic);
    unix_time_ns().saturating_sub_unsigned(ago)
}

/// Nanoseconds since 1970 in UTC, by the host's clock.
pub fn unix_time_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
