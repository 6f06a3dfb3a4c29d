//! Connections that the kernel side has handed over. In: their packets as pieces. Out: exchanges.
//!
//! A connection is found by its socket's cookie. It is forgotten when it was closed, or when nothing
//! was heard of it for long; there are no more of them than the table has room for, and those
//! beyond are counted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use plugin_proto::http1::Version;
use plugin_proto::http2::{self, PREFACE, Side};
use plugin_proto::piece::{Cursor, Piece};

use super::decode::{Ends, Exchange, Kind, Part};
use super::early::Early;
use super::http1::{Http1, Message, Next};
use super::order::{Order, Room};

const MAX_CONNECTIONS: usize = 4096;
/// Nothing was heard of a connection for so long, in nanoseconds.
const IDLE_NS: u64 = 180_000_000_000;
const HTTP_2: Version = Version { major: 2, minor: 0 };

#[derive(Debug, Default)]
pub(super) struct Follow {
    connections: HashMap<u64, Followed>,
    /// The time of the latest piece.
    now: u64,
    room: Room,
    early: Early,
    counts: FollowCounts,
}

/// What did not become an exchange.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct FollowCounts {
    pub(super) not_understood: u64,
    pub(super) refused: u64,
}

#[derive(Debug)]
struct Followed {
    ends: Ends,
    heard_at: u64,
    client: Direction,
    server: Direction,
    protocol: Protocol,
}

#[derive(Debug)]
enum Protocol {
    Http1(Http1),
    Http2(Box<http2::Connection>),
    Tunnel,
}

/// Where a direction is: sequence numbers are counted on beyond 32 bits.
#[derive(Debug, Default)]
struct Direction {
    latest: Option<(u32, u64)>,
    order: Order,
    cursor: Option<Cursor>,
}

/// Far enough from 0 for what is older than the first piece.
const ORIGIN: u64 = 1 << 40;

impl Direction {
    fn position(&mut self, seq: u32) -> u64 {
        let position = match self.latest {
            None => ORIGIN,
            Some((known, position)) => {
                position.saturating_add_signed(i64::from(seq.wrapping_sub(known) as i32))
            }
        };
        self.latest = Some((seq, position));
        position
    }

    /// The piece with its position.
    fn piece<'a>(&mut self, part: &Part<'a>) -> Piece<'a> {
        Piece {
            position: self.position(part.seq),
            bytes: part.bytes,
            len: u64::from(part.len),
            time: part.time_ns,
        }
    }
}

impl Follow {
    pub(super) fn counts(&self) -> FollowCounts {
        self.counts
    }

    pub(super) fn observe(&mut self, part: &Part<'_>, tell: &mut impl FnMut(&Exchange<'_>)) {
        self.now = self.now.max(part.time_ns);
        let is_full = self.connections.len() >= MAX_CONNECTIONS;
        let followed = match self.connections.entry(part.cookie) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if part.kind == Kind::Closed => {
                self.counts.not_understood += self.early.give_up(part.cookie) as u64;
                return;
            }
            Entry::Vacant(_) if is_full => {
                self.counts.refused += 1;
                return;
            }
            Entry::Vacant(_) if !part.is_request => {
                if !self.early.keep(part) {
                    self.counts.not_understood += 1;
                }
                return;
            }
            Entry::Vacant(entry) => entry.insert(Followed::new(part)),
        };
        followed.heard_at = part.time_ns;
        followed.ends = part.ends;
        if part.kind == Kind::Closed {
            followed.close(&mut self.room, &mut self.counts, tell);
            self.connections.remove(&part.cookie);
        } else {
            followed.observe(part, &mut self.room, &mut self.counts, tell);
            if part.is_request {
                self.early.take(part, |early| {
                    followed.observe(early, &mut self.room, &mut self.counts, tell);
                });
            }
        }
    }

    /// Forgets those of which nothing was heard for long.
    pub(super) fn expire(&mut self, tell: &mut impl FnMut(&Exchange<'_>)) {
        let Self { connections, now, room, early, counts } = self;
        counts.not_understood += early.expire(now.saturating_sub(IDLE_NS)) as u64;
        connections.retain(|_, followed| {
            let is_idle = followed.heard_at.saturating_add(IDLE_NS) < *now;
            if is_idle {
                followed.close(room, counts, tell);
            }
            !is_idle
        });
    }

    /// Tells what was answered on all connections: nothing more will come.
    pub(super) fn end(&mut self, tell: &mut impl FnMut(&Exchange<'_>)) {
        for (_, mut followed) in self.connections.drain() {
            followed.close(&mut self.room, &mut self.counts, tell);
        }
    }
}

impl Followed {
    fn new(part: &Part<'_>) -> Self {
        let start = &part.bytes[..part.bytes.len().min(PREFACE.len())];
        let is_http2 = part.is_request && start.len() >= 8 && PREFACE.starts_with(start);
        let protocol = if is_http2 {
            Protocol::Http2(Box::new(http2::Connection::new(http2::Limits::default())))
        } else {
            Protocol::Http1(match part.kind {
                Kind::Earlier(rest) if part.bytes.len() < part.len as usize => {
                    Http1::after_cut_head(rest)
                }
                _ => Http1::new(),
            })
        };
        Self {
            ends: part.ends,
            heard_at: part.time_ns,
            client: Direction::default(),
            server: Direction::default(),
            protocol,
        }
    }

    fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// What comes before its turn waits.
    fn observe(
        &mut self,
        part: &Part<'_>,
        room: &mut Room,
        counts: &mut FollowCounts,
        tell: &mut impl FnMut(&Exchange<'_>),
    ) {
        let side = if part.is_request { Side::Client } else { Side::Server };
        let direction = self.direction(side);
        let piece = direction.piece(part);
        if direction.order.hold(&piece, room) {
            return;
        }
        if direction.order.gives_up_before(&piece) {
            self.give_up(side, room, counts, tell);
        }
        self.feed(side, &piece, counts, tell);
        while let Some(held) = self.direction(side).order.due(room) {
            self.feed(side, &held.piece(), counts, tell);
        }
    }

    /// What waits does so no longer.
    fn give_up(
        &mut self,
        side: Side,
        room: &mut Room,
        counts: &mut FollowCounts,
        tell: &mut impl FnMut(&Exchange<'_>),
    ) {
        while let Some(held) = self.direction(side).order.give_up(room) {
            self.feed(side, &held.piece(), counts, tell);
        }
    }

    fn feed(
        &mut self,
        side: Side,
        piece: &Piece<'_>,
        counts: &mut FollowCounts,
        tell: &mut impl FnMut(&Exchange<'_>),
    ) {
        let direction = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        direction.order.passed(piece);
        match &mut self.protocol {
            Protocol::Tunnel => {}
            Protocol::Http2(connection) => {
                if direction.cursor.is_none() {
                    direction.cursor = Some(Cursor::at(piece.position));
                    connection.start(side, piece.position);
                }
                feed_http2(connection, side, piece, self.ends, counts, tell);
            }
            Protocol::Http1(http1) => {
                let cursor = direction.cursor.get_or_insert(Cursor::at(piece.position));
                let Some(news) = cursor.advance(piece) else { return };
                let ends = self.ends;
                let mut told = |message: Message| tell_http1(ends, message, tell);
                let next = if side == Side::Client {
                    http1.request(&news, piece.time, &mut told);
                    Next::Http1
                } else {
                    http1.response(&news, piece.time, &mut told)
                };
                counts.not_understood += http1.take_not_understood();
                match next {
                    Next::Http1 => {}
                    Next::Tunnel => self.protocol = Protocol::Tunnel,
                    Next::Http2(mut connection, used) => {
                        let rest = &news.bytes[used..];
                        let position = cursor.position() - rest.len() as u64 - news.missing_after;
                        connection.start(Side::Server, position);
                        if let Some(cursor) = self.client.cursor {
                            connection.start(Side::Client, cursor.position());
                        }
                        let rest = Piece {
                            position,
                            bytes: rest,
                            len: rest.len() as u64 + news.missing_after,
                            time: piece.time,
                        };
                        feed_http2(&mut connection, Side::Server, &rest, ends, counts, tell);
                        self.protocol = Protocol::Http2(connection);
                    }
                }
            }
        }
    }

    fn close(
        &mut self,
        room: &mut Room,
        counts: &mut FollowCounts,
        tell: &mut impl FnMut(&Exchange<'_>),
    ) {
        for side in [Side::Client, Side::Server] {
            self.give_up(side, room, counts, tell);
        }
        let ends = self.ends;
        match &mut self.protocol {
            Protocol::Tunnel => {}
            Protocol::Http1(http1) => http1.close(&mut |message| tell_http1(ends, message, tell)),
            Protocol::Http2(connection) => {
                connection.close(|exchange| tell_http2(ends, exchange, counts, tell));
            }
        }
    }
}

fn feed_http2(
    connection: &mut http2::Connection,
    side: Side,
    piece: &Piece<'_>,
    ends: Ends,
    counts: &mut FollowCounts,
    tell: &mut impl FnMut(&Exchange<'_>),
) {
    if connection.is_lost(side) && http2::looks_like_frames(piece.bytes, piece.len) {
        connection.resume(side, piece.position);
    }
    connection.feed(side, piece, |exchange| tell_http2(ends, exchange, counts, tell));
    counts.not_understood += connection.take_missed();
}

fn tell_http1(ends: Ends, message: Message, tell: &mut impl FnMut(&Exchange<'_>)) {
    let (Some(path), Some(answer)) = (message.path, message.answer) else { return };
    tell(&Exchange {
        ends,
        method: Cow::Borrowed(message.method.as_str()),
        path: Cow::Owned(path.into()),
        truncated: message.truncated,
        version: answer.version,
        status: answer.status,
        grpc_status: None,
        count: 1,
        latency_sum_ns: answer.at.saturating_sub(message.asked_at),
        request_bytes: message.request_bytes,
        response_bytes: message.response_bytes,
    });
}

fn tell_http2(
    ends: Ends,
    exchange: http2::Exchange,
    counts: &mut FollowCounts,
    tell: &mut impl FnMut(&Exchange<'_>),
) {
    let (request, response) = (exchange.request, exchange.response);
    let (Some(asked_at), Some(answered_at)) = (request.first, response.first) else {
        // Nobody answered: there is nothing to report.
        return;
    };
    let Some(status) = exchange.status else {
        counts.not_understood += 1;
        return;
    };
    tell(&Exchange {
        ends,
        method: exchange.method.unwrap_or_default(),
        path: Cow::Owned(exchange.path.unwrap_or_default().into()),
        truncated: exchange.truncated,
        version: HTTP_2,
        status,
        grpc_status: exchange.grpc_status,
        count: 1,
        latency_sum_ns: answered_at.saturating_sub(asked_at),
        request_bytes: request.wire,
        response_bytes: response.wire,
    });
}
