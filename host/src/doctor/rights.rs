//! Who we are and what we may: which capabilities lack, for what, and how to give them.

use std::path::Path;

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Finding, NEXT_LINE};
use crate::capabilities::{NEEDS, Need, names};

const WHAT: &str = "capabilities";

/// Looks at this process, as it is after it has given up what it does not need.
/// `may_gain` is whether it could have had more by way of its file when it was started.
pub(super) fn findings(may_gain: bool) -> Vec<Finding> {
    let user = if geteuid().is_root() { "root".into() } else { format!("{}", geteuid().as_raw()) };
    let Ok(held) = capabilities(None) else {
        return vec![Finding::good("user", user), Finding::good(WHAT, "not known")];
    };
    let us = std::env::current_exe().unwrap_or_else(|_| "datakit-ebpf".into());
    let [held, lacking] = rights(held.effective, &us, may_gain);
    vec![Finding::good("user", user), held, lacking]
}

/// What is there, and what lacks.
fn rights(effective: CapabilitySet, us: &Path, may_gain: bool) -> [Finding; 2] {
    const LACKING: &str = "  lacking";
    let (held, lacking): (Vec<Need>, Vec<Need>) =
        NEEDS.iter().partition(|need| effective.contains(need.capability));
    let listed = names(held.iter().map(|need| need.capability).collect()).join(", ");
    let held = Finding::good(WHAT, if listed.is_empty() { "none that help" } else { &listed });
    let lines: Vec<_> = lacking
        .iter()
        .map(|Need { capability, purpose, .. }| {
            format!("{}, to {purpose}", names(*capability).join(", "))
        })
        .collect();
    let found = if lines.is_empty() { "none".to_owned() } else { lines.join(NEXT_LINE) };
    let lacking = if lacking.iter().any(|need| need.is_required) {
        Finding::bad(LACKING, found, how_to_give(us, may_gain))
    } else {
        Finding::good(LACKING, found)
    };
    [held, lacking]
}

fn how_to_give(us: &Path, may_gain: bool) -> String {
    let wanted = NEEDS.iter().filter(|need| need.is_required).map(|need| need.capability);
    let list = names(wanted.collect()).join(",").to_lowercase();
    let command = format!("run it as root, or once as root: setcap {list}+ep {}", us.display());
    if may_gain {
        return command;
    }
    format!(
        "{command}; it was started without leave to gain rights, so take NoNewPrivileges= or \
         allowPrivilegeEscalation: false away first"
    )
}

#[cfg(test)]
mod tests {
    use super::{CapabilitySet, rights};
    use std::path::Path;

    fn lines(effective: CapabilitySet, may_gain: bool) -> String {
        let findings = rights(effective, Path::new("/opt/datakit-ebpf"), may_gain);
        findings.map(|finding| format!("{finding}\n")).concat()
    }

    #[test]
    fn all_that_lacks_is_named_with_the_line_that_gives_it() {
        let lines = lines(CapabilitySet::PERFMON, true);
        for name in ["CAP_BPF, to ", "CAP_NET_ADMIN, to ", "CAP_SYS_PTRACE, to "] {
            assert!(lines.contains(name), "{name}: {lines}");
        }
        let line = "setcap cap_net_admin,cap_perfmon,cap_bpf+ep /opt/datakit-ebpf\n";
        assert!(lines.contains(line), "{lines}");
        assert!(!lines.contains("CAP_PERFMON, to "), "{lines}");
    }

    #[test]
    fn with_all_that_is_required_there_is_nothing_to_do() {
        let all = lines(CapabilitySet::all(), true);
        assert!(!all.contains("->") && all.contains("CAP_NET_ADMIN"), "{all}");
        let some = lines(CapabilitySet::all() - CapabilitySet::SYS_PTRACE, true);
        assert!(!some.contains("->") && some.contains("CAP_SYS_PTRACE, to "), "{some}");
    }

    #[test]
    fn a_process_that_may_gain_nothing_is_told_why_setcap_does_not_help() {
        assert!(lines(CapabilitySet::empty(), false).contains("NoNewPrivileges="));
    }
}
