//! Names in a message, which may point into earlier parts of it. In: the message and where the
//! name starts. Out: text in lower case, without the last dot, the way zone files write it: a dot
//! or backslash within a label has a backslash before it, other odd bytes are `\DDD`.

use std::fmt::{self, Write};

use super::{DnsError, HEADER_LEN};

/// The most that a name may have, with the lengths of its labels.
const MAX_NAME: usize = 255;

/// A name. Its own part has been checked; where it points to is checked as it is written.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    message: &'a [u8],
    at: usize,
}

enum Part<'a> {
    Label(&'a [u8], usize),
    Pointer(usize, usize),
    Root(usize),
}

fn part(message: &[u8], at: usize) -> Result<Part<'_>, DnsError> {
    let len = *message.get(at).ok_or(DnsError::NeedMore)?;
    match len {
        0 => Ok(Part::Root(at + 1)),
        1..0x40 => {
            let end = at + 1 + usize::from(len);
            Ok(Part::Label(message.get(at + 1..end).ok_or(DnsError::NeedMore)?, end))
        }
        0xc0.. => {
            let low = *message.get(at + 1).ok_or(DnsError::NeedMore)?;
            Ok(Part::Pointer(usize::from(len & 0x3f) << 8 | usize::from(low), at + 2))
        }
        _ => Err(DnsError::NotDns),
    }
}

/// Where the name that starts here ends.
pub(super) fn skip_name(message: &[u8], start: usize) -> Result<usize, DnsError> {
    let mut at = start;
    loop {
        match part(message, at)? {
            Part::Root(end) => return Ok(end),
            // It may point backwards only, and not into the header.
            Part::Pointer(to, end) if (HEADER_LEN..start).contains(&to) => return Ok(end),
            Part::Label(_, end) if end - start < MAX_NAME => at = end,
            _ => return Err(DnsError::NotDns),
        }
    }
}

impl<'a> Name<'a> {
    pub(super) fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    /// Its labels, from the first to the one before the root. `None` in place of a label if the
    /// name is not one.
    fn labels(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        // Each pointer must go before the part that it ends, so this ends too.
        let (mut at, mut start, mut len) = (self.at, self.at, 0);
        let mut done = false;
        std::iter::from_fn(move || {
            while !done {
                match part(self.message, at) {
                    Ok(Part::Root(_)) => return None,
                    Ok(Part::Label(label, end)) if len + label.len() + 1 < MAX_NAME => {
                        len += label.len() + 1;
                        at = end;
                        return Some(Some(label));
                    }
                    Ok(Part::Pointer(to, _)) if (HEADER_LEN..start).contains(&to) => {
                        start = to;
                        at = to;
                    }
                    _ => {
                        done = true;
                        return Some(None);
                    }
                }
            }
            None
        })
    }

    /// The name, or `None` if it points to what is no name. The root is `.`.
    pub fn text(self) -> Option<String> {
        let mut text = String::new();
        self.write(&mut text)?;
        Some(text)
    }

    /// Appends the name; if it is none, appends nothing and returns `None`.
    pub fn write(self, text: &mut String) -> Option<()> {
        let start = text.len();
        for label in self.labels() {
            let Some(label) = label else {
                text.truncate(start);
                return None;
            };
            if text.len() > start {
                text.push('.');
            }
            for byte in label {
                escape(*byte, text);
            }
        }
        if text.len() == start {
            text.push('.');
        }
        Some(())
    }

    /// Whether both are the same name, in any case. Of what is no name, nothing is the same.
    pub fn same(self, other: Name<'_>) -> bool {
        let (mut ours, mut theirs) = (self.labels(), other.labels());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(Some(ours)), Some(Some(theirs))) if ours.eq_ignore_ascii_case(theirs) => {}
                _ => return false,
            }
        }
    }
}

fn escape(byte: u8, text: &mut String) {
    match byte {
        b'.' | b'\\' => {
            text.push('\\');
            text.push(byte as char);
        }
        0x21..0x7f => text.push(byte.to_ascii_lowercase() as char),
        _ => {
            text.push('\\');
            for digit in [byte / 100, byte / 10 % 10, byte % 10] {
                text.push((b'0' + digit) as char);
            }
        }
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.same(*other)
    }
}

impl Eq for Name<'_> {}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(&text),
            None => f.write_char('?'),
        }
    }
}
