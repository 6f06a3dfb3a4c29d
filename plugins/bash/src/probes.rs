//! What this plugin loads, and what it cannot do without which. All but the first are attached to
//! files as they appear.

use plugin_support::probe::{Hook, Need, Probe, Way};

pub(crate) const PARSE_ENTRY: &str = "parse_entry";
pub(crate) const PARSE_RET: &str = "parse_ret";
pub(crate) const PARSE_RETURN: &str = "parse_return";
pub(crate) const READLINE_ENTRY: &str = "readline_entry";
pub(crate) const READLINE_RET: &str = "readline_ret";
pub(crate) const READLINE_RETURN: &str = "readline_return";

pub(crate) const ZLE_ENTRY: &str = "zle_entry";
pub(crate) const ZLE_RET: &str = "zle_ret";

pub(crate) const LINE_ENTERED: &str = "line is entered";
pub(crate) const COMMAND_BEGINS: &str = "command begins";
pub(crate) const COMMAND_ENDS: &str = "command ends";

const JOINING: Need = Need::Optional("commands of several lines as one: each line is one");

const ZSH: Need = Need::Optional("commands typed into zsh");

pub(crate) const PROBES: &[Probe] = &[
    Probe {
        name: "start of a shell",
        need: Need::Optional("a shell as soon as it starts: it is found within ten seconds"),
        ways: &[
            Way { program: "sched_process_exec", hook: Hook::Tracepoint("sched_process_exec") },
            Way { program: "exec_untyped", hook: Hook::UntypedTracepoint("sched_process_exec") },
        ],
    },
    Probe {
        name: "line is asked for",
        need: Need::Required,
        ways: &[Way { program: READLINE_ENTRY, hook: Hook::Uprobe("readline") }],
    },
    Probe {
        name: LINE_ENTERED,
        need: Need::Required,
        ways: &[Way { program: READLINE_RET, hook: Hook::Uprobe("readline") }],
    },
    Probe {
        name: "line is entered, where the end of readline is not found",
        need: Need::Optional("builds of shells whose code is not understood"),
        ways: &[Way { program: READLINE_RETURN, hook: Hook::Uprobe("readline") }],
    },
    Probe {
        name: "line is asked for, in zsh",
        need: ZSH,
        ways: &[Way { program: ZLE_ENTRY, hook: Hook::Uprobe("zleentry") }],
    },
    Probe {
        name: "line is entered, in zsh",
        need: ZSH,
        ways: &[Way { program: ZLE_RET, hook: Hook::Uprobe("zleentry") }],
    },
    Probe {
        name: COMMAND_BEGINS,
        need: JOINING,
        ways: &[Way { program: PARSE_ENTRY, hook: Hook::Uprobe("parse_command") }],
    },
    Probe {
        name: COMMAND_ENDS,
        need: JOINING,
        ways: &[Way { program: PARSE_RET, hook: Hook::Uprobe("parse_command") }],
    },
    Probe {
        name: "command ends, where the end of its parser is not found",
        need: JOINING,
        ways: &[Way { program: PARSE_RETURN, hook: Hook::Uprobe("parse_event") }],
    },
];

#[cfg(test)]
mod tests {
    use super::PROBES;
    use bpf::bash::OBJECT;
    use plugin_api::ProbeStatus;
    use plugin_support::loader::{Facts, Global, load};

    #[test]
    fn every_program_passes_the_verifier_and_attaches_here() {
        // The kernel leaves out code that is not reached: all of it, and as little as there is.
        for bits in [u32::MAX, 0] {
            let bits = bits.to_ne_bytes();
            let globals = ["flavours", "context_parts"].map(|name| Global { name, value: &bits });
            let loaded = load(Facts::of_this_host().unwrap(), OBJECT, &globals, PROBES).unwrap();
            for verdict in loaded.verdicts() {
                assert_eq!(verdict.status, ProbeStatus::Attached, "{verdict:?}");
            }
            assert_eq!(loaded.verdicts().len(), PROBES.len());
        }
    }
}
