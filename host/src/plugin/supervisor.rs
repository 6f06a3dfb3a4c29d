//! All plugins: which are to run, and how they are. Each has a thread of its own, its
//! [`Keeper`]; nothing here calls into a plugin, so nothing here hangs because one does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flume::RecvTimeoutError;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::{Config, ISOLATION};
use crate::pipeline::inbox::Inbox;
use crate::pipeline::ledger::Ledger;
use crate::plugin::keeper::Keeper;
use crate::plugin::loader;
use crate::plugin::maps::Maps;
use crate::plugin::runner::{Isolation, Task};
use crate::plugin::state::Report;
use crate::telemetry::usage::resident_bytes;

/// How often plugins are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A plugin that starts or hangs must not make the status hang.
const PLUGINS_MUST_ANSWER_IN: Duration = Duration::from_secs(2);

/// What plugins need of the rest of the host.
pub(crate) struct Surroundings {
    pub(crate) inbox: Inbox,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) maps: Arc<Maps>,
    /// Told of each failure, to tell DataKit.
    pub(crate) on_failure: Box<dyn Fn(&str) + Send + Sync>,
}

/// All plugins.
pub(crate) struct Supervisor {
    surroundings: Arc<Surroundings>,
    keepers: Mutex<BTreeMap<Arc<str>, Keeper>>,
}

impl Supervisor {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self { surroundings: Arc::new(surroundings), keepers: Mutex::default() }
    }

    /// Starts what `config` enables and does not run yet, stops what it does not enable, and
    /// starts again what it changes. The others are not touched. Waits for none of it.
    pub(crate) fn apply(&self, config: &Config) -> Result<()> {
        let mut tasks = tasks(config)?;
        let mut keepers = self.keepers();
        for (name, keeper) in keepers.iter_mut() {
            match tasks.remove(name) {
                Some(task) => keeper.run(task),
                None => keeper.rest(),
            }
        }
        for (name, task) in tasks {
            let mut keeper = Keeper::start(Arc::clone(&name), Arc::clone(&self.surroundings))?;
            keeper.run(task);
            keepers.insert(name, keeper);
        }
        Ok(())
    }

    /// Stops these plugins for a while, or has them go on. Waits for none of it.
    pub(crate) fn pause(&self, names: &[String], pause: bool) {
        for (name, keeper) in self.keepers().iter_mut() {
            if names.iter().any(|paused| **paused == **name) {
                keeper.pause(pause);
            }
        }
    }

    /// Ends the process of the isolated plugin that uses most of so many bytes of memory, to be
    /// started again; false if none uses half of them.
    pub(crate) fn end_largest_process(&self, used_bytes: u64) -> bool {
        let keepers = self.keepers();
        let sizes = keepers.values().filter_map(|keeper| {
            let process = keeper.standing().process?;
            Some((resident_bytes(&process.to_string()), keeper))
        });
        let largest = sizes.max_by_key(|(bytes, _)| *bytes);
        let Some((bytes, keeper)) = largest.filter(|(bytes, _)| bytes * 2 >= used_bytes) else {
            return false;
        };
        let mib = bytes >> 20;
        warn!(
            plugin = keeper.name.as_ref(),
            mib, "plugin uses most of the memory that may be used"
        );
        let text = format!("plugin {}: its process uses {mib} MiB, over the limit", keeper.name);
        (self.surroundings.on_failure)(&text);
        end_process_of(keeper);
        true
    }

    /// Looks after the plugins, for ever; returns if none can run any more and `may_give_up`.
    pub(crate) async fn watch(&self, may_give_up: bool) {
        loop {
            let now = Instant::now();
            for keeper in self.keepers().values() {
                if let Some(reason) = keeper.examine(now) {
                    warn!(plugin = keeper.name.as_ref(), reason, "plugin hangs");
                    let text = format!("plugin {}: {reason}", keeper.name);
                    (self.surroundings.on_failure)(&text);
                    end_process_of(keeper);
                }
            }
            if may_give_up && self.keepers().values().all(Keeper::is_given_up) {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// How all plugins are. A plugin that does not answer in time is as it was before.
    pub(crate) async fn reports(&self) -> Vec<Report> {
        let answers: Vec<_> = self.keepers().values().map(Keeper::ask).collect();
        let all = async {
            for answer in answers {
                // A keeper that has ended has said all it had to say.
                answer.await.ok();
            }
        };
        timeout(PLUGINS_MUST_ANSWER_IN, all).await.ok();
        self.keepers().values().map(Keeper::report).collect()
    }

    /// Stops all plugins at the same time. Returns when they have sent what they had, or when
    /// `patience` has passed: those that still hang are left behind, and an error names them.
    pub(crate) fn stop(&self, patience: Duration) -> Result<()> {
        let ends = |(name, keeper): (&Arc<str>, &Keeper)| (Arc::clone(name), keeper.end());
        let ends: Vec<_> = self.keepers().iter().map(ends).collect();
        let deadline = Instant::now() + patience;
        // Not locked meanwhile: somebody may want to know how the plugins are.
        let hang: Vec<_> = ends
            .iter()
            .filter(|(_, ended)| ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout))
            .map(|(name, _)| name.as_ref())
            .collect();
        for name in &hang {
            if let Some(keeper) = self.keepers().get(*name) {
                end_process_of(keeper);
            }
        }
        ensure!(hang.is_empty(), "left behind, for they do not stop: {}", hang.join(", "));
        Ok(())
    }

    fn keepers(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Keeper>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A plugin that hangs in a process of its own is helped by its end.
fn end_process_of(keeper: &Keeper) {
    let process = keeper.standing().process.and_then(|id| Pid::from_raw(id as i32));
    if let Some(process) = process {
        info!(plugin = keeper.name.as_ref(), "killing the plugin's process");
        // It may have ended by itself just now.
        kill_process(process, Signal::KILL).ok();
    }
}

/// What is to run.
fn tasks(config: &Config) -> Result<BTreeMap<Arc<str>, Task>> {
    let names = loader::enabled(config)?;
    names.into_iter().map(|name| Ok((Arc::from(name.as_str()), task(config, &name)?))).collect()
}

fn task(config: &Config, name: &str) -> Result<Task> {
    let isolation = if config.is_isolated(name)? { Isolation::Process } else { Isolation::None };
    Ok(Task {
        folder: config.plugin_dir.clone(),
        trusts_any: config.trust_any_plugin,
        settings: settings(config, name)?,
        isolation,
    })
}

/// What a plugin is told: the collector's options, and its own table without what is the host's.
pub(crate) fn settings(config: &Config, name: &str) -> Result<String> {
    let mut settings = toml::Table::new();
    settings.insert("collector".into(), config.collector.clone().into());
    if let Some(mut own) = config.plugins.get(name).cloned() {
        own.remove(ISOLATION);
        settings.insert("settings".into(), own.into());
    }
    toml::to_string(&settings).with_context(|| format!("write the settings of plugin {name}"))
}
