//! What this plugin runs on, out of the operator's settings.

use std::time::Duration;

use anyhow::Result;
use plugin_support::settings;
use serde::Deserialize;

/// `[plugins.ebpf-net]` as it is written; there is nothing to set yet.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Time between two reports.
    pub(crate) interval: Duration,
    /// Report flows with a loopback address at an end.
    pub(crate) include_loopback: bool,
    /// Client ports from this one on are masked.
    pub(crate) ephemeral_port: u16,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (collector, File {}) = settings::parse(text)?;
        Ok(Self {
            interval: collector.interval(),
            include_loopback: collector.include_loopback,
            ephemeral_port: collector.ephemeral_port,
        })
    }
}
