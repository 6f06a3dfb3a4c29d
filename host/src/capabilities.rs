//! What this process may do beyond what any process may: the capabilities that collecting needs,
//! and giving up the others before the first thread or plugin exists. `docs/security.md` says the
//! same for operators.
//!
//! Plugins share our memory, so a capability that one thread had and another had not would keep
//! nobody from anything: all threads have the same short list.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use serde::Serialize;

use crate::config::{Config, Output};
use crate::plugin::loader;
use crate::telemetry::log::say_error;

/// A capability and what it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) capability: CapabilitySet,
    /// What cannot be had without it.
    pub(crate) purpose: &'static str,
    /// Whether plugins can be expected to do less, or nothing, without it.
    pub(crate) is_required: bool,
}

/// Everything that plugins may need, now or when they are started or attach something later.
pub(crate) const NEEDS: [Need; 5] = [
    Need {
        capability: CapabilitySet::BPF,
        purpose: "load programs and make maps",
        is_required: true,
    },
    Need {
        capability: CapabilitySet::PERFMON,
        purpose: "attach programs to the kernel's functions and tracepoints",
        is_required: true,
    },
    Need {
        capability: CapabilitySet::NET_ADMIN,
        purpose: "attach programs to sockets and interfaces",
        is_required: true,
    },
    Need {
        capability: CapabilitySet::SYS_PTRACE,
        purpose: "see which programs and libraries other users' processes run",
        is_required: false,
    },
    Need {
        capability: CapabilitySet::DAC_READ_SEARCH,
        purpose: "read programs and libraries that are not readable by all",
        is_required: false,
    },
];

/// Anybody may listen on ports from this one on.
const FIRST_FREE_PORT: u16 = 1024;

/// The sets of this process, for `/status`.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    effective: Vec<String>,
    permitted: Vec<String>,
    inheritable: Vec<String>,
    bounding: Vec<String>,
    no_new_privileges: bool,
}

/// Whether this process executes us again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Executes {
    /// It does, and our file may ask for capabilities that are not kept: it would not start if
    /// they had been cut from the bounding set. The one that is started cuts it.
    Us,
    Nothing,
}

/// Keeps the capabilities that `config` needs and gives up all others, for good: no program that
/// is executed later gets them back either.
pub(crate) fn give_up_unneeded(config: &Config, executes: Executes) {
    if config.keep_capabilities {
        return;
    }
    // Too many rights are no reason not to collect.
    if let Err(error) = keep_only(keep_list(config), executes) {
        say_error(format_args!("datakit-ebpf: {error:#}; not all capabilities are given up"));
    }
}

fn keep_only(mut keep: CapabilitySet, executes: Executes) -> Result<()> {
    // Plugins ask for this when they start, which is too late.
    let unlimited = Rlimit { current: None, maximum: None };
    // Kernels from 5.11 on do not count maps; before, those who load tell what is wrong.
    setrlimit(Resource::Memlock, unlimited).ok();
    let held = capabilities(None).context("read the own capabilities")?;
    // Anybody else gains nothing by it: new privileges are refused below.
    let may_cut = geteuid().is_root() && held.effective.contains(CapabilitySet::SETPCAP);
    match executes {
        Executes::Us if may_cut => keep |= CapabilitySet::SETPCAP,
        Executes::Nothing if may_cut => {
            for capability in bounding_set() - keep {
                remove_capability_from_bounding_set(capability).context("cut the bounding set")?;
            }
        }
        Executes::Us | Executes::Nothing => {}
    }
    let CapabilitySets { effective, permitted, inheritable } = held;
    set_capabilities(
        None,
        CapabilitySets {
            effective: effective & keep,
            permitted: permitted & keep,
            inheritable: inheritable & keep,
        },
    )
    .context("give up capabilities")?;
    set_no_new_privs(true).context("refuse new privileges")
}

/// What this process holds now.
pub(crate) fn held() -> Result<Held> {
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    Ok(Held {
        effective: names(effective),
        permitted: names(permitted),
        inheritable: names(inheritable),
        bounding: names(bounding_set()),
        no_new_privileges: no_new_privs()?,
    })
}

/// `CAP_BPF` and the like.
pub(crate) fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

fn keep_list(config: &Config) -> CapabilitySet {
    let mut keep: CapabilitySet = NEEDS.iter().map(|need| need.capability).collect();
    // Before Linux 5.8, this one stood for those that came then.
    if capability_is_in_bounding_set(CapabilitySet::BPF).is_err() {
        keep |= CapabilitySet::SYS_ADMIN;
    }
    if written_to(config).any(|path| !is_ours(path)) {
        keep |= CapabilitySet::DAC_OVERRIDE;
    }
    for (_, wanted) in wanted_by_plugins(config) {
        keep |= wanted;
    }
    if port_of(config.status_listen.as_deref()).is_some_and(|port| port < FIRST_FREE_PORT) {
        keep |= CapabilitySet::NET_BIND_SERVICE;
    }
    keep
}

/// What the enabled plugins need beyond [`NEEDS`], by the plugin's name.
pub(crate) fn wanted_by_plugins(config: &Config) -> Vec<(String, CapabilitySet)> {
    let reported = reported_protocols(config);
    // Whoever starts a plugin says what is wrong with its file.
    let wanted = |name: String| {
        let found = loader::find(&config.plugin_dir, &name, config.trust_any_plugin).ok()?;
        Some((name, set_of(&found.manifest.capabilities, &reported)))
    };
    loader::enabled(config).unwrap_or_default().into_iter().filter_map(wanted).collect()
}

/// Of names as in a plugin's manifest, those that are needed if these application protocols are
/// reported. Names that the kernel does not know are left out.
pub(crate) fn set_of(names: &[String], reported: &[&str]) -> CapabilitySet {
    let needed = |name: &String| match name.split_once('/') {
        None => CapabilitySet::from_name(name),
        Some((name, protocol)) if reported.contains(&protocol) => CapabilitySet::from_name(name),
        Some(_) => None,
    };
    names.iter().filter_map(needed).collect()
}

fn reported_protocols(config: &Config) -> Vec<&str> {
    let listed = config.collector.get("l7net").and_then(toml::Value::as_array);
    listed.into_iter().flatten().filter_map(toml::Value::as_str).collect()
}

/// Which of these this process does not have.
pub(crate) fn lacking(wanted: CapabilitySet) -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |held| wanted - held.effective)
}

fn port_of(address: Option<&str>) -> Option<u16> {
    address?.rsplit_once(':')?.1.parse().ok()
}

fn written_to(config: &Config) -> impl Iterator<Item = &Path> {
    let output = match &config.output {
        Output::File { path, .. } => path.as_deref(),
        Output::Datakit | Output::Console => None,
    };
    let Config { log, pidfile, stderr_file, spool_dir, .. } = config;
    [log, pidfile, stderr_file, spool_dir].into_iter().filter_map(Option::as_deref).chain(output)
}

/// Whether `path`, and the folder that it is or will be in, belong to the user that we run as.
/// Even root may write to others' only with a capability.
fn is_ours(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else { return false };
    let owner = |path: &Path| fs::metadata(path).ok().map(|facts| facts.uid());
    let folder = path.ancestors().skip(1).find_map(owner);
    let us = geteuid().as_raw();
    owner(&path).into_iter().chain(folder).all(|owner| owner == us)
}

/// The kernel knows nothing of capabilities beyond its last one.
fn bounding_set() -> CapabilitySet {
    let known = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    known.filter(|capability| capability_is_in_bounding_set(*capability) == Ok(true)).collect()
}

#[cfg(test)]
mod tests {
    use super::{NEEDS, is_ours, keep_list, names, set_of};
    use crate::cli;
    use rustix::thread::CapabilitySet;
    use std::ffi::OsString;
    use std::os::unix::fs::chown;
    use std::path::Path;

    #[test]
    fn capabilities_are_named_as_the_kernel_names_them() {
        let set = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        assert_eq!(names(set), ["CAP_NET_ADMIN", "CAP_BPF"]);
    }

    #[test]
    fn a_capability_for_a_protocol_is_needed_only_if_that_is_reported() {
        let wanted = ["NET_RAW".to_owned(), "SYS_ADMIN/some-flow".to_owned()];
        assert_eq!(set_of(&wanted, &["other-flow"]), CapabilitySet::NET_RAW);
        let both = CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
        assert_eq!(set_of(&wanted, &["other-flow", "some-flow"]), both);
    }

    #[test]
    fn what_the_configuration_asks_for_is_kept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let kept = |address: &str| {
            let words = ["x", "run", "--output", "console", "--log", log.to_str().unwrap()];
            let words = words.into_iter().chain(["--status-listen", address]);
            let command = cli::parse(words.map(OsString::from), [], Path::new("/plugins"));
            let cli::Command::Run(config) = command else { panic!("{command:?}") };
            names(keep_list(&config))
        };
        let usual: CapabilitySet = NEEDS.iter().map(|need| need.capability).collect();
        assert_eq!(kept("127.0.0.1:6061"), names(usual));
        assert_eq!(kept("[::1]:80"), names(usual | CapabilitySet::NET_BIND_SERVICE));
        assert_eq!(kept("none"), names(usual));
    }

    #[test]
    fn a_path_in_a_folder_of_ours_is_ours_even_before_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_ours(folder.path()));
        assert!(is_ours(&folder.path().join("later/log")));
    }

    #[test]
    fn a_path_in_somebody_elses_folder_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ours");
        std::fs::write(&ours, "").unwrap();
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(65534), None).unwrap();
            assert!(!is_ours(&ours));
            assert!(!is_ours(&folder.path().join("later/log")));
        } else {
            // What belongs to root.
            assert!(!is_ours(Path::new("/proc/version")));
        }
    }
}
