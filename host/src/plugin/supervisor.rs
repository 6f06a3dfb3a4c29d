//! The one thread that calls into plugins, and what is known of each. A plugin that is missing,
//! does not fit, or fails is `failed` with a reason; the others run on.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use abi_stable::std_types::RStr;
use anyhow::{Context as _, Result, anyhow};
use flume::{Receiver, Sender};
use plugin_api::loading::PluginBox;
use plugin_api::{Host, Metric, ProbeStatus, ProbeVerdict};
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::pipeline::inbox::Inbox;
use crate::pipeline::ledger::Ledger;
use crate::plugin::callbacks::Callbacks;
use crate::plugin::loader;

/// What others ask of the supervisor's thread.
pub(crate) enum Request {
    /// A plugin says that it cannot go on.
    Failed { plugin: Arc<str>, reason: String },
    /// Somebody wants to know how the plugins are.
    Report(oneshot::Sender<Vec<Report>>),
    /// Stop all plugins and end.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    Failed,
    Stopped,
}

/// How a plugin is.
pub(crate) struct Report {
    pub(crate) name: Arc<str>,
    pub(crate) version: String,
    pub(crate) state: State,
    /// Why it has failed.
    pub(crate) reason: Option<String>,
    /// When it came into this state, in seconds since 1970.
    pub(crate) since: u64,
    pub(crate) probes: Vec<ProbeVerdict>,
    pub(crate) metrics: Vec<Metric>,
}

/// A handle to the supervisor's thread.
pub(crate) struct Supervisor {
    requests: Sender<Request>,
    thread: JoinHandle<()>,
}

/// What plugins and their supervisor need of the rest of the host.
pub(crate) struct Surroundings {
    pub(crate) inbox: Inbox,
    pub(crate) ledger: Arc<Ledger>,
    /// Told of each failure, to tell DataKit.
    pub(crate) on_failure: Box<dyn Fn(&str) + Send>,
    /// Told when no plugin is left that runs.
    pub(crate) on_all_failed: Box<dyn Fn() + Send>,
}

/// Where plugins come from.
struct Origin {
    folder: PathBuf,
    trusts_any: bool,
}

struct Entry {
    name: Arc<str>,
    version: String,
    state: State,
    reason: Option<String>,
    since: u64,
    plugin: Option<PluginBox>,
}

impl Supervisor {
    /// Starts the thread, which starts the plugins that `config` enables, one after the other.
    pub(crate) fn start(config: &Config, surroundings: Surroundings) -> Result<Self> {
        let names = if config.enabled.is_empty() {
            loader::installed(&config.plugin_dir)?
        } else {
            config.enabled.clone()
        };
        let (requests, inbox) = flume::unbounded();
        let plugins = names
            .into_iter()
            .map(|name| Ok((settings(config, &name)?, Arc::<str>::from(name))))
            .collect::<Result<Vec<_>>>()?;
        let origin =
            Origin { folder: config.plugin_dir.clone(), trusts_any: config.trust_any_plugin };
        let sender = requests.clone();
        let thread = Builder::new()
            .name("supervisor".into())
            .spawn(move || {
                let mut plugins: Vec<_> = plugins
                    .into_iter()
                    .map(|(settings, name)| {
                        launch(&origin, name, &settings, &surroundings, &sender)
                    })
                    .collect();
                tell_if_all_failed(&plugins, &surroundings);
                serve(&inbox, &mut plugins, &surroundings);
            })
            .context("start the supervisor's thread")?;
        Ok(Self { requests, thread })
    }

    /// Where to ask.
    pub(crate) fn requests(&self) -> Sender<Request> {
        self.requests.clone()
    }

    /// Stops all plugins; returns when they have sent what they had.
    pub(crate) fn stop(self) {
        if self.requests.send(Request::Stop).is_err() || self.thread.join().is_err() {
            error!("the supervisor had ended before its time");
        }
    }
}

/// What a plugin is told: the collector's options, and its own table.
pub(crate) fn settings(config: &Config, name: &str) -> Result<String> {
    let mut settings = toml::Table::new();
    settings.insert("collector".into(), config.collector.clone().into());
    if let Some(own) = config.plugins.get(name) {
        settings.insert("settings".into(), own.clone().into());
    }
    toml::to_string(&settings).with_context(|| format!("write the settings of plugin {name}"))
}

fn launch(
    origin: &Origin,
    name: Arc<str>,
    settings: &str,
    surroundings: &Surroundings,
    supervisor: &Sender<Request>,
) -> Entry {
    let mut entry = Entry {
        name,
        version: String::new(),
        state: State::Running,
        reason: None,
        since: now(),
        plugin: None,
    };
    let started = Instant::now();
    let host = Host::new(Callbacks {
        plugin: Arc::clone(&entry.name),
        inbox: surroundings.inbox.clone(),
        account: surroundings.ledger.account(&entry.name),
        supervisor: supervisor.clone(),
    });
    match open_and_start(origin, &mut entry, settings, host) {
        Ok(()) => {
            let took_ms = started.elapsed().as_millis() as u64;
            info!(plugin = entry.name.as_ref(), version = entry.version, took_ms, "plugin runs");
            entry.tell_missing_probes();
        }
        Err(error) => entry.fail(format!("{error:#}"), surroundings),
    }
    entry
}

fn open_and_start(origin: &Origin, entry: &mut Entry, settings: &str, host: Host) -> Result<()> {
    let module = loader::open(&origin.folder, &entry.name, origin.trusts_any)?;
    entry.version = module.version().as_str().into();
    let plugin = module.new()(RStr::from_str(settings), host).into_result();
    let plugin = entry.plugin.insert(plugin.map_err(|error| anyhow!("{error}"))?);
    plugin.start().into_result().map_err(|error| anyhow!("{error}"))
}

fn serve(requests: &Receiver<Request>, plugins: &mut [Entry], surroundings: &Surroundings) {
    for request in requests {
        match request {
            Request::Failed { plugin, reason } => {
                for entry in plugins.iter_mut().filter(|entry| entry.name == plugin) {
                    entry.fail(reason.clone(), surroundings);
                }
                tell_if_all_failed(plugins, surroundings);
            }
            Request::Report(answer) => {
                let reports = plugins.iter().map(Entry::report).collect();
                if answer.send(reports).is_err() {
                    warn!("nobody waited for the report on plugins");
                }
            }
            Request::Stop => {
                for entry in plugins.iter_mut() {
                    entry.stop(State::Stopped);
                }
                return;
            }
        }
    }
}

fn tell_if_all_failed(plugins: &[Entry], surroundings: &Surroundings) {
    if plugins.iter().all(|entry| entry.state == State::Failed) {
        (surroundings.on_all_failed)();
    }
}

impl Entry {
    fn fail(&mut self, reason: String, surroundings: &Surroundings) {
        if self.state == State::Failed {
            return;
        }
        error!(plugin = self.name.as_ref(), reason, "plugin failed, the others run on");
        (surroundings.on_failure)(&format!("plugin {}: {reason}", self.name));
        self.reason = Some(reason);
        self.stop(State::Failed);
    }

    fn stop(&mut self, state: State) {
        if let Some(mut plugin) = self.plugin.take()
            && let Err(error) = plugin.stop().into_result()
        {
            error!(plugin = self.name.as_ref(), %error, "plugin did not stop cleanly");
        }
        if self.state == State::Running {
            self.state = state;
            self.since = now();
        }
    }

    fn tell_missing_probes(&self) {
        for probe in self.probes() {
            if probe.status != ProbeStatus::Attached {
                let ProbeVerdict { name, detail, .. } = &probe;
                warn!(plugin = self.name.as_ref(), probe = %name, %detail, "probe is missing");
            }
        }
    }

    fn probes(&self) -> Vec<ProbeVerdict> {
        self.ask("probes", |plugin| plugin.probes().into_result().map(Into::into))
    }

    fn ask<T: Default>(
        &self,
        what: &str,
        question: impl FnOnce(&PluginBox) -> Result<T, plugin_api::PluginError>,
    ) -> T {
        let answer = self.plugin.as_ref().map_or_else(|| Ok(T::default()), question);
        answer.unwrap_or_else(|error| {
            warn!(plugin = self.name.as_ref(), %error, "plugin could not tell its {what}");
            T::default()
        })
    }

    fn report(&self) -> Report {
        Report {
            name: Arc::clone(&self.name),
            version: self.version.clone(),
            state: self.state,
            reason: self.reason.clone(),
            since: self.since,
            probes: self.probes(),
            metrics: self.ask("metrics", |plugin| plugin.metrics().into_result().map(Into::into)),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
