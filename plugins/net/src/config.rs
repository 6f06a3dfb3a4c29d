//! What this plugin runs on, out of the operator's settings.

use std::time::Duration;

use anyhow::Result;
use plugin_proto::path;
use plugin_support::settings;
use serde::Deserialize;

/// The name of HTTP among the application protocols.
const HTTPFLOW: &str = "httpflow";
/// And of HTTP through TLS.
const HTTPFLOW_TLS: &str = "httpflow-tls";

/// `[plugins.ebpf-net]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Distinct paths of a service that are told apart; 0: all.
    http_paths: Option<usize>,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Time between two reports.
    pub(crate) interval: Duration,
    /// Report flows with a loopback address at an end.
    pub(crate) include_loopback: bool,
    /// Client ports from this one on are masked.
    pub(crate) ephemeral_port: u16,
    /// Report HTTP exchanges.
    pub(crate) httpflow: bool,
    /// Report HTTP exchanges that go through a TLS library.
    pub(crate) httpflow_tls: bool,
    /// How paths are merged.
    pub(crate) http_paths: path::Limits,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (collector, File { http_paths }) = settings::parse(text)?;
        let reports = |wanted: &str| collector.l7net.iter().any(|name| name == wanted);
        Ok(Self {
            interval: collector.interval(),
            include_loopback: collector.include_loopback,
            ephemeral_port: collector.ephemeral_port,
            httpflow: reports(HTTPFLOW),
            httpflow_tls: reports(HTTPFLOW_TLS),
            http_paths: path::Limits {
                budget: http_paths.unwrap_or(path::Limits::default().budget),
                ..path::Limits::default()
            },
        })
    }
}
