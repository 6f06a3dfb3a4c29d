//! Every decoder against mutations of valid input, for as long as `FUZZ_SECONDS` says. In: seeds
//! that reach deep into each decoder. Out: the input that panicked, and the slowest. A run is
//! repeated by giving it the `FUZZ_SEED` that it printed.
//!
//! Made of what runs on a stable compiler: it mutates, but is not led by coverage.

mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;
use plugin_proto::dns::{Message, TcpMessages};
use plugin_proto::http1::{
    BodyLength, ChunkedScanner, Method, Progress, parse_request_head, parse_response_head,
};
use plugin_proto::http2::{Connection, Limits, Side, looks_like_frames};
use plugin_proto::path::{self, Paths};
use plugin_proto::piece::Piece;
use rustix::time::{ClockId, Timespec, clock_gettime};
use traffic::{Call, talk};

/// An input that takes more of a processor's time holds up its owner's thread. Real ones take
/// microseconds.
const HANGS: Duration = Duration::from_millis(500);

/// What this thread has had of processors, whatever else they were busy with.
fn cpu_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(tv_sec.unsigned_abs(), tv_nsec as u32)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn fuzz(seeds: &[Vec<u8>], decode: impl Fn(&[u8], &mut Rng)) {
    let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("FUZZ_SECONDS").unwrap_or(10);
    println!("FUZZ_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let (begun, mut runs, mut slowest) = (Instant::now(), 0u64, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let input = mutated(seeds, &mut rng);
        let started = cpu_time();
        let result = catch_unwind(AssertUnwindSafe(|| decode(&input, &mut rng)));
        let took = cpu_time().saturating_sub(started);
        if result.is_err() || took > HANGS {
            println!("run {runs}, {took:?}: {}", input.escape_ascii());
        }
        result.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(took < HANGS);
        slowest = slowest.max(took);
        runs += 1;
    }
    println!("{runs} inputs, the slowest took {slowest:?}");
}

fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.u32(0..8) {
        let at = rng.usize(..=bytes.len());
        let end = (at + rng.usize(0..16)).min(bytes.len());
        match rng.u32(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u32(0..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 if at < bytes.len() => {
                bytes[at] = [0, 1, 0x3f, 0x7f, 0x80, 0xc0, 0xff][rng.usize(..7)];
            }
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let part = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                bytes.splice(to..to, part);
            }
            6 => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let repeated = [rng.u8(..)].repeat(rng.usize(0..300));
                bytes.splice(at..at, repeated);
            }
        }
    }
    bytes
}

/// The bytes in pieces of any length, some repeated, some cut, some with a gap before.
fn pieces(bytes: &[u8], rng: &mut Rng, mut take: impl FnMut(&Piece<'_>, &mut Rng)) {
    let (mut at, mut position) = (0, 0u64);
    while at < bytes.len() {
        let end = (at + 1 + rng.usize(0..2000)).min(bytes.len());
        let captured = if rng.u32(0..20) == 0 { rng.usize(at..=end) } else { end };
        if rng.u32(0..50) == 0 {
            let most = rng.u32(0..64);
            position = position.saturating_add(rng.u64(..1 << most));
        }
        let len = (end - at) as u64;
        let piece = Piece { position, bytes: &bytes[at..captured], len, time: at as u64 };
        take(&piece, rng);
        if rng.u32(0..20) > 0 {
            position = position.saturating_add(len);
            at = end;
        }
    }
}

#[test]
#[ignore = "runs for FUZZ_SECONDS: make fuzz"]
fn http1() {
    let seeds = [
        &b"GET /a/b?c=d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"[..],
        b"POST http://h:80/p?q HTTP/1.1\r\nContent-Length: 5, 5\r\nExpect: 100-continue\r\n\r\nhello",
        b"CONNECT host:443 HTTP/1.0\r\nUpgrade: a, h2c\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        b"5;a=b\r\nhello\r\nff\r\n",
        b"0\r\nTrailer: x\r\n\r\nHTTP/1.1 200 OK\r\n",
    ]
    .map(<[u8]>::to_vec);
    fuzz(&seeds, |bytes, rng| {
        if let Ok(head) = parse_request_head(bytes) {
            BodyLength::of_request(&head);
            assert!(head.len.is_none_or(|len| len <= bytes.len()));
            assert!(head.path.len() <= bytes.len());
            head.headers.for_each(drop);
        }
        if let Ok(head) = parse_response_head(bytes) {
            BodyLength::of_response(Some(Method::ALL[rng.usize(..9)]), &head);
            assert!(head.len.is_none_or(|len| len <= bytes.len()));
        }
        let mut scanner = ChunkedScanner::new();
        pieces(bytes, rng, |piece, rng| {
            if let Progress::Done(taken) = scanner.feed(piece.bytes) {
                assert!(taken <= piece.bytes.len());
            }
            if rng.u32(0..9) == 0 {
                scanner.skip(rng.u64(..) >> rng.u32(0..64));
            }
        });
    });
}

fn call(nth: usize) -> Call {
    Call {
        method: ["GET", "POST", "PROPFIND"][nth % 3].to_owned(),
        path: format!("/path/{nth}"),
        query: (nth.is_multiple_of(2)).then(|| "a=b".to_owned()),
        authority: "host.example".to_owned(),
        headers: (0..nth).map(|i| (format!("x-{i}"), "value ".repeat(i * nth) + "end")).collect(),
        sent: nth * 30,
        status: [200, 404, 418, 503][nth % 4],
        answered: nth * 50,
        grpc_status: (nth.is_multiple_of(3)).then_some(nth as u32),
    }
}

#[test]
#[ignore = "runs for FUZZ_SECONDS: make fuzz"]
fn http2() {
    let calls: Vec<_> = (0..9).map(call).collect();
    let writes = talk(&calls, 4, 500);
    let seeds = [Side::Client, Side::Server].map(|side| {
        let writes = writes.iter().filter(|write| write.side == side);
        writes.flat_map(|write| write.bytes.iter().copied()).collect::<Vec<u8>>()
    });
    let limits = Limits { streams: 8, table: 1000, block: 2000, text: 100 };
    fuzz(&seeds, |bytes, rng| {
        let mut connection = Connection::new(limits);
        connection.start(Side::Client, 0);
        connection.start(Side::Server, 0);
        let feed = |connection: &mut Connection, side, bytes: &[u8], rng: &mut Rng| {
            pieces(bytes, rng, |piece, rng| {
                looks_like_frames(piece.bytes, piece.len);
                if connection.is_lost(side) && rng.bool() {
                    connection.resume(side, piece.position);
                }
                connection.feed(side, piece, |exchange| {
                    assert!(exchange.path.is_none_or(|path| path.len() <= 300));
                });
                assert!(connection.open() <= 8);
            });
        };
        // A valid client at times, so that there is something to answer.
        if rng.bool() {
            connection.feed(Side::Client, &Piece::whole(0, &seeds[0], 1), |_| ());
        }
        let side = if rng.bool() { Side::Client } else { Side::Server };
        feed(&mut connection, side, bytes, rng);
        connection.close(|_| ());
    });
}

#[test]
#[ignore = "runs for FUZZ_SECONDS: make fuzz"]
fn dns() {
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
    let response = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01\
                     \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x10\xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04";
    let pointers = [&response[..12], &b"\x01a\xc0\x0c".repeat(60)].concat();
    let framed =
        [&[0, query.len() as u8][..], query, &[0, response.len() as u8], response].concat();
    let seeds = [query.to_vec(), response.to_vec(), pointers, framed];
    let read = |bytes: &[u8]| {
        let Ok(message) = Message::parse(bytes) else { return };
        if let Some(question) = message.question {
            question.name.text();
        }
        for answer in message.answers() {
            assert!(answer.owner.text().is_none_or(|text| text.len() <= 4 * 255));
        }
    };
    fuzz(&seeds, |bytes, rng| {
        read(bytes);
        let mut messages = TcpMessages::new(0);
        pieces(bytes, rng, |piece, _| {
            messages.feed(piece, |step| {
                if let plugin_proto::dns::TcpStep::Message { bytes, len } = step {
                    assert!(bytes.len() <= usize::from(len));
                    read(bytes);
                }
            });
        });
    });
}

#[test]
#[ignore = "runs for FUZZ_SECONDS: make fuzz"]
fn path() {
    let seeds =
        ["/a/b/c", "/user/17/cart", "/x/0123456789abcdef/y", "//*/é/", "/v1/ann/orders/2024-05-01"]
            .map(|path| path.as_bytes().to_vec());
    fuzz(&seeds, |bytes, rng| {
        let limits = path::Limits { budget: 5, services: 3, text: 2000, idle_rounds: 2 };
        let mut paths = Paths::new(limits);
        for _ in 0..rng.u32(0..60) {
            let path = mutated(&seeds, rng);
            let path = String::from_utf8_lossy(if rng.bool() { bytes } else { &path });
            match rng.u32(0..20) {
                0 => paths.end_round(),
                1..5 => paths.observe(rng.u8(0..4), &path),
                _ => drop(paths.name(rng.u8(0..4), &path)),
            }
            assert!(paths.text() <= 2000);
        }
    });
}
