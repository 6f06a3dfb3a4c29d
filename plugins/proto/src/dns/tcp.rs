//! DNS over TCP: messages with their length in front. In: the pieces of one direction. Out: each
//! message, or its beginning if the rest was not captured or is more than we keep.

use crate::piece::{Cursor, Piece};

/// What is kept of a message. Large answers are large for their keys and texts at the end.
const MAX_KEPT: usize = 4096;

/// What was found in a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpStep<'a> {
    /// A message. It has `len` bytes, of which these are the first.
    Message {
        /// What is known of it.
        bytes: &'a [u8],
        /// How long it was.
        len: u16,
    },
    /// A length was not captured: nothing can be told of this direction any more.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length { seen: u8, high: u8 },
    Body { left: u16 },
    Lost,
}

/// Reads one direction of a connection from its first byte on.
#[derive(Clone, Debug)]
pub struct TcpMessages {
    cursor: Cursor,
    state: State,
    len: u16,
    kept: Vec<u8>,
    /// The message goes on behind what is kept.
    holed: bool,
}

impl TcpMessages {
    /// A direction that starts at this position.
    pub fn new(position: u64) -> Self {
        Self {
            cursor: Cursor::at(position),
            state: State::Length { seen: 0, high: 0 },
            len: 0,
            kept: Vec::new(),
            holed: false,
        }
    }

    /// Takes the next piece and tells the messages that end in it.
    pub fn feed(&mut self, piece: &Piece<'_>, mut tell: impl FnMut(TcpStep<'_>)) {
        let Some(news) = self.cursor.advance(piece) else { return };
        self.skip(news.missing_before, &mut tell);
        let mut bytes = news.bytes;
        while !bytes.is_empty() && self.state != State::Lost {
            bytes = self.take(bytes, &mut tell);
        }
        self.skip(news.missing_after, &mut tell);
    }

    fn skip(&mut self, count: u64, tell: &mut impl FnMut(TcpStep<'_>)) {
        if count == 0 || self.state == State::Lost {
            return;
        }
        match self.state {
            State::Body { left } if count <= u64::from(left) => {
                self.holed = true;
                self.pass(left, count as u16, tell);
            }
            State::Body { left } => {
                self.holed = true;
                self.pass(left, left, tell);
                self.lose(tell);
            }
            _ => self.lose(tell),
        }
    }

    fn take<'a>(&mut self, bytes: &'a [u8], tell: &mut impl FnMut(TcpStep<'_>)) -> &'a [u8] {
        match self.state {
            State::Length { seen: 0, .. } => {
                self.state = State::Length { seen: 1, high: bytes[0] };
                &bytes[1..]
            }
            State::Length { high, .. } => {
                self.len = u16::from_be_bytes([high, bytes[0]]);
                self.kept.clear();
                self.holed = false;
                self.pass(self.len, 0, tell);
                &bytes[1..]
            }
            State::Body { left } => {
                let (taken, rest) = bytes.split_at(bytes.len().min(usize::from(left)));
                if taken.len() == usize::from(self.len) {
                    // All of it at once: nothing to keep.
                    tell(TcpStep::Message { bytes: taken, len: self.len });
                    self.state = State::Length { seen: 0, high: 0 };
                    return rest;
                }
                if !self.holed {
                    let room = MAX_KEPT.saturating_sub(self.kept.len()).min(taken.len());
                    self.kept.extend_from_slice(&taken[..room]);
                }
                self.pass(left, taken.len() as u16, tell);
                rest
            }
            State::Lost => &[],
        }
    }

    fn pass(&mut self, left: u16, count: u16, tell: &mut impl FnMut(TcpStep<'_>)) {
        if left == count {
            tell(TcpStep::Message { bytes: &self.kept, len: self.len });
            self.state = State::Length { seen: 0, high: 0 };
        } else {
            self.state = State::Body { left: left - count };
        }
    }

    fn lose(&mut self, tell: &mut impl FnMut(TcpStep<'_>)) {
        self.state = State::Lost;
        tell(TcpStep::Lost);
    }
}
