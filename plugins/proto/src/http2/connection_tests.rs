use super::*;
use crate::http1::parse_request_head;
use crate::http2::PREFACE;

const GET: &[u8] = b"\x82\x86\x84";
const OK: &[u8] = b"\x88";
const END_STREAM: u8 = FLAG_END_STREAM;
const BOTH: u8 = FLAG_END_STREAM | FLAG_END_HEADERS;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection and what was told about it. Each feed is a millisecond later.
struct Followed {
    connection: Connection,
    positions: [u64; 2],
    time: u64,
    told: Vec<Exchange>,
}

impl Followed {
    fn with(limits: Limits) -> Self {
        let mut connection = Connection::new(limits);
        connection.start(Side::Client, 0);
        connection.start(Side::Server, 0);
        let mut followed = Self { connection, positions: [0, 0], time: 0, told: Vec::new() };
        followed.client(&[PREFACE]);
        followed
    }

    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn feed(&mut self, side: Side, frames: &[&[u8]]) {
        let bytes = frames.concat();
        let position = &mut self.positions[usize::from(side == Side::Server)];
        self.time += 1;
        let piece = Piece::whole(*position, &bytes, self.time);
        *position += bytes.len() as u64;
        self.connection.feed(side, &piece, |exchange| self.told.push(exchange));
    }

    fn client(&mut self, frames: &[&[u8]]) {
        self.feed(Side::Client, frames);
    }

    fn server(&mut self, frames: &[&[u8]]) {
        self.feed(Side::Server, frames);
    }

    fn request(&mut self, stream: u32) {
        self.client(&[&frame(HEADERS, BOTH, stream, GET)]);
    }

    fn only(&self) -> &Exchange {
        assert_eq!(self.told.len(), 1, "{:?}", self.told);
        &self.told[0]
    }
}

#[test]
fn padding_and_priority_are_no_part_of_a_block_or_of_the_data() {
    let mut followed = Followed::new();
    let block = [&b"\x03\0\0\0\0\x10"[..], GET, b"\xff\xff\xff"].concat();
    let flags = FLAG_END_HEADERS | FLAG_PADDED | 0x20;
    followed.client(&[
        &frame(HEADERS, flags, 1, &block),
        &frame(DATA, END_STREAM | FLAG_PADDED, 1, b"\x02abcd\0\0"),
    ]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    let exchange = followed.only();
    assert_eq!((exchange.method.as_deref(), exchange.status), (Some("GET"), Some(200)));
    assert_eq!(exchange.request.data, 4);
    assert_eq!(exchange.request.wire, 9 + 12 + 9 + 7);
}

#[test]
fn a_block_goes_on_in_continuations() {
    let mut followed = Followed::new();
    followed.client(&[&frame(HEADERS, END_STREAM, 1, &GET[..1])]);
    followed.client(&[&frame(CONTINUATION, 0, 1, b"")]);
    followed.client(&[&frame(CONTINUATION, FLAG_END_HEADERS, 1, &GET[1..])]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    let exchange = followed.only();
    assert_eq!(exchange.path.as_deref(), Some("/"));
    assert_eq!((exchange.request.first, exchange.request.last), (Some(2), 4));
    assert_eq!(exchange.request.wire, 27 + 3);
}

#[test]
fn a_flood_of_continuations_takes_no_room() {
    let mut followed = Followed::with(Limits { block: 1000, ..Limits::default() });
    followed.client(&[&frame(HEADERS, END_STREAM, 1, GET)]);
    for _ in 0..1000 {
        // An uninteresting field each.
        followed.client(&[&frame(CONTINUATION, 0, 1, b"\0\x01a\x01b")]);
    }
    assert!(followed.connection.client.block.capacity() <= 2000);
    assert_eq!(followed.connection.client.payload.capacity(), 0);
    followed.client(&[&frame(CONTINUATION, FLAG_END_HEADERS, 1, b"")]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    assert_eq!(followed.only().path.as_deref(), Some("/"), "what there was room for");
    assert_eq!(followed.connection.counters().cut, 1);
}

#[test]
fn anything_else_within_a_block_is_a_loss() {
    let mut followed = Followed::new();
    followed.client(&[&frame(HEADERS, END_STREAM, 1, GET), &frame(DATA, 0, 1, b"a")]);
    assert!(followed.connection.is_lost(Side::Client));
    assert_eq!(followed.connection.counters().lost, 1);
}

#[test]
fn an_interim_response_is_not_the_response() {
    let mut followed = Followed::new();
    followed.request(1);
    // A status of 103, then one of 200.
    followed.server(&[&frame(HEADERS, FLAG_END_HEADERS, 1, b"\x08\x03103")]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    let exchange = followed.only();
    assert_eq!((exchange.status, exchange.response.first), (Some(200), Some(4)));
}

#[test]
fn a_response_may_come_before_its_request_has_ended() {
    let mut followed = Followed::new();
    followed.client(&[&frame(HEADERS, FLAG_END_HEADERS, 1, b"\x83\x86\x84")]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    assert!(followed.told.is_empty());
    followed.client(&[&frame(DATA, END_STREAM, 1, b"late")]);
    assert_eq!((followed.only().end, followed.only().request.data), (End::Whole, 4));
}

#[test]
fn a_reset_ends_an_exchange_and_is_no_failure_if_it_was_answered() {
    let mut followed = Followed::new();
    let open = frame(HEADERS, FLAG_END_HEADERS, 1, b"\x83\x86\x84");
    followed.client(&[&open]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK), &frame(RST_STREAM, 0, 1, b"\0\0\0\0")]);
    assert_eq!(followed.only().end, End::Whole);
    followed.request(3);
    followed.client(&[&frame(RST_STREAM, 0, 3, b"\0\0\0\x08")]);
    assert_eq!(followed.told[1].end, End::Reset(8));
    assert_eq!(followed.told[1].status, None);
}

#[test]
fn a_server_that_goes_away_names_what_it_still_answers() {
    let mut followed = Followed::new();
    followed.request(1);
    followed.request(3);
    followed.server(&[&frame(GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\0")]);
    assert_eq!((followed.only().stream, followed.only().end), (3, End::GoneAway));
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    assert_eq!((followed.told[1].stream, followed.told[1].end), (1, End::Whole));
}

#[test]
fn a_promise_is_read_for_its_table_and_not_followed() {
    let mut followed = Followed::new();
    followed.request(1);
    // It adds `:path: /p` to the table.
    followed.server(&[
        &frame(PUSH_PROMISE, FLAG_END_HEADERS, 1, b"\0\0\0\x02\x82\x86\x44\x02/p"),
        &frame(HEADERS, FLAG_END_HEADERS, 1, b"\x48\x03404"),
        &frame(HEADERS, BOTH, 2, OK),
        &frame(DATA, END_STREAM, 1, b""),
    ]);
    assert_eq!(followed.only().status, Some(404));
    followed.request(3);
    followed.server(&[&frame(HEADERS, BOTH, 3, b"\xbe")]);
    assert_eq!(followed.told[1].status, Some(404), "the newest entry");
    let counters = followed.connection.counters();
    assert_eq!((counters.pushed, counters.corrupt, counters.orphans), (1, 0, 0));
}

#[test]
fn a_block_that_cannot_be_read_says_nothing() {
    let mut followed = Followed::new();
    followed.request(1);
    followed.server(&[&frame(HEADERS, BOTH, 1, b"\x88\xff\xff\xff\xff\xff\xff")]);
    assert_eq!(followed.only().status, None);
    assert_eq!(followed.connection.counters().corrupt, 1);
}

#[test]
fn requests_beyond_the_limit_are_counted_and_trailers_open_nothing() {
    let mut followed = Followed::with(Limits { streams: 1, ..Limits::default() });
    followed.request(1);
    followed.request(3);
    assert_eq!((followed.connection.open(), followed.connection.counters().refused), (1, 1));
    followed.client(&[&frame(HEADERS, BOTH, 3, GET)]);
    followed.server(&[&frame(HEADERS, BOTH, 3, OK), &frame(HEADERS, BOTH, 1, OK)]);
    assert_eq!(followed.only().stream, 1);
    assert_eq!(followed.connection.counters().orphans, 1);
    assert_eq!(followed.connection.take_missed(), 1, "the one that was refused");
}

#[test]
fn a_response_to_what_could_not_be_read_is_missed() {
    let mut followed = Followed::new();
    followed.client(&[&frame(HEADERS, BOTH, 1, b"\xff\xff\xff\xff\xff\xff")]);
    followed.server(&[&frame(HEADERS, BOTH, 1, OK)]);
    assert_eq!((followed.told.len(), followed.connection.take_missed()), (0, 1));
    assert_eq!(followed.connection.take_missed(), 0, "it is told once");
}

#[test]
fn what_may_never_end_makes_room_for_others() {
    let mut followed = Followed::with(Limits { streams: 1, ..Limits::default() });
    followed.request(1);
    followed.connection.resume(Side::Server, 100);
    followed.request(3);
    assert_eq!((followed.only().stream, followed.only().end), (1, End::Unseen));
    assert_eq!(followed.connection.counters().forgotten, 1);
    followed.connection.expire(9, |exchange| assert_eq!(exchange.stream, 3));
    assert_eq!(followed.connection.open(), 0);
}

#[test]
fn after_a_loss_trailers_are_not_taken_for_a_response() {
    let mut followed = Followed::new();
    followed.request(1);
    let at = followed.positions[1] + 500;
    followed.connection.resume(Side::Server, at);
    followed.positions[1] = at;
    followed.server(&[&frame(HEADERS, BOTH, 1, b"\0\x0bgrpc-status\x015")]);
    let exchange = followed.only();
    assert_eq!((exchange.status, exchange.response.first), (None, None));
    assert_eq!((exchange.grpc_status, exchange.exact), (Some(5), false));
}

#[test]
fn an_upgraded_request_is_answered_on_stream_1() {
    let head = b"GET /up?x HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n";
    let head = parse_request_head(head).expect("a request");
    assert!(head.wants_h2c());
    let mut followed = Followed::new();
    let request = Message { first: Some(1), last: 1, data: 0, wire: 46 };
    followed.connection.upgrade(&head, request);
    followed.server(&[&frame(4, 0, 0, b""), &frame(HEADERS, BOTH, 1, OK)]);
    let exchange = followed.only();
    assert_eq!((exchange.path.as_deref(), exchange.authority.as_deref()), (Some("/up"), Some("h")));
    assert_eq!((exchange.request, exchange.status), (request, Some(200)));
}
