//! Which container a process is in, by its cgroups. Comes in: a process. Goes out: the container's
//! id, as docker, containerd, CRI-O and podman give it. Asks no runtime.

use std::collections::HashMap;
use std::fs;

/// Processes whose container is kept, for what they do last.
const MOST_PROCESSES: usize = 16 * 1024;

/// Bytes of an id, in hexadecimal digits.
const ID: usize = 64;

/// Looks containers up.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    remembered: HashMap<u32, String>,
}

impl Containers {
    /// The container of a process. If the process has gone, it is the one that it started in.
    pub(crate) fn id(&self, pid: u32) -> Option<String> {
        match fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            Ok(text) => id_in(&text),
            Err(_) => self.remembered.get(&pid).cloned(),
        }
    }

    /// Looks a process up while it is there. False if there is no room to remember it.
    pub(crate) fn remember(&mut self, pid: u32) -> bool {
        self.remembered.remove(&pid);
        let Some(id) = self.id(pid) else { return true };
        let has_room = self.remembered.len() < MOST_PROCESSES;
        if has_room {
            self.remembered.insert(pid, id);
        }
        has_room
    }

    /// Forgets processes that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.remembered.retain(|pid, _| is_there(*pid));
    }
}

/// The last id in a `/proc/PID/cgroup`, of which pods and their containers both may have one:
/// `/kubepods/pod.../ID`, `/docker/ID`, `/system.slice/docker-ID.scope`.
fn id_in(text: &str) -> Option<String> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let names = |path: &str| path.rsplit('/').find_map(|name| id_of(name).map(str::to_owned));
    paths.into_iter().find_map(names)
}

fn id_of(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // docker-ID, cri-containerd-ID, crio-ID, libpod-ID; and cri-containerd:ID.
    let id = name.rsplit(['-', ':']).next()?;
    (id.len() == ID && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .then_some(id)
}

#[cfg(test)]
mod tests {
    use super::{Containers, id_in};

    #[test]
    fn ids_are_found_as_every_runtime_writes_them() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/docker/{id}"),
            format!("/docker/{id}/init.scope"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods/burstable/pod1-2/{id}"),
            format!("/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{id}.scope"),
            format!("/kubepods.slice/crio-{id}.scope"),
            format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{id}"),
            format!("/machine.slice/libpod-{id}.scope/container"),
        ] {
            for text in [format!("0::{path}\n"), format!("3:cpu:/\n2:name=systemd:{path}\n0::/\n")]
            {
                assert_eq!(id_in(&text).as_ref(), Some(&id), "{text}");
            }
        }
    }

    #[test]
    fn a_process_of_the_host_is_in_none() {
        let upper = "0123456789ABCDEF".repeat(4);
        for path in ["/", "/user.slice/user-0.slice/session-1.scope", "/docker/0123", &upper] {
            assert_eq!(id_in(&format!("0::{path}\n")), None, "{path}");
        }
        assert_eq!(id_in("nonsense"), None);
    }

    #[test]
    fn a_process_that_is_gone_is_where_it_was() {
        let mut containers = Containers::default();
        containers.remembered.insert(u32::MAX, "where".to_owned());
        assert_eq!(containers.id(u32::MAX).as_deref(), Some("where"));
        containers.retain(|_| false);
        assert_eq!(containers.id(u32::MAX), None);
    }
}
