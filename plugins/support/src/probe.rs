//! Probes as data: one table per plugin, each row a logical hook with its ways to attach, the
//! best one first, and what it is needed for.

use std::fs::File;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, FEntry, FExit,
    Iter, Program, RawTracePoint, SockOps, SocketFilter, UProbe,
};
use aya::{Btf, Ebpf};
use plugin_api::{ProbeStatus, ProbeVerdict};

/// A logical hook.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// What it observes, in words.
    pub name: &'static str,
    /// What happens without it.
    pub need: Need,
    /// Ways to attach it; the first one that this kernel takes is used.
    pub ways: &'static [Way],
}

/// What a probe is needed for.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The plugin cannot run without it.
    Required,
    /// Without it, this feature is missing.
    Optional(&'static str),
}

/// One way to attach a probe.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The name of the BPF program; empty for a hook that has none.
    pub program: &'static str,
    /// Where it goes.
    pub hook: Hook,
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    /// A tracepoint, with typed arguments (`tp_btf`).
    Tracepoint(&'static str),
    /// A tracepoint, with arguments as they come (`raw_tp`).
    UntypedTracepoint(&'static str),
    /// The entry of a function of the kernel, with typed arguments (`fentry`).
    Entry(&'static str),
    /// The return of a function of the kernel, with typed arguments (`fexit`).
    Return(&'static str),
    /// Events of TCP sockets, of all cgroups.
    SocketEvents,
    /// Packets that arrive at sockets, of all cgroups.
    SocketIngress,
    /// Packets that sockets send, of all cgroups.
    SocketEgress,
    /// The creation (`sock_create`) or release (`sock_release`) of sockets, of all cgroups.
    Socket(&'static str),
    /// A function of user space; loaded only, and attached by [`crate::uprobe`].
    Uprobe(&'static str),
    /// An iterator; loaded only, and run by [`crate::iter`].
    Iterator(&'static str),
    /// The same over the elements of a map, which hardened kernels refuse.
    MapIterator(&'static str),
    /// No program: user space looks up all elements of this map.
    LookUps(&'static str),
    /// What one socket of the plugin's own lets through; loaded only, and attached by
    /// [`crate::loader::Loaded::filter`].
    SocketFilter,
}

impl Hook {
    fn describe(self) -> String {
        match self {
            Self::Tracepoint(name) => format!("tp_btf/{name}"),
            Self::UntypedTracepoint(name) => format!("raw_tp/{name}"),
            Self::Entry(name) => format!("fentry/{name}"),
            Self::Return(name) => format!("fexit/{name}"),
            Self::SocketEvents => "sockops".into(),
            Self::SocketIngress => "cgroup_skb/ingress".into(),
            Self::SocketEgress => "cgroup_skb/egress".into(),
            Self::Socket(name) => format!("cgroup/{name}"),
            Self::Uprobe(name) => format!("uprobe/{name}"),
            Self::Iterator(name) | Self::MapIterator(name) => format!("iter/{name}"),
            Self::LookUps(map) => format!("look-ups of {map}"),
            Self::SocketFilter => "socket".into(),
        }
    }
}

/// Kinds of hooks that an operator forbids, or a test, to see the other ways at work.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Policy {
    forbidden: Vec<String>,
}

/// A word that forbids, and what.
type Prohibition = (&'static str, fn(Hook) -> bool);

/// All of them.
const PROHIBITIONS: [Prohibition; 6] = [
    ("no-tp-btf", |hook| matches!(hook, Hook::Tracepoint(_))),
    ("no-fentry", |hook| matches!(hook, Hook::Entry(_) | Hook::Return(_))),
    // No plugin of this repository has a way that is one.
    ("no-kprobe", |_| false),
    ("no-uprobe", |hook| matches!(hook, Hook::Uprobe(_))),
    ("no-cgroup", |hook| {
        matches!(
            hook,
            Hook::SocketIngress | Hook::SocketEgress | Hook::Socket(_) | Hook::SocketEvents
        )
    }),
    ("no-map-iter", |hook| matches!(hook, Hook::MapIterator(_))),
];

impl Policy {
    /// Out of the setting `probe_policy`. A word that is not known may forbid what is about to be
    /// done, so it is an error.
    pub fn parse(words: &[String]) -> Result<Self> {
        let known =
            |word: &&String| *word == "auto" || PROHIBITIONS.iter().any(|(name, _)| name == word);
        if let Some(unknown) = words.iter().find(|word| !known(word)) {
            bail!("probe_policy = {unknown:?}: this plugin does not know what that forbids");
        }
        Ok(Self { forbidden: words.to_vec() })
    }

    /// The word that forbids a hook.
    fn against(&self, hook: Hook) -> Option<&'static str> {
        let forbids = |(word, covers): &(&'static str, fn(Hook) -> bool)| {
            (self.forbidden.iter().any(|said| said == word) && covers(hook)).then_some(*word)
        };
        PROHIBITIONS.iter().find_map(forbids)
    }
}

/// What attaching needs beside the program.
pub(crate) struct Site<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) btf: &'a Btf,
    pub(crate) cgroup: Option<&'a File>,
}

impl Probe {
    /// Attaches the first way that works. The links belong to `ebpf`.
    pub(crate) fn attach(&self, ebpf: &mut Ebpf, site: &Site<'_>) -> ProbeVerdict {
        let mut refusals = Vec::new();
        for way in self.ways {
            match way.attach(ebpf, site) {
                Ok(()) => return self.verdict(way, ProbeStatus::Attached, String::new()),
                Err(error) => {
                    let (hook, error) = (way.hook.describe(), format!("{error:#}"));
                    log::debug!(hook, error; "a way to attach is refused");
                    refusals.push(format!("{hook}: {}", brief(&error)));
                }
            }
        }
        let refusals = refusals.join("; ");
        let last = self.ways.last().map_or_else(String::new, |way| way.hook.describe());
        match self.need {
            Need::Required => self.refused(last, ProbeStatus::Failed, refusals),
            Need::Optional(feature) => {
                let separator = if refusals.is_empty() { "" } else { ": " };
                let detail = format!("without {feature}{separator}{refusals}");
                self.refused(last, ProbeStatus::Missing, detail)
            }
        }
    }

    fn verdict(&self, way: &Way, status: ProbeStatus, detail: String) -> ProbeVerdict {
        self.refused(way.hook.describe(), status, detail)
    }

    fn refused(&self, hook: String, status: ProbeStatus, detail: String) -> ProbeVerdict {
        ProbeVerdict { name: self.name.into(), hook: hook.into(), status, detail: detail.into() }
    }
}

impl Way {
    fn attach(self, ebpf: &mut Ebpf, site: &Site<'_>) -> Result<()> {
        if let Some(word) = site.policy.against(self.hook) {
            bail!("forbidden by {word} in --probe-policy");
        }
        if let Hook::LookUps(map) = self.hook {
            return ebpf.map(map).map(drop).with_context(|| format!("the object has no map {map}"));
        }
        let program = ebpf
            .program_mut(self.program)
            .ok_or_else(|| anyhow!("the object has no program {}", self.program))?;
        match self.hook {
            Hook::Tracepoint(name) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(name, site.btf).context("load")?;
                program.attach().context("attach")?;
            }
            Hook::UntypedTracepoint(name) => {
                let program: &mut RawTracePoint = program.try_into()?;
                program.load().context("load")?;
                program.attach(name).context("attach")?;
            }
            Hook::Entry(name) => {
                let program: &mut FEntry = program.try_into()?;
                program.load(name, site.btf).context("load")?;
                program.attach().context("attach")?;
            }
            Hook::Return(name) => {
                let program: &mut FExit = program.try_into()?;
                program.load(name, site.btf).context("load")?;
                program.attach().context("attach")?;
            }
            Hook::SocketEvents => {
                let program: &mut SockOps = program.try_into()?;
                program.load().context("load")?;
                program.attach(site.cgroup()?, CgroupAttachMode::Single).context("attach")?;
            }
            Hook::SocketIngress => attach_skb(program, site, CgroupSkbAttachType::Ingress)?,
            Hook::SocketEgress => attach_skb(program, site, CgroupSkbAttachType::Egress)?,
            Hook::Socket(_) => {
                let program: &mut CgroupSock = program.try_into()?;
                program.load().context("load")?;
                program.attach(site.cgroup()?, CgroupAttachMode::Single).context("attach")?;
            }
            Hook::Uprobe(_) => {
                let program: &mut UProbe = program.try_into()?;
                program.load().context("load")?;
            }
            Hook::LookUps(_) => {}
            Hook::Iterator(name) | Hook::MapIterator(name) => {
                let program: &mut Iter = program.try_into()?;
                program.load(name, site.btf).context("load")?;
            }
            Hook::SocketFilter => {
                let program: &mut SocketFilter = program.try_into()?;
                program.load().context("load")?;
            }
        }
        Ok(())
    }
}

/// A verifier's log has thousands of lines, of which the last ones say why.
fn brief(error: &str) -> String {
    const LAST: usize = 8;
    let lines: Vec<_> = error.lines().collect();
    match lines.as_slice() {
        [first, rest @ ..] if rest.len() > LAST => {
            format!("{first} ... {}", rest[rest.len() - LAST..].join("; "))
        }
        _ => error.to_owned(),
    }
}

fn attach_skb(program: &mut Program, site: &Site<'_>, way: CgroupSkbAttachType) -> Result<()> {
    let program: &mut CgroupSkb = program.try_into()?;
    program.load().context("load")?;
    let attached = program.attach(site.cgroup()?, way, CgroupAttachMode::Single);
    attached.context("attach, for which some kernels want CAP_NET_ADMIN too")?;
    Ok(())
}

impl Site<'_> {
    fn cgroup(&self) -> Result<&File> {
        self.cgroup.context("no cgroup v2 hierarchy is mounted")
    }
}

#[cfg(test)]
mod tests {
    use super::{Hook, Policy, brief};

    fn policy(words: &[&str]) -> anyhow::Result<Policy> {
        Policy::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn of_a_long_error_the_beginning_and_the_end_are_told() {
        let long: Vec<_> = (0..1000).map(|line| format!("line {line}")).collect();
        let told = brief(&long.join("\n"));
        assert!(told.starts_with("line 0 ... line 992; "), "{told}");
        assert!(told.ends_with("; line 999"), "{told}");
        assert_eq!(brief("load: no\nmemory"), "load: no\nmemory");
    }

    #[test]
    fn auto_forbids_nothing() {
        let auto = policy(&["auto"]).unwrap();
        assert_eq!(auto.against(Hook::Tracepoint("sched_process_exec")), None);
        assert_eq!(auto.against(Hook::Entry("tcp_sendmsg")), None);
    }

    #[test]
    fn a_word_forbids_its_kind_of_hook_alone() {
        let none = policy(&["no-fentry", "no-cgroup"]).unwrap();
        assert_eq!(none.against(Hook::Entry("tcp_sendmsg")), Some("no-fentry"));
        assert_eq!(none.against(Hook::SocketEgress), Some("no-cgroup"));
        assert_eq!(none.against(Hook::Tracepoint("sched_process_exec")), None);
    }

    #[test]
    fn a_word_that_is_not_known_is_an_error_that_says_it() {
        let error = policy(&["no-fentry", "no-telling"]).unwrap_err();
        assert!(error.to_string().contains("no-telling"), "{error}");
    }
}
