//! A file that a process runs or has mapped, found through that process: its name means nothing
//! in another root, and may lead to another file by now.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use crate::process;

/// Which file it is, as `stat` says. Inodes of files that are gone are given to others, so the time
/// of the last change belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Display for FileId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        write!(formatter, "device {major}:{minor}, inode {}", self.inode)
    }
}

impl FileId {
    /// Of the file that process `pid` runs.
    pub fn of_executable(pid: u32) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(executable(pid))?))
    }

    fn of(metadata: &fs::Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), changed }
    }
}

/// An open file to attach to.
#[derive(Debug)]
pub struct Target {
    file: File,
    id: FileId,
    name: String,
}

impl Target {
    /// What process `pid` runs.
    pub fn executable(pid: u32) -> io::Result<Self> {
        let path = executable(pid);
        let name = fs::read_link(&path)?.to_string_lossy().into_owned();
        Self::new(File::open(path)?, name)
    }

    /// The first file that process `pid` has mapped as code and whose path `is_wanted`; `None` if
    /// there is none, or not yet.
    pub fn mapped(pid: u32, is_wanted: impl Fn(&str) -> bool) -> io::Result<Option<Self>> {
        let maps = fs::read(format!("/proc/{pid}/maps"))?;
        let maps = String::from_utf8_lossy(&maps);
        let Some((range, path)) = maps.lines().filter_map(code_mapping).find(|(_, p)| is_wanted(p))
        else {
            return Ok(None);
        };
        let file = File::open(format!("/proc/{pid}/map_files/{range}"))?;
        Self::new(file, path.to_owned()).map(Some)
    }

    /// All files that process `pid` has mapped as code and whose paths are `is_wanted`, each path
    /// once and no more than `most`.
    pub fn all_mapped(
        pid: u32,
        most: usize,
        is_wanted: impl Fn(&str) -> bool,
    ) -> io::Result<Vec<Self>> {
        let maps = fs::read(format!("/proc/{pid}/maps"))?;
        let maps = String::from_utf8_lossy(&maps);
        let mut found: Vec<Self> = Vec::new();
        for (range, path) in maps.lines().filter_map(code_mapping).filter(|(_, p)| is_wanted(p)) {
            if found.len() < most && !found.iter().any(|known| known.name == path) {
                let file = File::open(format!("/proc/{pid}/map_files/{range}"))?;
                found.push(Self::new(file, path.to_owned())?);
            }
        }
        Ok(found)
    }

    /// The file that `path` leads to in the root of process `pid`.
    pub fn in_root(pid: u32, path: &str) -> io::Result<Self> {
        Self::new(process::open_in_root(pid, path)?, path.to_owned())
    }

    fn new(file: File, name: String) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{name} is no regular file")));
        }
        Ok(Self { id: FileId::of(&metadata), file, name })
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its path where it was found, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

fn executable(pid: u32) -> String {
    format!("/proc/{pid}/exe")
}

/// The range of addresses, as `map_files` names it, and the path of a line of `/proc/PID/maps`
/// that maps code of a file. See `proc_pid_maps(5)`.
fn code_mapping(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.splitn(6, ' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?.trim_start();
    (permissions.contains('x') && path.starts_with('/')).then_some((range, path))
}

#[cfg(test)]
mod tests {
    use super::{FileId, Target, code_mapping};
    use std::process;

    #[test]
    fn code_of_files_is_told_from_data_and_from_memory_without_a_file() {
        let code = "7f00-7f10 r-xp 00001000 fe:00 4711                 /lib/lib read line.so.8";
        assert_eq!(code_mapping(code), Some(("7f00-7f10", "/lib/lib read line.so.8")));
        let data = "7f10-7f20 r--p 00000000 fe:00 4711                 /lib/libreadline.so.8";
        assert_eq!(code_mapping(data), None);
        assert_eq!(code_mapping("7ffd-7ffe r-xp 00000000 00:00 0        [vdso]"), None);
        assert_eq!(code_mapping("7ffd-7ffe r-xp 00000000 00:00 0"), None);
        assert_eq!(code_mapping(""), None);
    }

    #[test]
    fn an_executable_is_one_file_by_whatever_way_it_is_found() {
        let pid = process::id();
        let path = std::env::current_exe().unwrap();
        let path = path.to_str().unwrap();
        let id = FileId::of_executable(pid).unwrap();
        assert_eq!(Target::executable(pid).unwrap().id(), id);
        assert_eq!(Target::in_root(pid, path).unwrap().id(), id);
        let mapped = Target::mapped(pid, |mapped| mapped == path).unwrap();
        assert_eq!(mapped.expect("it is mapped").id(), id);
        assert!(Target::mapped(pid, |_| false).unwrap().is_none());
        let all = Target::all_mapped(pid, 9, |mapped| mapped == path).unwrap();
        assert_eq!(all.iter().map(Target::id).collect::<Vec<_>>(), [id]);
        assert!(Target::all_mapped(pid, 0, |_| true).unwrap().is_empty());
    }

    #[test]
    fn a_folder_is_no_target() {
        assert!(Target::in_root(process::id(), "/etc").is_err());
    }
}
