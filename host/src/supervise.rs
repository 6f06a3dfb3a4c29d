//! Started again after a crash, which DataKit never does: this process starts the collector as a
//! child, waits, and starts it again with growing pauses. Signals go on to the child; if this
//! process is killed, the kernel kills the child, so nothing is left behind. A child that ends on
//! purpose leaves a sentence, which the next one reports.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{self, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::config::{Config, Supervise};
use crate::run::{RELOAD, Signals};

/// Says to the child who its parent is, and that it is one.
const PARENT: &str = "DATAKIT_EBPF_PARENT";

/// Says to the child why the one before it ended.
const REASON: &str = "DATAKIT_EBPF_RESTARTED_AFTER";

/// Says to the child where to write why it ends, if it can tell.
const LAST_WORDS: &str = "DATAKIT_EBPF_LAST_WORDS";

/// More than any reason is long.
const LONGEST_REASON: u64 = 4096;

/// What a Rust program that panics exits with.
pub(crate) const PANICKED: u8 = 101;

/// What the collector exits with when it uses more than it may.
pub(crate) const OVER_LIMIT: u8 = 75;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A collector that ran this long starts over with the first pause.
const RAN_WELL: Duration = Duration::from_mins(5);

/// Whether this process is to start another one rather than to collect.
pub(crate) fn is_wanted(config: &Config) -> bool {
    let is_child = env::var_os(PARENT).is_some();
    let wanted = match config.supervise {
        Supervise::On => true,
        Supervise::Off => false,
        Supervise::Auto => started_by_datakit(),
    };
    wanted && !is_child
}

/// Why the collector before this one ended, if there was one.
pub(crate) fn restarted_after() -> Option<String> {
    env::var(REASON).ok()
}

/// In the child: tells its parent why it is about to end. Without a parent nobody listens.
pub(crate) fn tell_parent(reason: &str) {
    let Ok(path) = env::var(LAST_WORDS) else { return };
    let told = OpenOptions::new().write(true).open(path);
    if let Err(error) = told.and_then(|mut file| file.write_all(reason.as_bytes())) {
        warn!(%error, "the supervising process does not hear why this one ends");
    }
}

/// In the child: ends with its parent, even if that is killed.
pub(crate) fn follow_parent() -> Result<()> {
    let Ok(parent) = env::var(PARENT) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the parent")?;
    // It may have ended before that.
    if getppid().map(|pid| pid.as_raw_nonzero().to_string()) != Some(parent) {
        bail!("the supervising process has ended");
    }
    Ok(())
}

/// Has `command` start a process that ends with this one.
pub(crate) fn as_child(command: &mut process::Command) -> &mut process::Command {
    command.env(PARENT, process::id().to_string())
}

/// Runs the collector until it ends in order, or is told to.
pub(crate) fn run() -> Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(supervise())
}

async fn supervise() -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    let mut pause = FIRST_PAUSE;
    let mut reason = None;
    loop {
        let started = Instant::now();
        let words = memory_file()?;
        let mut child = start(reason.as_deref(), &words)?;
        let id = child.id();
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("wait for the collector")?,
                signal = signals.next() => {
                    pass_on(signal, id);
                    if signal != RELOAD {
                        return Ok(code_of(last_words(&mut child, &mut signals).await?));
                    }
                }
            }
        };
        if !is_crash(status) {
            return Ok(code_of(status));
        }
        reason = Some(read(words).unwrap_or_else(|| status.to_string()));
        if started.elapsed() > RAN_WELL {
            pause = FIRST_PAUSE;
        }
        let over = Instant::now() + pause;
        while let Ok(signal) = timeout_at(over, signals.next()).await {
            if signal != RELOAD {
                return Ok(code_of(status));
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A file in memory that a child inherits. Nothing is left of it whoever is killed.
fn memory_file() -> Result<File> {
    let file = memfd_create("last-words", MemfdFlags::empty());
    Ok(file.context("make a file in memory")?.into())
}

/// What was written there, if anything was.
fn read(mut words: File) -> Option<String> {
    let mut text = Vec::new();
    words.rewind().ok()?;
    words.take(LONGEST_REASON).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

fn start(reason: Option<&str>, words: &File) -> Result<Child> {
    let mut command = Command::new(env::current_exe().context("find the own executable")?);
    command.args(env::args_os().skip(1)).env(PARENT, process::id().to_string());
    command.env(LAST_WORDS, format!("/proc/self/fd/{}", words.as_raw_fd()));
    if let Some(reason) = reason {
        command.env(REASON, reason);
    }
    // Ctrl-C reaches this process only, which passes it on once.
    command.process_group(0);
    command.kill_on_drop(true).spawn().context("start the collector")
}

/// The child flushes; a further signal makes it hurry.
async fn last_words(child: &mut Child, signals: &mut Signals) -> Result<ExitStatus> {
    loop {
        let id = child.id();
        tokio::select! {
            status = child.wait() => return status.context("wait for the collector"),
            signal = signals.next() => pass_on(signal, id),
        }
    }
}

fn pass_on(signal: &str, child: Option<u32>) {
    let signal = match signal {
        RELOAD => Signal::HUP,
        "SIGINT" => Signal::INT,
        _ => Signal::TERM,
    };
    if let Some(pid) = child.and_then(|pid| Pid::from_raw(pid as i32)) {
        // It may have ended by itself just now.
        kill_process(pid, signal).ok();
    }
}

/// Anything else was said in words before the exit, and would be said again.
fn is_crash(status: ExitStatus) -> bool {
    status.signal().is_some()
        || [PANICKED, OVER_LIMIT].iter().any(|code| status.code() == Some(i32::from(*code)))
}

fn code_of(status: ExitStatus) -> ExitCode {
    status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8))
}

fn started_by_datakit() -> bool {
    let parent = getppid().map(|pid| format!("/proc/{}/comm", pid.as_raw_nonzero()));
    parent.and_then(|path| fs::read_to_string(path).ok()).is_some_and(|name| name == "datakit\n")
}
