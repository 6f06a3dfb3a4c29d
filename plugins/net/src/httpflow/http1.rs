//! An HTTP/1 connection followed message by message. In: the bytes of both directions that are new,
//! with holes. Out: exchanges, in the order in which they were asked for. Pure.
//!
//! It keeps no bodies. Where it cannot know what comes next, it gives up what is open and starts
//! again with a piece that begins like a request; what it gave up is counted.

use std::collections::VecDeque;

use plugin_proto::http1::{
    BodyLength, ChunkedScanner, HeadError, Method, Progress, Version, parse_request_head,
    parse_response_head,
};
use plugin_proto::http2;
use plugin_proto::piece::News;

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
    Body(u64),
    Chunked(ChunkedScanner),
    UntilClose,
    /// Until a piece begins with a head.
    Lost,
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
    not_understood: u64,
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
            not_understood: 0,
        }
    }

    /// Requests and responses that could not be told or paired, since it was last asked.
    pub(super) fn take_not_understood(&mut self) -> u64 {
        std::mem::take(&mut self.not_understood)
    }

    /// The next bytes of the end that asks.
    pub(super) fn request(&mut self, news: &News<'_>, time: u64, tell: &mut impl FnMut(Message)) {
        self.request_missing(news.missing_before, tell);
        if matches!(self.request.state, State::Lost) && begins_request(news.bytes) {
            self.request.state = State::Head;
        }
        let mut bytes = news.bytes;
        while !bytes.is_empty() {
            let used = self.request_bytes(bytes, time, tell);
            bytes = &bytes[used.min(bytes.len())..];
        }
        self.request_missing(news.missing_after, tell);
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

    /// Takes some bytes; how many.
    fn request_bytes(&mut self, bytes: &[u8], time: u64, tell: &mut impl FnMut(Message)) -> usize {
        match &mut self.request.state {
            State::Head => self.request_head(bytes, time, tell),
            State::Body(left) => {
                let used = (*left).min(bytes.len() as u64);
                *left -= used;
                let ended = *left == 0;
                self.sent(used, ended);
                used as usize
            }
            State::Chunked(scanner) => match scanner.feed(bytes) {
                Progress::More(_) => {
                    self.sent(bytes.len() as u64, false);
                    bytes.len()
                }
                Progress::Done(used) => {
                    self.sent(used as u64, true);
                    used
                }
                Progress::Lost => {
                    self.lose(tell);
                    bytes.len()
                }
            },
            State::UntilClose | State::Lost => bytes.len(),
        }
    }

    fn request_head(&mut self, bytes: &[u8], time: u64, tell: &mut impl FnMut(Message)) -> usize {
        // A line break between two requests is not worth a word.
        if self.request.head.is_empty() && matches!(bytes[0], b'\r' | b'\n') {
            return 1;
        }
        let before = self.request.gather(bytes, time);
        // Only a line's end brings news, unless this is no request at all.
        if before > 0 && !bytes.contains(&b'\n') && self.request.head.len() < MAX_HEAD {
            return bytes.len();
        }
        let head = std::mem::take(&mut self.request.head);
        let parsed = parse_request_head(&head);
        let (request, len) = match &parsed {
            Ok(request) => match request.len {
                Some(len) => (request, len),
                None if head.len() < MAX_HEAD => {
                    self.request.head = head;
                    return bytes.len();
                }
                None => {
                    self.lose(tell);
                    return bytes.len();
                }
            },
            Err(HeadError::NeedMore) if head.len() < MAX_HEAD => {
                self.request.head = head;
                return bytes.len();
            }
            Err(_) => {
                self.not_understood += 1;
                self.lose(tell);
                return bytes.len();
            }
        };
        if self.open.len() >= MAX_OPEN {
            self.lose(tell);
            return bytes.len();
        }
        let has_path = !request.path.is_empty() && request.path != b"*";
        self.open.push_back(Message {
            method: request.method,
            path: has_path.then(|| String::from_utf8_lossy(request.path).into()),
            truncated: request.truncated,
            asked_at: self.request.begun,
            request_bytes: len as u64,
            answer: None,
            response_bytes: 0,
            is_sent: false,
            is_answered: false,
        });
        self.upgrade.clear();
        if request.wants_h2c() {
            self.upgrade.extend_from_slice(&head[..len]);
        }
        match BodyLength::of_request(request) {
            BodyLength::None => self.sent(0, true),
            BodyLength::Length(length) => self.request.state = State::Body(length),
            BodyLength::Chunked => self.request.state = State::Chunked(ChunkedScanner::new()),
            BodyLength::UntilClose | BodyLength::Tunnel | BodyLength::Unknown => {
                self.request.state = State::Lost;
            }
        }
        len - before
    }

    fn request_missing(&mut self, count: u64, tell: &mut impl FnMut(Message)) {
        if count == 0 {
            return;
        }
        match &mut self.request.state {
            State::Body(left) if count <= *left => {
                *left -= count;
                let ended = *left == 0;
                self.sent(count, ended);
            }
            State::Chunked(scanner) => match scanner.skip(count) {
                Progress::Lost => self.lose(tell),
                _ => self.sent(count, false),
            },
            State::UntilClose | State::Lost => {}
            _ => self.lose(tell),
        }
    }

    /// So many bytes of the latest request were sent.
    fn sent(&mut self, bytes: u64, ended: bool) {
        if let Some(latest) = self.open.back_mut() {
            latest.request_bytes += bytes;
            latest.is_sent |= ended;
        }
        if ended {
            self.request.state = State::Head;
        }
    }

    fn response_bytes(
        &mut self,
        bytes: &[u8],
        time: u64,
        tell: &mut impl FnMut(Message),
    ) -> (usize, Next) {
        let used = match &mut self.response.state {
            State::Head => return self.response_head(bytes, time, tell),
            State::Body(left) => {
                let used = (*left).min(bytes.len() as u64);
                *left -= used;
                let ended = *left == 0;
                self.answered(used, ended);
                used as usize
            }
            State::Chunked(scanner) => match scanner.feed(bytes) {
                Progress::More(_) => {
                    self.answered(bytes.len() as u64, false);
                    bytes.len()
                }
                Progress::Done(used) => {
                    self.answered(used as u64, true);
                    used
                }
                Progress::Lost => {
                    self.lose(tell);
                    bytes.len()
                }
            },
            State::UntilClose => {
                self.answered(bytes.len() as u64, false);
                bytes.len()
            }
            State::Lost => bytes.len(),
        };
        (used, Next::Http1)
    }

    fn response_head(
        &mut self,
        bytes: &[u8],
        time: u64,
        tell: &mut impl FnMut(Message),
    ) -> (usize, Next) {
        let before = self.response.gather(bytes, time);
        let head = std::mem::take(&mut self.response.head);
        let parsed = parse_response_head(&head);
        let response = match &parsed {
            Ok(response) if response.len.is_some() => response,
            Ok(_) | Err(HeadError::NeedMore) if head.len() < MAX_HEAD => {
                self.response.head = head;
                return (bytes.len(), Next::Http1);
            }
            _ => {
                self.not_understood += 1;
                self.lose(tell);
                return (bytes.len(), Next::Http1);
            }
        };
        let len = response.len.unwrap_or_default();
        let begun = self.response.begun;
        let used = len - before;
        let Some(message) = self.open.iter_mut().find(|message| !message.is_answered) else {
            self.not_understood += 1;
            self.response.state = State::Lost;
            return (bytes.len(), Next::Http1);
        };
        message.response_bytes += len as u64;
        if response.is_interim() {
            return (used, Next::Http1);
        }
        message.answer =
            Some(Answer { version: response.version, status: response.status, at: begun });
        match BodyLength::of_response(Some(message.method), response) {
            BodyLength::None => self.answered(0, true),
            BodyLength::Length(length) => self.response.state = State::Body(length),
            BodyLength::Chunked => self.response.state = State::Chunked(ChunkedScanner::new()),
            BodyLength::UntilClose => self.response.state = State::UntilClose,
            BodyLength::Unknown => {
                self.answered(0, true);
                self.response.state = State::Lost;
            }
            BodyLength::Tunnel if response.starts_h2c() => {
                if let Some(connection) = self.upgraded() {
                    return (used, Next::Http2(connection, 0));
                }
                return (used, Next::Tunnel);
            }
            BodyLength::Tunnel => {
                self.close(tell);
                return (used, Next::Tunnel);
            }
        }
        self.tell_ended(tell);
        (used, Next::Http1)
    }

    /// The connection in HTTP/2 that answers the latest request.
    fn upgraded(&mut self) -> Option<Box<http2::Connection>> {
        let request = parse_request_head(&self.upgrade).ok()?;
        let message = self.open.pop_back()?;
        let mut connection = Box::new(http2::Connection::new(http2::Limits::default()));
        let asked = http2::Message {
            first: Some(message.asked_at),
            last: message.asked_at,
            wire: message.request_bytes,
            ..http2::Message::default()
        };
        connection.upgrade(&request, asked);
        Some(connection)
    }

    fn response_missing(&mut self, count: u64, tell: &mut impl FnMut(Message)) {
        if count == 0 {
            return;
        }
        match &mut self.response.state {
            State::Body(left) if count <= *left => {
                *left -= count;
                let ended = *left == 0;
                self.answered(count, ended);
            }
            State::Chunked(scanner) => match scanner.skip(count) {
                Progress::Lost => self.lose(tell),
                _ => self.answered(count, false),
            },
            State::UntilClose => self.answered(count, false),
            State::Lost => {}
            _ => self.lose(tell),
        }
    }

    /// So many bytes of the response to the first request that waits were sent.
    fn answered(&mut self, bytes: u64, ended: bool) {
        if let Some(message) = self.open.iter_mut().find(|message| !message.is_answered) {
            message.response_bytes += bytes;
            message.is_answered |= ended;
        }
        if ended {
            self.response.state = State::Head;
        }
    }

    fn tell_ended(&mut self, tell: &mut impl FnMut(Message)) {
        while let Some(message) =
            self.open.pop_front_if(|message| message.is_sent && message.is_answered)
        {
            tell(message);
        }
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

fn begins_request(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !matches!(parse_request_head(bytes), Err(HeadError::NotHttp))
}

fn begins_response(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !matches!(parse_response_head(bytes), Err(HeadError::NotHttp))
}

#[cfg(test)]
mod tests;
