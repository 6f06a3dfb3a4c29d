//! The segments in order: records are appended to the last one and read from the first one, which
//! is removed once all of it is delivered. One record at most is under way and held in memory.
//! Locks nothing and never syncs.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::mem;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tracing::warn;

use super::position::{Position, PositionFile};
use super::segment::{self, Segment};
use super::{Dropped, Entry, Next, Recovered};
use crate::pipeline::encode::Request;

#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    /// Oldest first. What is under way has been taken from the first one.
    segments: VecDeque<Segment>,
    /// The last segment, as long as it is appended to. An earlier process's never is.
    active: Option<File>,
    /// The segment that was last, until someone syncs it.
    finished: Option<File>,
    /// The first segment, once something was read from it.
    reader: Option<(u64, File)>,
    position: PositionFile,
    under_way: Option<UnderWay>,
    /// Found while reading, and not reported yet.
    damaged: Dropped,
    next_segment: u64,
    next_ticket: u64,
}

#[derive(Debug)]
struct UnderWay {
    entry: Entry,
    /// Its segment had to make room for others.
    is_homeless: bool,
}

impl Log {
    /// `numbers` are the segments in `dir`, in order.
    pub(super) fn recover(
        dir: &Path,
        numbers: Vec<u64>,
        segment_bytes: u64,
    ) -> Result<(Self, Recovered)> {
        let (position, from) = PositionFile::open(dir).context("open the position")?;
        let mut log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            segments: VecDeque::new(),
            active: None,
            finished: None,
            reader: None,
            position,
            under_way: None,
            damaged: Vec::new(),
            // A number is not used twice: the position may name one that is gone.
            next_segment: from.segment.saturating_add(1),
            next_ticket: 0,
        };
        let mut recovered = Recovered::default();
        for number in numbers {
            log.next_segment = log.next_segment.max(number.saturating_add(1));
            if !segment::path(dir, number).is_file() {
                continue;
            }
            if number < from.segment {
                log.remove(number);
                continue;
            }
            let offset = if number == from.segment { from.offset } else { 0 };
            let (segment, lost_bytes) = Segment::recover(dir, number, offset)
                .with_context(|| format!("read {}", segment::path(dir, number).display()))?;
            if lost_bytes > 0 {
                recovered.lost_records += 1;
                recovered.lost_bytes += lost_bytes;
            }
            recovered.requests += segment.records;
            for (plugin, points) in segment.points() {
                *recovered.points.entry(plugin.to_owned()).or_default() += points;
            }
            if segment.records == 0 {
                log.remove(number);
            } else {
                log.segments.push_back(segment);
            }
        }
        Ok((log, recovered))
    }

    /// Appends the record that begins with `head`.
    pub(super) fn append(&mut self, plugin: &str, request: &Request, head: &[u8]) -> Result<()> {
        let bytes = (head.len() + request.body.len()) as u64;
        if let Some(last) = self.segments.back()
            && self.active.is_some()
            && last.bytes > 0
            && last.bytes + bytes > self.segment_bytes
        {
            self.finish();
        }
        if self.active.is_none() {
            self.begin()?;
        }
        let (Some(mut file), Some(last)) = (self.active.as_ref(), self.segments.back_mut()) else {
            bail!("the spool has no segment to write to");
        };
        let written = file.write_all(head).and_then(|()| file.write_all(&request.body));
        if let Err(error) = written {
            let path = segment::path(&self.dir, last.number);
            // Nothing can be read behind a torn record: if it cannot be cut off, all that follows
            // goes into another segment.
            if file.set_len(last.bytes).is_err() {
                self.active = None;
            }
            // The disk may be full of what is delivered.
            let is_spent = last.records == 0 && last.bytes > 0;
            if is_spent && self.segments.len() == 1 && self.under_way.is_none() {
                self.finish();
                return self.append(plugin, request, head);
            }
            return Err(error).with_context(|| format!("write {}", path.display()));
        }
        last.add(plugin, request.points, bytes);
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let number = self.next_segment;
        let path = segment::path(&self.dir, number);
        let file = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;
        self.next_segment = number.saturating_add(1);
        self.segments.push_back(Segment::new(number));
        self.active = Some(file);
        Ok(())
    }

    /// The last segment is complete. When the receiver keeps up it is delivered as well, and no
    /// disk has to be waited for.
    fn finish(&mut self) {
        let file = self.active.take();
        if self.segments.back().is_some_and(|last| last.records > 0) {
            self.finished = file;
        }
        self.remove_delivered();
    }

    /// A segment that wants a sync.
    pub(super) fn finished(&mut self) -> Option<File> {
        self.finished.take()
    }

    /// Removes the oldest segments until no more than `cap_bytes` are on disk. The last one, which
    /// holds what was pushed just now, is never larger than that.
    pub(super) fn make_room(&mut self, cap_bytes: u64) -> Dropped {
        let mut dropped = Vec::new();
        while self.segments.len() > 1 && self.bytes() > cap_bytes {
            if let Some(under_way) = &mut self.under_way {
                under_way.is_homeless = true;
            }
            dropped.extend(self.remove_first());
        }
        if !dropped.is_empty() {
            self.write_position();
        }
        dropped
    }

    /// The record under way, or else the next one.
    pub(super) fn next(&mut self) -> Result<Next> {
        if self.under_way.is_none() {
            self.under_way = self.take()?.map(|entry| UnderWay { entry, is_homeless: false });
        }
        let entry = self.under_way.as_ref().map(|under_way| under_way.entry.clone());
        Ok(Next { entry, damaged: mem::take(&mut self.damaged) })
    }

    fn take(&mut self) -> Result<Option<Entry>> {
        loop {
            self.remove_delivered();
            let Some(first) = self.segments.front_mut().filter(|first| first.records > 0) else {
                return Ok(None);
            };
            let file = match self.reader.take() {
                Some((number, file)) if number == first.number => Ok(file),
                _ => File::open(segment::path(&self.dir, first.number)),
            };
            let read = match file {
                Ok(file) => {
                    let read = first.read(&file);
                    self.reader = Some((first.number, file));
                    read
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
                Err(error) => return Err(error).context("open a segment of the spool"),
            };
            match read {
                Ok((head, Ok(body))) => {
                    first.take(&head);
                    let (plugin, request) = head.into_request(body);
                    self.next_ticket += 1;
                    return Ok(Some(Entry { plugin, request, ticket: self.next_ticket }));
                }
                Ok((head, Err(error))) => {
                    first.take(&head);
                    warn!(%error, points = head.points, "a request in the spool is damaged");
                    self.damaged.push((head.plugin, head.points));
                }
                Err(error) => {
                    let requests = first.records;
                    warn!(%error, requests, "a segment of the spool is damaged");
                    let lost = self.remove_first();
                    self.damaged.extend(lost);
                }
            }
            self.write_position();
        }
    }

    /// Forgets `entry` if it is the one under way.
    pub(super) fn settle(&mut self, entry: &Entry) {
        if self.under_way.take_if(|it| it.entry.ticket == entry.ticket).is_some() {
            self.write_position();
            self.remove_delivered();
        }
    }

    /// Ends the last segment, for good. What is under way on disk will be there after a restart.
    pub(super) fn seal(&mut self) -> Option<File> {
        self.position.sync();
        self.active.take()
    }

    /// What is under way and not on disk.
    pub(super) fn forget_homeless(&mut self) -> Dropped {
        let homeless = self.under_way.take_if(|it| it.is_homeless);
        homeless.into_iter().map(|it| (it.entry.plugin, it.entry.request.points)).collect()
    }

    /// Nothing that is still on disk may be under way.
    fn write_position(&mut self) {
        let position = match self.segments.front() {
            Some(first) => Position { segment: first.number, offset: first.offset },
            None => Position { segment: self.next_segment, offset: 0 },
        };
        self.position.write(position);
    }

    fn remove_delivered(&mut self) {
        let is_idle = self.under_way.is_none();
        while is_idle
            && self.segments.front().is_some_and(|first| first.records == 0)
            && (self.segments.len() > 1 || self.active.is_none())
        {
            self.remove_first();
        }
    }

    /// Removes the first segment and returns the points that were still waiting there.
    fn remove_first(&mut self) -> Dropped {
        let Some(first) = self.segments.pop_front() else { return Vec::new() };
        if self.segments.is_empty() {
            self.active = None;
        }
        self.reader.take_if(|(number, _)| *number == first.number);
        self.remove(first.number);
        first.points().map(|(plugin, points)| (plugin.to_owned(), points)).collect()
    }

    /// What cannot be removed now is removed at the next start: the position is beyond it.
    fn remove(&self, number: u64) {
        let path = segment::path(&self.dir, number);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            warn!(%error, path = %path.display(), "a segment of the spool cannot be removed");
        }
    }

    pub(super) fn requests(&self) -> usize {
        let waiting: usize = self.segments.iter().map(|segment| segment.records).sum();
        waiting + usize::from(self.under_way.is_some())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn points(&self) -> usize {
        let waiting = self.segments.iter().flat_map(Segment::points);
        let under_way = self.under_way.iter().map(|it| it.entry.request.points);
        waiting.map(|(_, points)| points).chain(under_way).sum()
    }
}
