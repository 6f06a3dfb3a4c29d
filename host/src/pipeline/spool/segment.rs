//! One segment: a file of records one after the other, and an account of those that are not taken
//! yet. Appending to the file and removing it are the log's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Dropped;
use super::record::{Head, damaged};

/// With the format's version: what another version has written is not ours.
const SUFFIX: &str = ".spool1";
const DIGITS: usize = 20;

/// A head and a bit; bodies do not go through the buffer.
const BUFFER_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Of the file, as far as it holds records.
    pub(super) bytes: u64,
    /// Where the first record begins that is not taken.
    pub(super) offset: u64,
    /// From there on.
    pub(super) records: usize,
    /// In those. A few plugins: a list is quicker than a map.
    points: Dropped,
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0DIGITS$}{SUFFIX}"))
}

/// The number in a segment's name; `None` for a foreign file.
pub(super) fn number(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

impl Segment {
    pub(super) fn new(number: u64) -> Self {
        Self { number, bytes: 0, offset: 0, records: 0, points: Vec::new() }
    }

    /// Reads what an earlier process left, from `offset` on. The file is cut before the first
    /// record that is torn or damaged; returns how many bytes that cost.
    pub(super) fn recover(dir: &Path, number: u64, offset: u64) -> io::Result<(Self, u64)> {
        let file = File::options().read(true).write(true).open(path(dir, number))?;
        let bytes = file.metadata()?.len();
        // After a power loss the position may be ahead of the file.
        let offset = offset.min(bytes);
        let mut segment = Self { bytes: offset, offset, ..Self::new(number) };
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, &file);
        reader.seek(SeekFrom::Start(offset))?;
        while let Ok(head) = Head::read(&mut reader) {
            if head.record_bytes() > bytes - segment.bytes
                || reader.seek_relative(head.body_bytes.into()).is_err()
            {
                break;
            }
            segment.add(&head.plugin, head.points, head.record_bytes());
        }
        let lost = bytes - segment.bytes;
        if lost > 0 {
            file.set_len(segment.bytes)?;
        }
        Ok((segment, lost))
    }

    /// The first record that is not taken. Without a good head it is not known where the next one
    /// begins; without a good body it is.
    pub(super) fn read(&self, file: &File) -> io::Result<(Head, io::Result<Bytes>)> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        reader.seek(SeekFrom::Start(self.offset))?;
        let head = Head::read(&mut reader)?;
        // No memory is spent on a length alone.
        if head.record_bytes() > self.bytes - self.offset {
            return Err(damaged("a record is longer than its segment"));
        }
        let body = head.body(&mut reader);
        Ok((head, body))
    }

    pub(super) fn add(&mut self, plugin: &str, points: usize, bytes: u64) {
        self.bytes += bytes;
        self.records += 1;
        match self.points.iter_mut().find(|(known, _)| known == plugin) {
            Some((_, sum)) => *sum += points,
            None => self.points.push((plugin.to_owned(), points)),
        }
    }

    /// Takes the first record.
    pub(super) fn take(&mut self, head: &Head) {
        self.offset += head.record_bytes();
        self.records = self.records.saturating_sub(1);
        if let Some((_, sum)) = self.points.iter_mut().find(|(known, _)| *known == head.plugin) {
            *sum = sum.saturating_sub(head.points);
        }
    }

    /// The points that are not taken, by plugin.
    pub(super) fn points(&self) -> impl Iterator<Item = (&str, usize)> {
        let points = self.points.iter().map(|(plugin, points)| (plugin.as_str(), *points));
        points.filter(|(_, points)| *points > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{number, path};
    use std::path::Path;

    #[test]
    fn a_segment_is_known_by_its_name_and_nothing_else_is() {
        for n in [0, 7, u64::MAX] {
            let path = path(Path::new("/x"), n);
            assert_eq!(number(path.file_name().unwrap()), Some(n));
        }
        for foreign in [
            "7.spool1",
            "+0000000000000000007.spool1",
            "99999999999999999999.spool1",
            "00000000000000000007.spool2",
            "00000000000000000007.spool1.bak",
            "spool.lock",
        ] {
            assert_eq!(number(foreign.as_ref()), None, "{foreign}");
        }
    }
}
