//! What the operator configured, as the host hands it over: TOML text with `[collector]`, the
//! same for every plugin, and `[settings]`, this plugin's own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::probe::Policy;

/// Options of the collector that concern more than one plugin. A newer host may send more keys
/// than these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Collector {
    /// Time between two reports, in milliseconds.
    pub interval_ms: u64,
    /// Whether flows with an end on a loopback address are reported.
    pub include_loopback: bool,
    /// Client ports from this one on are shown as `*`.
    pub ephemeral_port: u16,
    /// Whether the host says that it has no IPv6.
    pub ipv6_disabled: bool,
    /// Application protocols to report.
    pub l7net: Vec<String>,
    /// Kinds of hooks that may not be used; see [`Policy`].
    pub probe_policy: Vec<String>,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            interval_ms: 60_000,
            include_loopback: false,
            ephemeral_port: 0,
            ipv6_disabled: false,
            l7net: Vec::new(),
            probe_policy: Vec::new(),
        }
    }
}

impl Collector {
    /// Time between two reports.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// What may be attached.
    pub fn policy(&self) -> Result<Policy> {
        Policy::parse(&self.probe_policy)
    }
}

/// The own table of a plugin that has no settings: every key in it is an error.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

#[derive(Deserialize)]
struct File<T> {
    #[serde(default)]
    collector: Collector,
    settings: Option<T>,
}

/// Reads the text that [`plugin_api::Plugin::new`] is given. `T` is the plugin's own table; give
/// it `#[serde(deny_unknown_fields)]` so that a misspelt key is an error.
pub fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<(Collector, T)> {
    let file: File<T> = toml::from_str(text).context("read the plugin's settings")?;
    Ok((file.collector, file.settings.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::{Collector, NoSettings, parse};
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        depth: u32,
    }

    #[test]
    fn both_tables_may_be_absent() {
        assert_eq!(parse::<Own>("").unwrap(), (Collector::default(), Own::default()));
    }

    #[test]
    fn a_misspelt_key_of_the_plugins_own_is_an_error_that_names_it() {
        let error = parse::<Own>("[settings]\ndeepth = 1\n").unwrap_err();
        assert!(format!("{error:#}").contains("deepth"), "{error:#}");
    }

    #[test]
    fn a_plugin_without_settings_refuses_every_key() {
        assert_eq!(parse::<NoSettings>("[settings]\n").unwrap().1, NoSettings {});
        let error = parse::<NoSettings>("[settings]\ndepth = 1\n").unwrap_err();
        assert!(format!("{error:#}").contains("depth"), "{error:#}");
    }

    #[test]
    fn a_newer_hosts_options_are_no_error() {
        let (collector, _) =
            parse::<Own>("[collector]\ninterval_ms = 2000\nfrom_the_future = 1\n").unwrap();
        assert_eq!(collector.interval().as_secs(), 2);
    }
}
