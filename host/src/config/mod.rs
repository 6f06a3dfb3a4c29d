//! Configuration: from what was written, wherever, to what we run on.
//!
//! In: flags, environment variables and a file. Out: one checked [`Config`], or one sentence on
//! what is wrong. The environment wins over flags, flags over the file, the file over defaults.
//! It prints nothing and starts nothing; which plugins exist is not known here.
//!
//! ```text
//! options      the table of all options (conf/options.toml)
//! flags        words of the command line  ┐
//! environment  variables                  ├─> layers ─> resolve ─> Config
//! file         ebpf.conf or our own TOML  ┘
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};

mod environment;
mod file;
pub(crate) mod flags;
mod layers;
pub(crate) mod options;
mod resolve;
mod units;

#[cfg(test)]
mod tests;

use file::File;
use layers::{Layer, Layers};
use options::Options;

/// All that the host runs on.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Config {
    /// Names of the plugins to run. Empty only if the output is not DataKit: all there are.
    pub(crate) enabled: Vec<String>,
    /// Where plugins are looked up.
    pub(crate) plugin_dir: PathBuf,
    /// Names of the plugins that run in a process of their own.
    pub(crate) isolated: Vec<String>,
    /// Whether to be started again after a crash.
    pub(crate) supervise: Supervise,
    /// Load plugins whoever may have written their files.
    pub(crate) trust_any_plugin: bool,
    /// Give up none of the capabilities that we are started with.
    pub(crate) keep_capabilities: bool,
    /// Where points go.
    pub(crate) output: Output,
    /// Base URL of the DataKit that receives points; no slash at the end.
    pub(crate) api_server: String,
    /// Base URL of the DataKit that receives spans; no slash at the end.
    pub(crate) trace_server: String,
    /// Value of the tag `host`, if it was given.
    pub(crate) hostname: Option<String>,
    /// Value of the tag `service`.
    pub(crate) service: String,
    /// Further tags of all points, no key twice.
    pub(crate) tags: Vec<(String, String)>,
    /// How often collectors report; at least a second.
    pub(crate) interval: Duration,
    /// From which level on to log.
    pub(crate) log_level: LogLevel,
    /// Log file; none: standard error.
    pub(crate) log: Option<PathBuf>,
    /// Pid file, if there is to be one.
    pub(crate) pidfile: Option<PathBuf>,
    /// File that takes the place of standard error, if there is to be one.
    pub(crate) stderr_file: Option<PathBuf>,
    /// `host:port` where the status is served, if it is.
    pub(crate) status_listen: Option<String>,
    /// Bytes of memory for encoded points that wait for upload.
    pub(crate) queue_bytes: u64,
    /// Compress large requests.
    pub(crate) gzip: bool,
    /// Folder where encoded points wait instead, if they do.
    pub(crate) spool_dir: Option<PathBuf>,
    /// Bytes on disk that they may take there.
    pub(crate) spool_bytes: u64,
    /// What the collector may use.
    pub(crate) limits: Limits,
    /// Which share of points to send.
    pub(crate) sampling: Sampling,
    /// Tell the sampling rate in a field of each point.
    pub(crate) sampling_field: bool,
    /// The cluster whose names become tags.
    pub(crate) kubernetes: Kubernetes,
    /// Settings handed to every plugin; `conf/options.toml` names most of their keys.
    pub(crate) collector: toml::Table,
    /// Settings of single plugins by name, unread.
    pub(crate) plugins: BTreeMap<String, toml::Table>,
    /// What the operator should know although it is no error, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// The key of a plugin's table that is the host's, not the plugin's.
pub(crate) const ISOLATION: &str = "isolation";

impl Config {
    /// Whether a plugin is to run in a process of its own.
    pub(crate) fn is_isolated(&self, plugin: &str) -> Result<bool> {
        let written = self.plugins.get(plugin).and_then(|table| table.get(ISOLATION));
        match written.map(|value| value.as_str().unwrap_or_default()) {
            Some("process") => Ok(true),
            None | Some("none") => Ok(self.isolated.iter().any(|name| name == plugin)),
            Some(_) => bail!("plugins.{plugin}.{ISOLATION} must be \"none\" or \"process\""),
        }
    }

    /// Whether any plugin may be.
    pub(crate) fn isolates(&self) -> bool {
        !self.isolated.is_empty() || self.plugins.values().any(|own| own.contains_key(ISOLATION))
    }

    /// Takes over from the configuration that is in effect what cannot be changed while the
    /// collector runs; returns the names of the options that this undoes.
    pub(crate) fn keep_what_stays(&mut self, now: &Self) -> Vec<&'static str> {
        let mut undone = Vec::new();
        macro_rules! keep {
            ($($field:ident is $option:literal),* $(,)?) => {$(
                if self.$field != now.$field {
                    undone.push($option);
                    self.$field.clone_from(&now.$field);
                }
            )*};
        }
        keep!(
            supervise is "supervise",
            output is "output",
            api_server is "datakit-apiserver",
            trace_server is "trace-server",
            log is "log",
            pidfile is "pidfile",
            stderr_file is "log",
            status_listen is "status-listen",
            queue_bytes is "queue-size",
            spool_dir is "spool-dir",
            spool_bytes is "spool-size",
            limits is "res-cpu, res-mem or res-bandwidth",
        );
        undone
    }
}

/// Where points go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// To DataKit over HTTP.
    Datakit,
    /// To standard output, for people.
    Console,
    /// To a file, for programs.
    File {
        /// Which file; none: standard output.
        path: Option<PathBuf>,
        /// How points are written.
        format: FileFormat,
    },
}

/// How the file output writes a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFormat {
    /// A line of line protocol.
    LineProtocol,
    /// A line of JSON.
    Json,
}

/// From which level on to log, in the words that DataKit uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What went wrong.
    Error,
    /// As `Error`; there is nothing above it.
    Panic,
    /// As `Error`; there is nothing above it.
    Dpanic,
    /// As `Error`; there is nothing above it.
    Fatal,
}

impl LogLevel {
    /// The level as a filter of `tracing`.
    pub(crate) fn filter(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error | Self::Panic | Self::Dpanic | Self::Fatal => "error",
        }
    }
}

/// When the collector is run by a process that starts it again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supervise {
    On,
    Off,
    /// When DataKit has started us.
    Auto,
}

/// What the collector may use; none: no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// CPU cores of this process and its children.
    pub(crate) cpu_cores: Option<f64>,
    /// Bytes of resident memory, likewise.
    pub(crate) mem_bytes: Option<u64>,
    /// Bytes a second that this process sends and receives, both together.
    pub(crate) net_bytes_per_s: Option<u64>,
    /// Names of the plugins that are stopped while a limit is near.
    pub(crate) optional: Vec<String>,
}

/// Which share of points to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sampling {
    /// All.
    Off,
    /// This share, 0.01 to 1.
    Rate(f64),
    /// About this many a minute.
    PointsPerMinute(f64),
}

/// The cluster whose names become tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kubernetes {
    /// Its API server.
    pub(crate) url: Option<String>,
    /// Token for the API server.
    pub(crate) token: Option<Secret>,
    /// File with the token for the API server.
    pub(crate) token_path: Option<PathBuf>,
    /// Labels of workloads that become tags.
    pub(crate) workload_labels: Vec<String>,
    /// What such tags begin with; empty: nothing is put before the label.
    pub(crate) workload_label_prefix: String,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To collect, for which DataKit must have said what.
    Run,
    /// To see whether it would work, with whatever plugins there are.
    Examine,
}

/// Makes the configuration of flags, environment and the file that a flag names.
/// `default_plugin_dir` is where plugins are unless somebody says otherwise.
pub(crate) fn load(
    options: &Options,
    flags: Layer,
    environment: impl IntoIterator<Item = (String, String)>,
    default_plugin_dir: &Path,
    purpose: Purpose,
) -> Result<Config> {
    let file = match flags.get("config") {
        Some(path) => file::read(options, Path::new(path.text()))?,
        None => File::default(),
    };
    let environment = environment::read(options, environment, "")?;
    combine(options, environment, flags, file, default_plugin_dir, purpose)
}

fn combine(
    options: &Options,
    environment: Layer,
    flags: Layer,
    file: File,
    default_plugin_dir: &Path,
    purpose: Purpose,
) -> Result<Config> {
    let written = vec![environment, file.environment, flags, file.args, file.keys];
    let layers = Layers::new(options, written, file.is_datakits)?;
    resolve::config(layers, file.plugins, default_plugin_dir, purpose)
}
