//! The local server: `/status` for people and tests, `/metrics` for Prometheus, and profiles under
//! `/debug/pprof/`, which DataKit's bug report asks for too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flume::Sender;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::pipeline::backlog::Backlog;
use crate::pipeline::ledger::{Ledger, Tally};
use crate::pipeline::rates::Rates;
use crate::plugin::supervisor::{Report, Request};
use crate::telemetry::usage::Usage;
use crate::telemetry::{metrics, profile};

/// A plugin that starts or hangs must not make the status hang.
const PLUGINS_MUST_ANSWER_IN: Duration = Duration::from_secs(2);

/// What there is to tell about.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) supervisor: Sender<Request>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) started: Instant,
}

/// Serves until the process ends.
pub(crate) async fn serve(address: &str, sources: Sources) -> Result<()> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let app = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(text_metrics))
        .merge(profile::router())
        .with_state(sources);
    axum::serve(listener, app).await.context("serve the status")
}

async fn status(State(sources): State<Sources>) -> Response {
    let plugins = sources.plugins().await;
    let answers = plugins.is_some();
    let plugins: Vec<_> = plugins.unwrap_or_default().iter().map(plugin).collect();
    let usage = Usage::now();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": sources.started.elapsed().as_secs(),
        "plugins_answer": answers,
        "plugins": plugins,
        "ledger": tally(&sources.ledger.total()),
        "ledger_by_plugin": sources.ledger.tallies().iter()
            .map(|(plugin, of_plugin)| (plugin.clone(), tally(of_plugin)))
            .collect::<serde_json::Map<_, _>>(),
        "sampling_rates": sources.rates.all(),
        "spool": sources.backlog.on_disk(),
        "cpu_seconds": usage.cpu_seconds,
        "resident_bytes": usage.resident_bytes,
    });
    ([(CONTENT_TYPE, "application/json")], format!("{body:#}\n")).into_response()
}

fn tally(tally: &Tally) -> Value {
    json!(tally)
}

fn plugin(report: &Report) -> Value {
    let probes: Vec<_> = report
        .probes
        .iter()
        .map(|probe| {
            json!({
                "name": probe.name.as_str(),
                "hook": probe.hook.as_str(),
                "status": probe.status.to_string(),
                "detail": probe.detail.as_str(),
            })
        })
        .collect();
    json!({
        "name": report.name.as_ref(),
        "version": report.version,
        "state": report.state,
        "reason": report.reason,
        "since": report.since,
        "probes": probes,
        "metrics": report.metrics.iter()
            .map(|metric| (metric.name.to_string(), json!(metric.value)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

async fn text_metrics(State(sources): State<Sources>) -> Response {
    let plugins = sources.plugins().await.unwrap_or_default();
    match metrics::render(&sources.ledger.tallies(), &plugins, &sources.rates.all(), &Usage::now())
    {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

impl Sources {
    /// `None` if the supervisor is busy for longer than anybody wants to wait.
    async fn plugins(&self) -> Option<Vec<Report>> {
        let (answer, answered) = oneshot::channel();
        self.supervisor.send(Request::Report(answer)).ok()?;
        timeout(PLUGINS_MUST_ANSWER_IN, answered).await.ok()?.ok()
    }
}
