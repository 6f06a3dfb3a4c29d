//! The thread of a plugin: named, stoppable at once, and heard of when it panics or hangs.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plugin_api::Host;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::{Errno, write};

use crate::ring::Ring;

/// How long a thread sleeps that waits for records alone.
const IDLE: Duration = Duration::from_mins(1);

/// A running thread; stopped and joined when dropped.
#[derive(Debug)]
pub struct Worker {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Signal {
    stop: AtomicBool,
    wake: OwnedFd,
}

/// What the thread's body waits with.
#[derive(Debug)]
pub struct Waiter {
    signal: Arc<Signal>,
    epoll: OwnedFd,
    host: Host,
}

impl Worker {
    /// Starts a thread. Linux shows the first 15 bytes of its name. If `body` panics or returns
    /// an error, the host hears that the plugin has failed.
    pub fn spawn(
        name: &str,
        host: Host,
        body: impl FnOnce(&Waiter) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("make an eventfd")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll")?;
        let signal = Arc::new(Signal { stop: AtomicBool::new(false), wake });
        let waiter = Waiter { signal: Arc::clone(&signal), epoll, host: host.clone() };
        waiter.watch(signal.wake.as_fd()).context("watch the eventfd")?;
        let label = name.to_owned();
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| body(&waiter)));
                host.expect(None);
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => host.fail(format_args!("thread {label}: {error:#}")),
                    Err(panic) => {
                        let text = panic_text(panic.as_ref());
                        host.fail(format_args!("thread {label}: panic: {text}"));
                    }
                }
            })
            .with_context(|| format!("start thread {name}"))?;
        Ok(Self { signal, thread: Some(thread) })
    }

    /// Asks the thread to end and waits until it has.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.signal.stop.store(true, Ordering::Release);
        // Only fails when the counter is full, and then the thread is awake anyway.
        if let Err(error) = write(&self.signal.wake, &1_u64.to_ne_bytes()) {
            log::debug!(error:%; "worker already woken");
        }
        if thread.join().is_err() {
            log::error!("worker could not be joined");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Waiter {
    /// From now on, [`Waiter::wait`] ends when `source` says that it has something. A source that
    /// fills up silently, as a ring does when its programs ask for no wake-up, is not looked at.
    pub fn watch(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(0), events)?)
    }

    /// Calls `read` whenever `ring` has something, and a last time when the thread is to stop.
    pub fn follow(&self, ring: &mut Ring, mut read: impl FnMut(&mut Ring)) -> io::Result<()> {
        self.watch(ring.as_fd())?;
        loop {
            let goes_on = self.wait(Instant::now() + IDLE)?;
            read(ring);
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Sleeps until `deadline`, until a watched source says something, or until the thread is to
    /// stop. Returns whether to go on. The host is promised that the thread comes back: what it
    /// does between two waits must not take more than a few seconds.
    pub fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let goes_on = || !self.signal.stop.load(Ordering::Acquire);
        let left = deadline.saturating_duration_since(Instant::now());
        self.host.expect(Some(left));
        if !goes_on() || left.is_zero() {
            return Ok(goes_on());
        }
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 2];
        match epoll::wait(&self.epoll, &mut events, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => Ok(goes_on()),
            Err(error) => Err(error.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
