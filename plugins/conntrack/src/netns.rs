//! Which network namespaces there are, and how to get into one.
//!
//! A namespace is known by its inode. It is found through a process in it, or through a mount of
//! it; nothing of it is kept open, because that would keep it alive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Namespaces at most; a host with more has more containers than any runtime allows.
const MOST: usize = 4096;

/// The namespace that the calling thread is in.
pub(crate) const OWN: &str = "/proc/thread-self/ns/net";

/// The inode of the namespace that this thread is in.
pub(crate) fn own() -> Result<u32> {
    Ok(fs::metadata(OWN).context("look at our own network namespace")?.ino() as u32)
}

/// All that can be found now, with a path to each, and how many were too many.
pub(crate) fn find() -> (BTreeMap<u32, PathBuf>, u64) {
    let mut found = BTreeMap::new();
    let mut refused = 0;
    let mut add = |inode: u32, path: PathBuf| {
        if found.len() < MOST || found.contains_key(&inode) {
            found.entry(inode).or_insert(path);
        } else {
            refused += 1;
        }
    };
    // Mounts first: they outlive processes. Those of process 1 are the host's.
    for process in ["self", "1"] {
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
        for (inode, path) in mounted(&mounts) {
            let root = PathBuf::from(format!("/proc/{process}/root"));
            add(inode, root.join(path.trim_start_matches('/')));
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let path = entry.path().join("ns/net");
        // A process may be gone by now, and kernel threads have none.
        let Ok(link) = fs::read_link(&path) else { continue };
        if let Some(inode) = link.to_str().and_then(inode_in) {
            add(inode, path);
        }
    }
    (found, refused)
}

/// Opens a namespace that was found, if it is still the same one.
pub(crate) fn open(inode: u32, path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let now = file.metadata().with_context(|| format!("look at {}", path.display()))?.ino();
    ensure!(now == u64::from(inode), "{} is another network namespace by now", path.display());
    Ok(file)
}

/// Runs `inside` in a namespace, on a thread that ends with it.
pub(crate) fn enter<T: Send>(
    namespace: &File,
    inside: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("conntrack-netns".into());
        let thread = thread
            .spawn_scoped(scope, || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network)
                    .context("enter a network namespace, which needs CAP_SYS_ADMIN")?;
                inside()
            })
            .context("start a thread")?;
        thread.join().map_err(|_| anyhow!("panic in a network namespace"))?
    })
}

/// `net:[4026531840]`
fn inode_in(link: &str) -> Option<u32> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Namespaces that are mounted somewhere, as `ip netns` does it, and where.
fn mounted(mountinfo: &str) -> impl Iterator<Item = (u32, String)> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let inode = inode_in(fields.next()?)?;
        Some((inode, unescape(fields.next()?)))
    })
}

/// The kernel writes blanks in paths as `\040` and the like.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (escaped, plain)| path.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::{enter, find, mounted, open, own};
    use nix::sched::{CloneFlags, unshare};
    use std::fs::File;
    use std::path::Path;
    use std::thread;

    #[test]
    fn mounted_namespaces_are_found_by_their_inode() {
        let mounts = "31 23 0:28 / /sys rw - sysfs sysfs rw\n\
                      99 30 0:4 net:[4026532280] /run/netns/a\\040b rw shared:9 - nsfs nsfs rw\n\
                      98 30 0:4 mnt:[4026532281] /run/x rw - nsfs nsfs rw\n";
        let found: Vec<_> = mounted(mounts).collect();
        assert_eq!(found, [(4_026_532_280, "/run/netns/a b".to_owned())]);
    }

    #[test]
    fn our_own_namespace_is_found_and_can_be_entered() {
        let own = own().unwrap();
        let (found, refused) = find();
        let file = open(own, &found[&own]).unwrap();
        assert_eq!(enter(&file, super::own).unwrap(), own);
        assert_eq!(refused, 0);
        assert!(open(own + 1, &found[&own]).is_err(), "it is another one");
    }

    #[test]
    fn entering_a_namespace_moves_no_other_thread() {
        let before = own().unwrap();
        let other = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let other = other.join().unwrap();
        let inside = enter(&other, super::own).unwrap();
        assert_ne!(inside, before);
        assert_eq!(own().unwrap(), before);
        assert!(open(inside, Path::new("/proc/thread-self/ns/net")).is_err());
    }
}
