//! An HTTP/1 connection followed message by message. In: the bytes of both directions that are new,
//! with holes. Out: exchanges, in the order in which they were asked for. Pure.
//!
//! It keeps no bodies. Where it cannot know what comes next, it gives up what is open and starts
//! again with a piece that begins like a request; what it gave up is counted.

use std::collections::VecDeque;

use plugin_proto::http1::{ChunkedScanner, Method, Version};
use plugin_proto::http2;
use plugin_proto::piece::News;

use request::begins_request;
use response::begins_response;

mod request;
mod response;

/// Bytes of a head; of a larger one nothing is known.
const MAX_HEAD: usize = 64 * 1024;
/// Requests that wait for their response.
const MAX_OPEN: usize = 128;

/// A request, and what is known of its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: Method,
    /// `None`: the target is no path.
    pub(super) path: Option<Box<str>>,
    pub(super) truncated: bool,
    pub(super) asked_at: u64,
    pub(super) request_bytes: u64,
    /// Version, status and time, once they are known.
    pub(super) answer: Option<Answer>,
    pub(super) response_bytes: u64,
    is_sent: bool,
    is_answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) at: u64,
}

#[derive(Debug)]
enum State {
    Head,
    /// What is left of a head of which enough is known.
    Rest(HeadRest),
    Body(u64),
    Chunked(ChunkedScanner),
    UntilClose,
    /// Until a piece begins with a head.
    Lost,
}

/// Where the rest of a head that was cut begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadRest {
    /// There is none.
    Nothing,
    InLine,
    AfterLine,
    /// After a line, and the carriage return that may end an empty one.
    AfterReturn,
}

impl HeadRest {
    /// How many of these bytes there are up to the head's end, if it is among them.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            *self = match (byte, *self) {
                (b'\n', Self::AfterLine | Self::AfterReturn) => return Some(index + 1),
                (b'\n', Self::InLine) => Self::AfterLine,
                (b'\r', Self::AfterLine) => Self::AfterReturn,
                _ => Self::InLine,
            };
        }
        None
    }
}

#[derive(Debug)]
struct Side {
    state: State,
    head: Vec<u8>,
    /// When the first byte of `head` was seen.
    begun: u64,
}

/// What the connection goes on with.
#[derive(Debug)]
pub(super) enum Next {
    Http1,
    /// HTTP/2, asked for in HTTP/1; the server's first byte of it is so far behind the piece's new bytes.
    Http2(Box<http2::Connection>, usize),
    /// Something else.
    Tunnel,
}

#[derive(Debug)]
pub(super) struct Http1 {
    request: Side,
    response: Side,
    open: VecDeque<Message>,
    /// The head of the latest request, if it asks for HTTP/2.
    upgrade: Vec<u8>,
    /// The head of the first request was cut, and ends in what is missing, or goes on like this.
    cut_head: Option<HeadRest>,
    /// A request was sent before the one before it was answered.
    has_pipelined: bool,
    /// Something was given up, so that the next response need not be that to the next request.
    doubt: Option<Doubt>,
    not_understood: u64,
}

/// What was heard since something was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    Nothing,
    /// Bytes of the end that answers.
    Response,
}

impl Http1 {
    pub(super) fn new() -> Self {
        let side = |state| Side { state, head: Vec::new(), begun: 0 };
        Self {
            request: side(State::Head),
            // It may be in the middle of a response to something that was not handed over.
            response: side(State::Lost),
            open: VecDeque::new(),
            upgrade: Vec::new(),
            cut_head: None,
            has_pipelined: false,
            doubt: None,
            not_understood: 0,
        }
    }

    /// A connection whose first piece is a request of which some is missing: all of the rest of its
    /// head, or all but what comes next.
    pub(super) fn after_cut_head(rest: HeadRest) -> Self {
        Self { cut_head: Some(rest), ..Self::new() }
    }

    /// Requests and responses that could not be told or paired, since it was last asked.
    pub(super) fn take_not_understood(&mut self) -> u64 {
        std::mem::take(&mut self.not_understood)
    }

    /// The next bytes of the end that asks.
    pub(super) fn request(&mut self, news: &News<'_>, time: u64, tell: &mut impl FnMut(Message)) {
        self.request_missing(news.missing_before, tell);
        if matches!(self.request.state, State::Lost) && begins_request(news.bytes) {
            if self.may_pair_again() {
                self.request.state = State::Head;
            } else {
                self.not_understood += 1;
            }
        }
        let mut bytes = news.bytes;
        while !bytes.is_empty() {
            let used = self.request_bytes(bytes, time, tell);
            bytes = &bytes[used.min(bytes.len())..];
        }
        self.request_missing(news.missing_after, tell);
        self.cut_head = None;
        self.tell_ended(tell);
    }

    /// The next bytes of the end that answers.
    pub(super) fn response(
        &mut self,
        news: &News<'_>,
        time: u64,
        tell: &mut impl FnMut(Message),
    ) -> Next {
        self.response_missing(news.missing_before, tell);
        if self.doubt.is_some() && !news.bytes.is_empty() {
            self.doubt = Some(Doubt::Response);
        }
        if matches!(self.response.state, State::Lost)
            && !self.open.is_empty()
            && begins_response(news.bytes)
        {
            self.response.state = State::Head;
        }
        let mut bytes = news.bytes;
        while !bytes.is_empty() {
            let (used, next) = self.response_bytes(bytes, time, tell);
            bytes = &bytes[used.min(bytes.len())..];
            match next {
                Next::Http1 => {}
                Next::Http2(connection, _) => {
                    return Next::Http2(connection, news.bytes.len() - bytes.len());
                }
                Next::Tunnel => return Next::Tunnel,
            }
        }
        self.response_missing(news.missing_after, tell);
        self.tell_ended(tell);
        Next::Http1
    }

    /// The connection was closed, or is given up: what was answered has ended.
    pub(super) fn close(&mut self, tell: &mut impl FnMut(Message)) {
        for message in self.open.drain(..) {
            if message.answer.is_some() {
                tell(message);
            }
        }
    }

    fn tell_ended(&mut self, tell: &mut impl FnMut(Message)) {
        while let Some(message) =
            self.open.pop_front_if(|message| message.is_sent && message.is_answered)
        {
            tell(message);
        }
    }

    /// Whether the response to a request that begins now can be told from one to what was given
    /// up. One that came before it is; and only who does not pipeline waits for that.
    fn may_pair_again(&mut self) -> bool {
        self.has_pipelined |= self.doubt == Some(Doubt::Nothing);
        if self.has_pipelined && self.doubt.is_some() {
            return false;
        }
        self.doubt = None;
        true
    }

    /// Nobody can tell what comes next.
    fn lose(&mut self, tell: &mut impl FnMut(Message)) {
        for message in self.open.drain(..) {
            if message.answer.is_some() {
                tell(message);
            } else {
                self.not_understood += 1;
            }
        }
        for side in [&mut self.request, &mut self.response] {
            side.state = State::Lost;
            side.head = Vec::new();
        }
        self.doubt = Some(Doubt::Nothing);
    }
}

impl Side {
    /// Adds to the head that is not complete; how long it was.
    fn gather(&mut self, bytes: &[u8], time: u64) -> usize {
        let before = self.head.len();
        if before == 0 {
            self.begun = time;
        }
        self.head.extend_from_slice(bytes);
        before
    }
}

#[cfg(test)]
mod tests;
