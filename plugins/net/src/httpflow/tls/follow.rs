//! Sessions to exchanges. In: records in the order of the kernel. Out: exchanges, with the ends
//! of their connection. Pure: no maps, no clock, no `/proc`; the number of sessions is bounded.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::mem;

use plugin_proto::http1::{Version, parse_request_head, parse_response_head};
use plugin_proto::http2::{self, Limits, Side};
use plugin_proto::piece::{Cursor, Piece};

use super::super::decode::{Ends, Exchange};
use super::super::http1::{Http1, Message, Next};
use super::decode::{Record, Session, Socket, Way, What};
use crate::decode::{Direction, Owner};

/// Sessions that are followed; as many as the kernel side keeps.
const MOST_SESSIONS: usize = 16_384;
/// What is kept of a session whose protocol is not known yet: a server may speak first.
const MOST_HELD: usize = 4;
const MOST_HELD_BYTES: usize = 4096;
/// Exchanges that wait until the session's socket is known.
const MOST_WAITING: usize = 64;

/// What was given up, since the last look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Losses {
    /// Sessions that found the table full.
    pub(super) sessions_refused: u64,
    /// Exchanges whose socket never became known.
    pub(super) without_socket: u64,
    /// Requests and responses that could not be told or paired.
    pub(super) not_understood: u64,
}

/// Follows all sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: HashMap<Session, Followed>,
    losses: Losses,
}

#[derive(Debug)]
struct Followed {
    born_ns: u64,
    latest_ns: u64,
    owner: Owner,
    socket: Option<Socket>,
    protocol: Protocol,
    /// How far it was read, coming in and going out.
    cursors: [Cursor; 2],
    /// Ended, while no socket was known.
    waiting: Vec<(Way, Ended)>,
}

#[derive(Debug)]
enum Protocol {
    Unknown(Vec<Held>),
    Http1 {
        asks: Way,
        connection: Box<Http1>,
    },
    Http2 {
        asks: Way,
        connection: Box<http2::Connection>,
    },
    /// A request may still begin here, behind something of which the beginning was not seen.
    Other,
}

#[derive(Debug)]
struct Held {
    way: Way,
    position: u64,
    bytes: Vec<u8>,
    len: u64,
    time: u64,
}

impl Held {
    fn piece(&self) -> Piece<'_> {
        Piece { position: self.position, bytes: &self.bytes, len: self.len, time: self.time }
    }
}

/// A request and its response.
#[derive(Debug)]
struct Ended {
    method: Cow<'static, str>,
    path: Box<str>,
    truncated: bool,
    version: Version,
    status: u16,
    grpc_status: Option<u32>,
    latency_ns: u64,
    request_bytes: u64,
    response_bytes: u64,
}

/// What a piece says of a session's protocol.
enum Guess {
    Http1(Way),
    Http2(Way),
    Open,
}

impl Sessions {
    /// Takes a record and tells the exchanges that ended with it.
    pub(super) fn observe(&mut self, record: &Record<'_>, tell: &mut impl FnMut(&Exchange<'_>)) {
        let Record { session, born_ns, time_ns, owner, socket, what } = *record;
        let older = self.sessions.get(&session).is_some_and(|known| known.born_ns != born_ns);
        if older && let Some(followed) = self.sessions.remove(&session) {
            followed.end(&mut self.losses, tell);
        }
        if !self.sessions.contains_key(&session) {
            if what == What::Ended {
                return;
            }
            if self.sessions.len() >= MOST_SESSIONS {
                self.losses.sessions_refused += 1;
                return;
            }
            self.sessions.insert(session, Followed::new(born_ns, owner));
        }
        let Some(followed) = self.sessions.get_mut(&session) else { return };
        followed.latest_ns = time_ns;
        followed.socket = socket.or(followed.socket);
        match what {
            What::Moved(way, piece) => {
                let mut ended = mem::take(&mut followed.waiting);
                followed.moved(way, &piece, &mut ended, &mut self.losses);
                followed.tell(ended, &mut self.losses, tell);
            }
            What::Ended => {
                if let Some(followed) = self.sessions.remove(&session) {
                    followed.end(&mut self.losses, tell);
                }
            }
        }
    }

    /// Whose sessions they are.
    pub(super) fn processes(&self) -> HashSet<u32> {
        self.sessions.keys().map(|session| session.pid).collect()
    }

    /// Ends the sessions that are not to be kept: of processes that are gone, for one.
    pub(super) fn retain(
        &mut self,
        mut keep: impl FnMut(Session, u64) -> bool,
        tell: &mut impl FnMut(&Exchange<'_>),
    ) {
        let Self { sessions, losses } = self;
        let gone = sessions.extract_if(|session, known| !keep(*session, known.latest_ns));
        gone.for_each(|(_, followed)| followed.end(losses, tell));
    }

    /// What was given up since the last call.
    pub(super) fn take_losses(&mut self) -> Losses {
        mem::take(&mut self.losses)
    }
}

impl Followed {
    fn new(born_ns: u64, owner: Owner) -> Self {
        Self {
            born_ns,
            latest_ns: born_ns,
            owner,
            socket: None,
            protocol: Protocol::Unknown(Vec::new()),
            cursors: [Cursor::at(0); 2],
            waiting: Vec::new(),
        }
    }

    fn moved(
        &mut self,
        way: Way,
        piece: &Piece<'_>,
        ended: &mut Vec<(Way, Ended)>,
        losses: &mut Losses,
    ) {
        if let Protocol::Unknown(_) | Protocol::Other = self.protocol {
            let asks = match self.guess(way, piece) {
                Guess::Http1(asks) => {
                    // What came before is no HTTP/1: that begins with its request.
                    let connection = Box::new(Http1::new());
                    self.protocol = Protocol::Http1 { asks, connection };
                    asks
                }
                Guess::Http2(asks) => {
                    let mut connection = Box::new(http2::Connection::new(Limits::default()));
                    if http2::is_preface(piece.bytes) == Some(true) {
                        connection.start(Side::Client, piece.position);
                        connection.start(Side::Server, 0);
                    }
                    let held = self.become_protocol(Protocol::Http2 { asks, connection });
                    for held in held {
                        self.read(held.way, &held.piece(), ended, losses);
                    }
                    asks
                }
                Guess::Open => {
                    self.cursors[way as usize].advance(piece);
                    return self.hold(way, piece);
                }
            };
            log::trace!(asks:? = asks; "protocol of a TLS session");
        }
        self.read(way, piece, ended, losses);
    }

    fn become_protocol(&mut self, protocol: Protocol) -> Vec<Held> {
        match mem::replace(&mut self.protocol, protocol) {
            Protocol::Unknown(held) => held,
            _ => Vec::new(),
        }
    }

    fn guess(&self, way: Way, piece: &Piece<'_>) -> Guess {
        let bytes = piece.bytes;
        if http2::is_preface(bytes) == Some(true) {
            return Guess::Http2(way);
        }
        if parse_request_head(bytes).is_ok() {
            return Guess::Http1(way);
        }
        if parse_response_head(bytes).is_ok() {
            return Guess::Http1(way.other());
        }
        // A server's settings may come before the client's preface; other frames do not.
        let is_settings = bytes.get(3) == Some(&4);
        match self.socket.and_then(|socket| socket.asks) {
            Some(asks) if !is_settings && http2::looks_like_frames(bytes, piece.len) => {
                Guess::Http2(asks)
            }
            _ => Guess::Open,
        }
    }

    fn hold(&mut self, way: Way, piece: &Piece<'_>) {
        let Protocol::Unknown(held) = &mut self.protocol else { return };
        if held.len() == MOST_HELD {
            self.protocol = Protocol::Other;
            return;
        }
        let Piece { position, bytes, len, time } = *piece;
        let bytes = bytes[..bytes.len().min(MOST_HELD_BYTES)].to_vec();
        held.push(Held { way, position, bytes, len, time });
    }

    fn read(
        &mut self,
        way: Way,
        piece: &Piece<'_>,
        ended: &mut Vec<(Way, Ended)>,
        losses: &mut Losses,
    ) {
        let side = |asks| if way == asks { Side::Client } else { Side::Server };
        match &mut self.protocol {
            Protocol::Http1 { asks, connection } => {
                let Some(news) = self.cursors[way as usize].advance(piece) else { return };
                let asks = *asks;
                let mut tell = |message| ended.extend(of_http1(message).map(|each| (asks, each)));
                let next = if way == asks {
                    connection.request(&news, piece.time, &mut tell);
                    Next::Http1
                } else {
                    connection.response(&news, piece.time, &mut tell)
                };
                losses.not_understood += connection.take_not_understood();
                // Who goes on in HTTP/2, which nobody does in TLS, begins with its preface.
                if !matches!(next, Next::Http1) {
                    self.protocol = Protocol::Other;
                }
            }
            Protocol::Http2 { asks, connection } => {
                let (asks, side) = (*asks, side(*asks));
                if connection.is_lost(side) && http2::looks_like_frames(piece.bytes, piece.len) {
                    connection.resume(side, piece.position);
                }
                connection.feed(side, piece, |exchange| {
                    ended.extend(of_http2(exchange, losses).map(|each| (asks, each)));
                });
                losses.not_understood += connection.take_missed();
            }
            Protocol::Unknown(_) | Protocol::Other => {}
        }
    }

    /// Tells what ended, or keeps it until the socket is known.
    fn tell(
        &mut self,
        ended: Vec<(Way, Ended)>,
        losses: &mut Losses,
        tell: &mut impl FnMut(&Exchange<'_>),
    ) {
        if ended.is_empty() {
            return;
        }
        let Some(socket) = self.socket else {
            self.waiting = ended;
            losses.without_socket += self.waiting.len().saturating_sub(MOST_WAITING) as u64;
            self.waiting.truncate(MOST_WAITING);
            return;
        };
        for (asks, each) in ended {
            let direction =
                if asks == Way::Out { Direction::Outgoing } else { Direction::Incoming };
            let Socket { local, remote, netns, .. } = socket;
            let ends = Ends { local, remote, direction, owner: self.owner, netns };
            tell(&each.exchange(ends));
        }
    }

    fn end(mut self, losses: &mut Losses, tell: &mut impl FnMut(&Exchange<'_>)) {
        let mut ended = mem::take(&mut self.waiting);
        match &mut self.protocol {
            Protocol::Http1 { asks, connection } => {
                connection.close(&mut |message| {
                    ended.extend(of_http1(message).map(|each| (*asks, each)));
                });
            }
            Protocol::Http2 { asks, connection } => connection.close(|exchange| {
                ended.extend(of_http2(exchange, losses).map(|each| (*asks, each)));
            }),
            Protocol::Unknown(_) | Protocol::Other => {}
        }
        self.tell(ended, losses, tell);
        losses.without_socket += self.waiting.len() as u64;
    }
}

impl Ended {
    fn exchange(&self, ends: Ends) -> Exchange<'_> {
        Exchange {
            ends,
            method: self.method.clone(),
            path: (&*self.path).into(),
            truncated: self.truncated,
            version: self.version,
            status: self.status,
            grpc_status: self.grpc_status,
            count: 1,
            latency_sum_ns: self.latency_ns,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        }
    }
}

/// `None` if it was not answered, or has no path.
fn of_http1(message: Message) -> Option<Ended> {
    let answer = message.answer?;
    Some(Ended {
        method: Cow::Borrowed(message.method.as_str()),
        path: message.path?,
        truncated: message.truncated,
        version: answer.version,
        status: answer.status,
        grpc_status: None,
        latency_ns: answer.at.saturating_sub(message.asked_at),
        request_bytes: message.request_bytes,
        response_bytes: message.response_bytes,
    })
}

/// `None` if it was not answered; or if too little of it is known, which is counted.
fn of_http2(exchange: http2::Exchange, losses: &mut Losses) -> Option<Ended> {
    let http2::Exchange { request, response, .. } = exchange;
    let (asked, answered) = (request.first?, response.first?);
    let (Some(method), Some(path), Some(status)) =
        (exchange.method, exchange.path, exchange.status)
    else {
        losses.not_understood += 1;
        return None;
    };
    Some(Ended {
        method,
        path,
        truncated: exchange.truncated,
        version: Version { major: 2, minor: 0 },
        status,
        grpc_status: exchange.grpc_status,
        latency_ns: answered.saturating_sub(asked),
        request_bytes: request.wire,
        response_bytes: response.wire,
    })
}

#[cfg(test)]
mod tests;
