//! Uprobes, attached at run time: to a file, by what the kernel calls it, for as long as somebody
//! keeps it. Comes in: a [`Target`], found through a process, and spots in its code. Goes out:
//! links, owned here, one set per file. Which files are in use, its caller must know.
//!
//! The kernel knows a probed file by its inode. A file of an overlay has another inode for
//! everybody else than for the kernel, and two overlays may share it: programs must bear to run
//! more than once for one hit. Pairs of programs, of which the second takes what the first left,
//! do so by nature.

mod golang;
pub(crate) mod multi;
mod places;
mod symbols;
mod target;

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread::{self, Builder};

use anyhow::{Context as _, Result};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::util::KernelVersion;

pub use crate::uprobe::places::Place;
pub use crate::uprobe::symbols::{Code, Kept, Symbol};
pub use crate::uprobe::target::{FileId, Target};

use crate::loader::Loaded;

/// Where in a file a program goes. Whether it runs there or when the function that begins there
/// returns is up to the program's section, `uprobe` or `uretprobe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The BPF program; its probe has the hook [`crate::probe::Hook::Uprobe`].
    pub program: &'static str,
    /// Offset in the file, as [`Symbol`] has it.
    pub offset: u64,
    /// What `bpf_get_attach_cookie` returns in the program; needs Linux 5.15.
    pub cookie: Option<u64>,
}

impl Spot {
    /// A spot without a cookie.
    pub fn new(program: &'static str, offset: u64) -> Self {
        Self { program, offset, cookie: None }
    }
}

/// Whether programs can be told of their spot: see [`Spot::cookie`].
pub fn has_cookies() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 15, 0))
}

/// Files with programs attached. Detaches when dropped, and when the process ends.
#[derive(Debug, Default)]
pub struct Uprobes {
    links: HashMap<FileId, Vec<Link>>,
}

/// Detaches when it is dropped.
#[derive(Debug)]
enum Link {
    /// A program at one place.
    One(#[expect(dead_code, reason = "it is dropped")] UProbeLink),
    /// A program at all of its places.
    Many(#[expect(dead_code, reason = "it is dropped")] OwnedFd),
}

impl Uprobes {
    /// Attaches to all of the spots, or to none. A file that has programs already keeps them and
    /// gets no more.
    pub fn attach(&mut self, loaded: &mut Loaded, target: &Target, spots: &[Spot]) -> Result<()> {
        if self.links.contains_key(&target.id()) {
            return Ok(());
        }
        // Whatever the name leads to by now, in whatever root: this is the file that was looked at.
        let path = format!("/proc/self/fd/{}", target.file().as_raw_fd());
        let mut links = Vec::new();
        let mut left = spots;
        while let Some(first) = left.first() {
            // Spots of a program that follow each other are attached at once, where that is known.
            let together = left.iter().take_while(|spot| spot.program == first.program).count();
            let (now, later) = left.split_at(together);
            attach_to(loaded, target, &path, now, &mut links)?;
            left = later;
        }
        self.links.insert(target.id(), links);
        Ok(())
    }

    /// Whether a file has programs attached.
    pub fn is_attached(&self, file: FileId) -> bool {
        self.links.contains_key(&file)
    }

    /// Detaches from all files but those to keep. The kernel keeps a file system busy while one of
    /// its files is probed, so this should happen soon after the last use.
    pub fn retain(&mut self, mut is_used: impl FnMut(FileId) -> bool) {
        let unused = self.links.extract_if(|file, _| !is_used(*file));
        detach(unused.flat_map(|(_, links)| links).collect());
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

impl Drop for Uprobes {
    fn drop(&mut self) {
        detach(self.links.drain().flat_map(|(_, links)| links).collect());
    }
}

/// Attaches one program.
fn attach_to(
    loaded: &mut Loaded,
    target: &Target,
    path: &str,
    spots: &[Spot],
    links: &mut Vec<Link>,
) -> Result<()> {
    let Some(Spot { program, .. }) = spots.first() else { return Ok(()) };
    if let Some(multi) = loaded.multi(program) {
        let offsets: Vec<u64> = spots.iter().map(|spot| spot.offset).collect();
        let has_cookies = spots.iter().any(|spot| spot.cookie.is_some());
        let cookies: Vec<u64> = spots.iter().map(|spot| spot.cookie.unwrap_or_default()).collect();
        let link = multi
            .attach(path, &offsets, if has_cookies { &cookies } else { &[] })
            .with_context(|| format!("attach {program} to {}", target.name()))?;
        links.push(Link::Many(link));
        return Ok(());
    }
    for Spot { offset, cookie, .. } in spots {
        let context = || format!("attach {program} to {} at {offset:#x}", target.name());
        let uprobe = loaded.uprobe(program)?;
        let location = UProbeAttachLocation::AbsoluteOffset(*offset);
        let point = UProbeAttachPoint { location, cookie: *cookie };
        let link = uprobe.attach(point, path, UProbeScope::AllProcesses).with_context(context)?;
        links.push(Link::One(uprobe.take_link(link).with_context(context)?));
    }
    Ok(())
}

/// Detaches side by side: for each link the kernel waits until no processor can be in the program,
/// up to some hundred milliseconds, and those who wait at the same time wait together.
fn detach(mut links: Vec<Link>) {
    const AT_ONCE: usize = 32;
    let share = links.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        while !links.is_empty() {
            let mine = links.split_off(links.len().saturating_sub(share));
            let helper = Builder::new().name("detach".into());
            if let Err(error) = helper.spawn_scoped(scope, move || drop(mine)) {
                // They were dropped here instead.
                log::debug!(error:%; "no thread to detach in");
            }
        }
    });
}
