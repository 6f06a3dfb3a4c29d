//! Which files are watched. Comes in: processes that have become a shell. Goes out: programs attached
//! to the file that each runs, once per file, or to its library that reads lines; and detached when
//! nobody runs it any more.

use std::collections::HashMap;
use std::fs;
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

use crate::bash::flavour::{Flavour, Functions, file_name};
use crate::probes::{PARSE_ENTRY, PARSE_RET, PARSE_RETURN};

/// Files that are watched, or known not to be.
const MOST_FILES: usize = 1024;
/// Files that are named one by one in `/status`.
const MOST_SHOWN: usize = 64;
/// Files that are named one by one because there is nothing in them to attach to.
const MOST_UNSEEN_SHOWN: usize = 16;
/// Processes whose library is waited for.
const MOST_WAITING: usize = 1024;
/// Sweeps in a row that find a file unused before it is let go.
const PATIENCE: u32 = 2;
/// The dynamic linker maps a library within a millisecond or so.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Files that are shells.
#[derive(Debug)]
pub(crate) struct Files {
    flavours: Vec<Flavour>,
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
    flavour: Flavour,
    outcome: Outcome,
    /// When its lines could be seen first, by the kernel's monotonic clock.
    since_ns: u64,
    unused: u32,
}

#[derive(Debug)]
enum Outcome {
    /// It has the function that reads lines.
    Watched,
    /// That function is in a library.
    WatchedIn(FileId),
    /// The library is not there yet.
    Waits,
    /// There is nothing in it to attach to; why.
    Unseen(String),
    /// The kernel does not let us attach; why.
    Refused(String),
}

/// Why a file is not watched.
enum Obstacle {
    InFile(anyhow::Error),
    InKernel(anyhow::Error),
}

/// A process that has not mapped its library yet.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    file: FileId,
    due: Instant,
    wait: Duration,
}

impl Files {
    /// `shells` is the map of that name, if entries can be made in it.
    pub(crate) fn new(
        flavours: Vec<Flavour>,
        shells: Option<Map<i32, abi::shell>>,
        join_lines: bool,
    ) -> Self {
        Self {
            flavours,
            uprobes: Uprobes::default(),
            known: HashMap::new(),
            waiting: Vec::new(),
            shells,
            join_lines,
            refused: 0,
        }
    }

    /// Process `pid` has become a shell at `time_ns`, or was one at the start. It may be gone, or be
    /// something else by now.
    pub(crate) fn found(&mut self, loaded: &mut Loaded, pid: u32, time_ns: u64) {
        if let Err(error) = self.look_at(loaded, pid, time_ns) {
            log::debug!(pid, error:% = format!("{error:#}"); "a process is left alone");
        }
    }

    fn look_at(&mut self, loaded: &mut Loaded, pid: u32, time_ns: u64) -> Result<()> {
        let target = Target::executable(pid).context("look at what it runs")?;
        let Some(flavour) = self.wanted(target.name()) else { return Ok(()) };
        let id = target.id();
        if !self.known.contains_key(&id) {
            if self.known.len() == MOST_FILES {
                self.refused += 1;
                return Ok(());
            }
            self.may_be_reading(pid);
            let outcome = match self.watch(loaded, &target, flavour) {
                Ok(true) => Outcome::Watched,
                Ok(false) => Outcome::Waits,
                Err(obstacle) => obstacle.into(),
            };
            let known = Known {
                name: target.name().to_owned(),
                flavour,
                outcome,
                since_ns: monotonic_ns(),
                unused: 0,
            };
            known.log();
            self.known.insert(id, known);
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

    /// Attaches to what a file has of the flavour's functions. False if it lacks that which reads
    /// lines.
    fn watch(
        &mut self,
        loaded: &mut Loaded,
        target: &Target,
        flavour: Flavour,
    ) -> Result<bool, Obstacle> {
        if self.uprobes.is_attached(target.id()) {
            return Ok(true);
        }
        let (has_line, spots) =
            self.spots(target, flavour.functions()).map_err(Obstacle::InFile)?;
        self.uprobes.attach(loaded, target, &spots).map_err(Obstacle::InKernel)?;
        Ok(has_line)
    }

    fn spots(&self, target: &Target, functions: &Functions) -> Result<(bool, Vec<Spot>)> {
        let code = Code::of(target)?;
        let names = [Some(functions.line), functions.command.filter(|_| self.join_lines)];
        let symbols = code.symbols(&names.map(|name| name.unwrap_or("-")))?;
        // First, so that who is taken note of as parsing is also seen to begin to read: a process that
        // is not known yet may be reading, see `may_be_reading`.
        let mut spots = match symbols[0] {
            Some(line) => spots_of_line(&code, functions, line)?,
            None => Vec::new(),
        };
        if let Some(command) = symbols[1] {
            spots.push(Spot::new(PARSE_ENTRY, command.offset));
            match code.returns(command) {
                Ok(returns) => spots.extend(returns.iter().map(|at| Spot::new(PARSE_RET, *at))),
                Err(error) => {
                    not_found(functions.command.unwrap_or_default(), &error);
                    spots.push(Spot::new(PARSE_RETURN, command.offset));
                }
            }
        }
        Ok((symbols[0].is_some(), spots))
    }

    /// Looks again at processes whose library was not there, when they are due.
    pub(crate) fn look_for_libraries(&mut self, loaded: &mut Loaded) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|waiting| waiting.due <= now);
        self.waiting = later;
        for Waiting { pid, file, wait, .. } in due {
            let Some(known) = self.known.get(&file) else { continue };
            let flavour = known.flavour;
            let outcome = match mapped(pid, flavour.functions()) {
                Ok(Some(library)) => match self.watch(loaded, &library, flavour) {
                    Ok(true) => Outcome::WatchedIn(library.id()),
                    Ok(false) => Outcome::Unseen(flavour.explanation()),
                    Err(obstacle) => obstacle.into(),
                },
                Ok(None) if wait < LONGEST_WAIT => {
                    self.waiting.push(Waiting { pid, file, due: now + wait, wait: wait * 2 });
                    continue;
                }
                Ok(None) => Outcome::Unseen(flavour.explanation()),
                // Gone, most likely; the next one may live longer.
                Err(error) => {
                    log::debug!(pid, error:% = format!("{error:#}"); "no library is found");
                    continue;
                }
            };
            if let Some(known) = self.known.get_mut(&file)
                && matches!(known.outcome, Outcome::Waits)
            {
                known.outcome = outcome;
                known.since_ns = monotonic_ns();
                known.log();
            }
            self.may_be_reading(pid);
        }
    }

    /// When [`Files::look_for_libraries`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due).min()
    }

    /// The call of `readline()` that process `pid` may be in began unseen: its return counts.
    fn may_be_reading(&self, pid: u32) {
        let reading = abi::shell { is_reading: 1, ..abi::shell::default() };
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
        for pid in self.all_shells().context("list processes")? {
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

    /// Why nothing at all can be watched, if the kernel refuses all that there is.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let refusals = self.known.values().filter_map(|known| match &known.outcome {
            Outcome::Refused(why) => Some(why.as_str()),
            _ => None,
        });
        if self.uprobes.is_empty() { refusals.min() } else { None }
    }

    /// Files with nothing in them to attach to.
    pub(crate) fn unseen(&self) -> usize {
        self.known.values().filter(|known| matches!(known.outcome, Outcome::Unseen(_))).count()
    }

    /// Those, one by one as far as there is room for them; empty if there are none. They are no fault of
    /// the plugin's: whoever may run a program could run one more.
    pub(crate) fn unseen_in_words(&self) -> String {
        let mut unseen: Vec<_> = self
            .known
            .iter()
            .filter_map(|(id, known)| match &known.outcome {
                Outcome::Unseen(why) => Some(format!("{} ({id}): {why}", known.name)),
                _ => None,
            })
            .collect();
        unseen.sort();
        let more = unseen.len().saturating_sub(MOST_UNSEEN_SHOWN);
        unseen.truncate(MOST_UNSEEN_SHOWN);
        if more > 0 {
            unseen.push(format!("and {more} more"));
        }
        if unseen.is_empty() { String::new() } else { format!("not in {}", unseen.join("; ")) }
    }

    /// What became of the others.
    pub(crate) fn verdicts(&self) -> Vec<ProbeVerdict> {
        let mut shown: Vec<_> =
            self.known.iter().filter_map(|(id, known)| known.verdict(*id)).collect();
        // Those that say why come first: they are the ones to be read.
        shown.sort_by(|a, b| (a.status as u8, &a.name).cmp(&(b.status as u8, &b.name)).reverse());
        shown.truncate(MOST_SHOWN);
        shown
    }

    /// All processes that run a shell.
    pub(crate) fn all_shells(&self) -> Result<Vec<u32>> {
        let entries = fs::read_dir("/proc").context("read /proc")?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let runs_one = |pid: &u32| {
            let link = fs::read_link(format!("/proc/{pid}/exe"));
            link.is_ok_and(|path| self.wanted(&path.to_string_lossy()).is_some())
        };
        Ok(pids.filter(runs_one).collect())
    }

    fn wanted(&self, path: &str) -> Option<Flavour> {
        Flavour::of_path(path).filter(|flavour| self.flavours.contains(flavour))
    }
}

impl From<Obstacle> for Outcome {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::InFile(error) => Self::Unseen(format!("{error:#}")),
            Obstacle::InKernel(error) => Self::Refused(format!("{error:#}")),
        }
    }
}

impl Known {
    fn log(&self) {
        let Self { name: file, flavour, outcome, .. } = self;
        let shell = flavour.name();
        match outcome {
            Outcome::Unseen(error) | Outcome::Refused(error) => {
                log::warn!(file, shell, error; "a shell cannot be watched");
            }
            Outcome::Waits => log::debug!(file, shell; "a shell has no function for lines itself"),
            Outcome::Watched => log::info!(file, shell; "a shell is watched"),
            Outcome::WatchedIn(_) => log::info!(file, shell; "a shell is watched in its library"),
        }
    }

    /// Nothing as long as nothing is known, and for files that have nothing to attach to.
    fn verdict(&self, id: FileId) -> Option<ProbeVerdict> {
        let (status, detail) = match &self.outcome {
            Outcome::Watched | Outcome::WatchedIn(_) => (ProbeStatus::Attached, String::new()),
            Outcome::Waits | Outcome::Unseen(_) => return None,
            Outcome::Refused(error) => {
                (ProbeStatus::Missing, format!("without the commands typed into it: {error}"))
            }
        };
        Some(ProbeVerdict {
            name: format!("{} ({id})", self.name).into(),
            hook: format!("uprobe/{}", self.flavour.functions().line).into(),
            status,
            detail: detail.into(),
        })
    }
}

/// The library of process `pid` that has the function which reads lines; `None` if it has none, or
/// not yet.
fn mapped(pid: u32, functions: &Functions) -> Result<Option<Target>> {
    for library in functions.libraries {
        let found = Target::mapped(pid, |path| file_name(path).starts_with(library))
            .context("look at what it has mapped")?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Where the programs for the function that reads lines go.
fn spots_of_line(code: &Code<'_>, functions: &Functions, line: Symbol) -> Result<Vec<Spot>> {
    let entry = Spot::new(functions.entry, line.offset);
    match (code.returns(line), functions.returned) {
        // The ends come first: each takes the kernel some ten milliseconds, and the first line of
        // a process that `may_be_reading` is seen with them alone.
        (Ok(returns), _) => {
            let ends = returns.into_iter().map(|at| Spot::new(functions.end, at));
            Ok(ends.chain([entry]).collect())
        }
        (Err(error), Some(returned)) => {
            not_found(functions.line, &error);
            Ok(vec![Spot::new(returned, line.offset), entry])
        }
        (Err(error), None) => Err(error.context(format!("look for the end of {}", functions.line))),
    }
}

fn not_found(function: &str, error: &anyhow::Error) {
    log::debug!(function, error:% = format!("{error:#}"); "the end of a function is not found");
}
