//! The spool's folder: a path in, the exclusive right to it and the segments in it out. Files that
//! are not the spool's are left alone. Opens no segment.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::segment;

const LOCK: &str = "spool.lock";

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// For its sync.
    handle: File,
    /// Locked until it is closed, that is, as long as the process lives at most.
    _lock: File,
}

impl Folder {
    /// Fails if another spool is open here, in this or in another process.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("create the spool folder {name}"))?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .with_context(|| format!("write to the spool folder {name}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("the spool folder {name} is in use by another process")
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock the spool folder {name}"));
            }
        }
        let handle = File::open(path).with_context(|| format!("open the spool folder {name}"))?;
        Ok(Self { path: path.to_owned(), handle, _lock: lock })
    }

    /// The numbers that are taken by segments, in order.
    pub(super) fn segments(&self) -> Result<Vec<u64>> {
        self.list().with_context(|| format!("read the spool folder {}", self.path.display()))
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in self.path.read_dir()? {
            numbers.extend(segment::number(&entry?.file_name()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes files that were created or removed durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}
