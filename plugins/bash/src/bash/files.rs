//! Which files are watched. Comes in: processes that have become a bash. Goes out: programs attached
//! to the file that each runs, once per file, or to its libreadline; and detached when nobody runs
//! it any more.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bpf::bash::abi;
use plugin_api::{ProbeStatus, ProbeVerdict};
use plugin_support::clock::monotonic_ns;
use plugin_support::loader::Loaded;
use plugin_support::map::Map;
use plugin_support::uprobe::{Code, FileId, Spot, Symbol, Target, Uprobes};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsRawFd as _;

use crate::probes::{PARSE_ENTRY, PARSE_RET, READLINE_ENTRY, READLINE_RET, READLINE_RETURN};

/// Files that are watched, or known not to be.
const MOST_FILES: usize = 1024;
/// Files that are named one by one in `/status`.
const MOST_SHOWN: usize = 64;
/// Processes whose library is waited for.
const MOST_WAITING: usize = 1024;
/// Sweeps in a row that find a file unused before it is let go.
const PATIENCE: u32 = 2;
/// The dynamic linker maps a library within a millisecond or so.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Files that are a bash.
#[derive(Debug)]
pub(crate) struct Files {
    uprobes: Uprobes,
    known: HashMap<FileId, Known>,
    waiting: Vec<Waiting>,
    shells: Option<Map<i32, abi::shell>>,
    join_lines: bool,
    refused: u64,
}

/// A file that is run.
#[derive(Debug)]
struct Known {
    name: String,
    outcome: Outcome,
    /// When its lines could be seen first, by the kernel's monotonic clock.
    since_ns: u64,
    unused: u32,
}

#[derive(Debug)]
enum Outcome {
    /// It has its own `readline()`.
    Watched,
    /// Its `readline()` is in a library.
    WatchedIn(FileId),
    /// The library is not there yet.
    Waits,
    /// Nothing can be seen of it; why.
    Unseen(String),
}

/// A process that has not mapped its `libreadline` yet.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    file: FileId,
    due: Instant,
    wait: Duration,
}

impl Files {
    /// `shells` is the map of that name, if entries can be made in it.
    pub(crate) fn new(shells: Option<Map<i32, abi::shell>>, join_lines: bool) -> Self {
        Self {
            uprobes: Uprobes::default(),
            known: HashMap::new(),
            waiting: Vec::new(),
            shells,
            join_lines,
            refused: 0,
        }
    }

    /// Process `pid` has become a bash at `time_ns`, or was one at the start. It may be gone, or be
    /// something else by now.
    pub(crate) fn found(&mut self, loaded: &mut Loaded, pid: u32, time_ns: u64) {
        if let Err(error) = self.look_at(loaded, pid, time_ns) {
            log::debug!(pid, error:% = format!("{error:#}"); "a process is left alone");
        }
    }

    fn look_at(&mut self, loaded: &mut Loaded, pid: u32, time_ns: u64) -> Result<()> {
        let target = Target::executable(pid).context("look at what it runs")?;
        if !is_bash(target.name()) {
            return Ok(());
        }
        let id = target.id();
        if !self.known.contains_key(&id) {
            if self.known.len() == MOST_FILES {
                self.refused += 1;
                return Ok(());
            }
            self.may_be_reading(pid);
            let outcome = match self.watch_executable(loaded, &target) {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Unseen(format!("{error:#}")),
            };
            self.learn(&target, outcome);
        }
        let Some(known) = self.known.get_mut(&id) else { return Ok(()) };
        known.unused = 0;
        match known.outcome {
            Outcome::Watched | Outcome::WatchedIn(_) if time_ns < known.since_ns => {
                self.may_be_reading(pid);
            }
            Outcome::Waits if self.waiting.len() < MOST_WAITING => {
                self.waiting.push(Waiting { pid, file: id, due: Instant::now(), wait: FIRST_WAIT });
                self.look_for_libraries(loaded);
            }
            _ => {}
        }
        Ok(())
    }

    fn learn(&mut self, target: &Target, outcome: Outcome) {
        let name = target.name().to_owned();
        match &outcome {
            Outcome::Unseen(error) => log::warn!(file = name, error; "a bash cannot be watched"),
            Outcome::Waits => log::debug!(file = name; "a bash has no readline of its own"),
            _ => log::info!(file = name; "a bash is watched"),
        }
        let known = Known { name, outcome, since_ns: monotonic_ns(), unused: 0 };
        self.known.insert(target.id(), known);
    }

    fn watch_executable(&mut self, loaded: &mut Loaded, target: &Target) -> Result<Outcome> {
        let code = Code::of(target)?;
        let symbols = code.symbols(&["readline", "parse_command"])?;
        // First, so that who is taken note of as parsing is also seen to begin to read: a process that
        // is not known yet may be reading, see `may_be_reading`.
        let mut spots = symbols[0].map(|readline| spots_of(&code, readline)).unwrap_or_default();
        if let (true, Some(parse)) = (self.join_lines, symbols[1]) {
            match code.returns(parse) {
                Ok(returns) => {
                    spots.push(Spot::new(PARSE_ENTRY, parse.offset));
                    spots.extend(returns.into_iter().map(|at| Spot::new(PARSE_RET, at)));
                }
                Err(error) => {
                    log::warn!(file = target.name(), error:% = format!("{error:#}");
                        "each line of a command is one: the end of parse_command is not found");
                }
            }
        }
        self.uprobes.attach(loaded, target, &spots)?;
        Ok(if symbols[0].is_some() { Outcome::Watched } else { Outcome::Waits })
    }

    /// Looks again at processes whose library was not there, when they are due.
    pub(crate) fn look_for_libraries(&mut self, loaded: &mut Loaded) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|waiting| waiting.due <= now);
        self.waiting = later;
        for Waiting { pid, file, wait, .. } in due {
            let outcome = match self.watch_library(loaded, pid) {
                Ok(Some(library)) => Outcome::WatchedIn(library),
                Ok(None) if wait < LONGEST_WAIT => {
                    self.waiting.push(Waiting { pid, file, due: now + wait, wait: wait * 2 });
                    continue;
                }
                Ok(None) => Outcome::Unseen(
                    "it has no function readline and maps no libreadline.so: it was built without \
                     line editing, or stripped of its symbols"
                        .to_owned(),
                ),
                // Gone, most likely; the next one may live longer.
                Err(error) => {
                    log::debug!(pid, error:% = format!("{error:#}"); "no library is found");
                    continue;
                }
            };
            if let Some(known) = self.known.get_mut(&file)
                && matches!(known.outcome, Outcome::Waits)
            {
                match &outcome {
                    Outcome::Unseen(error) => {
                        log::warn!(file = known.name, error; "a bash cannot be watched");
                    }
                    _ => log::info!(file = known.name; "a bash is watched in its library"),
                }
                known.outcome = outcome;
                known.since_ns = monotonic_ns();
            }
            self.may_be_reading(pid);
        }
    }

    fn watch_library(&mut self, loaded: &mut Loaded, pid: u32) -> Result<Option<FileId>> {
        let is_library = |path: &str| file_name(path).starts_with("libreadline.so");
        let found = Target::mapped(pid, is_library).context("look at what it has mapped")?;
        let Some(target) = found else { return Ok(None) };
        if !self.uprobes.is_attached(target.id()) {
            let code = Code::of(&target)?;
            let symbol = code.symbols(&["readline"])?[0];
            let readline = symbol.context("it has no function readline")?;
            self.uprobes.attach(loaded, &target, &spots_of(&code, readline))?;
        }
        Ok(Some(target.id()))
    }

    /// When [`Files::look_for_libraries`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due).min()
    }

    /// The call of `readline()` that process `pid` may be in began unseen: its return counts.
    fn may_be_reading(&self, pid: u32) {
        let reading = abi::shell { is_reading: 1, is_parsing: 0, lines: 0, stack: 0 };
        let (Some(pid), Some(shells)) = (Pid::from_raw(pid.cast_signed()), &self.shells) else {
            return;
        };
        let added = pidfd_open(pid, PidfdFlags::empty())
            .map_err(Into::into)
            .and_then(|process| shells.add(&process.as_raw_fd(), &reading));
        if let Err(error) = added {
            log::debug!(pid = pid.as_raw_pid(), error:%; "its first line may be missed");
        }
    }

    /// Looks at all processes: finds what was overlooked, and lets go of what nobody runs.
    pub(crate) fn sweep(&mut self, loaded: &mut Loaded) -> Result<()> {
        for known in self.known.values_mut() {
            known.unused += 1;
        }
        for pid in all_bash().context("list processes")? {
            let Ok(id) = FileId::of_executable(pid) else { continue };
            match self.known.get_mut(&id) {
                Some(known) => known.unused = 0,
                None => self.found(loaded, pid, 0),
            }
        }
        self.known.retain(|_, known| known.unused < PATIENCE);
        let Self { uprobes, known, .. } = self;
        let is_library = |id| {
            known
                .values()
                .any(|k| matches!(k.outcome, Outcome::WatchedIn(library) if library == id))
        };
        uprobes.retain(|id| known.contains_key(&id) || is_library(id));
        Ok(())
    }

    /// Files that found no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Files, libraries among them, that programs are attached to.
    pub(crate) fn watched(&self) -> usize {
        self.uprobes.len()
    }

    /// What became of each file.
    pub(crate) fn verdicts(&self) -> Vec<ProbeVerdict> {
        let mut shown: Vec<_> =
            self.known.iter().filter_map(|(id, known)| known.verdict(*id)).collect();
        // Those that say why come first: they are the ones to be read.
        shown.sort_by(|a, b| (a.status as u8, &a.name).cmp(&(b.status as u8, &b.name)).reverse());
        shown.truncate(MOST_SHOWN);
        shown
    }
}

impl Known {
    /// Nothing as long as nothing is known.
    fn verdict(&self, id: FileId) -> Option<ProbeVerdict> {
        let (status, detail) = match &self.outcome {
            Outcome::Watched | Outcome::WatchedIn(_) => (ProbeStatus::Attached, String::new()),
            Outcome::Waits => return None,
            Outcome::Unseen(error) => {
                (ProbeStatus::Missing, format!("without the commands typed into it: {error}"))
            }
        };
        Some(ProbeVerdict {
            name: format!("{} ({id})", self.name).into(),
            hook: "uprobe/readline".into(),
            status,
            detail: detail.into(),
        })
    }
}

/// Where the programs for `readline()` go.
fn spots_of(code: &Code<'_>, readline: Symbol) -> Vec<Spot> {
    let entry = Spot::new(READLINE_ENTRY, readline.offset);
    match code.returns(readline) {
        // The ends come first: each takes the kernel some ten milliseconds, and the first line of
        // a process that `may_be_reading` is seen with them alone.
        Ok(returns) => {
            let ends = returns.into_iter().map(|at| Spot::new(READLINE_RET, at));
            ends.chain([entry]).collect()
        }
        Err(error) => {
            log::debug!(error:% = format!("{error:#}"); "the end of `readline` is not found");
            vec![Spot::new(READLINE_RETURN, readline.offset), entry]
        }
    }
}

/// All processes that run a bash.
pub(crate) fn all_bash() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| runs_bash(*pid)).collect())
}

fn runs_bash(pid: u32) -> bool {
    let link = fs::read_link(format!("/proc/{pid}/exe"));
    link.is_ok_and(|path| is_bash(&path.to_string_lossy()))
}

/// bash, and what builds of it are called: bash5, bash-5.2, bash-static. The BPF programs let more
/// names pass.
fn is_bash(path: &str) -> bool {
    // What the kernel adds when the file was replaced since.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let Some(version) = file_name(path).strip_prefix("bash") else { return false };
    let version = version.strip_prefix('-').unwrap_or(version);
    version.is_empty() || version == "static" || version.starts_with(|c: char| c.is_ascii_digit())
}

fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::is_bash;

    #[test]
    fn builds_of_bash_are_told_from_what_only_begins_like_it() {
        for path in ["/bin/bash", "/usr/bin/bash (deleted)", "bash5", "/x/bash-5.2", "bash-static"]
        {
            assert!(is_bash(path), "{path}");
        }
        for path in
            ["/bin/sh", "/bash/sh", "/bin/bashtop", "/bin/bash-language-server", "rbash", ""]
        {
            assert!(!is_bash(path), "{path}");
        }
    }
}
