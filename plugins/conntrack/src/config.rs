//! What this plugin runs on, out of the operator's settings.

use std::time::Duration;

use anyhow::Result;
use plugin_support::probe::Policy;
use plugin_support::settings;
use serde::Deserialize;

/// `[plugins.ebpf-conntrack]` as it is written; there is nothing to set yet.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What may be attached.
    pub(crate) policy: Policy,
    /// How long a connection that is gone stays in the table: its last report comes up to one
    /// interval later, and may take another one when the reader is slow.
    pub(crate) grace: Duration,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (collector, File {}) = settings::parse(text)?;
        Ok(Self { policy: collector.policy()?, grace: collector.interval() * 2 })
    }
}
