//! Names of processes, and files as they see them. The kernel's name of a process has at most 15 bytes; a longer one is
//! completed from the command line, if the process is still there and is still the same.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Length of the kernel's name when it may have been cut.
const CUT_AT: usize = 15;

/// Opens the file that `path` leads to in the root of process `pid`, for reading. Links do not lead
/// out of there, and what is no regular file is opened without a wait.
pub fn open_in_root(pid: u32, path: &str) -> io::Result<File> {
    let root = File::open(format!("/proc/{pid}/root"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let stay = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), stay)?.into())
}

/// Looks names up in a `/proc`.
#[derive(Debug)]
pub struct Processes {
    proc: PathBuf,
}

impl Default for Processes {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Processes {
    /// Reads from another folder than `/proc`.
    pub fn at(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into() }
    }

    /// The name of process `pid` whose kernel name is `comm`, a NUL-padded string; bytes that
    /// are not UTF-8 are replaced.
    pub fn name(&self, pid: u32, comm: &[u8]) -> String {
        let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
        if comm.len() == CUT_AT
            && let Some(name) = self.full_name(pid, comm)
        {
            return name;
        }
        String::from_utf8_lossy(comm).into_owned()
    }

    /// The file name in the first argument of the command line, if `comm` is its beginning.
    fn full_name(&self, pid: u32, comm: &[u8]) -> Option<String> {
        let arguments = fs::read(self.proc.join(pid.to_string()).join("cmdline")).ok()?;
        let program = arguments.split(|byte| *byte == 0).next()?;
        let program = String::from_utf8_lossy(program);
        // A process may write a whole sentence there, with its arguments and their secrets.
        let program = program.split([' ', '\t', '\n', ':']).next()?;
        let name = Path::new(program).file_name()?.to_str()?;
        name.as_bytes().starts_with(comm).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Processes;

    #[test]
    fn a_short_name_is_taken_as_it_is() {
        assert_eq!(Processes::default().name(1, b"nginx\0\0\0\0\0\0\0\0\0\0\0"), "nginx");
    }

    #[test]
    fn a_cut_name_is_completed_from_the_command_line() {
        let name = std::env::current_exe().unwrap();
        let name = name.file_name().unwrap().to_str().unwrap();
        assert!(name.len() > 15, "{name} is long enough for this test");
        let comm = &name.as_bytes()[..15];
        assert_eq!(Processes::default().name(std::process::id(), comm), name);
    }

    #[test]
    fn arguments_in_a_rewritten_command_line_are_no_part_of_the_name() {
        let proc = std::env::temp_dir().join(format!("proc-{}", std::process::id()));
        std::fs::create_dir_all(proc.join("7")).unwrap();
        std::fs::write(proc.join("7/cmdline"), "/opt/very-long-agent-name --token=x\0").unwrap();
        let name = Processes::at(&proc).name(7, b"very-long-agent");
        std::fs::remove_dir_all(&proc).unwrap();
        assert_eq!(name, "very-long-agent-name");
    }

    #[test]
    fn a_cut_name_of_another_program_stays_cut() {
        let comm = b"some-other-prog";
        assert_eq!(Processes::default().name(std::process::id(), comm), "some-other-prog");
    }
}
