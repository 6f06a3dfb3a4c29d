//! Names of processes. The kernel's name of a process has at most 15 bytes; a longer one is
//! completed from the command line, if the process is still there and is still the same.

use std::fs;
use std::path::{Path, PathBuf};

/// Length of the kernel's name when it may have been cut.
const CUT_AT: usize = 15;

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
        let name = Path::new(program.as_ref()).file_name()?.to_str()?;
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
    fn a_cut_name_of_another_program_stays_cut() {
        let comm = b"some-other-prog";
        assert_eq!(Processes::default().name(std::process::id(), comm), "some-other-prog");
    }
}
