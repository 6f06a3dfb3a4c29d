//! Which files are watched. Comes in: a look at all processes, now and then. Goes out: programs
//! attached to each TLS library that some process has mapped, and to each program that has one
//! inside and names its functions; and detached when nobody uses it any more.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process;

use anyhow::{Context as _, Result, ensure};
use plugin_api::{ProbeStatus, ProbeVerdict};
use plugin_support::loader::Loaded;
use plugin_support::uprobe::{Code, FileId, Spot, Target, Uprobes};

use crate::probes::{
    TLS_FREE, TLS_HANDSHAKE, TLS_READ, TLS_READ_EX, TLS_RETURN, TLS_WRITE, TLS_WRITE_EX,
};

/// Files that are watched.
const MOST_FILES: usize = 1024;
/// Programs of which it is known whether they have a library inside.
const MOST_PROGRAMS: usize = 16_384;
/// Files that are named one by one in `/status`.
const MOST_SHOWN: usize = 64;
/// TLS libraries of one process.
const MOST_LIBRARIES: usize = 8;
/// Looks in a row that find a file unused before it is let go. Programs that run every other
/// moment and never for long, as curl does, should find it watched.
const PATIENCE: u32 = 6;

/// A function, and the program at its begin.
type Function = (&'static str, &'static str);

/// OpenSSL since 1.0, `LibreSSL` and `BoringSSL`. The first two must be there.
const OPENSSL: &[Function] = &[
    ("SSL_read", TLS_READ),
    ("SSL_write", TLS_WRITE),
    ("SSL_read_ex", TLS_READ_EX),
    ("SSL_write_ex", TLS_WRITE_EX),
    ("SSL_do_handshake", TLS_HANDSHAKE),
    ("SSL_free", TLS_FREE),
];

const GNUTLS: &[Function] = &[
    ("gnutls_record_recv", TLS_READ),
    ("gnutls_record_send", TLS_WRITE),
    ("gnutls_handshake", TLS_HANDSHAKE),
    ("gnutls_deinit", TLS_FREE),
];

/// Files with TLS in them.
#[derive(Debug, Default)]
pub(super) struct Files {
    uprobes: Uprobes,
    known: HashMap<FileId, Known>,
    /// Whether a program has a library inside.
    programs: HashMap<FileId, bool>,
    refused: u64,
}

#[derive(Debug)]
struct Known {
    name: String,
    /// Why nothing can be seen of it.
    error: Option<String>,
    function: &'static str,
    unused: u32,
}

impl Files {
    /// Looks at all processes.
    pub(super) fn sweep(&mut self, loaded: &mut Loaded) -> Result<()> {
        for known in self.known.values_mut() {
            known.unused += 1;
        }
        let own = process::id();
        let entries = fs::read_dir("/proc").context("read /proc")?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        for pid in pids.filter(|pid| *pid != own) {
            if let Err(error) = self.look_at(loaded, pid) {
                log::debug!(pid, error:% = format!("{error:#}"); "a process is left alone");
            }
        }
        self.known.retain(|_, known| known.unused < PATIENCE);
        let Self { uprobes, known, programs, .. } = self;
        uprobes.retain(|id| known.contains_key(&id));
        // Rather look at all of them again than grow.
        if programs.len() >= MOST_PROGRAMS {
            programs.clear();
        }
        Ok(())
    }

    fn look_at(&mut self, loaded: &mut Loaded, pid: u32) -> Result<()> {
        // Kernel threads have none.
        let Ok(program) = FileId::of_executable(pid) else { return Ok(()) };
        let has_library = match self.programs.get(&program) {
            Some(known) => *known,
            None => self.look_into_program(pid)?,
        };
        if has_library {
            let target = || Target::executable(pid).context("open what it runs");
            self.use_file(loaded, program, OPENSSL, target)?;
        }
        let libraries =
            Target::all_mapped(pid, MOST_LIBRARIES, |path| functions_of(path).is_some())
                .context("look at what it has mapped")?;
        for library in libraries {
            if let Some(functions) = functions_of(library.name()) {
                self.use_file(loaded, library.id(), functions, || Ok(library))?;
            }
        }
        Ok(())
    }

    fn look_into_program(&mut self, pid: u32) -> Result<bool> {
        let target = Target::executable(pid).context("open what it runs")?;
        let names = [OPENSSL[0].0, OPENSSL[1].0];
        // What is no program that we can read is none with a library inside.
        let found = Code::of(&target)?.symbols(&names).unwrap_or_default();
        let has_library = found.len() == names.len() && found.iter().all(Option::is_some);
        self.programs.insert(target.id(), has_library);
        Ok(has_library)
    }

    /// A process uses this file: watches it, unless it is watched or known not to be of use.
    fn use_file(
        &mut self,
        loaded: &mut Loaded,
        id: FileId,
        functions: &[Function],
        target: impl FnOnce() -> Result<Target>,
    ) -> Result<()> {
        if let Some(known) = self.known.get_mut(&id) {
            known.unused = 0;
            return Ok(());
        }
        if self.known.len() >= MOST_FILES {
            self.refused += 1;
            return Ok(());
        }
        let target = target()?;
        let error = self.watch(loaded, &target, functions).err().map(|error| format!("{error:#}"));
        let name = target.name().to_owned();
        match &error {
            Some(error) => log::warn!(file = name, error; "a TLS library cannot be watched"),
            None => log::info!(file = name; "a TLS library is watched"),
        }
        self.known.insert(target.id(), Known { name, error, function: functions[0].0, unused: 0 });
        Ok(())
    }

    fn watch(
        &mut self,
        loaded: &mut Loaded,
        target: &Target,
        functions: &[Function],
    ) -> Result<()> {
        let names: Vec<&str> = functions.iter().map(|(name, _)| *name).collect();
        let symbols = Code::of(target)?.symbols(&names)?;
        let mut spots = Vec::new();
        for ((name, program), symbol) in functions.iter().zip(&symbols) {
            let Some(symbol) = symbol else {
                let is_needed = functions[..2].iter().any(|(needed, _)| needed == name);
                ensure!(!is_needed, "it has no function {name}");
                continue;
            };
            // First what ends a call, so that none begins that seems to last.
            if *program != TLS_FREE {
                spots.push(Spot::new(TLS_RETURN, symbol.offset));
            }
            spots.push(Spot::new(program, symbol.offset));
        }
        self.uprobes.attach(loaded, target, &spots)
    }

    /// Files that programs are attached to.
    pub(super) fn attached(&self) -> usize {
        self.uprobes.len()
    }

    /// Times that a file found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// What became of each file.
    pub(super) fn verdicts(&self) -> Vec<ProbeVerdict> {
        let mut shown: Vec<_> = self.known.iter().map(|(id, known)| known.verdict(*id)).collect();
        // Those that say why come first: they are the ones to be read.
        shown.sort_by(|a, b| (a.status as u8, &a.name).cmp(&(b.status as u8, &b.name)).reverse());
        shown.truncate(MOST_SHOWN);
        shown
    }
}

impl Known {
    fn verdict(&self, id: FileId) -> ProbeVerdict {
        let (status, detail) = match &self.error {
            None => (ProbeStatus::Attached, String::new()),
            Some(error) => {
                (ProbeStatus::Missing, format!("without the HTTP of whoever uses it: {error}"))
            }
        };
        ProbeVerdict {
            name: format!("{} ({id})", self.name).into(),
            hook: format!("uprobe/{}", self.function).into(),
            status,
            detail: detail.into(),
        }
    }
}

/// The functions of a library by its file's name; `None` if it is not one of TLS.
fn functions_of(path: &str) -> Option<&'static [Function]> {
    // What the kernel adds when the file was replaced since.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let name = Path::new(path).file_name()?.to_str()?;
    // Python wheels and the like bring their own, as libssl-a1b2c3.so.1.1.
    if name.starts_with("libssl.so") || (name.starts_with("libssl-") && name.contains(".so")) {
        return Some(OPENSSL);
    }
    (name.starts_with("libgnutls.so") || (name.starts_with("libgnutls-") && name.contains(".so")))
        .then_some(GNUTLS)
}

#[cfg(test)]
mod tests {
    use super::functions_of;

    #[test]
    fn tls_libraries_are_told_by_their_names() {
        let first = |path| functions_of(path).map(|functions| functions[0].0);
        for path in [
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
            "/lib/libssl.so.1.1 (deleted)",
            "/app/numpy.libs/libssl-1e6df745.so.1.1",
        ] {
            assert_eq!(first(path), Some("SSL_read"), "{path}");
        }
        assert_eq!(first("/usr/lib/libgnutls.so.30.34.3"), Some("gnutls_record_recv"));
        // The last one is of NSS, which has other functions.
        for path in ["/usr/lib/libcrypto.so.3", "/usr/lib/libgnutlsxx.so.30", "/usr/lib/libssl3.so"]
        {
            assert_eq!(first(path), None, "{path}");
        }
    }
}
