//! How far delivery has come, in a file of 20 bytes. It is overwritten in place, with one call and
//! within one page, so a killed process leaves the old position or the new one. Knows no segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use tracing::warn;

const NAME: &str = "spool.position";
const BYTES: usize = 20;

/// Where the first record lies that is not delivered. All segments before this one are done with.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

#[derive(Debug)]
pub(super) struct PositionFile {
    file: File,
    is_failing: bool,
}

impl PositionFile {
    /// An unreadable position counts as none: everything is sent, some of it again.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Position)> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(NAME))?;
        let mut bytes = [0; BYTES];
        let position = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(&bytes),
            Err(_) if file.metadata()?.len() == 0 => Some(Position::default()),
            Err(_) => None,
        };
        if position.is_none() {
            warn!("the spool's position is unreadable, requests may be sent again");
        }
        Ok((Self { file, is_failing: false }, position.unwrap_or_default()))
    }

    /// An error costs repetition after a restart: no reason to stop. Said once per outage.
    pub(super) fn write(&mut self, position: Position) {
        let result = self.file.write_all_at(&encode(position), 0);
        if let Err(error) = &result
            && !self.is_failing
        {
            warn!(%error, "the spool's position cannot be written");
        }
        self.is_failing = result.is_err();
    }

    pub(super) fn sync(&self) {
        if let Err(error) = self.file.sync_data() {
            warn!(%error, "the spool's position cannot be synced");
        }
    }
}

fn encode(position: Position) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&position.segment.to_le_bytes());
    bytes[8..16].copy_from_slice(&position.offset.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Option<Position> {
    let (segment, rest) = bytes.split_first_chunk()?;
    let (offset, _) = rest.split_first_chunk()?;
    let position =
        Position { segment: u64::from_le_bytes(*segment), offset: u64::from_le_bytes(*offset) };
    (encode(position) == *bytes).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::{Position, decode, encode};

    #[test]
    fn a_position_with_any_bit_flipped_is_refused() {
        let position = Position { segment: 7, offset: 1 << 40 };
        let bytes = encode(position);
        assert_eq!(decode(&bytes), Some(position));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
    }
}
