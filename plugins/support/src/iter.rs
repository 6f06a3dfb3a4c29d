//! Records out of BPF iterators: programs that the kernel runs over all its objects of a kind
//! while somebody reads.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use crate::raw;

/// The kernel hands out at most its own buffer's worth at a time: eight pages.
const BUFFER: usize = 32 * 1024;

/// An iterator program, ready to run.
#[derive(Debug)]
pub struct Iterator {
    link: OwnedFd,
    buffer: Vec<u8>,
}

impl Iterator {
    pub(crate) fn new(link: OwnedFd) -> Self {
        Self { link, buffer: vec![0; BUFFER] }
    }

    /// Runs it over everything. All records must have `size` bytes; `each` gets one at a time.
    pub fn run(&mut self, size: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut pass = File::from(raw::iter_start(self.link.as_fd())?);
        let mut kept = 0;
        loop {
            match pass.read(&mut self.buffer[kept..]) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    let filled = kept + read;
                    let records = self.buffer[..filled].chunks_exact(size);
                    kept = records.remainder().len();
                    records.for_each(&mut each);
                    self.buffer.copy_within(filled - kept..filled, 0);
                }
                // The kernel asks to come back when it did long work for no output.
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted) => {}
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs it over everything, for what it does and not for what it writes.
    pub fn run_silent(&mut self) -> io::Result<()> {
        self.run(1, |_| {})
    }
}
