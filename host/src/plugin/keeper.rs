//! One plugin and the thread that calls into it. In come orders, out goes its standing. A plugin
//! that hangs or fails holds up nobody else.
//!
//! A plugin that says why it cannot start stays failed: it would only say it again. One that
//! panics, or fails while it runs, is started again with growing pauses, until it has done so too
//! often.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Instant;

use anyhow::{Context as _, Result};
use flume::{Receiver, RecvTimeoutError, Sender};
use plugin_api::loading::is_panic;
use plugin_api::{Metric, ProbeStatus, ProbeVerdict};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::plugin::callbacks::Callbacks;
use crate::plugin::isolated::Ended;
use crate::plugin::runner::{Runner, Task};
use crate::plugin::state::{Report, Standing, State, Strikes};
use crate::plugin::supervisor::Surroundings;
use crate::plugin::threads::Threads;
use crate::telemetry::usage;

/// Why a plugin is stopped for a while.
const PAUSED: &str = "paused: a limit is near";

/// What a keeper's thread is told.
pub(crate) enum Order {
    /// Run, from now on like this.
    Run(Task),
    /// Stop, but be ready for more; with a reason, if it is only for a while.
    Rest(Option<&'static str>),
    /// The plugin says that it cannot go on. `life` tells which start of it.
    Failed { life: u64, reason: String },
    /// Ask the plugin how it is, and answer when it is in the standing.
    Ask(oneshot::Sender<()>),
    /// Stop and end.
    End,
}

/// A handle to the thread.
pub(crate) struct Keeper {
    pub(crate) name: Arc<str>,
    /// What it was last told to run.
    pub(crate) task: Option<Task>,
    is_paused: bool,
    orders: Sender<Order>,
    standing: Arc<Mutex<Standing>>,
    threads: Arc<Threads>,
    /// Nothing comes out of it; it is closed when the thread has ended.
    ended: Receiver<Infallible>,
}

/// The thread's own.
struct Room {
    name: Arc<str>,
    surroundings: Arc<Surroundings>,
    orders: Sender<Order>,
    standing: Arc<Mutex<Standing>>,
    threads: Arc<Threads>,
    task: Option<Task>,
    runner: Option<Runner>,
    life: u64,
    strikes: Strikes,
    retry_at: Option<Instant>,
}

impl Keeper {
    /// Starts the thread, which runs nothing yet.
    pub(crate) fn start(name: Arc<str>, surroundings: Arc<Surroundings>) -> Result<Self> {
        let (orders, inbox) = flume::unbounded();
        let standing = Arc::<Mutex<Standing>>::default();
        let threads = Arc::<Threads>::default();
        let room = Room {
            name: Arc::clone(&name),
            surroundings,
            orders: orders.clone(),
            standing: Arc::clone(&standing),
            threads: Arc::clone(&threads),
            task: None,
            runner: None,
            life: 0,
            strikes: Strikes::default(),
            retry_at: None,
        };
        let (at_end, ended) = flume::bounded(0);
        Builder::new()
            .name("keeper".into())
            .spawn(move || {
                let _at_end = at_end;
                room.serve(&inbox);
            })
            .with_context(|| format!("start the thread that keeps plugin {name}"))?;
        Ok(Self { name, task: None, is_paused: false, orders, standing, threads, ended })
    }

    /// Has the plugin run like this from now on. Nothing happens if it does already.
    pub(crate) fn run(&mut self, task: Task) {
        if self.task.as_ref() != Some(&task) || self.standing().is_given_up() {
            self.task = Some(task.clone());
            if !self.is_paused {
                self.order(Order::Run(task));
            }
        }
    }

    /// Has the plugin stop for a while, or go on.
    pub(crate) fn pause(&mut self, pause: bool) {
        if self.is_paused == pause {
            return;
        }
        self.is_paused = pause;
        if let Some(task) = self.task.clone() {
            self.order(if pause { Order::Rest(Some(PAUSED)) } else { Order::Run(task) });
        }
    }

    /// Has the plugin stop.
    pub(crate) fn rest(&mut self) {
        if self.task.take().is_some() {
            self.order(Order::Rest(None));
        }
    }

    /// Has the plugin stop and the thread end; what is returned is closed when it has.
    pub(crate) fn end(&self) -> Receiver<Infallible> {
        self.order(Order::End);
        self.ended.clone()
    }

    /// Asks the plugin how it is; answered when the report has it.
    pub(crate) fn ask(&self) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Ask(answer));
        answered
    }

    /// How the plugin is, or was when it was last asked.
    pub(crate) fn report(&self) -> Report {
        // The time of a plugin's own process begins anew with each start of it.
        let process = self.standing().process;
        let cpu = process.map_or_else(|| self.threads.cpu(), usage::cpu_of);
        self.standing().report(&self.name, cpu)
    }

    /// Looks whether the plugin makes progress; returns a sentence the first time it does not.
    pub(crate) fn examine(&self, now: Instant) -> Option<String> {
        let stuck = self.threads.stuck(now).map(|(_, late)| late);
        self.standing().examine(now, stuck)
    }

    /// Whether it is to run and never will.
    pub(crate) fn is_given_up(&self) -> bool {
        self.standing().is_given_up()
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            error!(plugin = self.name.as_ref(), "the thread of the plugin had ended");
        }
    }
}

impl Room {
    fn serve(mut self, orders: &Receiver<Order>) {
        self.threads.enter();
        loop {
            let order = match self.retry_at {
                None => orders.recv().unwrap_or(Order::End),
                Some(at) => match orders.recv_deadline(at) {
                    Ok(order) => order,
                    Err(RecvTimeoutError::Timeout) => {
                        self.start();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => Order::End,
                },
            };
            match order {
                Order::Run(task) => {
                    self.stop();
                    self.task = Some(task);
                    self.strikes.forget();
                    self.start();
                }
                Order::Rest(reason) => {
                    self.stop();
                    self.task = None;
                    if let Some(reason) = reason {
                        self.enter(State::Stopped, Some(reason.into()));
                    }
                }
                Order::Failed { life, reason } => {
                    // Anything else is the echo of a failure that is known.
                    if life == self.life && self.runner.is_some() {
                        self.strike(reason);
                    }
                }
                Order::Ask(answer) => {
                    self.ask();
                    // Whoever asked may have lost patience.
                    answer.send(()).ok();
                }
                Order::End => return self.stop(),
            }
        }
    }

    fn start(&mut self) {
        let Some(task) = self.task.clone() else { return };
        self.retry_at = None;
        self.life += 1;
        let started = Instant::now();
        self.standing().begin("start");
        let outcome = self.open_and_start(&task);
        self.standing().end();
        let plugin = self.name.as_ref();
        match outcome {
            Ok(()) => {
                self.enter(State::Running, None);
                let took_ms = started.elapsed().as_millis() as u64;
                let version = self.standing().version.clone();
                info!(plugin, version, took_ms, "plugin runs");
                self.ask();
                self.tell_missing_probes();
            }
            Err(error) => {
                let reason = format!("{error:#}");
                let is_trouble = is_panic(&reason) || error.is::<Ended>();
                if is_trouble { self.strike(reason) } else { self.give_up(reason) }
            }
        }
    }

    fn open_and_start(&mut self, task: &Task) -> Result<()> {
        let callbacks = Callbacks {
            plugin: Arc::clone(&self.name),
            inbox: self.surroundings.inbox.clone(),
            account: self.surroundings.ledger.account(&self.name),
            maps: Arc::clone(&self.surroundings.maps),
            threads: Arc::clone(&self.threads),
            life: self.life,
            keeper: self.orders.clone(),
        };
        let (runner, facts) = Runner::open(&self.name, task, callbacks)?;
        {
            let mut standing = self.standing();
            (standing.version, standing.process) = (facts.version, facts.process);
            standing.enter(State::Loaded, None);
        }
        let runner = self.runner.insert(runner);
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).enter(State::Starting, None);
        runner.start()
    }

    /// The plugin ran into trouble.
    fn strike(&mut self, reason: String) {
        let Some(pause) = self.strikes.count(Instant::now()) else {
            return self.quarantine(&reason);
        };
        let plugin = self.name.as_ref();
        error!(plugin, reason, pause_s = pause.as_secs(), "plugin failed and is started again");
        self.tell(&reason);
        self.enter(State::Failed, Some(reason));
        {
            let mut standing = self.standing();
            standing.comes_back = true;
            standing.restarts += 1;
        }
        self.close();
        self.retry_at = Some(Instant::now() + pause);
    }

    fn quarantine(&mut self, reason: &str) {
        let reason = format!("failed too often, the last time with: {reason}");
        error!(plugin = self.name.as_ref(), reason, "plugin stays off, the others run on");
        self.tell(&reason);
        self.enter(State::Quarantined, Some(reason));
        self.close();
    }

    /// The plugin said why it cannot run.
    fn give_up(&mut self, reason: String) {
        error!(plugin = self.name.as_ref(), reason, "plugin failed, the others run on");
        self.tell(&reason);
        self.enter(State::Failed, Some(reason));
        self.close();
    }

    /// The plugin is not to run.
    fn stop(&mut self) {
        self.retry_at = None;
        if self.task.is_some() && !self.standing().is_given_up() {
            let failed = self.close();
            self.enter(State::Stopped, failed);
        }
    }

    /// Stops what runs; returns what went wrong.
    fn close(&mut self) -> Option<String> {
        let mut runner = self.runner.take()?;
        self.standing().begin("stop");
        let outcome = runner.stop();
        self.surroundings.maps.withdraw(&self.name);
        self.threads.forgive();
        let mut standing = self.standing();
        standing.end();
        standing.process = None;
        drop(standing);
        let reason = format!("{:#}", outcome.err()?);
        error!(plugin = self.name.as_ref(), reason, "plugin did not stop cleanly");
        Some(reason)
    }

    /// Learns how the plugin is.
    fn ask(&mut self) {
        let Some(runner) = &mut self.runner else { return };
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).begin("report");
        let answer: Result<(Vec<ProbeVerdict>, Vec<Metric>)> = runner.ask();
        let mut standing = self.standing();
        standing.end();
        match answer {
            Ok((probes, metrics)) => (standing.probes, standing.metrics) = (probes, metrics),
            Err(error) => {
                drop(standing);
                let error = format!("{error:#}");
                warn!(plugin = self.name.as_ref(), error, "plugin could not say how it is");
            }
        }
    }

    fn tell(&self, reason: &str) {
        (self.surroundings.on_failure)(&format!("plugin {}: {reason}", self.name));
    }

    fn tell_missing_probes(&self) {
        let standing = self.standing();
        for probe in &standing.probes {
            if probe.status != ProbeStatus::Attached {
                let ProbeVerdict { name, detail, .. } = &probe;
                warn!(plugin = self.name.as_ref(), probe = %name, %detail, "probe is missing");
            }
        }
    }

    fn enter(&self, state: State, reason: Option<String>) {
        self.standing().enter(state, reason);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
