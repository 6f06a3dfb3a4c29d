//! Processes with TLS that cannot be seen, and why: a list that is bounded, and short for people.
//! That is no fault of the plugin, so it is a remark and no missing probe.

use std::collections::BTreeMap;
use std::fs;

use plugin_api::{ProbeStatus, ProbeVerdict};

/// Processes that are remembered between two looks at all of them.
const MOST: usize = 4096;
/// Those that are named one by one in `/status`.
const MOST_SHOWN: usize = 32;

/// Processes, and why each cannot be seen.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// With the sentence on each.
    processes: BTreeMap<u32, String>,
}

impl Unseen {
    /// A look at all processes begins.
    pub(super) fn begin(&mut self) {
        self.processes.clear();
    }

    /// What a look at a process has shown; `None`: there is nothing that cannot be seen.
    pub(super) fn tell(&mut self, pid: u32, reason: Option<String>) {
        match reason {
            Some(reason) if self.processes.len() < MOST => {
                self.processes.insert(pid, format!("{} (pid {pid}): {reason}", name_of(pid)));
            }
            _ => {
                self.processes.remove(&pid);
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.processes.len()
    }

    /// As operators read it.
    pub(super) fn verdict(&self) -> ProbeVerdict {
        let shown: Vec<_> = self.processes.values().take(MOST_SHOWN).map(String::as_str).collect();
        let more = self.processes.len().saturating_sub(MOST_SHOWN);
        let detail = match (shown.is_empty(), more) {
            (true, _) => String::new(),
            (false, 0) => format!("not seen: {}", shown.join("; ")),
            (false, more) => format!("not seen: {}; and {more} more", shown.join("; ")),
        };
        ProbeVerdict {
            name: "TLS of processes".into(),
            hook: "uprobe".into(),
            status: ProbeStatus::Attached,
            detail: detail.into(),
        }
    }
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{MOST, MOST_SHOWN, Unseen};

    #[test]
    fn a_process_is_told_with_its_reason_until_it_can_be_seen() {
        let mut unseen = Unseen::default();
        assert_eq!(unseen.verdict().detail.as_str(), "");
        unseen.tell(std::process::id(), Some("it is Java".into()));
        let detail = unseen.verdict().detail;
        assert!(detail.contains(&format!("(pid {}): it is Java", std::process::id())), "{detail}");
        unseen.tell(std::process::id(), None);
        assert_eq!(unseen.count(), 0);
    }

    #[test]
    fn what_is_kept_and_what_is_shown_is_bounded() {
        let mut unseen = Unseen::default();
        for pid in 0..MOST as u32 + 100 {
            unseen.tell(4_000_000 + pid, Some("x".into()));
        }
        assert_eq!(unseen.count(), MOST);
        let detail = unseen.verdict().detail;
        assert_eq!(detail.matches("(pid").count(), MOST_SHOWN);
        assert!(detail.ends_with(&format!("and {} more", MOST - MOST_SHOWN)), "{detail}");
    }
}
