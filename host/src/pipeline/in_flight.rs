//! How many points a crash would lose at this moment, in a file beside the spool, so that the next
//! process can tell. In come numbers per plugin, out go lines of text; what the process before
//! has left is read once. Nothing is synced: the kernel keeps what a killed process has written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use tracing::warn;

const NAME: &str = "in-flight";

/// The length of a line, its newline included. Longer names of plugins are cut.
const LINE: usize = 128;

/// The file.
#[derive(Debug)]
pub(crate) struct InFlight {
    file: File,
    lines: AtomicUsize,
    fails: AtomicBool,
}

/// A plugin's line in it.
#[derive(Debug)]
pub(crate) struct Line {
    at: u64,
    last: Mutex<u64>,
}

impl InFlight {
    /// Opens the file in `folder`, and empties it. Returns what the process before it has lost.
    pub(crate) fn open(folder: &Path) -> Result<(Self, BTreeMap<String, usize>)> {
        let path = folder.join(NAME);
        let attempt = || format!("open {}", path.display());
        let left = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            // Damaged by somebody: nothing is known then.
            Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(error).with_context(attempt),
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path).with_context(attempt)?;
        let this = Self { file, lines: AtomicUsize::new(0), fails: AtomicBool::new(false) };
        Ok((this, lost(&left)))
    }

    /// A line for one more plugin.
    pub(crate) fn line(&self) -> Line {
        let index = self.lines.fetch_add(1, Ordering::Relaxed);
        Line { at: (index * LINE) as u64, last: Mutex::new(0) }
    }

    /// Writes how many points of `plugin` are neither on disk nor delivered.
    pub(crate) fn set(&self, line: &Line, plugin: &str, points: u64) {
        let mut last = line.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last == points {
            return;
        }
        *last = points;
        let name = &plugin[..plugin.floor_char_boundary(LINE - 24)];
        let text = format!("{points:<20} {name}");
        let text = format!("{text:<width$}\n", width = LINE - 1);
        let written = self.file.write_all_at(text.as_bytes(), line.at);
        if let Err(error) = written
            && !self.fails.swap(true, Ordering::Relaxed)
        {
            warn!(%error, "what a crash would lose cannot be noted in the spool");
        }
    }
}

fn lost(text: &str) -> BTreeMap<String, usize> {
    let line = |line: &str| {
        let (points, plugin) = line.trim_end().split_once(' ')?;
        Some((plugin.trim().to_owned(), points.parse().ok()?))
    };
    text.lines().filter_map(line).filter(|(_, points)| *points > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::{InFlight, NAME};
    use std::fs;

    #[test]
    fn what_was_in_flight_is_told_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let (first, lost) = InFlight::open(folder.path()).unwrap();
        assert!(lost.is_empty());
        let (one, other) = (first.line(), first.line());
        first.set(&one, "one", 1_000_000);
        first.set(&one, "one", 7);
        first.set(&other, "the other", 3);
        first.set(&other, "the other", 0);
        drop(first);
        let (_, lost) = InFlight::open(folder.path()).unwrap();
        assert_eq!(lost, [("one".to_owned(), 7)].into());
        let (_, lost) = InFlight::open(folder.path()).unwrap();
        assert!(lost.is_empty(), "told once");
    }

    #[test]
    fn nonsense_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "x y\n12\n\n-3 z\n\u{fffd} 4\n").unwrap();
        assert!(InFlight::open(folder.path()).unwrap().1.is_empty());
        fs::write(folder.path().join(NAME), [0xff, 0xfe]).unwrap();
        assert!(InFlight::open(folder.path()).unwrap().1.is_empty());
    }
}
