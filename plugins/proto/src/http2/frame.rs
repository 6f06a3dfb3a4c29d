//! One direction's bytes to frames. In: pieces. Out: where each frame starts, what was captured
//! of its payload, and where it ends. Keeps at most the nine bytes of a header. A hole inside a
//! payload is harmless; one that swallows a header ends it until somebody names a new boundary.

use super::PREFACE;
use crate::piece::{Cursor, Piece};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const FLAG_END_STREAM: u8 = 0x1;
pub(crate) const FLAG_END_HEADERS: u8 = 0x4;
pub(crate) const FLAG_PADDED: u8 = 0x8;
pub(crate) const FLAG_PRIORITY: u8 = 0x20;

/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 9;

/// What a frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of its payload.
    pub len: u32,
    /// Its type, as RFC 9113 numbers them.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    fn read(bytes: [u8; HEADER_LEN]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Keeps to what RFC 9113 makes a connection error of. Types that it does not know may look
    /// like anything.
    fn is_possible(self) -> bool {
        let on_stream = self.stream != 0;
        match self.kind {
            DATA | HEADERS | CONTINUATION => on_stream,
            PRIORITY => on_stream && self.len == 5,
            RST_STREAM => on_stream && self.len == 4,
            SETTINGS => !on_stream && self.len.is_multiple_of(6),
            PUSH_PROMISE => on_stream && self.len >= 4,
            PING => !on_stream && self.len == 8,
            GOAWAY => !on_stream && self.len >= 8,
            WINDOW_UPDATE => self.len == 4,
            _ => true,
        }
    }

    /// Is moreover of a kind that is really sent, with the flags that it has and a length that
    /// needs no negotiation.
    fn is_usual(self) -> bool {
        let flags = match self.kind {
            DATA => FLAG_END_STREAM | FLAG_PADDED,
            HEADERS => FLAG_END_STREAM | FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY,
            SETTINGS | PING => 1,
            PUSH_PROMISE => FLAG_END_HEADERS | FLAG_PADDED,
            CONTINUATION => FLAG_END_HEADERS,
            PRIORITY | RST_STREAM | GOAWAY | WINDOW_UPDATE => 0,
            _ => return false,
        };
        self.is_possible() && self.flags & !flags == 0 && self.len <= 16_384
    }
}

/// Whether a piece that starts with these bytes and is `len` long reads as frames from its first
/// byte on, for a direction that was joined late: every header that was captured is of a usual
/// frame, and either there are two or the only frame ends where the piece does. Not a proof: a
/// body may look like this.
pub fn looks_like_frames(bytes: &[u8], len: u64) -> bool {
    let mut rest = bytes;
    let (mut seen, mut end) = (0, 0);
    while let Some((header, payload)) = rest.split_first_chunk::<HEADER_LEN>() {
        let header = FrameHeader::read(*header);
        if !header.is_usual() {
            return false;
        }
        seen += 1;
        end += HEADER_LEN as u64 + u64::from(header.len);
        rest = payload.get(header.len as usize..).unwrap_or_default();
    }
    seen > 1 || seen == 1 && end == len
}

/// What happens in a direction, in order: `Start`, any number of `Payload` and `Missing`, `End`,
/// and so on; or `Lost`, after which nothing follows until [`Frames::resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame's header is complete. `time` is that of the piece with its first byte.
    Start {
        /// The header.
        header: FrameHeader,
        /// When its first byte was seen.
        time: u64,
    },
    /// The next bytes of its payload.
    Payload(&'a [u8]),
    /// Bytes of its payload that were not captured.
    Missing(u64),
    /// The last byte of its payload was sent.
    End,
    /// Where the next frame starts is not known any more.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preface { seen: u8 },
    Header { seen: u8, bytes: [u8; HEADER_LEN], time: u64 },
    Payload { left: u32 },
    Lost,
}

const BOUNDARY: State = State::Header { seen: 0, bytes: [0; HEADER_LEN], time: 0 };

/// Reads one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    cursor: Cursor,
    state: State,
}

impl Frames {
    /// A direction of which nothing is known yet: it passes over everything until
    /// [`Frames::resume`].
    pub fn lost() -> Self {
        Self { cursor: Cursor::at(0), state: State::Lost }
    }

    /// A client's direction, whose preface starts at this position.
    pub fn at_preface(position: u64) -> Self {
        Self { cursor: Cursor::at(position), state: State::Preface { seen: 0 } }
    }

    /// A frame starts at this position.
    pub fn resume(position: u64) -> Self {
        Self { cursor: Cursor::at(position), state: BOUNDARY }
    }

    /// Whether it waits for a boundary.
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Takes the next piece and tells what happens in it.
    pub fn feed<'a>(&mut self, piece: &Piece<'a>, mut tell: impl FnMut(Event<'a>)) {
        if self.is_lost() {
            return;
        }
        let Some(news) = self.cursor.advance(piece) else { return };
        self.skip(news.missing_before, &mut tell);
        let mut bytes = news.bytes;
        while !bytes.is_empty() && !self.is_lost() {
            bytes = self.take(bytes, piece.time, &mut tell);
        }
        self.skip(news.missing_after, &mut tell);
    }

    fn skip<'a>(&mut self, count: u64, tell: &mut impl FnMut(Event<'a>)) {
        if count == 0 || self.is_lost() {
            return;
        }
        let State::Payload { left } = self.state else { return self.lose(tell) };
        let passed = count.min(u64::from(left));
        tell(Event::Missing(passed));
        self.pass(left, passed as u32, tell);
        self.skip(count - passed, tell);
    }

    /// Returns the bytes that are left.
    fn take<'a>(
        &mut self,
        bytes: &'a [u8],
        now: u64,
        tell: &mut impl FnMut(Event<'a>),
    ) -> &'a [u8] {
        match &mut self.state {
            State::Preface { seen } => {
                let expected = &PREFACE[usize::from(*seen)..];
                let count = expected.len().min(bytes.len());
                *seen += count as u8;
                if bytes[..count] != expected[..count] {
                    self.lose(tell);
                } else if count == expected.len() {
                    self.state = BOUNDARY;
                }
                &bytes[count..]
            }
            State::Header { seen, bytes: header, time } => {
                if *seen == 0 {
                    *time = now;
                }
                let wanted = &mut header[usize::from(*seen)..];
                let count = wanted.len().min(bytes.len());
                wanted[..count].copy_from_slice(&bytes[..count]);
                *seen += count as u8;
                if usize::from(*seen) == HEADER_LEN {
                    let (header, time) = (FrameHeader::read(*header), *time);
                    self.start(header, time, tell);
                }
                &bytes[count..]
            }
            State::Payload { left } => {
                let left = *left;
                let count = bytes.len().min(left as usize);
                tell(Event::Payload(&bytes[..count]));
                self.pass(left, count as u32, tell);
                &bytes[count..]
            }
            State::Lost => &[],
        }
    }

    fn start<'a>(&mut self, header: FrameHeader, time: u64, tell: &mut impl FnMut(Event<'a>)) {
        if !header.is_possible() {
            return self.lose(tell);
        }
        tell(Event::Start { header, time });
        self.pass(header.len, 0, tell);
    }

    fn pass<'a>(&mut self, left: u32, count: u32, tell: &mut impl FnMut(Event<'a>)) {
        if left == count {
            tell(Event::End);
            self.state = BOUNDARY;
        } else {
            self.state = State::Payload { left: left - count };
        }
    }

    fn lose<'a>(&mut self, tell: &mut impl FnMut(Event<'a>)) {
        self.state = State::Lost;
        tell(Event::Lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DATA of three bytes on stream 1, then a PING.
    const BYTES: &[u8] = b"\0\0\x03\0\x01\0\0\0\x01abc\0\0\x08\x06\0\0\0\0\x0012345678";

    fn events(frames: &mut Frames, piece: &Piece<'_>) -> Vec<String> {
        let mut told = Vec::new();
        frames.feed(piece, |event| {
            told.push(match event {
                Event::Start { header, time } => format!("start {} at {time}", header.kind),
                Event::Payload(bytes) => format!("payload {}", bytes.len()),
                Event::Missing(count) => format!("missing {count}"),
                Event::End => "end".to_owned(),
                Event::Lost => "lost".to_owned(),
            });
        });
        told
    }

    #[test]
    fn frames_are_told_from_their_first_to_their_last_byte() {
        let told = events(&mut Frames::resume(7), &Piece::whole(7, BYTES, 5));
        assert_eq!(told, ["start 0 at 5", "payload 3", "end", "start 6 at 5", "payload 8", "end"]);
    }

    #[test]
    fn a_frame_begins_when_its_first_byte_was_seen() {
        let mut frames = Frames::resume(0);
        assert!(events(&mut frames, &Piece::whole(0, &BYTES[..1], 5)).is_empty());
        assert_eq!(events(&mut frames, &Piece::whole(1, &BYTES[1..9], 6)), ["start 0 at 5"]);
    }

    #[test]
    fn a_hole_inside_a_payload_is_harmless() {
        let mut frames = Frames::resume(0);
        let cut = Piece { position: 0, bytes: &BYTES[..10], len: 12, time: 1 };
        assert_eq!(events(&mut frames, &cut), ["start 0 at 1", "payload 1", "missing 2", "end"]);
        let next = Piece::whole(12, &BYTES[12..], 2);
        assert_eq!(events(&mut frames, &next), ["start 6 at 2", "payload 8", "end"]);
    }

    #[test]
    fn a_hole_that_swallows_a_header_is_a_loss_until_a_boundary_is_named() {
        let mut frames = Frames::resume(0);
        let cut = Piece { position: 0, bytes: &BYTES[..10], len: 14, time: 1 };
        assert_eq!(
            events(&mut frames, &cut),
            ["start 0 at 1", "payload 1", "missing 2", "end", "lost"]
        );
        assert!(events(&mut frames, &Piece::whole(14, &BYTES[14..], 1)).is_empty());
        frames = Frames::resume(40);
        assert_eq!(events(&mut frames, &Piece::whole(40, BYTES, 1)).len(), 6);
    }

    #[test]
    fn a_client_that_says_something_else_first_is_lost() {
        let mut frames = Frames::at_preface(0);
        assert!(events(&mut frames, &Piece::whole(0, &PREFACE[..10], 0)).is_empty());
        assert!(events(&mut frames, &Piece::whole(10, &PREFACE[10..], 0)).is_empty());
        assert_eq!(events(&mut frames, &Piece::whole(24, BYTES, 0)).len(), 6);
        let mut frames = Frames::at_preface(0);
        assert_eq!(events(&mut frames, &Piece::whole(0, b"PRI * HTTP/1.1", 0)), ["lost"]);
    }

    #[test]
    fn an_impossible_frame_is_a_loss() {
        let data_on_the_connection = b"\0\0\0\0\0\0\0\0\0";
        let mut frames = Frames::resume(0);
        assert_eq!(events(&mut frames, &Piece::whole(0, data_on_the_connection, 0)), ["lost"]);
    }

    #[test]
    fn frames_are_recognised_and_text_is_not() {
        let looks = |bytes: &[u8]| looks_like_frames(bytes, bytes.len() as u64);
        assert!(looks(BYTES));
        assert!(looks(&BYTES[..12]), "one frame that ends with the piece");
        assert!(looks_like_frames(&BYTES[..9], 12), "its payload was not captured");
        assert!(!looks(&BYTES[..11]), "one frame that goes on");
        assert!(!looks(&BYTES[..8]), "no header is complete");
        assert!(!looks(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!looks(&[0; 64]));
        for start in 1..BYTES.len() {
            assert!(!looks(&BYTES[start..]) || start == 12, "start {start}");
        }
    }
}
