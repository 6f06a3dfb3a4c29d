//! `datakit-ebpf doctor`: would these plugins work on this host, and if not, what to do? In: the
//! configuration that `run` would have, this host, and each plugin started and stopped in a child.
//! Out: a table for people, and an exit code that is bad if a plugin does not work. It changes
//! nothing; probes are attached for a moment.
//!
//! ```text
//! host     texts of /proc and /sys -> findings
//! rights   capabilities and who we are -> findings
//! ```

use std::fmt::{self, Display};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::no_new_privs;

use crate::capabilities::{self, Executes};
use crate::config::Config;
use crate::plugin::manifest::Manifest;
use crate::plugin::trial::{self, Trial};
use crate::plugin::{loader, supervisor};
use crate::telemetry::log::{say, say_error};

mod host;
mod rights;

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    what: &'static str,
    /// What there is.
    found: String,
    /// What is lost by that and what to do about it, if anything is.
    advice: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), advice: None }
    }

    fn bad(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what, found: found.into(), advice: Some(advice.into()) }
    }
}

impl Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, advice } = self;
        let mark = if advice.is_some() { '!' } else { ' ' };
        write!(formatter, "{mark} {what:<20} {found}")?;
        advice.as_ref().map_or(Ok(()), |advice| write!(formatter, "\n{ADVICE}{advice}"))
    }
}

/// What stands before a sentence on what to do.
const ADVICE: &str = "                       -> ";

/// Between two lines of what was found.
const NEXT_LINE: &str = "\n                       ";

/// Looks, tells, and says whether all is well.
pub(crate) fn examine(config: &Config) -> ExitCode {
    let may_gain = !no_new_privs().unwrap_or_default();
    // What is tried is what `run` could do, and not more.
    capabilities::give_up_unneeded(config, Executes::Us);
    say(format_args!("This host"));
    let of_host = host::findings(Path::new("/"));
    for finding in of_host.into_iter().chain(rights::findings(may_gain)) {
        say(format_args!("{finding}"));
    }
    for warning in &config.warnings {
        say(format_args!("! {:<20} {warning}", "configuration"));
    }
    match examine_plugins(config) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say_error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How many do not work.
fn examine_plugins(config: &Config) -> Result<usize> {
    let mut names = config.enabled.clone();
    if names.is_empty() {
        names = loader::installed(&config.plugin_dir)?;
        let folder = config.plugin_dir.display();
        ensure!(!names.is_empty(), "no plugin is installed in {folder}; see --plugin-dir");
    }
    let (mut failed, mut missing) = (Vec::new(), 0);
    for name in names {
        say(format_args!("\nPlugin {name}"));
        match examine_plugin(config, &name) {
            Ok(probes) => missing += probes,
            Err(error) => {
                say(format_args!("! does not work: {error:#}"));
                failed.push(name);
            }
        }
    }
    match (failed.len(), missing) {
        (0, 0) => say(format_args!("\nAll of it works.")),
        (0, _) => say(format_args!("\nAll plugins work; probes that are missing: {missing}")),
        _ => say(format_args!("\nDoes not work: {}", failed.join(", "))),
    }
    Ok(failed.len())
}

/// How many of its probes are missing.
fn examine_plugin(config: &Config, name: &str) -> Result<usize> {
    let candidate = loader::find(&config.plugin_dir, name, config.trust_any_plugin)?;
    let Manifest { version, api, profile, .. } = &candidate.manifest;
    say(format_args!("  version {version}, interface {api}, {profile} build"));
    say(format_args!("  {}", candidate.path.display()));
    let settings = supervisor::settings(config, name)?;
    let trial = trial::run(&candidate.path, &settings, config.trust_any_plugin);
    let Trial { probes, said, problem, .. } = trial.context("try it")?;
    for probe in &probes {
        let mark = if probe.is_attached() { ' ' } else { '!' };
        say(format_args!("{mark} {probe}"));
    }
    for line in said {
        say(format_args!("  it says: {line}"));
    }
    problem.map_or(Ok(()), |problem| Err(anyhow::Error::msg(problem)))?;
    Ok(probes.iter().filter(|probe| !probe.is_attached()).count())
}
