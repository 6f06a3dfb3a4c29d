//! An object into the kernel: maps made, constants set, probes attached. What comes out detaches
//! everything when it is dropped, and so does the end of the process, however it ends.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::RingBuf;
use aya::programs::{Iter, SocketFilter, UProbe};
use aya::{Btf, Ebpf, EbpfLoader};
use plugin_api::{ProbeStatus, ProbeVerdict};
use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cgroup;
use crate::iter::Iterator;
use crate::map::{Counters, Map, Number};
use crate::probe::{Hook, Policy, Probe, Site, Way};
use crate::raw;
use crate::ring::Ring;
use crate::uprobe::multi::{self, Multi};
use crate::usage::{Meter, Usage};

/// The object that the plugin's build script has left in `OUT_DIR` under this name, for [`load`].
/// The ELF parser needs it at a multiple of eight.
#[macro_export]
macro_rules! object {
    ($file:literal) => {{
        #[repr(C, align(8))]
        struct Aligned<T: ?Sized>(T);
        static ALIGNED: &Aligned<[u8]> =
            &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $file)));
        &ALIGNED.0
    }};
}

/// A constant of a program (`const volatile`) and the bytes that it is set to before the load.
#[derive(Debug, Clone, Copy)]
pub struct Global<'a> {
    /// Its name in C.
    pub name: &'static str,
    /// Its value, of exactly the C type's size, in the byte order of this machine.
    pub value: &'a [u8],
}

/// What is known of this host before anything is loaded.
#[derive(Debug)]
pub struct Facts {
    btf: Btf,
    cgroup: Option<File>,
    policy: Policy,
}

impl Facts {
    /// Looks at the running kernel. Programs find the layout of its types in its BTF.
    pub fn of_this_host() -> Result<Self> {
        let btf = Btf::from_sys_fs().context(
            "read /sys/kernel/btf/vmlinux: this kernel tells nothing of its types \
             (CONFIG_DEBUG_INFO_BTF), which ebpf plugins cannot do without",
        )?;
        let cgroup = cgroup::open_root()
            .inspect_err(|error| log::warn!(error:%; "no cgroup hooks on this host"))
            .ok();
        Ok(Self { btf, cgroup, policy: Policy::default() })
    }

    /// Keeps to what the operator allows.
    #[must_use]
    pub fn under(mut self, policy: &Policy) -> Self {
        self.policy = policy.clone();
        self
    }

    /// Whether programs can be attached to cgroups.
    pub fn has_cgroup(&self) -> bool {
        self.cgroup.is_some()
    }
}

/// A loaded object: its programs, links and maps.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
    /// Programs of uprobes, where the kernel can attach one to many places at once.
    multi: HashMap<&'static str, Multi>,
    verdicts: Vec<ProbeVerdict>,
}

/// Loads `object` and attaches `probes`, in their order.
pub fn load(
    facts: Facts,
    object: &[u8],
    globals: &[Global<'_>],
    probes: &[Probe],
) -> Result<Loaded> {
    load_sized(facts, object, globals, &[], probes)
}

/// The same, with other numbers of entries for some maps.
pub fn load_sized(
    facts: Facts,
    object: &[u8],
    globals: &[Global<'_>],
    sizes: &[(&'static str, u32)],
    probes: &[Probe],
) -> Result<Loaded> {
    // Kernels before 5.11 charge maps to this limit. Where it cannot be raised it rarely matters.
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        log::debug!(error:%; "memory lock limit stays");
    }
    let mut loader = EbpfLoader::new();
    // They are made all the same; programs need no wrapper for them, and `Map` has its own.
    loader.btf(Some(&facts.btf)).allow_unsupported_maps();
    for Global { name, value } in globals {
        loader.override_global(name, *value, true);
    }
    for (map, entries) in sizes {
        loader.map_max_entries(map, *entries);
    }
    let mut ebpf = loader.load(object).context(if geteuid().is_root() {
        "load the object"
    } else {
        "load the object, for which a user other than root needs the capabilities CAP_BPF, \
         CAP_PERFMON and CAP_NET_ADMIN, and before Linux 5.11 as much locked memory as it \
         likes (LimitMEMLOCK=infinity)"
    })?;
    let site = Site { policy: &facts.policy, btf: &facts.btf, cgroup: facts.cgroup.as_ref() };
    let verdicts: Vec<_> = probes.iter().map(|probe| probe.attach(&mut ebpf, &site)).collect();
    for (name, program) in ebpf.programs() {
        if let Ok(info) = program.info()
            && let Some(instructions) = info.verified_instruction_count()
        {
            log::debug!(program = name, instructions; "the verifier has passed a program");
        }
    }
    drop(loader);
    let is_uprobe = |way: &&Way| matches!(way.hook, Hook::Uprobe(_));
    let ways = probes.iter().flat_map(|probe| probe.ways).filter(is_uprobe);
    let uprobes: Vec<_> = ways.map(|way| way.program).collect();
    let multi = multi::load(object, &facts.btf, &ebpf, &uprobes)
        .inspect_err(
            |error| log::debug!(error:% = format!("{error:#}"); "uprobes are attached one by one"),
        )
        .unwrap_or_default();
    drop(facts);
    raw::trim_heap();
    if let Some(failed) = verdicts.iter().find(|verdict| verdict.status == ProbeStatus::Failed) {
        bail!("attach {}: {}", failed.name, failed.detail);
    }
    Ok(Loaded { ebpf, multi, verdicts })
}

impl Loaded {
    /// What became of each probe.
    pub fn verdicts(&self) -> &[ProbeVerdict] {
        &self.verdicts
    }

    /// Whether the probe of this name is attached.
    pub fn is_attached(&self, probe: &str) -> bool {
        let mut verdicts = self.verdicts.iter();
        verdicts.any(|verdict| verdict.name == probe && verdict.status == ProbeStatus::Attached)
    }

    /// What its programs have cost so far.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (_, program) in self.ebpf.programs() {
            if let Ok(descriptor) = program.fd() {
                usage.add(descriptor.as_fd());
            }
        }
        self.multi.values().for_each(|multi| usage.add(multi.program()));
        usage
    }

    /// The same for whoever does not have the object at hand.
    pub fn meter(&self) -> Result<Meter> {
        let loaded = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        let multi = self.multi.values().map(Multi::program);
        let all = loaded.map(AsFd::as_fd).chain(multi);
        let copies: std::io::Result<_> = all.map(|program| program.try_clone_to_owned()).collect();
        Ok(Meter::new(copies.context("duplicate the descriptors of programs")?))
    }

    /// A program to attach at run time; its probe has the hook
    /// [`crate::probe::Hook::Uprobe`].
    pub(crate) fn uprobe(&mut self, program: &str) -> Result<&mut UProbe> {
        let found = self.ebpf.program_mut(program);
        let found = found.ok_or_else(|| anyhow!("the object has no program {program}"))?;
        Ok(found.try_into()?)
    }

    /// The same for many places at once, if the kernel knows how.
    pub(crate) fn multi(&self, program: &str) -> Option<&Multi> {
        self.multi.get(program)
    }

    /// Opens a ring of records; once for each.
    pub fn ring(&mut self, name: &str) -> Result<Ring> {
        let map = self.ebpf.take_map(name).ok_or_else(|| no_map(name))?;
        Ok(Ring::new(RingBuf::try_from(map).with_context(|| format!("open ring {name}"))?))
    }

    /// Opens a per-CPU array of counters; once for each.
    pub fn counters(&mut self, name: &str) -> Result<Counters> {
        let map = self.ebpf.take_map(name).ok_or_else(|| no_map(name))?;
        Counters::open(map).with_context(|| format!("open counters {name}"))
    }

    /// Opens an array of one number that programs read; once for each.
    pub fn number(&mut self, name: &str) -> Result<Number> {
        let map = self.ebpf.take_map(name).ok_or_else(|| no_map(name))?;
        Number::open(map).with_context(|| format!("open number {name}"))
    }

    /// Opens a hash map, to take elements out of it.
    pub fn map<K, V>(&self, name: &str) -> Result<Map<K, V>>
    where
        K: IntoBytes + Immutable,
        V: FromBytes + IntoBytes,
    {
        let map = self.ebpf.map(name).ok_or_else(|| no_map(name))?;
        Map::open(map).with_context(|| format!("open map {name}"))
    }

    /// Lets a program decide what a socket receives, from now on.
    pub fn filter(&self, program: &str, socket: impl AsFd) -> Result<()> {
        let found = self.ebpf.program(program).context("no such program")?;
        let found: &SocketFilter = found.try_into()?;
        found.attach(socket.as_fd()).with_context(|| format!("attach filter {program}"))
    }

    /// Whether a program is loaded: that of the way that its probe takes.
    pub fn is_loaded(&self, program: &str) -> bool {
        self.ebpf.program(program).is_some_and(|found| found.fd().is_ok())
    }

    /// Opens an iterator program, over the elements of map `over` if it is one over a map.
    pub fn iterator(&self, program: &str, over: Option<&str>) -> Result<Iterator> {
        let found = self.ebpf.program(program).context("no such program")?;
        let found: &Iter = found.try_into()?;
        let program_fd = found.fd().with_context(|| format!("{program} is not loaded"))?;
        let map = over.map(|name| self.ebpf.map(name).ok_or_else(|| no_map(name))).transpose()?;
        let map = map.map(crate::map::fd_of).transpose()?;
        let link = raw::iter_link(program_fd.as_fd(), map)
            .with_context(|| format!("link iterator {program}"))?;
        Ok(Iterator::new(link))
    }
}

fn no_map(name: &str) -> anyhow::Error {
    anyhow!("the object has no map {name}")
}
