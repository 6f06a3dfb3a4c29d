//! Waiting for a condition. In: a look at the world. Out: what was waited for, or a panic that shows the last thing seen.
//! Nothing here measures time: the deadline is only there so that a failing test ends.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes on a slow machine; `TEST_PATIENCE` says how many times as much on an emulated one.
pub fn patience() -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let factor = std::env::var("TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
        factor.unwrap_or(1)
    });
    Duration::from_mins(1) * *FACTOR
}

/// Looks again and again until `look` finds what it wants; `Err` says what it saw instead.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(patience(), what, look)
}

/// As [`until`], for what may take longer.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => {
                panic!("waited {} s until {what}; last seen: {seen}", patience.as_secs())
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// As [`until`], for a plain condition; `seen` describes the world when it never comes true.
#[track_caller]
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool, seen: impl Fn() -> String) {
    until(what, || if holds() { Ok(()) } else { Err(seen()) });
}
