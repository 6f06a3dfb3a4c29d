//! The threads of one plugin: which they are, what CPU time they have used, and whether each came
//! back when it had promised to. A thread is known from its first call of the host on.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::gettid;

/// How late a thread may be before it counts as stuck: a busy machine is no fault of a plugin.
const GRACE: Duration = Duration::from_secs(10);

/// Threads that are told apart. What further ones use is not seen.
const MOST: usize = 256;

thread_local! {
    /// Whose thread this is, to look it up once only.
    static OWNER: Cell<usize> = const { Cell::new(0) };
}

/// The threads of one plugin.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    live: BTreeMap<i32, Thread>,
    /// CPU time of threads that have ended.
    ended: Duration,
}

#[derive(Debug, Default)]
struct Thread {
    cpu: Duration,
    due: Option<Instant>,
}

impl Threads {
    /// The calling thread belongs to this plugin.
    pub(crate) fn enter(self: &Arc<Self>) {
        let owner = Arc::as_ptr(self).addr();
        if OWNER.replace(owner) != owner {
            self.change(gettid().as_raw_nonzero().get(), |thread| thread.due = None);
        }
    }

    /// The calling thread will be back `within` that time; `None`: who knows.
    pub(crate) fn expect(&self, within: Option<Duration>) {
        self.expect_of(gettid().as_raw_nonzero().get(), within);
    }

    /// The same for another thread.
    pub(crate) fn expect_of(&self, id: i32, within: Option<Duration>) {
        let due = within.and_then(|within| Instant::now().checked_add(within));
        self.change(id, |thread| thread.due = due);
    }

    /// The thread that is most overdue at `now`, and for how long; looks at none of them.
    pub(crate) fn stuck(&self, now: Instant) -> Option<(i32, Duration)> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |(id, thread): (&i32, &Thread)| {
            let late = now.saturating_duration_since(thread.due?);
            (late > GRACE).then_some((*id, late))
        };
        inner.live.iter().filter_map(late).max_by_key(|(_, late)| *late)
    }

    /// CPU time of all threads so far. Forgets those that have ended, so it must be asked now and
    /// then; what such a thread used since the last time is not seen.
    pub(crate) fn cpu(&self) -> Duration {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { live, ended } = &mut *inner;
        live.retain(|id, thread| {
            let cpu = cpu_of(*id);
            thread.cpu = cpu.unwrap_or(thread.cpu);
            if cpu.is_none() {
                *ended += thread.cpu;
            }
            cpu.is_some()
        });
        *ended + live.values().map(|thread| thread.cpu).sum::<Duration>()
    }

    /// The plugin has stopped: nothing is expected of its threads any more.
    pub(crate) fn forgive(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.live.values_mut().for_each(|thread| thread.due = None);
    }

    fn change(&self, id: i32, change: impl FnOnce(&mut Thread)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.live.len() < MOST || inner.live.contains_key(&id) {
            change(inner.live.entry(id).or_default());
        }
    }
}

/// Threads of other processes are found here too.
fn cpu_of(thread: i32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_ascii_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{GRACE, Threads};
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn a_thread_that_does_not_come_back_is_stuck_until_it_does() {
        let threads = Arc::<Threads>::default();
        threads.enter();
        let later = Instant::now() + GRACE + Duration::from_mins(1);
        assert_eq!(threads.stuck(later), None, "nothing was promised");
        threads.expect(Some(Duration::from_secs(1)));
        assert!(threads.stuck(later).is_some_and(|(_, late)| late > Duration::from_secs(58)));
        threads.expect(None);
        assert_eq!(threads.stuck(later), None);
    }

    #[test]
    fn cpu_time_of_a_thread_outlives_it() {
        let threads = Arc::<Threads>::default();
        let seen = {
            let threads = Arc::clone(&threads);
            let burn = move || {
                threads.enter();
                while threads.cpu() < Duration::from_millis(5) {}
                threads.cpu()
            };
            thread::spawn(burn).join().unwrap()
        };
        assert!(threads.cpu() >= seen && seen >= Duration::from_millis(5));
    }
}
