//! The time that points carry.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 in UTC, by the host's clock.
pub fn unix_time_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
