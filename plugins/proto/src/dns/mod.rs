//! DNS messages. In: one message, or as much of it as was captured. Out: its header, its first
//! question, and the addresses and aliases among its answers. Nothing is copied: names are
//! decompressed when they are written out. It does not match answers with queries.
//!
//! Read by hand rather than by a crate: those that are kept (`simple-dns`, `hickory-proto`) build
//! the whole message in memory and refuse one that is cut, as a capture often is. The tests hold
//! this against `simple-dns`.

mod name;
mod tcp;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use name::Name;
pub use tcp::{TcpMessages, TcpStep};

use name::skip_name;

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// The bytes end before the first question does.
    NeedMore,
    /// This is not DNS.
    NotDns,
}

/// Records of a message that are looked at; what follows is passed over. The work per message is
/// bounded, whatever it claims to hold.
pub const MAX_RECORDS: u16 = 256;

/// More questions than one are allowed, and never sent.
const MAX_QUESTIONS: u16 = 16;

const HEADER_LEN: usize = 12;
const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;

/// A query or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Chosen by who asks, repeated by who answers.
    pub id: u16,
    /// It is a response.
    pub response: bool,
    /// 0 is an ordinary query.
    pub opcode: u8,
    /// Of a response: 0 is no error. With the upper bits that EDNS adds, if they were captured.
    pub rcode: u16,
    /// The server cut it to fit; the client asks again over TCP.
    pub truncated: bool,
    /// What is asked.
    pub question: Option<Question<'a>>,
    bytes: &'a [u8],
    /// Where the answers start, and how many are claimed.
    answers: (usize, u16),
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The name asked for.
    pub name: Name<'a>,
    /// The type of record asked for: 1 is A, 28 is AAAA.
    pub kind: u16,
}

/// An answer of a kind that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Whose record it is.
    pub owner: Name<'a>,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    /// What it says.
    pub data: Data<'a>,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The owner is another name for this one.
    Cname(Name<'a>),
}

impl<'a> Message<'a> {
    /// Reads a message, of which the end may be missing.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DnsError> {
        let mut reader = Reader { bytes, at: 0 };
        let id = reader.u16()?;
        let flags = reader.u16()?;
        let [questions, answers, authorities, additionals] =
            [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        // This bit has never had a meaning.
        if flags & 0x40 != 0 || questions > MAX_QUESTIONS {
            return Err(DnsError::NotDns);
        }
        let mut question = None;
        for _ in 0..questions {
            let name = reader.name()?;
            let kind = reader.u16()?;
            reader.u16()?;
            question.get_or_insert(Question { name, kind });
        }
        let others = u32::from(answers) + u32::from(authorities);
        let high = extended_rcode(reader.clone(), others, additionals);
        Ok(Self {
            id,
            response: flags & 0x8000 != 0,
            opcode: (flags >> 11) as u8 & 0xf,
            rcode: flags & 0xf | u16::from(high) << 4,
            truncated: flags & 0x200 != 0,
            question,
            bytes,
            answers: (reader.at, answers),
        })
    }

    /// The addresses and aliases among the answers, as far as they were captured.
    pub fn answers(&self) -> impl Iterator<Item = Answer<'a>> + use<'a> {
        let (at, count) = self.answers;
        let mut reader = Reader { bytes: self.bytes, at };
        let records = (0..count.min(MAX_RECORDS)).map_while(move |_| reader.record().ok());
        records.filter_map(|record| record.answer())
    }
}

/// The upper eight bits of the rcode, which are where an OPT record has no TTL.
fn extended_rcode(mut reader: Reader<'_>, before: u32, additionals: u16) -> u8 {
    let most = u32::from(MAX_RECORDS);
    if additionals == 0 || before > most {
        return 0;
    }
    for nth in 0..(before + u32::from(additionals)).min(most) {
        let Ok(record) = reader.record() else { return 0 };
        if nth >= before && record.kind == TYPE_OPT {
            return (record.ttl >> 24) as u8;
        }
    }
    0
}

#[derive(Clone)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Record<'a> {
    owner: Name<'a>,
    kind: u16,
    class: u16,
    ttl: u32,
    message: &'a [u8],
    /// Where its data starts and ends.
    data: (usize, usize),
}

impl<'a> Record<'a> {
    fn answer(&self) -> Option<Answer<'a>> {
        if self.class != CLASS_IN {
            return None;
        }
        let (start, end) = self.data;
        let bytes = &self.message[start..end];
        let data = match self.kind {
            TYPE_A => Data::A(<[u8; 4]>::try_from(bytes).ok()?.into()),
            TYPE_AAAA => Data::Aaaa(<[u8; 16]>::try_from(bytes).ok()?.into()),
            TYPE_CNAME => {
                let name_end = skip_name(self.message, start).ok()?;
                (name_end == end).then_some(Data::Cname(Name::new(self.message, start)))?
            }
            _ => return None,
        };
        Some(Answer { owner: self.owner, ttl: self.ttl, data })
    }
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DnsError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk().ok_or(DnsError::NeedMore)?;
        self.at += N;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, DnsError> {
        self.take().map(u16::from_be_bytes)
    }

    fn name(&mut self) -> Result<Name<'a>, DnsError> {
        let name = Name::new(self.bytes, self.at);
        self.at = skip_name(self.bytes, self.at)?;
        Ok(name)
    }

    fn record(&mut self) -> Result<Record<'a>, DnsError> {
        let owner = self.name()?;
        let kind = self.u16()?;
        let class = self.u16()?;
        let ttl = self.take().map(u32::from_be_bytes)?;
        let end = usize::from(self.u16()?) + self.at;
        let data = (self.at, end);
        if end > self.bytes.len() {
            return Err(DnsError::NeedMore);
        }
        self.at = end;
        // RFC 2181: a TTL with the highest bit set is none. An OPT record has none at all.
        let ttl = if kind != TYPE_OPT && ttl > i32::MAX as u32 { 0 } else { ttl };
        Ok(Record { owner, kind, class, ttl, message: self.bytes, data })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
