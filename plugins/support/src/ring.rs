//! Records out of a BPF ring buffer.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};

/// What the kernel puts before each record.
const RECORD_HEADER_BYTES: usize = 8;

/// A ring that one thread reads. Programs need not wake that thread for every record: see
/// [`crate::worker::Waiter::watch`].
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl Ring {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Passes on every record that is waiting. Gives the bytes of the ring that they took.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        while let Some(record) = self.ring.next() {
            // With its header, and to the next multiple of eight.
            taken += (record.len() + RECORD_HEADER_BYTES).next_multiple_of(8);
            each(&record);
        }
        taken
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
