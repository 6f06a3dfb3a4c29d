//! Which files are watched. Comes in: processes, as they start, and a look at all of them now and
//! then. Goes out: programs attached to each TLS library that a process may use, and to each program
//! that has one inside; and detached when nobody can use it any more. It also says which processes
//! cannot be seen, and why.
//!
//! Libraries at the usual places of a root in which processes run are watched before anybody uses
//! them: who does, does so within milliseconds. Breakpoints are only where a process has mapped them.

use std::collections::HashMap;
use std::fs;
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plugin_api::{ProbeStatus, ProbeVerdict};
use plugin_support::loader::Loaded;
use plugin_support::uprobe::{FileId, Target, Uprobes};

use super::library::{Inside, Library, unseen, usual_paths};
use super::unseen::Unseen;

/// Files that are watched.
const MOST_FILES: usize = 1024;
/// Programs of which it is known whether they have a library inside.
const MOST_PROGRAMS: usize = 16_384;
/// Files that are named one by one in `/status`.
const MOST_SHOWN: usize = 64;
/// Files of one process that say something of its TLS.
const MOST_OF_PROCESS: usize = 8;
/// Roots whose usual places are known.
const MOST_ROOTS: usize = 1024;
/// Processes that are looked at once more.
const MOST_WAITING: usize = 1024;
/// Looks in a row that find a file unused before it is let go. Programs that run every other
/// moment and never for long, as curl does, should find it watched.
const PATIENCE: u32 = 6;
/// When a process that has started is looked at again: libraries come by and by.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// Files with TLS in them.
#[derive(Debug, Default)]
pub(super) struct Files {
    uprobes: Uprobes,
    known: HashMap<FileId, Known>,
    programs: HashMap<FileId, Inside>,
    roots: HashMap<(u64, u64), Root>,
    waiting: Vec<Waiting>,
    unseen: Unseen,
    refused: u64,
    /// There is something new to tell.
    is_changed: bool,
}

#[derive(Debug)]
struct Known {
    name: String,
    /// Why nothing can be seen of it.
    error: Option<String>,
    library: Library,
    unused: u32,
}

/// What a process takes for `/`.
#[derive(Debug)]
struct Root {
    libraries: Vec<FileId>,
    is_used: bool,
}

/// A process that has started a moment ago.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    due: Instant,
    looks: usize,
}

impl Files {
    /// Looks at all processes.
    pub(super) fn sweep(&mut self, loaded: &mut Loaded) -> Result<()> {
        let entries = fs::read_dir("/proc").context("read /proc")?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        for known in self.known.values_mut() {
            known.unused += 1;
        }
        for root in self.roots.values_mut() {
            root.is_used = false;
        }
        self.unseen.begin();
        self.is_changed = true;
        for pid in pids {
            self.found(loaded, pid);
        }
        for root in self.roots.values() {
            // A root that is gone should not be held by its files.
            let unused = if root.is_used { 0 } else { PATIENCE };
            for id in &root.libraries {
                if let Some(known) = self.known.get_mut(id).filter(|known| known.unused > 0) {
                    known.unused = unused;
                }
            }
        }
        self.roots.retain(|_, root| root.is_used);
        self.known.retain(|_, known| known.unused < PATIENCE);
        let Self { uprobes, known, programs, .. } = self;
        uprobes.retain(|id| known.contains_key(&id));
        // Rather look at all of them again than grow.
        if programs.len() >= MOST_PROGRAMS {
            programs.clear();
        }
        Ok(())
    }

    /// A process has started.
    pub(super) fn started(&mut self, loaded: &mut Loaded, pid: u32) {
        self.found(loaded, pid);
        // The next sweep finds the others.
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(Waiting { pid, due: Instant::now() + PAUSES[0], looks: 1 });
        }
    }

    /// When [`Files::look_again`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due).min()
    }

    /// Looks again at processes that have started, when they are due.
    pub(super) fn look_again(&mut self, loaded: &mut Loaded) {
        let now = Instant::now();
        let due: Vec<_> = self.waiting.extract_if(.., |waiting| waiting.due <= now).collect();
        for Waiting { pid, looks, .. } in due {
            if self.found(loaded, pid)
                && let Some(pause) = PAUSES.get(looks)
            {
                self.waiting.push(Waiting { pid, due: now + *pause, looks: looks + 1 });
            }
        }
    }

    /// Whether the process is there and can be looked at.
    fn found(&mut self, loaded: &mut Loaded, pid: u32) -> bool {
        if pid == process::id() {
            return false;
        }
        match self.look_at(loaded, pid) {
            Ok(reason) => {
                self.is_changed |= reason.is_some();
                self.unseen.tell(pid, reason);
                true
            }
            Err(error) => {
                log::debug!(pid, error:% = format!("{error:#}"); "a process is left alone");
                false
            }
        }
    }

    /// Watches what the process uses; says why something of it cannot be seen.
    fn look_at(&mut self, loaded: &mut Loaded, pid: u32) -> Result<Option<String>> {
        // Kernel threads have none.
        let program = FileId::of_executable(pid).context("look at what it runs")?;
        self.look_at_root(loaded, pid)?;
        let mut reason = None;
        match self.inside(program, pid)? {
            Inside::Nothing => {}
            Inside::Unseen(why) => reason = Some(why),
            Inside::Library(library) => {
                let target = || Target::executable(pid).context("open what it runs");
                reason = self.use_file(loaded, program, library, target)?;
            }
        }
        let says = |path: &str| Library::of_file(path).is_some() || unseen(path).is_some();
        let mapped =
            Target::all_mapped(pid, MOST_OF_PROCESS, says).context("look at what it has mapped")?;
        for file in mapped {
            let why = match Library::of_file(file.name()) {
                Some(library) => self.use_file(loaded, file.id(), library, || Ok(file))?,
                None => unseen(file.name()).map(str::to_owned),
            };
            reason = reason.or(why);
        }
        Ok(reason)
    }

    fn inside(&mut self, program: FileId, pid: u32) -> Result<Inside> {
        if let Some(known) = self.programs.get(&program) {
            return Ok(known.clone());
        }
        let target = Target::executable(pid).context("open what it runs")?;
        let inside = Inside::of(&target);
        self.programs.insert(target.id(), inside.clone());
        Ok(inside)
    }

    fn look_at_root(&mut self, loaded: &mut Loaded, pid: u32) -> Result<()> {
        let root = fs::metadata(format!("/proc/{pid}/root/")).context("look at its root")?;
        let id = (root.dev(), root.ino());
        if let Some(known) = self.roots.get_mut(&id) {
            known.is_used = true;
            return Ok(());
        }
        let mut libraries = Vec::new();
        if self.roots.len() < MOST_ROOTS {
            let found = usual_paths().filter_map(|path| Target::in_root(pid, &path).ok());
            for target in found {
                let (file, library) = (target.id(), Library::of_file(target.name()));
                if let Some(library) = library {
                    self.use_file(loaded, file, library, || Ok(target))?;
                    libraries.push(file);
                }
            }
            self.roots.insert(id, Root { libraries, is_used: true });
        }
        Ok(())
    }

    /// A process uses this file: watches it, unless it is watched or known not to be of use, and
    /// says why it is not.
    fn use_file(
        &mut self,
        loaded: &mut Loaded,
        id: FileId,
        library: Library,
        target: impl FnOnce() -> Result<Target>,
    ) -> Result<Option<String>> {
        if let Some(known) = self.known.get_mut(&id) {
            known.unused = 0;
            return Ok(known.reason());
        }
        if self.known.len() >= MOST_FILES {
            self.refused += 1;
            return Ok(Some(format!("there is no room for more than {MOST_FILES} files")));
        }
        let target = target()?;
        let attached =
            library.spots(&target).and_then(|spots| self.uprobes.attach(loaded, &target, &spots));
        let error = attached.err().map(|error| format!("{error:#}"));
        let name = target.name().to_owned();
        match &error {
            Some(error) => log::warn!(file = name, error; "a TLS library cannot be watched"),
            None => log::info!(file = name; "a TLS library is watched"),
        }
        let known = Known { name, error, library, unused: 0 };
        let reason = known.reason();
        self.known.insert(target.id(), known);
        self.is_changed = true;
        Ok(reason)
    }

    /// Whether there is something new to tell since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        mem::take(&mut self.is_changed)
    }

    /// Files that programs are attached to.
    pub(super) fn attached(&self) -> usize {
        self.uprobes.len()
    }

    /// Times that a file found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Processes with TLS that cannot be seen.
    pub(super) fn unseen(&self) -> usize {
        self.unseen.count()
    }

    /// Each file that is watched; before them, which processes cannot be seen.
    pub(super) fn verdicts(&self) -> Vec<ProbeVerdict> {
        let watched = self.known.iter().filter(|(_, known)| known.error.is_none());
        let mut shown: Vec<_> = watched.map(|(id, known)| known.verdict(*id)).collect();
        shown.sort_by(|a, b| a.name.cmp(&b.name));
        shown.truncate(MOST_SHOWN);
        shown.insert(0, self.unseen.verdict());
        shown
    }
}

impl Known {
    fn reason(&self) -> Option<String> {
        self.error.as_ref().map(|error| format!("{}: {error}", self.name))
    }

    fn verdict(&self, id: FileId) -> ProbeVerdict {
        ProbeVerdict {
            name: format!("{} ({id})", self.name).into(),
            hook: format!("uprobe/{}", self.library.function()).into(),
            status: ProbeStatus::Attached,
            detail: String::new().into(),
        }
    }
}
