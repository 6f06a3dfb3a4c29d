//! HPACK (RFC 7541), read by somebody who may have come late. In: the header blocks of one
//! direction, in order. Out: fields, of which what is not known is `None`.
//!
//! Entries are numbered from the newest, so all that was added since we came has its right number,
//! and everything beyond it is unknown. Two things follow. The true size of the table, which we
//! may not know, does not matter: an entry that the peers have dropped is not referred to again,
//! and an entry too large to be stored empties the table, so nothing older is. And dropping old
//! entries early costs knowledge but never gives a wrong answer: so memory is bounded by our own
//! limit, whatever the peers agreed on.

use std::collections::VecDeque;

use super::direction::KEPT;
use super::huffman;

/// A header field; `None` for what was said before we came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name.
    pub name: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The block is no HPACK, or refers to what cannot be: fields told from it may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// What RFC 7541 adds to the length of each entry.
const ENTRY_OVERHEAD: usize = 32;
const DEFAULT_SIZE: usize = 4096;

/// An entry that was sent as a literal. An unknown name leaves a known value.
#[derive(Debug)]
struct Entry {
    /// The name, then the value.
    text: Box<[u8]>,
    name_len: u32,
    name_known: bool,
    value_known: bool,
}

impl Entry {
    const UNKNOWN: fn() -> Self =
        || Self { text: Box::default(), name_len: 0, name_known: false, value_known: false };

    fn field(&self) -> Field<'_> {
        let (name, value) = self.text.split_at(self.name_len as usize);
        Field { name: self.name_known.then_some(name), value: self.value_known.then_some(value) }
    }

    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }
}

/// Decodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    /// Their sizes together; too small if names are unknown.
    size: usize,
    /// What the peers let the table grow to, if we know.
    agreed: Option<usize>,
    /// What we let it grow to.
    cap: usize,
    /// The table is all that there is: nothing is older.
    whole: bool,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// A string as it stands in the block.
struct Coded<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl<'a> Coded<'a> {
    fn text<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Stop>
    where
        'a: 'b,
    {
        if !self.huffman {
            return Ok(self.bytes);
        }
        scratch.clear();
        huffman::decode(self.bytes, scratch).ok_or(Stop::Corrupt)?;
        Ok(scratch)
    }
}

/// Why the next thing cannot be read.
enum Stop {
    End,
    Corrupt,
}

impl Decoder {
    /// From the connection's first header block on.
    pub fn from_start(cap: usize) -> Self {
        Self { agreed: Some(DEFAULT_SIZE), whole: true, ..Self::joined(cap) }
    }

    /// From some later block on.
    pub fn joined(cap: usize) -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            agreed: None,
            cap,
            whole: false,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Blocks, or parts of one, were missed: nobody knows how the entries are numbered now.
    pub fn forget(&mut self) {
        self.table.clear();
        self.size = 0;
        self.agreed = None;
        self.whole = false;
    }

    /// Decodes one block, of which only the beginning may have been captured.
    pub fn decode(
        &mut self,
        block: &[u8],
        captured_whole: bool,
        mut tell: impl FnMut(Field<'_>),
    ) -> Result<(), Corrupt> {
        let mut reader = Reader(block);
        let mut begun = false;
        let result = loop {
            if reader.0.is_empty() {
                break Ok(());
            }
            match self.step(&mut reader, &mut begun, &mut tell) {
                Ok(()) => {}
                Err(Stop::End) if !captured_whole => break Ok(()),
                Err(_) => break Err(Corrupt),
            }
        };
        if result.is_err() || !captured_whole {
            self.forget();
        }
        result
    }

    fn step(
        &mut self,
        reader: &mut Reader<'_>,
        begun: &mut bool,
        tell: &mut impl FnMut(Field<'_>),
    ) -> Result<(), Stop> {
        let first = *reader.0.first().ok_or(Stop::End)?;
        match first {
            0x80.. => {
                *begun = true;
                let index = reader.integer(7)?;
                tell(self.field(index)?);
                Ok(())
            }
            0x40.. => {
                *begun = true;
                self.literal(reader, 6, true, tell)
            }
            // Sizes are only agreed on before the first field.
            0x20.. if *begun => Err(Stop::Corrupt),
            0x20.. => {
                let size = reader.integer(5)?;
                self.agreed = Some(size);
                self.evict();
                Ok(())
            }
            _ => {
                *begun = true;
                self.literal(reader, 4, false, tell)
            }
        }
    }

    fn literal(
        &mut self,
        reader: &mut Reader<'_>,
        prefix: u8,
        keep: bool,
        tell: &mut impl FnMut(Field<'_>),
    ) -> Result<(), Stop> {
        let index = reader.integer(prefix)?;
        let coded_name = if index == 0 { Some(reader.string()?) } else { None };
        let coded_value = reader.string()?;
        let (mut name_scratch, mut value_scratch) =
            (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        let entry = (|| {
            let name = match &coded_name {
                Some(coded) => Some(coded.text(&mut name_scratch)?),
                None => self.field(index)?.name,
            };
            let value = coded_value.text(&mut value_scratch)?;
            tell(Field { name, value: Some(value) });
            Ok(keep.then(|| self.entry(name, value)))
        })();
        name_scratch.shrink_to(KEPT);
        value_scratch.shrink_to(KEPT);
        self.name = name_scratch;
        self.value = value_scratch;
        if let Some(entry) = entry? {
            self.add(entry);
        }
        Ok(())
    }

    fn entry(&self, name: Option<&[u8]>, value: &[u8]) -> Entry {
        let known_name = name.unwrap_or_default();
        if known_name.len() + value.len() + ENTRY_OVERHEAD > self.limit() {
            // It must be counted, but we would not keep it.
            return Entry::UNKNOWN();
        }
        Entry {
            text: [known_name, value].concat().into(),
            name_len: known_name.len() as u32,
            name_known: name.is_some(),
            value_known: true,
        }
    }

    fn add(&mut self, entry: Entry) {
        self.size += entry.size();
        self.table.push_front(entry);
        self.evict();
    }

    fn limit(&self) -> usize {
        self.agreed.unwrap_or(self.cap).min(self.cap)
    }

    fn evict(&mut self) {
        while self.size > self.limit() {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= oldest.size();
            // Dropped by us, perhaps not by the peers.
            self.whole &= self.agreed.is_some_and(|agreed| agreed <= self.cap);
        }
    }

    fn field(&self, index: usize) -> Result<Field<'_>, Stop> {
        let Some(index) = index.checked_sub(1) else { return Err(Stop::Corrupt) };
        if let Some((name, value)) = STATIC.get(index) {
            return Ok(Field { name: Some(name.as_bytes()), value: Some(value.as_bytes()) });
        }
        match self.table.get(index - STATIC.len()) {
            Some(entry) => Ok(entry.field()),
            None if self.whole => Err(Stop::Corrupt),
            None => Ok(Field { name: None, value: None }),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.0.split_first().ok_or(Stop::End)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer that starts in the lowest bits of the next byte.
    fn integer(&mut self, prefix: u8) -> Result<usize, Stop> {
        let mask = (1 << prefix) - 1;
        let start = self.byte()? & mask;
        let mut value = u32::from(start);
        if start < mask {
            return Ok(value as usize);
        }
        // Four bytes hold more than any block has room for.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value as usize);
            }
        }
        Err(Stop::Corrupt)
    }

    fn string(&mut self) -> Result<Coded<'a>, Stop> {
        let huffman = self.0.first().ok_or(Stop::End)? & 0x80 != 0;
        let len = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Stop::End)?;
        self.0 = rest;
        Ok(Coded { huffman, bytes })
    }
}

/// RFC 7541, appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""),
    ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
