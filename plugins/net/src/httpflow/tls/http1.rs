//! An HTTP/1 connection of which both directions are read. In: pieces of either side. Out: an
//! [`Ended`] per request that was answered. Pure, and bounded: heads and the number of requests
//! under way have limits. Where it is unsure which response belongs to which request, it gives
//! up all that are under way and starts again with a request at the beginning of a piece.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::mem;

use plugin_proto::http1::{
    BodyLength, ChunkedScanner, HeadError, Method, Progress, RequestHead, ResponseHead, Version,
    parse_request_head, parse_response_head,
};
use plugin_proto::http2::Side;
use plugin_proto::piece::{Cursor, Piece};

/// Of a head; servers take no longer ones as a rule.
const MOST_HEAD: usize = 16 * 1024;
/// Requests under way: more than anybody pipelines.
const MOST_OPEN: usize = 64;
/// Of a path.
const MOST_PATH: usize = 1024;

/// A request and its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) method: Cow<'static, str>,
    pub(super) path: Box<str>,
    pub(super) truncated: bool,
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) latency_ns: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: Half,
    server: Half,
    open: VecDeque<Open>,
    not_understood: u64,
    /// It has become something else: see [`Connection::is_over`].
    over: bool,
}

/// A direction.
#[derive(Debug)]
struct Half {
    cursor: Cursor,
    state: State,
    /// A head that is not complete yet, and when it began.
    head: Vec<u8>,
    first: u64,
}

#[derive(Debug)]
enum State {
    Head,
    Body(u64),
    Chunks(ChunkedScanner),
    UntilClose,
    /// Until a request begins with a piece.
    Lost,
}

#[derive(Debug)]
struct Open {
    method: Method,
    /// `None` if there is none, as of CONNECT: such a request is not reported.
    path: Option<Box<str>>,
    truncated: bool,
    first: u64,
    bytes: u64,
    is_whole: bool,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    version: Version,
    status: u16,
    first: u64,
    bytes: u64,
    is_whole: bool,
}

impl Half {
    fn at(position: u64) -> Self {
        let (cursor, state) = (Cursor::at(position), State::Lost);
        Self { cursor, state, head: Vec::new(), first: 0 }
    }

    fn set(&mut self, state: State) {
        self.head = Vec::new();
        self.state = state;
    }
}

impl State {
    fn of(body: BodyLength) -> Self {
        match body {
            BodyLength::None => Self::Head,
            BodyLength::Length(length) => Self::Body(length),
            BodyLength::Chunked => Self::Chunks(ChunkedScanner::new()),
            BodyLength::UntilClose => Self::UntilClose,
            BodyLength::Tunnel | BodyLength::Unknown => Self::Lost,
        }
    }
}

impl Connection {
    /// A connection that begins with the first request from these positions on.
    pub(super) fn new(client: u64, server: u64) -> Self {
        Self {
            client: Half::at(client),
            server: Half::at(server),
            open: VecDeque::new(),
            not_understood: 0,
            over: false,
        }
    }

    /// It is a tunnel, or speaks another protocol after an upgrade.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Requests and responses that could not be told or paired, since the last call.
    pub(super) fn take_not_understood(&mut self) -> u64 {
        mem::take(&mut self.not_understood)
    }

    /// Takes the next piece of one side and tells the exchanges that ended in it.
    pub(super) fn feed(&mut self, side: Side, piece: &Piece<'_>, tell: &mut impl FnMut(Ended)) {
        let half = self.half(side);
        let is_next = half.cursor.position() <= piece.position;
        let Some(news) = half.cursor.advance(piece) else { return };
        self.skip(side, news.missing_before, tell);
        if is_next && !news.bytes.is_empty() {
            self.restart(side, news.bytes, tell);
        }
        self.read(side, news.bytes, piece.time, tell);
        self.skip(side, news.missing_after, tell);
        self.tell_ended(tell);
    }

    /// The connection was closed.
    pub(super) fn close(&mut self, tell: &mut impl FnMut(Ended)) {
        for open in mem::take(&mut self.open) {
            open.end().map(&mut *tell);
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// What is under way cannot be told apart any more.
    fn lose(&mut self, tell: &mut impl FnMut(Ended)) {
        for open in mem::take(&mut self.open) {
            match open.end() {
                Some(ended) => tell(ended),
                None => self.not_understood += 1,
            }
        }
        self.client.set(State::Lost);
        self.server.set(State::Lost);
    }

    /// A piece begins with these bytes: where nothing is known, a request there is a new start.
    fn restart(&mut self, side: Side, bytes: &[u8], tell: &mut impl FnMut(Ended)) {
        let is_lost = matches!(self.client.state, State::Lost);
        if side == Side::Client && is_lost && parse_request_head(bytes).is_ok() {
            self.lose(tell);
            self.client.set(State::Head);
            self.server.set(State::Head);
        }
    }

    fn read(&mut self, side: Side, bytes: &[u8], time: u64, tell: &mut impl FnMut(Ended)) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.over {
            let taken = match &mut self.half(side).state {
                State::Head => self.read_head(side, rest, time, tell),
                State::Body(left) => {
                    let taken = (*left).min(rest.len() as u64);
                    *left -= taken;
                    let ends = *left == 0;
                    self.add(side, taken, ends);
                    taken as usize
                }
                State::Chunks(scanner) => {
                    let (taken, ends) = match scanner.feed(rest) {
                        Progress::More(_) => (rest.len(), false),
                        Progress::Done(taken) => (taken, true),
                        Progress::Lost => return self.lose(tell),
                    };
                    self.add(side, taken as u64, ends);
                    taken
                }
                State::UntilClose => {
                    self.add(side, rest.len() as u64, false);
                    rest.len()
                }
                State::Lost => return,
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Bytes that nobody captured.
    fn skip(&mut self, side: Side, count: u64, tell: &mut impl FnMut(Ended)) {
        if count == 0 {
            return;
        }
        let half = self.half(side);
        match &mut half.state {
            State::Body(left) if count <= *left => {
                *left -= count;
                let ends = *left == 0;
                self.add(side, count, ends);
            }
            State::Chunks(scanner) => match scanner.skip(count) {
                Progress::Lost => self.lose(tell),
                _ => self.add(side, count, false),
            },
            State::UntilClose => self.add(side, count, false),
            State::Lost => {}
            State::Head | State::Body(_) => self.lose(tell),
        }
    }

    /// Bytes of a body, with which it may end.
    fn add(&mut self, side: Side, count: u64, ends: bool) {
        match side {
            Side::Client => {
                if let Some(open) = self.open.back_mut() {
                    open.bytes += count;
                    open.is_whole |= ends;
                }
            }
            Side::Server => {
                let mut answers = self.open.iter_mut().filter_map(|open| open.answer.as_mut());
                if let Some(answer) = answers.find(|answer| !answer.is_whole) {
                    answer.bytes += count;
                    answer.is_whole |= ends;
                }
            }
        }
        if ends {
            self.half(side).set(State::Head);
        }
    }

    /// Reads a head, or a part of it; how many of the bytes belong to it.
    fn read_head(
        &mut self,
        side: Side,
        bytes: &[u8],
        time: u64,
        tell: &mut impl FnMut(Ended),
    ) -> usize {
        let half = self.half(side);
        let mut head = mem::take(&mut half.head);
        let before = head.len();
        if before == 0 {
            half.first = time;
        }
        let first = half.first;
        let room = MOST_HEAD.saturating_sub(before).min(bytes.len());
        // Nearly all heads come in one piece.
        let all = if before == 0 {
            &bytes[..room]
        } else {
            head.extend_from_slice(&bytes[..room]);
            &head[..]
        };
        let is_full = all.len() >= MOST_HEAD;
        let len = match side {
            Side::Client => match parse_request_head(all) {
                Ok(request) if request.len.is_some() || is_full => {
                    Ok(self.ask(&request, first, all.len()))
                }
                Ok(_) => Err(HeadError::NeedMore),
                Err(error) => Err(error),
            },
            Side::Server => match parse_response_head(all) {
                Ok(response) if response.len.is_some() || is_full => {
                    Ok(self.answer(&response, first, all.len()))
                }
                Ok(_) => Err(HeadError::NeedMore),
                Err(error) => Err(error),
            },
        };
        match len {
            Ok(Some(len)) => len.saturating_sub(before),
            Err(HeadError::NeedMore) if !is_full => {
                if before == 0 {
                    head = all.to_vec();
                }
                self.half(side).head = head;
                room
            }
            Ok(None) | Err(_) => {
                self.not_understood += 1;
                self.lose(tell);
                bytes.len()
            }
        }
    }

    /// A request has begun; the length of its head.
    fn ask(&mut self, request: &RequestHead<'_>, first: u64, captured: usize) -> Option<usize> {
        if self.open.len() >= MOST_OPEN {
            return None;
        }
        // Its response is the next to come.
        if self.open.is_empty() && matches!(self.server.state, State::Lost) {
            self.server.set(State::Head);
        }
        let len = request.len.unwrap_or(captured);
        let body = BodyLength::of_request(request);
        let path = &request.path[..request.path.len().min(MOST_PATH)];
        self.open.push_back(Open {
            method: request.method,
            path: path.starts_with(b"/").then(|| String::from_utf8_lossy(path).into()),
            truncated: request.truncated || path.len() < request.path.len(),
            first,
            bytes: len as u64,
            is_whole: matches!(body, BodyLength::None | BodyLength::Unknown),
            answer: None,
        });
        self.client.set(State::of(body));
        Some(len)
    }

    /// A response has begun; the length of its head.
    fn answer(&mut self, head: &ResponseHead<'_>, first: u64, captured: usize) -> Option<usize> {
        let len = head.len.unwrap_or(captured);
        let open = self.open.iter_mut().find(|open| open.answer.is_none())?;
        if head.is_interim() {
            return Some(len);
        }
        let body = BodyLength::of_response(Some(open.method), head);
        open.answer = Some(Answer {
            version: head.version,
            status: head.status,
            first,
            bytes: len as u64,
            is_whole: matches!(body, BodyLength::None | BodyLength::Unknown | BodyLength::Tunnel),
        });
        if body == BodyLength::Tunnel {
            open.is_whole = true;
            self.over = true;
        }
        self.server.set(State::of(body));
        Some(len)
    }

    fn tell_ended(&mut self, tell: &mut impl FnMut(Ended)) {
        while let Some(open) = self.open.front()
            && open.is_whole
            && open.answer.as_ref().is_some_and(|answer| answer.is_whole)
        {
            let ended = self.open.pop_front().and_then(Open::end);
            match ended {
                Some(ended) => tell(ended),
                None => self.not_understood += 1,
            }
        }
    }
}

impl Open {
    /// `None` if it was not answered, or has no path.
    fn end(self) -> Option<Ended> {
        let answer = self.answer?;
        Some(Ended {
            method: Cow::Borrowed(self.method.as_str()),
            path: self.path?,
            truncated: self.truncated,
            version: answer.version,
            status: answer.status,
            grpc_status: None,
            latency_ns: answer.first.saturating_sub(self.first),
            request_bytes: self.bytes,
            response_bytes: answer.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Connection, Ended};
    use plugin_proto::http2::Side;
    use plugin_proto::piece::Piece;

    const GET: &[u8] = b"GET /a?x HTTP/1.1\r\nHost: h\r\n\r\n";
    const POST: &[u8] = b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

    #[derive(Default)]
    struct Talk {
        sent: [u64; 2],
        time: u64,
        ended: Vec<Ended>,
    }

    impl Talk {
        fn say(&mut self, to: &mut Connection, side: Side, bytes: &[u8]) {
            self.say_cut(to, side, bytes, bytes.len() as u64);
        }

        fn say_cut(&mut self, to: &mut Connection, side: Side, bytes: &[u8], len: u64) {
            self.time += 10;
            let sent = &mut self.sent[side as usize];
            let piece = Piece { position: *sent, bytes, len, time: self.time };
            *sent += len;
            to.feed(side, &piece, &mut |ended| self.ended.push(ended));
        }

        fn told(&self) -> Vec<(&str, &str, u16)> {
            let each = self.ended.iter();
            each.map(|ended| (&*ended.method, &*ended.path, ended.status)).collect()
        }
    }

    #[test]
    fn requests_on_one_connection_are_told_one_after_the_other() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        for _ in 0..2 {
            talk.say(&mut connection, Side::Client, GET);
            talk.say(&mut connection, Side::Server, OK);
        }
        talk.say(&mut connection, Side::Client, POST);
        talk.say(&mut connection, Side::Server, CHUNKED);
        assert_eq!(talk.told(), [("GET", "/a", 200), ("GET", "/a", 200), ("POST", "/p", 404)]);
        let last = &talk.ended[2];
        assert_eq!(last.latency_ns, 10);
        assert_eq!(
            (last.request_bytes, last.response_bytes),
            (POST.len() as u64, CHUNKED.len() as u64)
        );
        assert_eq!(connection.take_not_understood(), 0);
    }

    #[test]
    fn every_cut_into_two_pieces_tells_the_same() {
        for at in 1..POST.len() {
            let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
            // The first one starts it.
            talk.say(&mut connection, Side::Client, GET);
            talk.say(&mut connection, Side::Server, OK);
            talk.say(&mut connection, Side::Client, &POST[..at]);
            talk.say(&mut connection, Side::Client, &POST[at..]);
            let cut = at.min(CHUNKED.len() - 1);
            talk.say(&mut connection, Side::Server, &CHUNKED[..cut]);
            talk.say(&mut connection, Side::Server, &CHUNKED[cut..]);
            assert_eq!(talk.told()[1..], [("POST", "/p", 404)], "cut at {at}");
            assert_eq!(talk.ended[1].response_bytes, CHUNKED.len() as u64);
        }
    }

    #[test]
    fn pipelined_requests_get_their_responses_in_order() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        talk.say(&mut connection, Side::Client, &[GET, POST, GET].concat());
        talk.say(&mut connection, Side::Server, &[OK, CHUNKED, OK].concat());
        assert_eq!(talk.told(), [("GET", "/a", 200), ("POST", "/p", 404), ("GET", "/a", 200)]);
    }

    #[test]
    fn a_body_of_which_only_the_beginning_is_captured_is_counted_whole() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        talk.say(&mut connection, Side::Client, GET);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        talk.say_cut(&mut connection, Side::Server, head, head.len() as u64 + 1000);
        assert_eq!(talk.told(), [("GET", "/a", 200)]);
        assert_eq!(talk.ended[0].response_bytes, head.len() as u64 + 1000);
    }

    #[test]
    fn what_is_missing_between_messages_pairs_nothing_wrongly() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        talk.say(&mut connection, Side::Client, GET);
        // The response, and another request, are lost.
        talk.sent[Side::Server as usize] += OK.len() as u64;
        talk.sent[Side::Client as usize] += GET.len() as u64;
        talk.say(&mut connection, Side::Server, CHUNKED);
        assert!(talk.told().is_empty());
        talk.say(&mut connection, Side::Client, POST);
        talk.say(&mut connection, Side::Server, OK);
        assert_eq!(talk.told(), [("POST", "/p", 200)]);
    }

    #[test]
    fn an_interim_response_is_not_the_answer() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        talk.say(&mut connection, Side::Client, POST);
        talk.say(&mut connection, Side::Server, b"HTTP/1.1 100 Continue\r\n\r\n");
        talk.say(&mut connection, Side::Server, OK);
        assert_eq!(talk.told(), [("POST", "/p", 200)]);
    }

    #[test]
    fn a_response_until_the_end_ends_with_the_connection() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        talk.say(&mut connection, Side::Client, GET);
        talk.say(&mut connection, Side::Server, b"HTTP/1.0 200 OK\r\n\r\nabc");
        assert!(talk.told().is_empty());
        connection.close(&mut |ended| talk.ended.push(ended));
        assert_eq!(talk.told(), [("GET", "/a", 200)]);
    }

    #[test]
    fn an_upgrade_ends_it() {
        let (mut connection, mut talk) = (Connection::new(0, 0), Talk::default());
        talk.say(&mut connection, Side::Client, GET);
        talk.say(
            &mut connection,
            Side::Server,
            b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\n\x01",
        );
        assert_eq!(talk.told(), [("GET", "/a", 101)]);
        assert!(connection.is_over());
    }
}
