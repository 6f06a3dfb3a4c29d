//! The life of the collector: parts put together, run until a signal, taken apart in the order
//! in which points flow, so that nothing that was measured is lost.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::config::{Config, Output};
use crate::last_error;
use crate::limits::{Controls, OverLimit, Watch};
use crate::output::console::Console;
use crate::output::file::FileSink;
use crate::pidfile::PidFile;
use crate::pipeline::backlog::Backlog;
use crate::pipeline::enrich::Enricher;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::outlet::Outlet;
use crate::pipeline::upload::{Client, Uploader};
use crate::pipeline::{Pipeline, Treatment};
use crate::plugin::supervisor::{Supervisor, Surroundings};
use crate::supervise;
use crate::telemetry::{log, server};
use crate::traffic::Traffic;

/// How long plugins may take to stop, and then the rest of the queue to be uploaded.
const LAST_CALL: Duration = Duration::from_secs(10);

/// How much of that plugins may take.
const PLUGINS_STOP_IN: Duration = Duration::from_secs(7);

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

/// Runs until SIGTERM or SIGINT; at SIGHUP `read_again` has the configuration from then on.
pub(crate) fn run(config: Config, read_again: impl Fn() -> Result<Config>) -> Result<()> {
    start_log(&config)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let _pid_file = config.pidfile.as_deref().map(PidFile::claim).transpose()?;
    if let Some(path) = &config.stderr_file {
        log::redirect_stderr(path)?;
    }
    // One thread is enough: the runtime only waits for the network.
    let runtime = Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let logs_to_file = config.log.is_some();
    let outcome = runtime.block_on(collect(config, read_again));
    // A plugin that does not stop must not keep us.
    runtime.shutdown_background();
    if let Err(error) = &outcome
        && logs_to_file
    {
        error!("{error:#}");
    }
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

async fn collect(config: Config, read_again: impl Fn() -> Result<Config>) -> Result<()> {
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
    let traffic = Arc::<Traffic>::default();
    let client =
        uploads.then(|| Client::new(&config.api_server, Arc::clone(&traffic))).transpose()?;
    let uploader = client
        .clone()
        .map(|client| tokio::spawn(Uploader::new(client, Arc::clone(&backlog), ending).run()));
    let (last_errors, reports) = flume::bounded(LAST_ERRORS);
    if let Some(reason) = supervise::restarted_after() {
        warn!(reason, "the collector before this one has not ended in order");
        last_errors.try_send(format!("the collector was started again after: {reason}")).ok();
    }
    if let Some(client) = client {
        tokio::spawn(last_error::run(client, reports));
    }

    let outlet = outlet(&config, &backlog)?;
    let pipeline = Pipeline::start(treatment(&config), outlet)?;
    let pipeline_ended = pipeline.ended();
    let supervisor = Arc::new(Supervisor::new(Surroundings {
        inbox: pipeline.inbox(),
        ledger: Arc::clone(&ledger),
        maps: Arc::default(),
        on_failure: Box::new(move |text| {
            // Without DataKit nobody listens, and with a full channel it has enough to read.
            last_errors.try_send(text.to_owned()).ok();
        }),
    }));
    supervisor.apply(&config)?;
    let controls = Controls {
        backlog: Arc::clone(&backlog),
        thinner: pipeline.thinner(),
        traffic: Arc::clone(&traffic),
        plugins: Arc::clone(&supervisor),
    };
    let mut watch = Watch::new(&config.limits, controls)?;
    info!(version = env!("CARGO_PKG_VERSION"), enabled = ?config.enabled, "collector runs");

    if let Some(address) = config.status_listen.clone() {
        let (ledger, backlog) = (Arc::clone(&ledger), Arc::clone(&backlog));
        let (supervisor, rates) = (Arc::clone(&supervisor), pipeline.rates());
        let limits = watch.standings();
        let sources =
            server::Sources { supervisor, ledger, backlog, rates, limits, traffic, started };
        serve_status(address, sources);
    }

    let mut config = config;
    let outcome = loop {
        tokio::select! {
            signal = signals.next() => {
                // A terminal that was closed ends us in order.
                if signal != RELOAD || config.output == Output::Console {
                    info!(signal, "collector ends");
                    break Ok(());
                }
                config = reload(config, &read_again, &pipeline, &supervisor);
            }
            // Under DataKit it stays, to tell why; a person at a terminal has been told.
            () = supervisor.watch(!uploads) => break Err(anyhow!("no plugin runs")),
            over = watch.over() => {
                warn!(reason = %over, "collector ends");
                break Err(over.into());
            }
            has_panicked = pipeline_ended.wait() => {
                if has_panicked {
                    break Err(Panicked.into());
                }
                info!("nobody reads the output any more");
                break Ok(());
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
        upload_the_rest(uploader, &mut signals).await;
    }
    let left = ledger.total().queued;
    if left > 0 {
        let where_to = if config.spool_dir.is_some() { "spool" } else { "nowhere" };
        warn!(points = left, where_to, "the receiver did not take all points in time");
    }
    backlog.finish();
    match outcome {
        // To be started again, also if not all parts have stopped in time.
        Err(over) if over.is::<OverLimit>() => Err(over),
        outcome => stopped.flatten().and(outcome),
    }
}

async fn upload_the_rest(uploader: JoinHandle<()>, signals: &mut Signals) {
    let abort = uploader.abort_handle();
    tokio::select! {
        _ = timeout(LAST_CALL, uploader) => {}
        signal = signals.next() => warn!(signal, "ending at once"),
    }
    abort.abort();
}

fn serve_status(address: String, sources: server::Sources) {
    tokio::spawn(async move {
        if let Err(error) = server::serve(&address, sources).await {
            warn!(error = %format!("{error:#}"), "status and metrics are not served");
        }
    });
}

/// Puts what has changed in the configuration into effect; what has not goes on untouched.
fn reload(
    config: Config,
    read_again: impl Fn() -> Result<Config>,
    pipeline: &Pipeline,
    supervisor: &Supervisor,
) -> Config {
    let changed = read_again().and_then(|mut new| {
        for option in new.keep_what_stays(&config) {
            warn!(option, "option was changed, which takes effect at the next start");
        }
        supervisor.apply(&new)?;
        Ok(new)
    });
    match changed {
        Ok(new) => {
            for warning in new.warnings.iter().filter(|text| !config.warnings.contains(text)) {
                warn!("{warning}");
            }
            if let Err(error) = log::set_level(new.log_level.filter()) {
                warn!(error = %format!("{error:#}"), "log level stays");
            }
            pipeline.change(treatment(&new));
            info!(enabled = ?new.enabled, "configuration was read again");
            new
        }
        Err(error) => {
            let error = format!("{error:#}");
            error!(error, "configuration cannot be read again, the old one stays");
            config
        }
    }
}

fn treatment(config: &Config) -> Treatment {
    Treatment {
        sampling: config.sampling,
        tells_rate: config.sampling_field,
        enricher: Enricher::new(&config.tags, config.hostname.as_deref(), &config.service),
    }
}

/// Returns when all that plugins had to send is through the pipeline; within, which plugins have
/// not stopped.
async fn stop(supervisor: Arc<Supervisor>, pipeline: Pipeline) -> Result<Result<()>> {
    let stopping = spawn_blocking(move || {
        let stopped = supervisor.stop(PLUGINS_STOP_IN);
        pipeline.finish();
        stopped
    });
    let stopped = timeout(LAST_CALL, stopping).await;
    stopped.context("the output does not stop")?.context("stop the plugins")
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

/// The signal at which the configuration is read again.
pub(crate) const RELOAD: &str = "SIGHUP";

/// The signals that the process reacts to.
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
            hangup: install(SignalKind::hangup()).context("handle SIGHUP")?,
        })
    }

    /// Waits for one, and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => RELOAD,
        }
    }
}
