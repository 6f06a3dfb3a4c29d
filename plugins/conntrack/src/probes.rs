//! What this plugin attaches, and what it cannot do without which.

use plugin_api::{ProbeStatus, ProbeVerdict};
use plugin_support::probe::{Hook, Need, Probe, Way};

pub(crate) const FILTER: &str = "only_translated";

pub(crate) const PROBES: &[Probe] = &[Probe {
    name: "filter of events",
    need: Need::Optional("sorting out connections that are not translated before they reach us"),
    ways: &[Way { program: FILTER, hook: Hook::SocketFilter }],
}];

/// What is attached without BPF. What is required is there, or the plugin has not started.
pub(crate) fn verdicts(other_namespaces: Option<&str>) -> Vec<ProbeVerdict> {
    let verdict = |name: &str, hook: &str, missing: Option<&str>| ProbeVerdict {
        name: name.into(),
        hook: hook.into(),
        status: if missing.is_some() { ProbeStatus::Missing } else { ProbeStatus::Attached },
        detail: missing.unwrap_or_default().into(),
    };
    vec![
        verdict("connections that are open", "ctnetlink dump", None),
        verdict("connections that open and end", "ctnetlink events", None),
        verdict("other network namespaces", "NETLINK_LISTEN_ALL_NSID", other_namespaces),
    ]
}

#[cfg(test)]
mod tests {
    use super::{FILTER, PROBES};
    use bpf::conntrack::OBJECT;
    use plugin_api::ProbeStatus;
    use plugin_support::loader::{Facts, load};

    #[test]
    fn every_program_passes_the_verifier_and_attaches_here() {
        let loaded = load(Facts::of_this_host().unwrap(), OBJECT, &[], PROBES).unwrap();
        for verdict in loaded.verdicts() {
            assert_eq!(verdict.status, ProbeStatus::Attached, "{verdict:?}");
        }
        let (socket, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        loaded.filter(FILTER, &socket).unwrap();
    }
}
