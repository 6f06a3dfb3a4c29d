//! A connection's two directions to exchanges. In: pieces of either side. Out: an [`Exchange`] per
//! stream that ended. The number of open streams, header tables, unfinished header blocks and
//! texts are bounded; what is refused is counted.

use std::collections::BTreeMap;
use std::mem;

use super::direction::{Direction, KEPT, Pending, fragment, matters, wire_len};
use super::frame::{
    CONTINUATION, DATA, Event, FLAG_END_HEADERS, FLAG_END_STREAM, FLAG_PADDED, FrameHeader, Frames,
    GOAWAY, HEADERS, PUSH_PROMISE, RST_STREAM,
};
use super::hpack::Decoder;
use super::stream::{Block, End, Exchange, Message, Stream};
use crate::http1::RequestHead;
use crate::piece::Piece;

/// Who sent a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who opened the connection, and asks.
    Client,
    /// Who answers.
    Server,
}

/// What a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams that are open at the same time.
    pub streams: usize,
    /// Bytes of each direction's HPACK table.
    pub table: usize,
    /// Bytes of a header block. Of a larger one only the beginning is read.
    pub block: usize,
    /// Bytes of a path, an authority or a method.
    pub text: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // 4096 is the table that HTTP/2 starts with, and few agree on more.
        Self { streams: 256, table: 16 * 1024, block: 32 * 1024, text: 1024 }
    }
}

/// What happened that is not an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were not followed because too many were open.
    pub refused: u64,
    /// Responses to requests that were not seen, were not followed, or had been reset.
    pub orphans: u64,
    /// Exchanges that were given up because something was missed and others needed the room.
    pub forgotten: u64,
    /// Times that a direction's frames were lost.
    pub lost: u64,
    /// Header blocks that could not be read.
    pub corrupt: u64,
    /// Header blocks of which only the beginning was captured or kept.
    pub cut: u64,
    /// Responses that a server announced unasked; they are not followed.
    pub pushed: u64,
}

/// Follows one connection.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    client: Direction,
    server: Direction,
    streams: BTreeMap<u32, Stream>,
    /// The highest stream that a client opened.
    latest: u32,
    counters: Counters,
    /// See [`Connection::take_missed`].
    missed: u64,
}

impl Connection {
    /// A connection of which nothing is known: each direction is passed over until it is given a
    /// [`Connection::start`] or [`Connection::resume`].
    pub fn new(limits: Limits) -> Self {
        Self {
            client: Direction::joined(&limits),
            server: Direction::joined(&limits),
            streams: BTreeMap::new(),
            latest: 0,
            counters: Counters::default(),
            missed: 0,
            limits,
        }
    }

    /// This side's very first byte of HTTP/2 is at this position: a client's preface, or a
    /// server's first frame.
    pub fn start(&mut self, side: Side, position: u64) {
        let frames = match side {
            Side::Client => Frames::at_preface(position),
            Side::Server => Frames::resume(position),
        };
        let decoder = Decoder::from_start(self.limits.table);
        *self.direction(side) = Direction { frames, decoder, ..Direction::joined(&self.limits) };
    }

    /// Some frame of this side starts at this position, and what came before it was not seen.
    pub fn resume(&mut self, side: Side, position: u64) {
        let direction = self.direction(side);
        direction.lose();
        direction.frames = Frames::resume(position);
        self.streams.values_mut().for_each(Stream::doubt);
    }

    /// The connection was upgraded from HTTP/1 by this request, which is answered on stream 1.
    pub fn upgrade(&mut self, head: &RequestHead<'_>, request: Message) {
        let mut block = Block::default();
        let mut take = |name: &[u8], value: &[u8]| {
            let field = super::hpack::Field { name: Some(name), value: Some(value) };
            block.take(field, self.limits.text);
        };
        take(b":method", head.method.as_str().as_bytes());
        take(b":path", head.path);
        if let Some(host) = head.headers.value(b"host") {
            take(b":authority", host);
        }
        let mut stream = Stream::new(1, 0, block);
        *stream.request() = request;
        stream.end_client();
        self.streams.insert(1, stream);
        self.latest = 1;
    }

    /// Whether this side is passed over until it is resumed.
    pub fn is_lost(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.frames.is_lost(),
            Side::Server => self.server.frames.is_lost(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What will never be told, or not be paired, since it was last asked: requests that were refused, responses whose
    /// request was not read, and each time that a direction's frames were lost, after which nobody knows how much was said.
    pub fn take_missed(&mut self) -> u64 {
        mem::take(&mut self.missed)
    }

    /// How many exchanges are open.
    pub fn open(&self) -> usize {
        self.streams.len()
    }

    /// Takes the next piece of one side and tells the exchanges that ended in it.
    pub fn feed(&mut self, side: Side, piece: &Piece<'_>, mut tell: impl FnMut(Exchange)) {
        let mut frames = self.direction(side).frames;
        frames.feed(piece, |event| self.event(side, event, piece.time, &mut tell));
        // An event may have found out that the frames are none.
        if !self.direction(side).frames.is_lost() {
            self.direction(side).frames = frames;
        }
    }

    /// Tells and forgets the exchanges that nothing was heard of since this time.
    pub fn expire(&mut self, before: u64, mut tell: impl FnMut(Exchange)) {
        let old = self.streams.extract_if(.., |_, stream| stream.latest() < before);
        old.for_each(|(_, stream)| tell(stream.close(End::Unseen)));
    }

    /// The connection was closed: tells the exchanges that were open, with what is known.
    pub fn close(&mut self, mut tell: impl FnMut(Exchange)) {
        for stream in mem::take(&mut self.streams).into_values() {
            tell(stream.close(End::Unseen));
        }
    }

    fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn event(&mut self, side: Side, event: Event<'_>, now: u64, tell: &mut impl FnMut(Exchange)) {
        let most = self.limits.block;
        let direction = self.direction(side);
        match event {
            // The frames go on to be told to the end of the piece after a loss by `lose`.
            Event::Start { .. } if direction.frames.is_lost() => {}
            Event::Start { header, time } => {
                direction.header = header;
                direction.time = time;
                direction.payload.clear();
                direction.payload.shrink_to(KEPT);
                direction.holed = false;
                direction.read = false;
                let continues = direction.pending.map(|pending| pending.first.stream);
                if continues
                    .is_some_and(|stream| header.kind != CONTINUATION || header.stream != stream)
                {
                    self.lose(side);
                }
            }
            Event::Payload(bytes) => {
                let header = direction.header;
                if direction.frames.is_lost() || direction.holed || !matters(header) {
                } else if bytes.len() == header.len as usize && header.kind != DATA {
                    direction.read = true;
                    self.frame(side, bytes, now, tell);
                } else {
                    let room = most.saturating_sub(direction.payload.len()).min(bytes.len());
                    direction.payload.extend_from_slice(&bytes[..room]);
                    direction.holed |= room < bytes.len();
                }
            }
            Event::Missing(_) => direction.holed = true,
            Event::End => {
                if !direction.frames.is_lost() && !direction.read {
                    let payload = mem::take(&mut direction.payload);
                    self.frame(side, &payload, now, tell);
                    self.direction(side).payload = payload;
                }
            }
            Event::Lost => self.lose(side),
        }
    }

    fn lose(&mut self, side: Side) {
        self.counters.lost += 1;
        self.missed += 1;
        self.direction(side).lose();
        self.streams.values_mut().for_each(Stream::doubt);
    }

    /// A frame has ended, of whose payload this was captured.
    fn frame(&mut self, side: Side, payload: &[u8], now: u64, tell: &mut impl FnMut(Exchange)) {
        let direction = self.direction(side);
        let header = direction.header;
        match header.kind {
            DATA => self.data(side, header, payload, now, tell),
            HEADERS | PUSH_PROMISE => {
                let Some((fragment, cut)) = fragment(header, payload) else {
                    return self.lose(side);
                };
                direction.block.clear();
                direction.block.shrink_to(KEPT);
                let wire = wire_len(header);
                direction.pending =
                    Some(Pending { first: header, time: direction.time, wire, cut });
                if header.has(FLAG_END_HEADERS) {
                    self.block(side, fragment, now, tell);
                } else {
                    self.gather(side, fragment);
                }
            }
            CONTINUATION => {
                let Some(pending) = &mut direction.pending else {
                    // We joined within a block.
                    return direction.decoder.forget();
                };
                pending.wire += wire_len(header);
                let cut = payload.len() < header.len as usize;
                // Nothing that follows a hole can be read.
                if !pending.cut {
                    self.gather(side, payload);
                }
                self.cut(side, cut);
                if header.has(FLAG_END_HEADERS) {
                    let block = mem::take(&mut self.direction(side).block);
                    self.block(side, &block, now, tell);
                    self.direction(side).block = block;
                }
            }
            RST_STREAM => {
                if let Some(code) = payload.first_chunk() {
                    let end = End::Reset(u32::from_be_bytes(*code));
                    self.finish(header.stream, end, now, side, tell);
                }
            }
            GOAWAY if side == Side::Server => self.go_away(payload, tell),
            _ => {}
        }
    }

    fn cut(&mut self, side: Side, cut: bool) {
        if let Some(pending) = &mut self.direction(side).pending {
            pending.cut |= cut;
        }
    }

    fn gather(&mut self, side: Side, fragment: &[u8]) {
        let most = self.limits.block;
        let direction = self.direction(side);
        let room = most.saturating_sub(direction.block.len()).min(fragment.len());
        direction.block.extend_from_slice(&fragment[..room]);
        self.cut(side, room < fragment.len());
    }

    /// A header block has ended.
    fn block(&mut self, side: Side, bytes: &[u8], now: u64, tell: &mut impl FnMut(Exchange)) {
        let longest = self.limits.text;
        let direction = self.direction(side);
        let Some(Pending { first, time, wire, cut }) = direction.pending.take() else { return };
        let mut block = Block::default();
        let pushed = first.kind == PUSH_PROMISE;
        let decoded = direction.decoder.decode(bytes, !cut, |field| {
            if !pushed {
                block.take(field, longest);
            }
        });
        self.counters.cut += u64::from(cut);
        if decoded.is_err() {
            self.counters.corrupt += 1;
            block = Block::default();
        }
        if pushed {
            self.counters.pushed += 1;
            return;
        }
        // Even streams are the server's own.
        if first.stream.is_multiple_of(2) {
            return;
        }
        let ends = first.has(FLAG_END_STREAM);
        match side {
            Side::Client => self.ask(first.stream, time, block, tell),
            Side::Server => match self.streams.get_mut(&first.stream) {
                Some(stream) => stream.answer(time, &block, ends),
                // Trailers are no response.
                None if !ends || block.answers() => {
                    self.counters.orphans += 1;
                    // Others were reset, or have been refused.
                    self.missed += u64::from(first.stream > self.latest);
                }
                None => {}
            },
        }
        self.add(side, first.stream, Message { last: now, wire, ..Message::default() });
        self.end_if(ends, side, first.stream, tell);
    }

    /// A client's header block: a request, or its trailers.
    fn ask(&mut self, id: u32, time: u64, block: Block, tell: &mut impl FnMut(Exchange)) {
        if id <= self.latest || !block.asks() {
            return;
        }
        self.latest = id;
        if self.streams.len() >= self.limits.streams {
            let doubtful = self.streams.extract_if(.., |_, stream| stream.is_doubtful());
            let mut forgotten = 0;
            for (_, stream) in doubtful {
                forgotten += 1;
                tell(stream.close(End::Unseen));
            }
            self.counters.forgotten += forgotten;
        }
        if self.streams.len() < self.limits.streams {
            self.streams.insert(id, Stream::new(id, time, block));
        } else {
            self.counters.refused += 1;
            self.missed += 1;
        }
    }

    fn data(
        &mut self,
        side: Side,
        header: FrameHeader,
        payload: &[u8],
        now: u64,
        tell: &mut impl FnMut(Exchange),
    ) {
        // The padding and the byte that tells its length.
        let padding = match payload.first() {
            Some(padding) if header.has(FLAG_PADDED) => u64::from(*padding) + 1,
            _ => 0,
        };
        let data = u64::from(header.len).saturating_sub(padding);
        let wire = wire_len(header);
        self.add(side, header.stream, Message { last: now, data, wire, first: None });
        self.end_if(header.has(FLAG_END_STREAM), side, header.stream, tell);
    }

    fn add(&mut self, side: Side, id: u32, more: Message) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let message = match side {
            Side::Client => stream.request(),
            Side::Server => stream.response(),
        };
        message.last = more.last;
        message.data += more.data;
        message.wire += more.wire;
    }

    fn end_if(&mut self, ends: bool, side: Side, id: u32, tell: &mut impl FnMut(Exchange)) {
        if !ends {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match side {
            Side::Client => stream.end_client(),
            Side::Server => stream.end_server(),
        }
        if stream.has_ended()
            && let Some(stream) = self.streams.remove(&id)
        {
            tell(stream.close(End::Whole));
        }
    }

    fn finish(&mut self, id: u32, end: End, now: u64, side: Side, tell: &mut impl FnMut(Exchange)) {
        self.add(side, id, Message { last: now, ..Message::default() });
        if let Some(stream) = self.streams.remove(&id) {
            tell(stream.close(end));
        }
    }

    fn go_away(&mut self, payload: &[u8], tell: &mut impl FnMut(Exchange)) {
        let Some(last) = payload.first_chunk() else { return };
        let last = u32::from_be_bytes(*last) & 0x7fff_ffff;
        let refused = self.streams.split_off(&(last + 1));
        for stream in refused.into_values() {
            tell(stream.close(End::GoneAway));
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
