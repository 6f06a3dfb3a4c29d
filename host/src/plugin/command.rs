//! `datakit-ebpf plugin list|inspect|check`: what people ask about plugin files. Prints, and says
//! by the exit code whether all is well.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use abi_stable::std_types::{RSlice, RStr};
use anyhow::{Context as _, Result, anyhow, bail};
use plugin_api::loading::HostApi;
use plugin_api::{Level, LogField, Points, ProbeStatus};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::plugin::isolated::child;
use crate::plugin::loader::{Candidate, libraries};
use crate::plugin::manifest::Manifest;
use crate::supervise;
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

/// How long a plugin may take to load, start and stop.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// What the process that tries a plugin ends with. A plugin that ends it does so with something
/// else, 0 for instance.
const WORKS: u8 = 64;
const DOES_NOT_WORK: u8 = 65;

/// Does it, and says how it went.
pub(crate) fn carry_out(command: &PluginCommand) -> ExitCode {
    let (outcome, good, bad) = match command {
        PluginCommand::List { folder, trusts_any } => (list(folder, *trusts_any), 0, 1),
        PluginCommand::Inspect { file, trusts_any } => (inspect(file, *trusts_any), 0, 1),
        PluginCommand::Check { file, trusts_any } => match check(file, *trusts_any) {
            // The other process has said why.
            Ok(works) => (Ok(()), u8::from(!works), 1),
            Err(error) => (Err(error), 0, 1),
        },
        PluginCommand::Try { file, trusts_any } => {
            let outcome = supervise::follow_parent().and_then(|()| try_out(file, *trusts_any));
            (outcome, WORKS, DOES_NOT_WORK)
        }
        PluginCommand::Host => (child::run(), 0, 1),
    };
    match outcome {
        Ok(()) => ExitCode::from(good),
        Err(error) => {
            say_error(format_args!("{error:#}"));
            ExitCode::from(bad)
        }
    }
}

fn list(folder: &Path, trusts_any: bool) -> Result<()> {
    for (name, path) in libraries(folder)? {
        let checked = Candidate::check(&path, trusts_any)
            .and_then(|candidate| candidate.check_name(&name).map(|()| candidate));
        // A file may have any name.
        let name = name.escape_debug().to_string();
        match checked {
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

/// Whether it works. If it does not, the process that tried it has said why.
fn check(file: &Path, trusts_any: bool) -> Result<bool> {
    // What need not run is said here, in one sentence.
    let candidate = Candidate::check(file, trusts_any)?;
    let shown = file.display();
    if candidate.is_slow() {
        say_error(format_args!("{shown} was built without optimisation; build it with --release"));
    }
    let mut trial = Command::new(env::current_exe().context("find the own executable")?);
    trial.args(["plugin", "try"]).arg(file).stdin(Stdio::null());
    if trusts_any {
        trial.arg("--trust-any-plugin");
    }
    let mut trial =
        supervise::as_child(&mut trial).spawn().context("start a process to try the plugin in")?;
    let Some(status) = end_of(&mut trial)? else {
        let seconds = TIME_LIMIT.as_secs();
        bail!("{shown} hangs: it was not loaded, started and stopped again within {seconds} s");
    };
    match status.code().map(u8::try_from) {
        Some(Ok(WORKS)) => Ok(true),
        Some(Ok(DOES_NOT_WORK)) => Ok(false),
        Some(_) => bail!("{shown} ends its process: {status}"),
        None => bail!("{shown} takes its process down: {status}"),
    }
}

/// Waits for the end of a process, but not longer than the limit; then it is killed, and there is
/// none.
fn end_of(process: &mut Child) -> Result<Option<ExitStatus>> {
    let handle = pidfd_open(Pid::from_child(process), PidfdFlags::empty())
        .context("open a descriptor of the process that tries the plugin")?;
    let limit = Timespec { tv_sec: TIME_LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut ended = [PollFd::new(&handle, PollFlags::IN)];
    let has_ended = retry_on_intr(|| poll(&mut ended, Some(&limit)))? > 0;
    if !has_ended {
        process.kill().context("end the process that tries the plugin")?;
    }
    let status = process.wait().context("wait for the process that tries the plugin")?;
    Ok(has_ended.then_some(status))
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
        if level == Level::Debug {
            return;
        }
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
