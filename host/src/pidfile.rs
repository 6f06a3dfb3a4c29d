//! One collector per host: a file with our process id, removed when we end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result, ensure};
use tracing::warn;

use crate::telemetry::log::create_folder_of;

/// What our process is called, here and in `/proc`.
const PROCESS_NAME: &str = "datakit-ebpf";

/// Our pid file; gone when dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes the file, unless it names another collector that is alive.
    pub(crate) fn claim(path: &Path) -> Result<Self> {
        let shown = path.display();
        let written = fs::read_to_string(path).unwrap_or_default();
        if let Ok(pid) = written.trim().parse::<u32>() {
            ensure!(
                pid == process::id() || name_of(pid).as_deref() != Some(PROCESS_NAME),
                "another {PROCESS_NAME} is running with pid {pid}, says {shown}; stop it, or give \
                 this one its own file with --pidfile"
            );
        }
        create_folder_of(path)?;
        fs::write(path, process::id().to_string())
            .with_context(|| format!("write the pid file {shown}"))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(%error, path = %self.path.display(), "pid file stays behind");
        }
    }
}

/// The name of a process that is alive. A dead one that nobody has waited for keeps its name, and
/// DataKit never waits.
fn name_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (pid_and_name, rest) = stat.rsplit_once(')')?;
    let is_dead = rest.trim_start().starts_with(['Z', 'X']);
    let name = pid_and_name.split_once('(')?.1;
    (!is_dead).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{PidFile, name_of};
    use std::fs;

    #[test]
    fn a_dead_process_that_nobody_has_waited_for_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let alive = || name_of(child.id()).is_some();
        while alive() {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{}", child.id())).unwrap());
        child.wait().unwrap();
        assert!(name_of(std::process::id()).is_some());
    }

    #[test]
    fn a_stale_file_is_taken_over_and_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("pid");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "1").unwrap();
        let file = PidFile::claim(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        drop(file);
        assert!(!path.exists());
    }
}
