//! Where a message's body ends, so that a stream can be followed to the next message. In: heads,
//! and the bytes of chunked bodies. Out: lengths.

use super::{Method, RequestHead, ResponseHead};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body: the next message follows the head.
    None,
    /// That many bytes.
    Length(u64),
    /// Chunks: see [`ChunkedScanner`].
    Chunked,
    /// All that follows, until the connection is closed.
    UntilClose,
    /// What follows is not HTTP/1 any more: after CONNECT or 101.
    Tunnel,
    /// The headers that say it were not captured, or they contradict each other.
    Unknown,
}

impl BodyLength {
    /// Of a request.
    pub fn of_request(head: &RequestHead<'_>) -> Self {
        let fields = &head.fields;
        if head.len.is_none() || fields.bad_length || fields.transfer_coded && !fields.chunked {
            return Self::Unknown;
        }
        if fields.chunked {
            return Self::Chunked;
        }
        match fields.content_length {
            None | Some(0) => Self::None,
            Some(length) => Self::Length(length),
        }
    }

    /// Of a response to a request of this method; `None` if the request was not seen.
    pub fn of_response(method: Option<Method>, head: &ResponseHead<'_>) -> Self {
        match (head.status, method) {
            (101, _) | (200..300, Some(Method::Connect)) => return Self::Tunnel,
            (100..200 | 204 | 304, _) | (_, Some(Method::Head)) => return Self::None,
            // Its headers look the same if it answers HEAD.
            (_, None) => return Self::Unknown,
            _ => {}
        }
        let fields = &head.fields;
        if head.len.is_none() {
            return Self::Unknown;
        }
        if fields.transfer_coded {
            return if fields.chunked { Self::Chunked } else { Self::UntilClose };
        }
        match fields.content_length {
            _ if fields.bad_length => Self::Unknown,
            None => Self::UntilClose,
            Some(0) => Self::None,
            Some(length) => Self::Length(length),
        }
    }
}

/// What bytes did to a [`ChunkedScanner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All were taken and the body goes on. That many bytes follow whose content does not matter.
    More(u64),
    /// The body ended after that many of them.
    Done(usize),
    /// This is not a chunked body, or a part that matters is missing.
    Lost,
}

/// No extension and no trailer of an honest message comes near.
const MAX_LINE: u32 = 16 * 1024;
const MAX_TRAILERS: u32 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the hexadecimal size of a chunk, of which so many digits were seen.
    Size {
        digits: u8,
        size: u64,
    },
    /// Behind the size, up to the line's end.
    Extension {
        size: u64,
        len: u32,
    },
    /// In a chunk.
    Data {
        left: u64,
    },
    /// Behind a chunk: CR or LF.
    DataEnd,
    /// After a CR: LF only.
    DataLf,
    /// In the lines after the last chunk. `line` is the length of this one without CR.
    Trailers {
        line: u32,
        len: u32,
    },
    Done,
    Lost,
}

/// Finds the end of a chunked body. Keeps no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkedScanner {
    state: State,
}

impl Default for ChunkedScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedScanner {
    /// Starts behind the head.
    pub fn new() -> Self {
        Self { state: State::Size { digits: 0, size: 0 } }
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::Done | State::Lost) {
            if let State::Data { left } = self.state {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize;
                self.pass_data(left - taken);
            } else {
                self.step(bytes[at]);
                at += 1;
            }
        }
        match self.state {
            State::Done => Progress::Done(at),
            _ => self.progress(),
        }
    }

    /// Passes over the next bytes of the body, which were not captured. Harmless inside a chunk.
    pub fn skip(&mut self, count: u64) -> Progress {
        match self.state {
            _ if count == 0 => {}
            State::Data { left } if count <= left => self.pass_data(left - count),
            State::Done => {}
            _ => self.state = State::Lost,
        }
        self.progress()
    }

    fn progress(&self) -> Progress {
        match self.state {
            State::Data { left } => Progress::More(left),
            State::Done => Progress::Done(0),
            State::Lost => Progress::Lost,
            _ => Progress::More(0),
        }
    }

    fn pass_data(&mut self, left: u64) {
        self.state = if left == 0 { State::DataEnd } else { State::Data { left } };
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                if digits < 16 {
                    State::Size { digits: digits + 1, size: size << 4 | digit }
                } else {
                    State::Lost
                }
            }
            (State::Size { digits: 1.., size } | State::Extension { size, .. }, b'\n') => {
                after_size(size)
            }
            (State::Size { digits: 1.., size }, b';' | b' ' | b'\t' | b'\r') => {
                State::Extension { size, len: 0 }
            }
            (State::Extension { size, len }, _) if len < MAX_LINE => {
                State::Extension { size, len: len + 1 }
            }
            (State::DataEnd, b'\r') => State::DataLf,
            (State::DataEnd | State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
            (State::Trailers { line: 0, .. }, b'\n') => State::Done,
            (State::Trailers { len, .. }, b'\n') => State::Trailers { line: 0, len },
            (State::Trailers { line, len }, b'\r') if len < MAX_TRAILERS => {
                State::Trailers { line, len: len + 1 }
            }
            (State::Trailers { line, len }, _) if len < MAX_TRAILERS => {
                State::Trailers { line: line + 1, len: len + 1 }
            }
            _ => State::Lost,
        };
    }
}

fn after_size(size: u64) -> State {
    if size == 0 { State::Trailers { line: 0, len: 0 } } else { State::Data { left: size } }
}
