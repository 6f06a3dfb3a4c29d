//! What this plugin runs on, out of the operator's settings.

use std::time::Duration;

use anyhow::Result;
use bpf::bash::abi;
use plugin_support::probe::Policy;
use plugin_support::settings;
use serde::Deserialize;

use crate::bash::flavour::Flavour;
use crate::bash::redact::Redactor;

/// An entered command waits this long for others to be sent with.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// A file that nobody runs any more stays probed about this long.
const LONGEST_SWEEP: Duration = Duration::from_secs(10);

/// `[plugins.ebpf-bash]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    join_lines: bool,
    empty_lines: bool,
    other_shells: Vec<Flavour>,
    extra_fields: Vec<Field>,
    bash_redact: Vec<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            join_lines: true,
            empty_lines: true,
            other_shells: Vec::new(),
            extra_fields: Vec::new(),
            bash_redact: Vec::new(),
        }
    }
}

/// A field that points have on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Field {
    Ppid,
    Tty,
    Cwd,
    LoginUid,
    ContainerId,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What may be attached.
    pub(crate) policy: Policy,
    /// A command of several lines is one point; otherwise each line is.
    pub(crate) join_lines: bool,
    /// An empty line is a point too.
    pub(crate) empty_lines: bool,
    /// Shells to watch; bash is one of them.
    pub(crate) flavours: Vec<Flavour>,
    /// Fields besides those that every point has.
    pub(crate) extra_fields: Vec<Field>,
    pub(crate) redactor: Redactor,
    /// How long a point may wait for others.
    pub(crate) flush: Duration,
    /// Time between two looks at who still runs what.
    pub(crate) sweep: Duration,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (collector, file) = settings::parse(text)?;
        let File { join_lines, empty_lines, other_shells, extra_fields, bash_redact } = file;
        let interval = collector.interval();
        Ok(Self {
            policy: collector.policy()?,
            join_lines,
            empty_lines,
            flavours: [vec![Flavour::Bash], other_shells].concat(),
            extra_fields,
            redactor: Redactor::new(&bash_redact)?,
            flush: interval.min(LONGEST_WAIT),
            sweep: interval.min(LONGEST_SWEEP),
        })
    }

    /// The flavours, as the BPF programs know them.
    pub(crate) fn flavour_bits(&self) -> abi::flavour {
        self.flavours.iter().fold(0, |bits, flavour| bits | flavour.bit())
    }

    /// What the BPF programs are to tell with each line.
    pub(crate) fn context_bits(&self) -> abi::context_part {
        let bit = |field: &Field| match field {
            Field::Ppid => abi::CONTEXT_PPID,
            Field::LoginUid => abi::CONTEXT_LOGIN_UID,
            Field::Tty => abi::CONTEXT_TTY,
            Field::Cwd => abi::CONTEXT_CWD,
            Field::ContainerId => 0,
        };
        self.extra_fields.iter().fold(0, |bits, field| bits | bit(field))
    }

    pub(crate) fn wants(&self, field: Field) -> bool {
        self.extra_fields.contains(&field)
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Field};
    use crate::bash::flavour::Flavour;
    use bpf::bash::abi;

    #[test]
    fn what_is_not_set_has_a_default() {
        let config = Config::parse("").unwrap();
        assert!(config.join_lines && config.empty_lines);
        assert_eq!((config.flush.as_millis(), config.sweep.as_secs()), (500, 10));
        assert_eq!(config.flavours, [Flavour::Bash]);
        assert_eq!(config.context_bits(), 0);
    }

    #[test]
    fn more_is_named_one_by_one() {
        let text = "[settings]\nother_shells = [\"zsh\", \"psql\"]\n\
                    extra_fields = [\"ppid\", \"container_id\"]\nbash_redact = [\"-p.+\"]\n";
        let config = Config::parse(text).unwrap();
        let bits = abi::FLAVOUR_BASH | abi::FLAVOUR_ZSH | abi::FLAVOUR_PSQL;
        assert_eq!(config.flavour_bits(), bits);
        assert_eq!(config.context_bits(), abi::CONTEXT_PPID);
        assert!(config.wants(Field::ContainerId) && !config.wants(Field::Cwd));
        assert_eq!(config.redactor.apply("x -py".into()), "x ***");
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        for (text, named) in [
            ("other_shells = [\"fish\"]", "`fish`, expected one of `zsh`, `python`, `psql`"),
            ("extra_fields = [\"uptime\"]", "`uptime`"),
            ("bash_redact = [\"a(\"]", "`a(`"),
        ] {
            let error = Config::parse(&format!("[settings]\n{text}\n")).unwrap_err();
            assert!(format!("{error:#}").contains(named), "{error:#}");
        }
    }

    #[test]
    fn a_misspelt_setting_is_an_error_that_names_it() {
        let error = Config::parse("[settings]\njoin_line = true\n").unwrap_err();
        assert!(format!("{error:#}").contains("join_line"), "{error:#}");
    }
}
