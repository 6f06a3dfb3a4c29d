//! The plugin's thread: records out of the kernel, points to the host.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use chrono::{Local, TimeZone as _};
use plugin_api::{Category, Host, Points, ProbeVerdict};
use plugin_support::clock::Offset;
use plugin_support::loader::Loaded;
use plugin_support::ring::Ring;
use plugin_support::worker::Waiter;

use crate::bash::command::{Command, Commands};
use crate::bash::container::Containers;
use crate::bash::files::Files;
use crate::bash::point::{self, Origin};
use crate::bash::user::{self, Users};
use crate::config::{Config, Field};
use crate::decode::{Event, Moment, decode};
use crate::probes::{COMMAND_BEGINS, COMMAND_ENDS};

/// Points in one batch to the host, and bytes of commands.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 1024 * 1024;

/// Commands that are read while others are reported, and looks at the ring before anything else gets
/// its turn; then the ring has to wait.
const MOST_DONE: usize = 8 * 1024;
const MOST_LOOKS: usize = 64;

/// What the thread tells whoever asks the plugin.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) undecodable: AtomicU64,
    pub(crate) commands: AtomicU64,
    pub(crate) truncated: AtomicU64,
    pub(crate) lines_refused: AtomicU64,
    pub(crate) users_refused: AtomicU64,
    pub(crate) contexts_refused: AtomicU64,
    pub(crate) files_refused: AtomicU64,
    pub(crate) files_watched: AtomicU64,
    pub(crate) files_unseen: AtomicU64,
    files: Mutex<(Vec<ProbeVerdict>, String)>,
}

impl Told {
    /// What became of each file that is a shell; and, in words, those that have nothing in them to
    /// attach to.
    pub(crate) fn files(&self) -> (Vec<ProbeVerdict>, String) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct Collector {
    host: Host,
    config: Config,
    loaded: Loaded,
    events: Ring,
    files: Files,
    users: Users,
    containers: Containers,
    commands: Commands,
    points: Points,
    /// Bytes of the commands in `points`.
    bytes: usize,
    /// When they go to the host; `None` while there are none.
    flush_due: Option<Instant>,
    told: Arc<Told>,
}

impl Collector {
    /// Attaches to what runs already.
    pub(crate) fn new(
        mut loaded: Loaded,
        config: Config,
        host: Host,
        told: Arc<Told>,
    ) -> Result<Self> {
        let join_lines = config.join_lines
            && [COMMAND_BEGINS, COMMAND_ENDS].iter().all(|probe| loaded.is_attached(probe));
        // Of early kernels it is not one that another process can be given an entry in.
        let shells = loaded.map("shells").ok();
        let files = Files::new(config.flavours.clone(), shells, join_lines);
        let mut collector = Self {
            host,
            config,
            events: loaded.ring("events")?,
            files,
            loaded,
            users: Users::default(),
            containers: Containers::default(),
            commands: Commands::default(),
            points: new_batch(),
            bytes: 0,
            flush_due: None,
            told,
        };
        for pid in collector.files.all_shells()? {
            if let Some(uid) = real_uid(pid) {
                collector.started(Moment { pid, uid, time_ns: 0 });
            }
        }
        if let Some(why) = collector.files.refusal() {
            bail!(
                "no shell can be watched, for which kernels before 6.6 ask for CAP_SYS_ADMIN: {why}"
            );
        }
        collector.tell();
        Ok(collector)
    }

    /// Runs until it is told to stop, and reports a last time then.
    pub(crate) fn run(mut self, waiter: &Waiter) -> Result<()> {
        waiter.watch(self.events.as_fd()).context("watch the ring")?;
        let mut sweep_due = Instant::now() + self.config.sweep;
        loop {
            let dues = [Some(sweep_due), self.flush_due, self.files.due()];
            let due = dues.into_iter().flatten().min().unwrap_or(sweep_due);
            if !waiter.wait(due).context("wait for records")? {
                break;
            }
            self.drain();
            let now = Instant::now();
            if self.files.due().is_some_and(|due| due <= now) {
                self.files.look_for_libraries(&mut self.loaded);
                self.tell();
            }
            if sweep_due <= now {
                self.sweep();
                sweep_due = Instant::now() + self.config.sweep;
            }
            if self.flush_due.is_some_and(|due| due <= now) {
                self.flush();
            }
        }
        self.drain();
        let mut rest = Vec::new();
        self.commands.end_where(|_| true, &mut rest);
        self.report(&rest);
        self.flush();
        Ok(())
    }

    /// Empties the ring, and reports what is complete by it. Reporting takes longer than reading, and
    /// the ring must not be full meanwhile, so it is looked at again and again.
    fn drain(&mut self) {
        let mut done = VecDeque::new();
        let mut looks = 0;
        loop {
            if done.len() < MOST_DONE && looks < MOST_LOOKS {
                self.read(&mut done);
                looks += 1;
            }
            if done.is_empty() {
                break;
            }
            let some: Vec<_> = done.drain(..done.len().min(BATCH)).collect();
            self.report(&some);
        }
    }

    /// A start is acted upon before anything else: a first line may be typed any moment.
    fn read(&mut self, done: &mut VecDeque<Command>) {
        let (mut started, mut complete) = (Vec::new(), Vec::new());
        let Self { events, commands, told, .. } = self;
        events.drain(|record| match decode(record) {
            Ok(Event::Started(moment)) => started.push(moment),
            Ok(Event::Context(moment, context)) => commands.observe_context(moment.pid, context),
            Ok(Event::Line(moment, part)) => commands.observe(moment, &part, &mut complete),
            Ok(Event::CommandEnded(moment)) => commands.end(moment, &mut complete),
            Err(error) => {
                told.undecodable.fetch_add(1, Ordering::Relaxed);
                log::debug!(error:%; "undecodable record");
            }
        });
        done.extend(complete);
        told.lines_refused.fetch_add(commands.take_refused(), Ordering::Relaxed);
        told.contexts_refused.fetch_add(commands.take_contexts_refused(), Ordering::Relaxed);
        if !started.is_empty() {
            for moment in started {
                self.started(moment);
            }
            self.tell();
        }
    }

    fn started(&mut self, Moment { pid, uid, time_ns }: Moment) {
        self.files.found(&mut self.loaded, pid, time_ns);
        let mut is_remembered = self.users.remember(pid, uid);
        if self.config.wants(Field::ContainerId) {
            is_remembered &= self.containers.remember(pid);
        }
        if !is_remembered {
            self.told.users_refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks a process up once: its commands here were all entered a moment ago.
    fn report(&mut self, done: &[Command]) {
        let wants_container = self.config.wants(Field::ContainerId);
        let clock = Offset::now();
        let mut known: HashMap<(u32, u32), (String, Option<String>)> = HashMap::new();
        for command in done {
            if command.text.is_empty() && !self.config.empty_lines {
                continue;
            }
            let Moment { pid, uid, time_ns } = command.moment;
            let (user, container) = known.entry((pid, uid)).or_insert_with(|| {
                let container = wants_container.then(|| self.containers.id(pid)).flatten();
                (self.users.name(pid, uid), container)
            });
            let time = Local.timestamp_nanos(clock.unix_time_of(time_ns));
            let origin = Origin { user, container: container.as_deref(), time };
            point::bash(&mut self.points, &self.config, command, &origin);
            self.bytes += command.text.len();
            self.told.commands.fetch_add(1, Ordering::Relaxed);
            self.told.truncated.fetch_add(u64::from(command.is_cut), Ordering::Relaxed);
            if self.points.len() == BATCH || self.bytes >= BATCH_BYTES {
                self.flush();
            }
        }
        if self.flush_due.is_none() && !self.points.is_empty() {
            self.flush_due = Some(Instant::now() + self.config.flush);
        }
    }

    fn flush(&mut self) {
        let points = std::mem::replace(&mut self.points, new_batch());
        self.bytes = 0;
        self.flush_due = None;
        // What the host has no room for, the host counts.
        self.host.send(points);
    }

    fn sweep(&mut self) {
        if let Err(error) = self.files.sweep(&mut self.loaded) {
            log::warn!(error:% = format!("{error:#}"); "could not look for files in use, will try again");
        }
        // What processes that are gone did last is in the ring by now, and read before they are
        // forgotten.
        let Self { users, containers, commands, .. } = &*self;
        let known = users.pids().chain(containers.pids()).chain(commands.pids());
        let gone: HashSet<u32> = known.filter(|pid| !user::is_there(*pid)).collect();
        self.drain();
        self.users.retain(|pid| !gone.contains(&pid));
        self.containers.retain(|pid| !gone.contains(&pid));
        let mut done = Vec::new();
        self.commands.end_where(|pid| gone.contains(&pid), &mut done);
        self.report(&done);
        self.tell();
    }

    fn tell(&self) {
        let Told { files, files_refused, files_watched, files_unseen, .. } = self.told.as_ref();
        *files.lock().unwrap_or_else(PoisonError::into_inner) =
            (self.files.verdicts(), self.files.unseen_in_words());
        files_unseen.store(self.files.unseen() as u64, Ordering::Relaxed);
        files_refused.store(self.files.refused(), Ordering::Relaxed);
        files_watched.store(self.files.watched() as u64, Ordering::Relaxed);
    }
}

fn new_batch() -> Points {
    Points::new(Category::Logging, point::FEED)
}

/// The real user of a process, from `/proc/PID/status`.
fn real_uid(pid: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}
