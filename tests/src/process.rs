//! Child processes that cannot outlive their test. In: a command, and the namespace to run it in. Out: its pid, its output.
//! A process here leads its own group, so that its workers end with it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::hosts::Netns;

/// A running process; killed with its group when dropped.
pub struct Process {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("stdout is read here only");
        stdout.read_line(&mut line).expect("its stdout can be read");
        assert!(!line.is_empty(), "process {} ended without a word", self.child.id());
        line.trim_end().to_owned()
    }

    /// Waits for its end, which must be a good one.
    pub fn succeed(mut self) {
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "process {}: {status}", self.child.id());
    }

    /// The processes that it forked.
    pub fn children(&self) -> Vec<u32> {
        let pid = self.child.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let listed = std::fs::read_to_string(path).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // Already gone is what we want.
        killpg(group, Signal::SIGKILL).ok();
        self.child.wait().ok();
    }
}

impl Netns {
    /// Starts a command in this namespace.
    #[track_caller]
    pub fn spawn(&self, command: &mut Command) -> Process {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let spawned = self.enter(|| command.spawn());
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().map(BufReader::new);
        Process { child, stdout }
    }

    /// Runs a command in this namespace to its good end; its pid and its output.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> (u32, String) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = self.enter(|| command.spawn());
        let child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = child.id();
        let output = child.wait_with_output().expect("a child can be waited for");
        (pid, text_of(command, &output))
    }
}

#[track_caller]
fn text_of(command: &Command, output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its good end; its output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    text_of(command, &output.unwrap_or_else(|error| panic!("{command:?}: {error}")))
}
