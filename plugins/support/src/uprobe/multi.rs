//! The programs of uprobes once more, loaded such that one link takes a program to many places of a
//! file (Linux 6.6, `BPF_TRACE_UPROBE_MULTI`). Comes in: an object whose maps are made already. Goes
//! out: programs by name; none where the kernel does not know how.
//!
//! The other kind of link is one per place, and the kernel takes them away one after the other, each
//! within some ten or hundred milliseconds: it would take seconds to stop.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::Map;
use aya::{Btf, Ebpf};
use aya_obj::{Object, ProgramSection};
use rustix::io::Errno;

use crate::raw;

/// A program that is loaded.
#[derive(Debug)]
pub(crate) struct Multi {
    program: OwnedFd,
    /// It runs where a function returns.
    at_return: bool,
}

impl Multi {
    /// Attaches it; the link detaches when it is closed. `cookies` is empty, or has one for each offset.
    pub(crate) fn attach(&self, path: &str, offsets: &[u64], cookies: &[u64]) -> Result<OwnedFd> {
        let program = self.program.as_fd();
        Ok(raw::uprobe_link(program, path, offsets, cookies, self.at_return)?)
    }

    /// Whether the kernel knows such links: then it says that a folder has no code.
    fn can_be_attached(&self) -> bool {
        let link = raw::uprobe_link(self.program.as_fd(), "/", &[0], &[], self.at_return);
        link.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BADF))
    }

    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Loads these programs of an object.
pub(crate) fn load(
    object: &[u8],
    btf: &Btf,
    ebpf: &Ebpf,
    names: &[&'static str],
) -> Result<HashMap<&'static str, Multi>> {
    // To take an object apart is a fifth of what a start costs.
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let mut object = Object::parse(object).context("parse the object")?;
    object.relocate_btf(btf).context("find the layout of the kernel's types")?;
    let known: HashMap<_, _> = object.maps.drain().collect();
    let mut maps = Vec::new();
    for (name, map) in ebpf.maps() {
        if let Some(description) = known.get(name) {
            let descriptor = fd_of(map).with_context(|| format!("open map {name}"))?;
            maps.push((name, descriptor.as_raw_fd(), description));
        }
    }
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(maps.into_iter(), &sections).context("join programs with maps")?;
    object.relocate_calls(&sections).context("join programs with functions")?;
    let mut loaded = HashMap::new();
    for name in names {
        let program = object.programs.get(*name).context("the object has no such program")?;
        let at_return = match program.section {
            ProgramSection::UProbe { .. } => false,
            ProgramSection::URetProbe { .. } => true,
            _ => bail!("{name} is no uprobe"),
        };
        let function = object.functions.get(&program.function_key()).context("it has no code")?;
        let program = raw::uprobe_load(name, &function.instructions, &program.license)
            .with_context(|| format!("load {name}"))?;
        let multi = Multi { program, at_return };
        // Kernels before 6.6 load the program and do not look at what it is for.
        ensure!(multi.can_be_attached(), "the kernel does not know such links");
        loaded.insert(*name, multi);
    }
    Ok(loaded)
}

fn fd_of(map: &Map) -> Result<BorrowedFd<'_>> {
    Ok(match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Unsupported(data) => data.fd().as_fd(),
        other => bail!("no program has a map like this yet: {other:?}"),
    })
}
