//! A plugin on trial: a child of ours loads, starts and stops it, so that whatever it does is done
//! to the child. In: a file that has been checked, and settings. Out: what became of its probes,
//! what it said, and why it does not work.
//!
//! The child reads the settings from its standard input, and its last line of output is its
//! [`Findings`]; a plugin may write what it likes before that.

use std::fmt::{self, Display};
use std::io::{Read as _, stdin};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use abi_stable::std_types::{RSlice, RStr};
use anyhow::{Context as _, Result, anyhow};
use plugin_api::loading::{AnyModule, HostApi};
use plugin_api::{Level, LogField, Points, ProbeStatus, ProbeVerdict};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::plugin::loader::Candidate;
use crate::plugin::runner::sentence;
use crate::supervise;
use crate::telemetry::log::{say, say_error};

/// Many times what loading programs takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came out of a trial.
#[derive(Debug)]
pub(crate) struct Trial {
    /// What the plugin calls itself; empty if it did not come to that.
    pub(crate) name: String,
    pub(crate) probes: Vec<Probe>,
    /// Lines that the plugin logged or wrote to standard error.
    pub(crate) said: Vec<String>,
    /// Why it does not work, if it does not.
    pub(crate) problem: Option<String>,
}

/// The fate of one probe.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    name: String,
    hook: String,
    status: String,
    detail: String,
}

/// What the child tells.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Findings {
    name: String,
    probes: Vec<Probe>,
    problem: Option<String>,
}

/// Tries `file` with `settings` in a child, and waits for the outcome.
pub(crate) fn run(file: &Path, settings: &str, trusts_any: bool) -> Result<Trial> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let ended = runtime.block_on(try_in_child(file, settings, trusts_any))?;
    Ok(match ended {
        Some(output) => judge(&output),
        None => Trial {
            name: String::new(),
            probes: Vec::new(),
            said: Vec::new(),
            problem: Some(format!(
                "it hangs: it was not loaded, started and stopped again within {PATIENCE:?}"
            )),
        },
    })
}

/// `None` if it takes too long; it is killed then.
async fn try_in_child(file: &Path, settings: &str, trusts_any: bool) -> Result<Option<Output>> {
    let mut command = Command::new(std::env::current_exe().context("find the own executable")?);
    command.args(["plugin", "try"]).arg(file).kill_on_drop(true);
    if trusts_any {
        command.arg("--trust-any-plugin");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    supervise::as_child(command.as_std_mut());
    let mut child = command.spawn().context("start a process to try the plugin in")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ended before it read them says why by how it ended.
        stdin.write_all(settings.as_bytes()).await.ok();
    }
    match timeout(PATIENCE, child.wait_with_output()).await {
        Ok(output) => Ok(Some(output.context("wait for the plugin's trial")?)),
        Err(_) => Ok(None),
    }
}

fn judge(output: &Output) -> Trial {
    let Output { status, stdout, stderr } = output;
    let stdout = String::from_utf8_lossy(stdout);
    let last = stdout.trim_end().lines().last().unwrap_or_default();
    let Findings { name, probes, problem } =
        serde_json::from_str(last).unwrap_or_else(|_| Findings {
            problem: Some(format!("it takes its process down: {status}")),
            ..Findings::default()
        });
    let said = String::from_utf8_lossy(stderr).lines().map(str::to_owned).collect();
    Trial { name, probes, said, problem }
}

/// The child's part: tells its parent how it went.
pub(crate) fn take_part(file: &Path, trusts_any: bool) -> Result<()> {
    supervise::follow_parent()?;
    let mut settings = String::new();
    stdin().read_to_string(&mut settings).context("read the settings")?;
    let mut findings = Findings::default();
    let module = Candidate::check(file, trusts_any).and_then(Candidate::load);
    let outcome = module.and_then(|module| try_out(module, &settings, &mut findings));
    findings.problem = outcome.err().map(|error| format!("{error:#}"));
    say(format_args!("\n{}", serde_json::to_string(&findings)?));
    Ok(())
}

fn try_out(module: AnyModule, settings: &str, findings: &mut Findings) -> Result<()> {
    findings.name = module.name().into();
    let listener = Listener::default();
    let mut plugin = module.create(settings, listener.clone()).map_err(sentence)?;
    let started = plugin.start().into_result().map_err(sentence);
    let probes = plugin.probes().into_result().map_err(|error| anyhow!("tell its probes: {error}"));
    let stopped = plugin.stop().into_result().map_err(|error| anyhow!("stop: {error}"));
    // One that could not start may know why.
    let told = probes.map(|probes| findings.probes = probes.into_iter().map(Probe::from).collect());
    started.and(told).and(stopped)?;
    let failure = listener.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), |reason| Err(anyhow!(reason)))
}

/// A host for a trial: takes points and keeps none.
#[derive(Clone, Default)]
struct Listener {
    failure: Arc<Mutex<Option<String>>>,
}

impl HostApi for Listener {
    fn send(&self, _points: Points) -> bool {
        true
    }

    fn log(&self, level: Level, message: RStr<'_>, fields: RSlice<'_, LogField>) {
        if level == Level::Debug {
            return;
        }
        let shown = fields.iter().map(|LogField { name, value }| format!(" {name}={value}"));
        say_error(format_args!("{level:?}: {message}{}", shown.collect::<String>()));
    }

    fn fail(&self, reason: RStr<'_>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| reason.as_str().into());
    }

    fn expect(&self, _within_ms: u64) {}

    fn offer_map(&self, _name: RStr<'_>, _descriptor: i32) -> bool {
        true
    }

    fn map(&self, _name: RStr<'_>) -> i32 {
        -1
    }
}

impl Probe {
    /// Whether it delivers.
    pub(crate) fn is_attached(&self) -> bool {
        self.status == ProbeStatus::Attached.to_string()
    }
}

impl From<ProbeVerdict> for Probe {
    fn from(ProbeVerdict { name, hook, status, detail }: ProbeVerdict) -> Self {
        let status = status.to_string();
        Self { name: name.into(), hook: hook.into(), status, detail: detail.into() }
    }
}

impl Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hook, status, detail } = self;
        write!(formatter, "{status:<9} {name:<28} {hook}")?;
        if detail.is_empty() { Ok(()) } else { write!(formatter, ": {detail}") }
    }
}

#[cfg(test)]
mod tests {
    use super::judge;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{ExitStatus, Output};

    fn output(wait_status: i32, stdout: &str) -> Output {
        let status = ExitStatus::from_raw(wait_status);
        Output { status, stdout: stdout.into(), stderr: b"Warn: one\nWarn: two\n".into() }
    }

    #[test]
    fn findings_are_the_last_line_whatever_the_plugin_wrote_before() {
        let findings = r#"{"name":"one","problem":null,"probes":[
            {"name":"p","hook":"iter/task","status":"missing","detail":"without x"}]}"#;
        let trial = judge(&output(0, &format!("noise\n{}\n", findings.replace('\n', ""))));
        assert_eq!((trial.name.as_str(), trial.problem), ("one", None));
        assert_eq!(trial.said, ["Warn: one", "Warn: two"]);
        assert!(!trial.probes[0].is_attached());
        let line = trial.probes[0].to_string();
        assert!(line.starts_with("missing ") && line.ends_with("iter/task: without x"), "{line}");
    }

    #[test]
    fn a_child_that_was_killed_is_a_problem_that_names_the_signal() {
        let problem = judge(&output(11, "noise")).problem.unwrap();
        assert!(problem.contains("takes its process down") && problem.contains("11"), "{problem}");
    }
}
