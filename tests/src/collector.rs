//! The real collector as a child process, started as `DataKit` starts it: its order of arguments, an empty environment, no
//! stdin, no stdout. In: arguments and a receiver. Out: its `/status`, its `/metrics`, its exit code; and its log, printed when a
//! test fails.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::receiver::Receiver;
use crate::{plugins, ports, usage, wait};

/// The value of the tag `host` on all points.
pub const HOSTNAME: &str = "system-test";

/// The configuration file, if there is one.
const CONFIG: &str = "collector.toml";

/// How to start a collector.
pub struct Setup {
    folder: TempDir,
    api: SocketAddr,
    status: SocketAddr,
    enabled: String,
    tags: Option<String>,
    more: Vec<OsString>,
    often: bool,
    stdout: Stdio,
    program: PathBuf,
    user: Option<u32>,
    without: Option<&'static str>,
}

impl Setup {
    /// Arguments between `--hostname` and `--enabled`, where `DataKit` puts those of `ebpf.conf`.
    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.more.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// The plugins, instead of `ebpf-net`; none: those that the configuration file names.
    #[must_use]
    pub fn enabled(mut self, plugins: &str) -> Self {
        plugins.clone_into(&mut self.enabled);
        self
    }

    /// Custom tags in `DataKit`'s form, `a=1;b=2`.
    #[must_use]
    pub fn tags(mut self, tags: &str) -> Self {
        self.tags = Some(tags.to_owned());
        self
    }

    /// Where plugins are looked for.
    #[must_use]
    pub fn plugin_folder(self, folder: &Path) -> Self {
        let folder = folder.to_str().expect("temporary paths are text").to_owned();
        self.args(["--plugin-dir", &folder])
    }

    /// A configuration file.
    #[must_use]
    pub fn config(self, toml: &str) -> Self {
        let path = self.folder.path().join(CONFIG);
        fs::write(&path, toml).expect("a new file");
        let path = path.to_str().expect("temporary paths are text").to_owned();
        self.args(["--config", &path])
    }

    /// Flushes once a minute, as operators run it: nothing is sent before the end of a test unless a flush is forced.
    #[must_use]
    pub fn seldom(mut self) -> Self {
        self.often = false;
        self
    }

    /// Where its stdout goes, instead of nowhere.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Another copy of it than the one that was built.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Gives the folder of its log and pid file to another user.
    #[must_use]
    pub fn folder_of(self, user: u32) -> Self {
        chown(self.folder.path(), Some(user), Some(user)).expect("root may give files away");
        self
    }

    /// Runs it as another user, who owns the folder of its log and pid file.
    #[must_use]
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self.folder_of(user)
    }

    /// Without one of root's capabilities, such as `net_admin`.
    #[must_use]
    pub fn without_capability(mut self, capability: &'static str) -> Self {
        self.without = Some(capability);
        self
    }

    /// The plugins as a configuration file names them, which [`Collector::reload`] can change.
    #[must_use]
    pub fn enabled_by_file(self, toml: &str) -> Self {
        self.enabled("").config(toml)
    }

    /// Starts it, and waits for nothing.
    #[track_caller]
    pub fn spawn(self) -> Collector {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = match self.without {
            None => Command::new(&self.program),
            Some(capability) => {
                let mut command = Command::new("/usr/bin/setpriv");
                command.arg(format!("--bounding-set=-{capability}")).arg(&self.program);
                command
            }
        };
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(self.stdout);
        command.stderr(File::create(file("stderr")).expect("a new file"));
        // What a user would write into `args`.
        command.arg("run").arg("--datakit-apiserver").arg(self.api.to_string());
        command.arg("--log").arg(file("log")).arg("--pidfile").arg(file("pid"));
        command.arg("--status-listen").arg(self.status.to_string());
        if self.often {
            command.args(["--min-interval", "1s"]);
        }
        // What `DataKit` appends.
        command.args(["--hostname", HOSTNAME]).args(&self.more);
        if self.often {
            command.args(["--interval", "1s"]);
        }
        if !self.enabled.is_empty() {
            command.arg("--enabled").arg(&self.enabled);
        }
        // The kernel matrix runs the same tests with some ways to attach forbidden.
        if let Some(policy) = std::env::var_os("PROBE_POLICY") {
            command.arg("--probe-policy").arg(policy);
        }
        if let Some(tags) = &self.tags {
            command.arg("--tags").arg(tags);
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Collector { child, folder: self.folder, status: self.status }
    }

    /// Starts it, and waits until it answers on its status port.
    #[track_caller]
    pub fn launch(self) -> Collector {
        let mut collector = self.spawn();
        wait::until("the collector answers on its status port", || {
            assert_eq!(collector.ended(), None, "the collector ended");
            collector.get("/status").map(drop)
        });
        collector
    }

    /// As [`Setup::launch`], and waits until every enabled plugin runs.
    #[track_caller]
    pub fn start(self) -> Collector {
        let enabled = self.enabled.clone();
        let collector = self.launch();
        for plugin in enabled.split(',').filter(|plugin| !plugin.is_empty()) {
            collector.wait_for(plugin, "running");
        }
        collector
    }
}

/// What became of all points, from `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Taken from plugins.
    pub emitted: u64,
    /// Left out on purpose.
    pub sampled_out: u64,
    /// Answered 200.
    pub uploaded: u64,
    /// On their way.
    pub queued: u64,
    /// Given up, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Ledger {
    /// Whether every point is accounted for.
    pub fn balances(&self) -> bool {
        let elsewhere = self.sampled_out + self.dropped.values().sum::<u64>();
        self.emitted == self.uploaded + self.queued + elsewhere
    }
}

/// A running collector; killed when dropped, with its log printed if the test failed.
pub struct Collector {
    child: Child,
    folder: TempDir,
    status: SocketAddr,
}

impl Collector {
    /// A collector with `ebpf-net` that flushes every second into this receiver.
    pub fn setup(receiver: &Receiver) -> Setup {
        Setup {
            folder: tempfile::Builder::new().prefix("collector").tempdir().expect("a folder"),
            api: receiver.address(),
            status: ports::free_address(),
            enabled: "ebpf-net".to_owned(),
            tags: None,
            more: Vec::new(),
            often: true,
            stdout: Stdio::null(),
            program: plugins::externals().join("datakit-ebpf"),
            user: None,
            without: None,
        }
    }

    /// Starts one with nothing special about it.
    #[track_caller]
    pub fn start(receiver: &Receiver) -> Self {
        Self::setup(receiver).start()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it serves its status.
    pub fn status_address(&self) -> SocketAddr {
        self.status
    }

    /// Its pid file.
    pub fn pidfile(&self) -> PathBuf {
        self.folder.path().join("pid")
    }

    /// Its log so far.
    #[track_caller]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("a running collector has a log")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// `/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let text = self.get("/status").expect("a running collector answers");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("/status: {error}: {text}"))
    }

    /// `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        self.get("/metrics").expect("a running collector answers")
    }

    /// `/metrics`, or why there is none.
    pub fn try_metrics(&self) -> Result<String, String> {
        self.get("/metrics")
    }

    /// A whole number of a plugin from `/metrics`, by its name there without the prefix.
    #[track_caller]
    pub fn metric(&self, plugin: &str, name: &str) -> u64 {
        let metrics = self.metrics();
        let start = format!("datakit_ebpf_plugin_{name}{{plugin=\"{plugin}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
        let value = value.unwrap_or_else(|| panic!("no `{start}` in {metrics}"));
        value.parse().unwrap_or_else(|error| panic!("{start}{value}: {error}"))
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("the collector is still there");
    }

    /// The entry of a plugin in `/status`.
    #[track_caller]
    pub fn plugin(&self, name: &str) -> Option<Value> {
        let status = self.status();
        let plugins = status["plugins"].as_array().unwrap_or_else(|| panic!("{status}")).clone();
        plugins.into_iter().find(|plugin| plugin["name"] == name)
    }

    /// Waits until a plugin is in a state; its entry in `/status`. One that has failed is not
    /// waited for.
    #[track_caller]
    pub fn wait_for(&self, plugin: &str, state: &str) -> Value {
        self.wait_for_entry(plugin, state, |entry| {
            let failed = entry["state"] == "failed";
            assert!(!failed, "{plugin} shall be {state}, but: {entry}");
        })
    }

    /// The same for one that has failed before and is to come back.
    #[track_caller]
    pub fn wait_for_again(&self, plugin: &str, state: &str) -> Value {
        self.wait_for_entry(plugin, state, |_| {})
    }

    #[track_caller]
    fn wait_for_entry(&self, plugin: &str, state: &str, look: impl Fn(&Value)) -> Value {
        wait::until(&format!("{plugin} is {state}"), || {
            let entry = self.plugin(plugin).ok_or_else(|| self.status().to_string())?;
            if entry["state"] == state {
                return Ok(entry);
            }
            look(&entry);
            Err(entry.to_string())
        })
    }

    /// The counters of all points.
    #[track_caller]
    pub fn ledger(&self) -> Ledger {
        let status = self.status();
        let ledger = &status["ledger"];
        let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("ledger: {ledger}"));
        let dropped = ledger["dropped"].as_object().unwrap_or_else(|| panic!("ledger: {ledger}"));
        Ledger {
            emitted: count(&ledger["emitted"]),
            sampled_out: count(&ledger["sampled_out"]),
            uploaded: count(&ledger["uploaded"]),
            queued: count(&ledger["queued"]),
            dropped: dropped.iter().map(|(reason, n)| (reason.clone(), count(n))).collect(),
        }
    }

    /// Waits for a state of the counters.
    #[track_caller]
    pub fn wait_for_ledger(&self, what: &str, holds: impl Fn(&Ledger) -> bool) -> Ledger {
        wait::until(what, || {
            let ledger = self.ledger();
            if holds(&ledger) { Ok(ledger) } else { Err(format!("{ledger:?}")) }
        })
    }

    /// Changes its configuration file and has it read that again.
    #[track_caller]
    pub fn reload(&self, toml: &str) {
        fs::write(self.folder.path().join(CONFIG), toml).expect("it has a file");
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGHUP).expect("the collector is still there");
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("the collector is still there");
        wait::until("the collector ends after SIGTERM", || {
            self.child.try_wait().expect("it is our child").ok_or_else(|| "still running".into())
        })
    }

    /// Ends it as an operator would: everything is flushed and uploaded, and the exit code is 0.
    #[track_caller]
    pub fn stop(mut self) {
        let before = self.get("/status");
        let status = self.terminate();
        // Shown when an assertion that follows fails.
        println!("--- before the stop: {before:?}\n--- the collector's log:\n{}", self.log());
        assert!(status.success(), "after SIGTERM: {status}");
    }

    /// A plain HTTP GET of its status port: the code and the body.
    #[track_caller]
    pub fn fetch(&self, path: &str) -> (u16, Vec<u8>) {
        let (head, body) = self.request(path).expect("a running collector answers");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or_else(|| panic!("{path}: {head}")), body)
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let (head, body) = self.request(path)?;
        let body = String::from_utf8(body).map_err(|error| format!("{path}: {error}"))?;
        if head.contains(" 200 ") { Ok(body) } else { Err(head) }
    }

    fn request(&self, path: &str) -> Result<(String, Vec<u8>), String> {
        let fetch = || {
            let mut stream = TcpStream::connect(self.status)?;
            stream.set_read_timeout(Some(wait::patience()))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.status)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = fetch().map_err(|error: std::io::Error| format!("{path}: {error}"))?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.ok_or_else(|| format!("{path}: {}", String::from_utf8_lossy(&answer)))?;
        Ok((String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end + 4..].to_vec()))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let metrics = thread::panicking().then(|| self.get("/metrics"));
        // Both fail if it has ended already, which is as good.
        self.child.kill().ok();
        self.child.wait().ok();
        let Some(metrics) = metrics else { return };
        if let Ok(metrics) = metrics {
            eprintln!("--- lost, refused or not understood: {:?}", usage::losses(&metrics));
        }
        for name in ["log", "stderr", "log.stderr"] {
            if let Ok(text) = fs::read_to_string(self.folder.path().join(name)) {
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(60)..];
                eprintln!("--- the collector's {name}:\n{}", tail.join("\n"));
            }
        }
    }
}
