//! What this plugin runs on, out of the operator's settings.

use std::time::Duration;

use anyhow::Result;
use plugin_support::probe::Policy;
use plugin_support::settings;
use serde::Deserialize;

/// An entered command waits this long for others to be sent with.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A file that nobody runs any more stays probed about this long.
const LONGEST_SWEEP: Duration = Duration::from_secs(10);

/// `[plugins.ebpf-bash]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    join_lines: bool,
    empty_lines: bool,
}

impl Default for File {
    fn default() -> Self {
        Self { join_lines: true, empty_lines: true }
    }
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What may be attached.
    pub(crate) policy: Policy,
    /// A command of several lines is one point; otherwise each line is.
    pub(crate) join_lines: bool,
    /// An empty line is a point too.
    pub(crate) empty_lines: bool,
    /// How long a point may wait for others.
    pub(crate) flush: Duration,
    /// Time between two looks at who still runs what.
    pub(crate) sweep: Duration,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (collector, File { join_lines, empty_lines }) = settings::parse(text)?;
        let interval = collector.interval();
        Ok(Self {
            policy: collector.policy()?,
            join_lines,
            empty_lines,
            flush: interval.min(LONGEST_WAIT),
            sweep: interval.min(LONGEST_SWEEP),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn what_is_not_set_has_a_default() {
        let config = Config::parse("").unwrap();
        assert!(config.join_lines && config.empty_lines);
        assert_eq!((config.flush.as_secs(), config.sweep.as_secs()), (1, 10));
    }

    #[test]
    fn a_misspelt_setting_is_an_error_that_names_it() {
        let error = Config::parse("[settings]\njoin_line = true\n").unwrap_err();
        assert!(format!("{error:#}").contains("join_line"), "{error:#}");
    }
}
