//! What decoding costs: nanoseconds per message or exchange, on one core, everything in the cache.
//! `cargo run --release -p plugin-proto --example cost`

use std::hint::black_box;
use std::time::Instant;

use plugin_proto::dns::{Data, Message};
use plugin_proto::http1::{parse_request_head, parse_response_head};
use plugin_proto::http2::{Connection, Limits, PREFACE, Side};
use plugin_proto::path::{Limits as PathLimits, Paths};
use plugin_proto::piece::Piece;

const REQUEST: &[u8] =
    b"GET /api/v1/items/17?page=2&sort=name HTTP/1.1\r\nHost: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\n\
    Date: Sat, 01 Nov 2025 10:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 612\r\n\
    Connection: keep-alive\r\nETag: \"65a-264\"\r\nAccept-Ranges: bytes\r\n\r\n";
const ANSWER: &[u8] =
    b"\x12\x34\x81\x80\0\x01\0\x03\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01\
    \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x10\
    \xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04\
    \xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x05\0\0\x29\x04\xd0\0\0\0\0\0\0";

/// The best of several rounds: what it costs when nothing else runs.
fn cost(what: &str, mut run: impl FnMut()) {
    const RUNS: u32 = 200_000;
    let rounds = (0..7).map(|_| {
        let begun = Instant::now();
        (0..RUNS).for_each(|_| run());
        begun.elapsed() / RUNS
    });
    println!("{:>6} ns  {what}", rounds.min().map_or(0, |time| time.as_nanos()));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An exchange on stream after stream: both header blocks and one frame of content.
fn http2(what: &str, request: &[u8], response: &[u8]) {
    let mut connection = Connection::new(Limits::default());
    connection.start(Side::Client, 0);
    connection.start(Side::Server, 0);
    connection.feed(Side::Client, &Piece::whole(0, PREFACE, 0), |_| ());
    let (mut sent, mut answered, mut stream, mut ended) = (PREFACE.len() as u64, 0, 1, 0u64);
    let mut client = frame(1, 5, 0, request);
    let mut server = [frame(1, 4, 0, response), frame(0, 1, 0, &[b'x'; 100])].concat();
    let data = server.len() - 109;
    cost(what, || {
        let id = u32::to_be_bytes(stream);
        client[5..9].copy_from_slice(&id);
        server[5..9].copy_from_slice(&id);
        server[data + 5..data + 9].copy_from_slice(&id);
        let mut count = |_| ended += 1;
        connection.feed(Side::Client, &Piece::whole(sent, &client, 1), &mut count);
        connection.feed(Side::Server, &Piece::whole(answered, &server, 2), &mut count);
        sent += client.len() as u64;
        answered += server.len() as u64;
        stream += 2;
    });
    assert_eq!(ended, u64::from(stream / 2), "each was an exchange");
}

fn main() {
    cost("http1: request head, 300 bytes", || {
        black_box(parse_request_head(black_box(REQUEST)).is_ok());
    });
    cost("http1: request head, first 64 bytes", || {
        black_box(parse_request_head(black_box(&REQUEST[..64])).is_ok());
    });
    cost("http1: response head, 220 bytes", || {
        black_box(parse_response_head(black_box(RESPONSE)).is_ok());
    });
    // GET http / with an authority in Huffman code that is not stored; 200.
    http2(
        "http2: exchange, literals",
        b"\x82\x86\x84\x01\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x88",
    );
    http2(
        "http2: exchange, stored in the table each time",
        b"\x82\x86\x44\x04/abc\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x88\x40\x04date\x1dMon, 21 Oct 2013 20:13:21 GMT",
    );
    cost("dns: response with 3 answers, header and question only", || {
        black_box(Message::parse(black_box(ANSWER)).is_ok());
    });
    let mut name = String::new();
    cost("dns: the same with all names written out", || {
        let message = Message::parse(black_box(ANSWER)).expect("it is one");
        for answer in message.answers() {
            name.clear();
            answer.owner.write(&mut name);
            if let Data::Cname(target) = answer.data {
                name.clear();
                target.write(&mut name);
            }
        }
        black_box(&name);
    });
    let mut paths = Paths::new(PathLimits::default());
    cost("path: a known path", || {
        black_box(paths.name(1u64, black_box("/api/v1/items")).len());
    });
    for id in 0..200 {
        paths.observe(1, &format!("/api/v1/items/{id}"));
    }
    cost("path: a path that is merged", || {
        black_box(paths.name(1u64, black_box("/api/v1/items/17")).len());
    });
}
