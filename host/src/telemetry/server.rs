//! The local server: `/status` for people and tests, `/metrics` for Prometheus, and profiles under
//! `/debug/pprof/`, which DataKit's bug report asks for too.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::capabilities;
use crate::limits::Standings;
use crate::pipeline::backlog::Backlog;
use crate::pipeline::ledger::{Ledger, Tally};
use crate::pipeline::rates::Rates;
use crate::plugin::state::Report;
use crate::plugin::supervisor::Supervisor;
use crate::telemetry::metrics::{self, Numbers};
use crate::telemetry::profile;
use crate::telemetry::usage::Usage;
use crate::traffic::Traffic;

/// The head of a request or an answer, about.
const HEAD: usize = 150;

/// What there is to tell about.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) limits: Arc<Standings>,
    pub(crate) traffic: Arc<Traffic>,
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
        .layer(from_fn_with_state(Arc::clone(&sources.traffic), count))
        .with_state(sources);
    axum::serve(listener, app).await.context("serve the status")
}

/// Counts what asking and answering takes.
async fn count(State(traffic): State<Arc<Traffic>>, request: HttpRequest, next: Next) -> Response {
    traffic.count_received(HEAD);
    let answer = next.run(request).await;
    traffic.count_sent(HEAD + answer.body().size_hint().lower() as usize);
    answer
}

async fn status(State(sources): State<Sources>) -> Response {
    let plugins: Vec<_> = sources.supervisor.reports().await.iter().map(plugin).collect();
    let usage = Usage::now();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": sources.started.elapsed().as_secs(),
        "plugins": plugins,
        "ledger": tally(&sources.ledger.total()),
        "ledger_by_plugin": sources.ledger.tallies().iter()
            .map(|(plugin, of_plugin)| (plugin.clone(), tally(of_plugin)))
            .collect::<serde_json::Map<_, _>>(),
        "sampling_rates": sources.rates.all(),
        "spool": sources.backlog.on_disk(),
        "limits": sources.limits.all(),
        "sent_bytes": sources.traffic.sent(),
        "received_bytes": sources.traffic.received(),
        "capabilities": capabilities::held().ok(),
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
        "restarts": report.restarts,
        "process": report.process,
        "cpu_seconds": report.cpu.as_secs_f64(),
        "probes": probes,
        "metrics": report.metrics.iter()
            .map(|metric| (metric.name.to_string(), json!(metric.value)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

async fn text_metrics(State(sources): State<Sources>) -> Response {
    let numbers = Numbers {
        tallies: sources.ledger.tallies(),
        plugins: sources.supervisor.reports().await,
        rates: sources.rates.all(),
        limits: sources.limits.all(),
        usage: Usage::now(),
        sent_bytes: sources.traffic.sent(),
        received_bytes: sources.traffic.received(),
    };
    match metrics::render(&numbers) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}
