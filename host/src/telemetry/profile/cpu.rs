//! A CPU profile of this process. In: how long. Out: a profile of all its threads, the plugins' too.
//!
//! The kernel does the sampling: a perf event per thread, driven by its CPU time, copies registers
//! and the top of the stack into a ring that is read here. No signal is sent, no thread is stopped
//! and nobody walks a live stack, so a profile can neither crash a thread nor interrupt its system
//! calls; and without a profile, nothing of it exists.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use perf_event_open::config::{Cpu, Opts, Proc, RegsMask, SampleOn, Size};
use perf_event_open::count::Counter;
use perf_event_open::event::sw::Software;
use perf_event_open::sample::Sampler;
use perf_event_open::sample::record::Record;
use perf_event_open::sample::record::sample::Sample;

use super::code::{Code, Name, Registers};
use super::format::Builder;

/// CPU time between two samples of a thread.
const PERIOD: Duration = Duration::from_millis(10);
/// How much of a stack is copied. What lies further out is missing from the profile.
const STACK_BYTES: u32 = 24 * 1024;
/// Each thread's ring has 2 to the power of this pages: 128 KiB or more, five stacks.
const RING_PAGES_LOG2: u8 = 5;
/// Rings are read this often, so that at most three stacks wait in one.
const READ_EVERY: Duration = Duration::from_millis(25);
/// New threads and new plugins are looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Far more threads than a collector has; the others are counted.
const MAX_THREADS: usize = 256;
/// Distinct stacks; the others are counted as one.
const MAX_STACKS: usize = 20_000;

/// In the place of a function, for time that was spent in the kernel.
const KERNEL: &str = "[kernel]";
/// The same for threads that were ending, and for stacks beyond `MAX_STACKS`.
const NO_STACK: &str = "[no stack]";

/// Where and how often.
#[derive(PartialEq, Eq, Hash)]
struct Stack {
    thread: usize,
    in_kernel: bool,
    addresses: Vec<u64>,
}

struct Thread {
    // Before the event that it reads.
    sampler: Sampler,
    _event: Counter,
    /// An index into the names.
    name: usize,
}

#[derive(Default)]
struct Recorder {
    code: Code,
    threads: HashMap<u32, Thread>,
    names: Vec<String>,
    stacks: HashMap<Stack, i64>,
    without_kernel: bool,
    threads_refused: HashSet<u32>,
    samples_lost: u64,
}

/// Samples for so long, or until nobody waits for the result any more.
pub(crate) fn record(duration: Duration, wanted: &Receiver<()>) -> Result<Vec<u8>> {
    let started = Instant::now();
    let mut recorder = Recorder::default();
    let mut looked = None::<Instant>;
    loop {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            recorder.look()?;
            looked = Some(Instant::now());
        }
        recorder.read();
        let left = duration.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        if wanted.recv_timeout(READ_EVERY.min(left)) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    recorder.finish(started.elapsed())
}

impl Recorder {
    /// Finds threads and mapped files that are new.
    fn look(&mut self) -> Result<()> {
        self.code.refresh();
        let own = own_thread();
        let threads = fs::read_dir("/proc/self/task").context("list the threads")?;
        let threads: HashSet<u32> = threads
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        self.read();
        self.threads.retain(|thread, _| threads.contains(thread));
        for thread in threads {
            if Some(thread) == own || self.threads.contains_key(&thread) {
                continue;
            }
            if self.threads.len() >= MAX_THREADS {
                self.threads_refused.insert(thread);
                continue;
            }
            match self.open(thread) {
                Ok(opened) => {
                    self.threads.insert(thread, opened);
                }
                // It has ended since.
                Err(error) if error.raw_os_error() == Some(NO_SUCH_PROCESS) => {}
                Err(error) => {
                    return Err(error).context(
                        "open a perf event: a CPU profile needs CAP_PERFMON, or \
                         kernel.perf_event_paranoid of at most 2, and locked memory",
                    );
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, thread: u32) -> io::Result<Thread> {
        let mut event = Counter::new(Software::TaskClock, target(thread), self.options());
        if !self.without_kernel
            && let Err(error) = &event
            && error.kind() == ErrorKind::PermissionDenied
        {
            self.without_kernel = true;
            event = Counter::new(Software::TaskClock, target(thread), self.options());
        }
        let event = event?;
        let sampler = event.sampler(RING_PAGES_LOG2)?;
        event.enable()?;
        let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
        let name = name.as_deref().map_or("?", str::trim_end);
        let known = self.names.iter().position(|known| known == name);
        let name = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        Ok(Thread { sampler, _event: event, name })
    }

    fn options(&self) -> Opts {
        let mut options = Opts { sample_on: SampleOn::Count(PERIOD_NANOS), ..Opts::default() };
        options.exclude.kernel = self.without_kernel;
        options.sample_format.code_addr = true;
        options.sample_format.user_regs = Some(RegsMask(REGISTERS));
        options.sample_format.user_stack = Some(Size(STACK_BYTES));
        options
    }

    fn read(&mut self) {
        for thread in self.threads.values() {
            for (_, record) in thread.sampler.iter().into_iter().flatten() {
                match record {
                    Record::Sample(sample) => {
                        let stack = stack(&mut self.code, thread.name, &sample);
                        count(&mut self.stacks, stack);
                    }
                    Record::LostRecords(lost) => self.samples_lost += lost.lost_records,
                    _ => {}
                }
            }
        }
    }

    fn finish(mut self, lasted: Duration) -> Result<Vec<u8>> {
        self.read();
        let addresses = self.stacks.keys().flat_map(|stack| stack.addresses.iter().copied());
        let names = self.code.names(&addresses.collect());
        let cpu = ("cpu", "nanoseconds");
        let mut profile = Builder::new(&[("samples", "count"), cpu], (cpu, PERIOD_NANOS as i64));
        profile.lasted(lasted);
        let files = profile.mappings(&self.code);
        for (stack, count) in &self.stacks {
            let mut locations = Vec::with_capacity(stack.addresses.len() + 1);
            if stack.in_kernel {
                locations.push(profile.location(0, 0, &Name::plain(KERNEL)));
            }
            for address in &stack.addresses {
                let file = self.code.find(*address).map_or(0, |file| files[&file.memory.start]);
                locations.push(profile.location(file, *address, &names[address]));
            }
            if locations.is_empty() {
                locations.push(profile.location(0, 0, &Name::plain(NO_STACK)));
            }
            let values = vec![*count, *count * PERIOD_NANOS as i64];
            profile.sample(locations, values, &[("thread", &self.names[stack.thread])]);
        }
        if self.without_kernel {
            profile.comment("time in the kernel is missing: it needs CAP_PERFMON");
        }
        if self.samples_lost > 0 {
            profile.comment(&format!("{} samples were lost", self.samples_lost));
        }
        if !self.threads_refused.is_empty() {
            profile.comment(&format!("{} threads are missing", self.threads_refused.len()));
        }
        profile.finish().context("write the profile")
    }
}

const PERIOD_NANOS: u64 = PERIOD.as_nanos() as u64;
/// ESRCH.
const NO_SUCH_PROCESS: i32 = 3;

/// The registers of `asm/perf_regs.h` that unwinding needs, as bits; they come in this order.
#[cfg(target_arch = "x86_64")]
const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;
#[cfg(target_arch = "aarch64")]
const REGISTERS: u64 = 1 << 29 | 1 << 30 | 1 << 31 | 1 << 32;

#[cfg(target_arch = "x86_64")]
fn registers(values: &[u64]) -> Option<Registers> {
    let &[frame, stack, instruction] = values else { return None };
    Some(Registers { instruction, stack, frame })
}

#[cfg(target_arch = "aarch64")]
fn registers(values: &[u64]) -> Option<Registers> {
    let &[frame, link, stack, instruction] = values else { return None };
    Some(Registers { instruction, stack, frame, link })
}

fn target(thread: u32) -> (Proc, perf_event_open::config::All) {
    (Proc(thread), Cpu::ALL)
}

fn stack(code: &mut Code, thread: usize, sample: &Sample) -> Stack {
    let registers = sample.user_regs.as_ref().and_then(|(values, _)| registers(values));
    // Without registers the thread is in the kernel for good, on its way out.
    let in_kernel = match (registers, sample.code_addr) {
        (Some(registers), Some((address, _))) => address != registers.instruction,
        _ => true,
    };
    let stack = sample.user_stack.as_deref().unwrap_or_default();
    let addresses = registers.map(|registers| code.unwind(registers, stack)).unwrap_or_default();
    Stack { thread, in_kernel, addresses }
}

fn count(stacks: &mut HashMap<Stack, i64>, stack: Stack) {
    if let Some(count) = stacks.get_mut(&stack) {
        *count += 1;
        return;
    }
    let full = stacks.len() >= MAX_STACKS;
    let addresses = if full { Vec::new() } else { stack.addresses };
    *stacks.entry(Stack { addresses, ..stack }).or_default() += 1;
}

/// The thread that reads the rings; what it does is no news.
fn own_thread() -> Option<u32> {
    fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}
