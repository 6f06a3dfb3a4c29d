//! What the host may ask of a plugin: the trait that authors write.

use crate::error::PluginError;
use crate::host::Host;
use crate::report::{Metric, ProbeVerdict};

/// A collector. Calls come from one thread at a time. A panic in one of them does not reach the
/// host: in `new` or `start` the plugin has failed, in the others it is logged.
pub trait Plugin: Sized + Send + 'static {
    /// The name that operators enable: lower case with hyphens. The file of `my-plugin` is
    /// `libmy_plugin.so`.
    const NAME: &'static str;

    /// The plugin's own version, usually `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;

    /// The capabilities that it needs beyond those that the host keeps for every plugin
    /// (`CAP_BPF`, `CAP_PERFMON`, `CAP_NET_ADMIN`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`), as
    /// `SYS_ADMIN NET_BROADCAST`: without `CAP_`, separated by blanks. The host keeps them if the
    /// plugin is enabled when it starts; `SYS_ADMIN/some-flow` only if the application protocol
    /// `some-flow` is reported then.
    const CAPABILITIES: &'static str = "";

    /// Words that operators may ask it about, separated by blanks: with `tls`, what follows in
    /// `datakit-ebpf tls ...` goes to [`Plugin::answer`].
    const COMMANDS: &'static str = "";

    /// Reads `settings`, TOML text with two tables: `[collector]`, what the operator set for all
    /// plugins, and `[settings]`, this plugin's own `[plugins.<name>]` from the configuration.
    /// Attaches nothing yet.
    fn new(settings: &str, host: Host) -> Result<Self, PluginError>;

    /// Attaches and starts. Returns when data flows; threads of the plugin's own do the rest.
    fn start(&mut self) -> Result<(), PluginError>;

    /// Sends what is left, detaches, and joins every thread. Nothing runs afterwards.
    fn stop(&mut self);

    /// What became of each probe, for `/status`.
    fn probes(&self) -> Vec<ProbeVerdict> {
        Vec::new()
    }

    /// Answers `datakit-ebpf WORD ...`, where `words` begins with one of [`Plugin::COMMANDS`]. That is a
    /// process of its own beside the one that collects: [`Plugin::new`] is not called.
    fn answer(words: &[&str]) -> Result<String, PluginError> {
        Err(PluginError::new(format_args!("{} does not know of {words:?}", Self::NAME)))
    }

    /// The plugin's own numbers, for `/metrics`. Must be quick.
    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }
}
