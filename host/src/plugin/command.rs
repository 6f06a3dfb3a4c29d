//! `datakit-ebpf plugin list|inspect|check`: what people ask about plugin files. Prints, and says
//! by the exit code whether all is well.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use abi_stable::std_types::{RSlice, RStr};
use anyhow::{Context as _, Result, anyhow, bail};
use plugin_api::loading::HostApi;
use plugin_api::{Level, LogField, Points, ProbeStatus};

use crate::plugin::isolated::child;
use crate::plugin::loader::{Candidate, installed, path_of};
use crate::plugin::manifest::Manifest;
use crate::telemetry::log::{say, say_error};

/// What is asked.
#[derive(Debug)]
pub(crate) enum PluginCommand {
    /// All files of a folder.
    List { folder: PathBuf, trusts_any: bool },
    /// One file, without running it.
    Inspect { file: PathBuf, trusts_any: bool },
    /// One file: load, start and stop it in a child.
    Check { file: PathBuf, trusts_any: bool },
    /// The child's part of `Check`.
    Try { file: PathBuf, trusts_any: bool },
    /// The process of an isolated plugin.
    Host,
}

/// Does it, and says how it went.
pub(crate) fn carry_out(command: &PluginCommand) -> ExitCode {
    let outcome = match command {
        PluginCommand::List { folder, trusts_any } => list(folder, *trusts_any),
        PluginCommand::Inspect { file, trusts_any } => inspect(file, *trusts_any),
        PluginCommand::Check { file, trusts_any } => check(file, *trusts_any),
        PluginCommand::Try { file, trusts_any } => try_out(file, *trusts_any),
        PluginCommand::Host => child::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn list(folder: &Path, trusts_any: bool) -> Result<()> {
    for name in installed(folder)? {
        match Candidate::check(&path_of(folder, &name)?, trusts_any) {
            Ok(Candidate { manifest, .. }) => {
                let Manifest { version, api, .. } = manifest;
                say(format_args!("{name:<20} {version:<10} interface {api}"));
            }
            Err(error) => say(format_args!("{name:<20} {error:#}")),
        }
    }
    Ok(())
}

fn inspect(file: &Path, trusts_any: bool) -> Result<()> {
    let Candidate { manifest, .. } = Candidate::check(file, trusts_any)?;
    let Manifest { name, version, api, profile } = manifest;
    say(format_args!("name       {name}\nversion    {version}"));
    say(format_args!("interface  {api}\nprofile    {profile}"));
    Ok(())
}

fn check(file: &Path, trusts_any: bool) -> Result<()> {
    // What need not run is said here, in one sentence.
    Candidate::check(file, trusts_any)?;
    let mut child = Command::new(std::env::current_exe().context("find the own executable")?);
    child.args(["plugin", "try"]).arg(file);
    if trusts_any {
        child.arg("--trust-any-plugin");
    }
    let status = child.status().context("start a process to try the plugin in")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(_) => bail!("{} does not work on this host", file.display()),
        None => bail!("{} takes its process down: {status}", file.display()),
    }
}

fn try_out(file: &Path, trusts_any: bool) -> Result<()> {
    let module = Candidate::check(file, trusts_any)?.load()?;
    let mut plugin = module.create("", Printer).map_err(|error| anyhow!("new: {error}"))?;
    plugin.start().into_result().map_err(|error| anyhow!("start: {error}"))?;
    let probes = plugin.probes().into_result().map_err(|error| anyhow!("probes: {error}"))?;
    for probe in &probes {
        let detail = if probe.status == ProbeStatus::Attached { "" } else { &probe.detail };
        let status = probe.status.to_string();
        say(format_args!("{status:<9} {:<28} {} {detail}", probe.name, probe.hook));
    }
    plugin.stop().into_result().map_err(|error| anyhow!("stop: {error}"))?;
    say(format_args!("{} starts and stops on this host", module.name()));
    Ok(())
}

/// A host for a trial: takes points and keeps none.
#[derive(Clone)]
struct Printer;

impl HostApi for Printer {
    fn send(&self, _points: Points) -> bool {
        true
    }

    fn log(&self, level: Level, message: RStr<'_>, fields: RSlice<'_, LogField>) {
        let shown: Vec<_> =
            fields.iter().map(|LogField { name, value }| format!("{name}={value}")).collect();
        say_error(format_args!("{level:?}: {message} {}", shown.join(" ")));
    }

    fn fail(&self, reason: RStr<'_>) {
        say_error(format_args!("failed: {reason}"));
    }

    fn expect(&self, _within_ms: u64) {}

    fn offer_map(&self, _name: RStr<'_>, _descriptor: i32) -> bool {
        true
    }

    fn map(&self, _name: RStr<'_>) -> i32 {
        -1
    }
}
