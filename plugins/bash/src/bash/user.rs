//! Who a user id is, in the eyes of the process that has it: by the `/etc/passwd` of its own root,
//! and by the ids of its own user namespace. Comes in: a process and the id that the kernel told.
//! Goes out: a name, or the id. Asks no name service: those run others' code.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use plugin_support::process::open_in_root;

const PASSWD: &str = "/etc/passwd";
/// Bytes of a file that are read; some ten thousand users.
const LARGEST_PASSWD: u64 = 1024 * 1024;
/// Files whose content is kept.
const MOST_FILES: usize = 64;
/// Processes whose user is kept, for what they do last.
const MOST_PROCESSES: usize = 16 * 1024;

/// Looks users up.
#[derive(Debug, Default)]
pub(crate) struct Users {
    files: HashMap<Version, HashMap<u32, String>>,
    remembered: HashMap<u32, (u32, String)>,
}

/// One content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Users {
    /// The name of user `uid` in process `pid`, or the number. If the process has gone, it is who
    /// it was when it was remembered.
    pub(crate) fn name(&mut self, pid: u32, uid: u32) -> String {
        match self.look_up(pid, uid) {
            Ok(name) => name,
            Err(error) => {
                log::debug!(pid, uid, error:%; "user is not known");
                let remembered = self.remembered.get(&pid).filter(|(of, _)| *of == uid);
                remembered.map_or_else(|| uid.to_string(), |(_, name)| name.clone())
            }
        }
    }

    /// Looks a process up while it is there. False if there is no room to remember it.
    pub(crate) fn remember(&mut self, pid: u32, uid: u32) -> bool {
        let Ok(name) = self.look_up(pid, uid) else { return true };
        let has_room = self.remembered.len() < MOST_PROCESSES || self.remembered.contains_key(&pid);
        if has_room {
            self.remembered.insert(pid, (uid, name));
        }
        has_room
    }

    /// Processes that are remembered.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.remembered.keys().copied()
    }

    /// Forgets processes that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.remembered.retain(|pid, _| is_there(*pid));
    }

    /// An error means that the process or its file cannot be looked at.
    fn look_up(&mut self, pid: u32, uid: u32) -> io::Result<String> {
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
        let inner = inner_id(&map, uid);
        let opened = open_in_root(pid, PASSWD);
        // A process that ends loses its root before the mounts of its namespace go. Without
        // them there may be another file, or none.
        if !has_root(pid) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended"));
        }
        let file = match opened {
            Ok(file) => file,
            // Containers need not have one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(inner.unwrap_or(uid).to_string());
            }
            Err(error) => return Err(error),
        };
        let names = self.names_of(&file)?;
        let name = inner.and_then(|inner| names.get(&inner)).cloned();
        Ok(name.unwrap_or_else(|| inner.unwrap_or(uid).to_string()))
    }

    fn names_of(&mut self, file: &File) -> io::Result<&HashMap<u32, String>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("/etc/passwd is no regular file"));
        }
        let version = Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        };
        if !self.files.contains_key(&version) {
            let mut content = Vec::new();
            file.take(LARGEST_PASSWD).read_to_end(&mut content)?;
            // Older versions are in the way as much as files that nobody asks for: start over.
            if self.files.len() == MOST_FILES {
                self.files.clear();
            }
            self.files.insert(version, parse(&content));
        }
        Ok(&self.files[&version])
    }
}

/// Whether a process has a root: one that has ended and was not waited for has none.
fn has_root(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}/root")).is_ok()
}

/// Whether a process exists.
pub(crate) fn is_there(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

/// The id that `uid` of the host has by a `/proc/PID/uid_map`; see `user_namespaces(7)`.
fn inner_id(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(inner)), Some(Ok(outer)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return None;
        };
        let within = uid.checked_sub(outer).filter(|within| *within < count)?;
        inner.checked_add(within)
    })
}

/// The first name of each id; see passwd(5).
fn parse(content: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in content.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // Lines that begin like this are for name services.
        if name.is_empty() || matches!(name[0], b'+' | b'-' | b'#') {
            continue;
        }
        if let Some(id) = str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
            names.entry(id).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{MOST_FILES, Users, inner_id, parse};
    use std::fs::{self, File};
    use std::process;

    #[test]
    fn the_first_name_of_an_id_counts_and_odd_lines_do_not() {
        let names = parse(
            b"root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/root:/bin/sh\n+nis:x:9:9::/:\n\
              # a:x:8:8::/:\nshort:x\n:x:7:7::/:\nodd:x:-1:0::/:\nbj\xf6rn:x:1000:1000::/:\n",
        );
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[&0], "root");
        assert_eq!(names[&1000], "bj\u{fffd}rn");
    }

    #[test]
    fn ids_are_those_of_the_process_own_namespace() {
        let map = "         0     100000      65536\n     70000      5000          1\n";
        assert_eq!(inner_id(map, 100_000), Some(0));
        assert_eq!(inner_id(map, 101_000), Some(1000));
        assert_eq!(inner_id(map, 5000), Some(70000));
        assert_eq!(inner_id(map, 0), None);
        assert_eq!(inner_id("         0          0 4294967295\n", 1000), Some(1000));
        assert_eq!(inner_id("nonsense\n", 0), None);
    }

    #[test]
    fn a_process_is_who_the_passwd_of_its_root_says() {
        let mut users = Users::default();
        assert_eq!(users.name(process::id(), 0), "root");
        assert_eq!(users.name(process::id(), 3_999_999_999), "3999999999");
    }

    #[test]
    fn a_process_that_is_gone_is_who_it_was() {
        let mut child =
            process::Command::new("cat").stdin(process::Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let mut users = Users::default();
        assert!(users.remember(pid, 0));
        child.kill().unwrap();
        // Not waited for yet, and then gone.
        while users.look_up(pid, 0).is_ok() {}
        assert_eq!(users.name(pid, 0), "root");
        child.wait().unwrap();
        assert_eq!(users.name(pid, 0), "root");
        // Another user, or nobody that was remembered.
        assert_eq!(users.name(pid, 1), "1");
        users.retain(|_| false);
        assert_eq!(users.name(pid, 0), "0");
    }

    #[test]
    fn a_changed_file_is_read_again_and_old_versions_take_bounded_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let mut users = Users::default();
        for id in 0..=MOST_FILES as u32 {
            fs::write(&path, format!("{}u{id}:x:{id}:0::/:\n", "#\n".repeat(id as usize))).unwrap();
            let file = File::open(&path).unwrap();
            assert_eq!(users.names_of(&file).unwrap()[&id], format!("u{id}"));
            assert!(users.files.len() <= MOST_FILES);
        }
    }
}
