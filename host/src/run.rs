//! The life of the collector: parts put together, run until a signal, taken apart in the order
//! in which points flow, so that nothing that was measured is lost.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use flume::Sender;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{Config, Output};
use crate::last_error;
use crate::output::console::Console;
use crate::output::file::FileSink;
use crate::pidfile::PidFile;
use crate::pipeline::backlog::Backlog;
use crate::pipeline::enrich::Enricher;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::outlet::Outlet;
use crate::pipeline::upload::{Client, Uploader};
use crate::pipeline::{Pipeline, Stages};
use crate::plugin::supervisor::{Supervisor, Surroundings};
use crate::supervise;
use crate::telemetry::{log, server};

/// How long plugins may take to stop, and then the rest of the queue to be uploaded.
const LAST_CALL: Duration = Duration::from_secs(10);

/// The pipeline has ended in a panic, which is for the supervising process to know.
#[derive(Debug)]
pub(crate) struct Panicked;

impl Display for Panicked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the pipeline has panicked")
    }
}

impl Error for Panicked {}

/// Reports of failures that wait for DataKit; later ones only repeat them.
const LAST_ERRORS: usize = 16;

/// Runs until SIGTERM, SIGINT or SIGHUP.
pub(crate) fn run(config: &Config) -> Result<()> {
    start_log(config)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let _pid_file = config.pidfile.as_deref().map(PidFile::claim).transpose()?;
    if let Some(path) = &config.stderr_file {
        log::redirect_stderr(path)?;
    }
    // One thread is enough: the runtime only waits for the network.
    let runtime = Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let outcome = runtime.block_on(collect(config));
    // A plugin that does not stop must not keep us.
    runtime.shutdown_background();
    outcome
}

/// Where the log cannot be written, the collector still runs and says so.
fn start_log(config: &Config) -> Result<()> {
    let filter = config.log_level.filter();
    if let Some(path) = config.log.as_deref() {
        match log::start(Some(path), filter) {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("datakit-ebpf: {error:#}; logging to standard error"),
        }
    }
    log::start(None, filter)
}

async fn collect(config: &Config) -> Result<()> {
    let started = Instant::now();
    let mut signals = Signals::install()?;
    let ledger = Arc::<Ledger>::default();
    let uploads = matches!(config.output, Output::Datakit);
    let mut backlog = Backlog::in_memory(config.queue_bytes, Arc::clone(&ledger));
    if let Some(folder) = config.spool_dir.as_ref().filter(|_| uploads) {
        backlog = backlog.with_spool(folder, config.spool_bytes)?;
    }
    let backlog = Arc::new(backlog);
    let (end, ending) = watch::channel(false);
    let client = uploads.then(|| Client::new(&config.api_server)).transpose()?;
    let uploader = client
        .clone()
        .map(|client| tokio::spawn(Uploader::new(client, Arc::clone(&backlog), ending).run()));
    let (last_errors, reports) = flume::bounded(LAST_ERRORS);
    if let Some(reason) = supervise::restarted_after() {
        warn!(reason, "the collector before this one has crashed");
        last_errors.try_send(format!("the collector was started again after: {reason}")).ok();
    }
    if let Some(client) = client {
        tokio::spawn(last_error::run(client, reports));
    }

    let enricher = Enricher::new(&config.tags, config.hostname.as_deref(), &config.service);
    let stages = Stages {
        sampling: config.sampling,
        tells_rate: config.sampling_field,
        enricher,
        outlet: outlet(config, &backlog)?,
    };
    let pipeline = Pipeline::start(stages)?;
    let pipeline_ended = pipeline.ended();
    let all_failed = Arc::new(Notify::new());
    let surroundings = surroundings(&pipeline, &ledger, last_errors, &all_failed);
    let supervisor = Supervisor::start(config, surroundings)?;
    info!(version = env!("CARGO_PKG_VERSION"), enabled = ?config.enabled, "collector runs");

    if let Some(address) = config.status_listen.clone() {
        let supervisor = supervisor.requests();
        let (ledger, backlog) = (Arc::clone(&ledger), Arc::clone(&backlog));
        let rates = pipeline.rates();
        let sources = server::Sources { supervisor, ledger, backlog, rates, started };
        tokio::spawn(async move {
            if let Err(error) = server::serve(&address, sources).await {
                warn!(error = %format!("{error:#}"), "status and metrics are not served");
            }
        });
    }

    let outcome = tokio::select! {
        signal = signals.next() => {
            info!(signal, "collector ends");
            Ok(())
        }
        // Under DataKit it stays, to tell why; a person at a terminal has been told.
        () = all_failed.notified(), if !uploads => Err(anyhow!("no plugin runs")),
        has_panicked = pipeline_ended.wait() => {
            if has_panicked {
                Err(Panicked.into())
            } else {
                info!("nobody reads the output any more");
                Ok(())
            }
        }
    };
    // Plugins first, then what they sent, then what waits for the receiver.
    let stopped = tokio::select! {
        stopped = stop(supervisor, pipeline) => stopped,
        signal = signals.next() => Err(anyhow!("{signal} while stopping: ending at once")),
    };
    backlog.close();
    end.send_replace(true);
    if let Some(uploader) = uploader.filter(|_| stopped.is_ok()) {
        let abort = uploader.abort_handle();
        tokio::select! {
            _ = timeout(LAST_CALL, uploader) => {}
            signal = signals.next() => warn!(signal, "ending at once"),
        }
        abort.abort();
    }
    let left = ledger.total().queued;
    if left > 0 {
        let where_to = if config.spool_dir.is_some() { "spool" } else { "nowhere" };
        warn!(points = left, where_to, "the receiver did not take all points in time");
    }
    backlog.finish();
    stopped.and(outcome)
}

/// Returns when all that plugins had to send is through the pipeline.
async fn stop(supervisor: Supervisor, pipeline: Pipeline) -> Result<()> {
    let stopping = spawn_blocking(move || {
        supervisor.stop();
        pipeline.finish();
    });
    let stopped = timeout(LAST_CALL, stopping).await;
    stopped.context("a plugin or the output does not stop")?.context("stop the plugins")
}

fn outlet(config: &Config, backlog: &Arc<Backlog>) -> Result<Outlet> {
    Ok(match &config.output {
        Output::Datakit => Outlet::Upload(Arc::clone(backlog), config.gzip),
        Output::Console => Outlet::Sink(Box::new(Console::new())),
        Output::File { path, format } => {
            Outlet::Sink(Box::new(FileSink::open(path.as_deref(), *format)?))
        }
    })
}

fn surroundings(
    pipeline: &Pipeline,
    ledger: &Arc<Ledger>,
    last_errors: Sender<String>,
    all_failed: &Arc<Notify>,
) -> Surroundings {
    let all_failed = Arc::clone(all_failed);
    Surroundings {
        inbox: pipeline.inbox(),
        ledger: Arc::clone(ledger),
        on_failure: Box::new(move |text| {
            // Without DataKit nobody listens, and with a full channel it has enough to read.
            last_errors.try_send(text.to_owned()).ok();
        }),
        on_all_failed: Box::new(move || all_failed.notify_one()),
    }
}

/// The signals that end the process.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn install() -> Result<Self> {
        let install = |kind: SignalKind| -> io::Result<_> { signal(kind) };
        Ok(Self {
            terminate: install(SignalKind::terminate()).context("handle SIGTERM")?,
            interrupt: install(SignalKind::interrupt()).context("handle SIGINT")?,
            // A terminal that was closed ends us in order too.
            hangup: install(SignalKind::hangup()).context("handle SIGHUP")?,
        })
    }

    /// Waits for one, and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
