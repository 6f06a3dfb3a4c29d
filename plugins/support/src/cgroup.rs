//! Where the cgroup v2 hierarchy is mounted: `/sys/fs/cgroup`, or somewhere below it on hosts
//! that still run version 1 beside it.

use std::fs::{self, File};

use anyhow::{Context as _, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Opens the root of the cgroup v2 hierarchy.
pub(crate) fn open_root() -> Result<File> {
    let mounts = fs::read_to_string(MOUNTINFO).with_context(|| format!("read {MOUNTINFO}"))?;
    let path = find_root(&mounts).context(
        "no cgroup v2 hierarchy is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup",
    )?;
    File::open(path).with_context(|| format!("open cgroup v2 root {path}"))
}

/// The mount point of the first cgroup v2 mount that shows the hierarchy's root.
fn find_root(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        // See proc_pid_mountinfo(5): optional fields end at a lone hyphen.
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (filesystem.starts_with("cgroup2 ") && root == "/").then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::find_root;

    #[test]
    fn the_hierarchy_is_found_beside_version_1() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:2 - cgroup2 none rw\n";
        assert_eq!(find_root(mounts), Some("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_bind_mount_of_a_part_of_the_hierarchy_is_not_its_root() {
        let mounts = "41 31 0:38 /kubepods /mnt rw - cgroup2 none rw\n";
        assert_eq!(find_root(mounts), None);
    }
}
