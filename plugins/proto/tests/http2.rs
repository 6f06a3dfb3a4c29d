//! HTTP/2 against what a real client and a real server said: all of it, from any moment on, with
//! holes, and in any pieces. A field may be unknown where something was missed; none may be wrong.

mod traffic;

use plugin_proto::http2::{Connection, Counters, End, Exchange, Limits, Side};
use plugin_proto::piece::Piece;
use proptest::prelude::*;
use traffic::{Call, Write, talk};

fn call() -> impl Strategy<Value = Call> {
    let method = proptest::sample::select(vec!["GET", "POST", "DELETE", "PROPFIND"]);
    let path = prop_oneof![Just("/".to_owned()), "/[a-z]{1,3}", "/[a-z/]{1,60}"];
    let authority = proptest::sample::select(vec!["a.example", "b.example:81"]);
    let value = prop_oneof!["[a-c]", "[ -~]{1,40}", Just("x".repeat(2000)), "[a-z]{0,30}"]
        .prop_map(|value| value.trim().to_owned());
    // Longer than a frame, once in a while.
    let value = prop_oneof![40 => value, 1 => "[a-z]{20000}"];
    let headers = proptest::collection::vec(("x-[a-e]", value), 0..5);
    let size = || prop_oneof![Just(0usize), 1..50usize, 10_000..40_000usize];
    let status = proptest::sample::select(vec![200u16, 204, 302, 404, 418, 500, 503]);
    let grpc_status = proptest::option::weighted(0.3, 0..17u32);
    (
        (method, path, proptest::option::of("[a-z=&]{1,9}"), authority),
        (headers, size(), status, size(), grpc_status),
    )
        .prop_map(
            |((method, path, query, authority), (headers, sent, status, answered, grpc))| Call {
                method: method.to_owned(),
                path,
                query,
                authority: authority.to_owned(),
                headers,
                sent,
                status: if grpc.is_some() { 200 } else { status },
                answered: if status == 204 { 0 } else { answered },
                grpc_status: grpc,
            },
        )
}

fn traffic() -> impl Strategy<Value = (Vec<Call>, Vec<Write>)> {
    let table = proptest::sample::select(vec![0u32, 100, 500, 4096, 65_536]);
    (proptest::collection::vec(call(), 1..12), 1..6usize, table).prop_map(
        |(calls, at_once, table)| {
            let writes = talk(&calls, at_once, table);
            (calls, writes)
        },
    )
}

fn started() -> Connection {
    let mut connection = Connection::new(Limits::default());
    connection.start(Side::Client, 0);
    connection.start(Side::Server, 0);
    connection
}

fn truth(calls: &[Call], exchange: &Exchange) -> Call {
    calls[exchange.stream as usize / 2].clone()
}

/// What is known is right.
fn check(calls: &[Call], exchange: &Exchange) -> Result<(), TestCaseError> {
    let call = truth(calls, exchange);
    if let Some(method) = &exchange.method {
        prop_assert_eq!(method, &call.method);
    }
    if let Some(path) = &exchange.path {
        prop_assert_eq!(&**path, call.path);
    }
    if let Some(authority) = &exchange.authority {
        prop_assert_eq!(&**authority, call.authority);
    }
    if let Some(status) = exchange.status {
        prop_assert_eq!(status, call.status);
    }
    prop_assert!(exchange.grpc_status.is_none() || exchange.grpc_status == call.grpc_status);
    prop_assert!(!exchange.grpc || call.grpc_status.is_some());
    prop_assert!(exchange.request.data <= call.sent as u64);
    prop_assert!(exchange.response.data <= call.answered as u64);
    if exchange.exact && exchange.end == End::Whole {
        prop_assert_eq!(exchange.request.data, call.sent as u64);
        prop_assert_eq!(exchange.response.data, call.answered as u64);
    }
    Ok(())
}

/// All of it is known.
fn check_whole(calls: &[Call], exchange: &Exchange) -> Result<(), TestCaseError> {
    check(calls, exchange)?;
    prop_assert!(exchange.method.is_some() && exchange.path.is_some());
    prop_assert!(exchange.authority.is_some() && exchange.status.is_some());
    let call = truth(calls, exchange);
    prop_assert_eq!(exchange.grpc_status, call.grpc_status);
    prop_assert_eq!(exchange.grpc, call.grpc_status.is_some());
    prop_assert!(exchange.exact);
    prop_assert_eq!(exchange.end, End::Whole);
    prop_assert!(exchange.request.first < exchange.response.first);
    Ok(())
}

fn written(writes: &[Write], side: Side) -> Vec<u8> {
    let writes = writes.iter().filter(|write| write.side == side);
    writes.flat_map(|write| write.bytes.iter().copied()).collect()
}

/// The positions at which frames of a side start.
fn boundaries(writes: &[Write], side: Side) -> Vec<u64> {
    let bytes = written(writes, side);
    let mut at = if side == Side::Client { 24 } else { 0 };
    let mut found = Vec::new();
    while at + 9 <= bytes.len() {
        found.push(at as u64);
        at += 9 + u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
    }
    assert_eq!(at, bytes.len(), "frames end where the writes do");
    found
}

/// How many header blocks the client started at this position or later.
fn requests_since(writes: &[Write], position: u64) -> usize {
    let bytes = written(writes, Side::Client);
    let frames = boundaries(writes, Side::Client).into_iter();
    frames.filter(|at| *at >= position && bytes[*at as usize + 3] == 1).count()
}

/// Feeds the writes, and names the next boundary whenever a side is lost.
fn feed_resuming<'a>(
    connection: &mut Connection,
    all: &[Write],
    pieces: impl Iterator<Item = (Side, Piece<'a>)>,
) -> Vec<Exchange> {
    let known = [boundaries(all, Side::Client), boundaries(all, Side::Server)];
    let mut exchanges = Vec::new();
    for (side, piece) in pieces {
        if connection.is_lost(side) {
            let known = &known[usize::from(side == Side::Server)];
            let next = known.iter().find(|boundary| **boundary >= piece.position);
            let Some(next) = next.filter(|next| **next < piece.end()) else { continue };
            connection.resume(side, *next);
        }
        connection.feed(side, &piece, |exchange| exchanges.push(exchange));
    }
    connection.close(|exchange| exchanges.push(exchange));
    exchanges
}

fn whole_pieces(writes: &[Write]) -> impl Iterator<Item = (Side, Piece<'_>)> {
    writes
        .iter()
        .zip(1..)
        .map(|(write, time)| (write.side, Piece::whole(write.position, &write.bytes, time)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn who_is_there_from_the_start_knows_everything((calls, writes) in traffic()) {
        let mut connection = started();
        let mut exchanges = Vec::new();
        for (side, piece) in whole_pieces(&writes) {
            connection.feed(side, &piece, |exchange| exchanges.push(exchange));
        }
        prop_assert_eq!(connection.open(), 0);
        prop_assert_eq!(exchanges.len(), calls.len());
        for exchange in &exchanges {
            check_whole(&calls, exchange)?;
        }
        prop_assert_eq!(connection.counters(), Counters::default());
    }

    #[test]
    fn the_pieces_do_not_matter(
        (_, writes) in traffic(),
        lens in proptest::collection::vec(prop_oneof![1..12usize, 1..5000usize], 1..20),
    ) {
        let in_pieces = |lens: &[usize]| {
            let mut connection = started();
            let mut exchanges = Vec::new();
            let mut lens = lens.iter().cycle();
            for write in &writes {
                let mut at = 0;
                while at < write.bytes.len() {
                    let end = (at + lens.next().expect("endless")).min(write.bytes.len());
                    let piece = Piece::whole(write.position + at as u64, &write.bytes[at..end], 1);
                    connection.feed(write.side, &piece, |exchange| exchanges.push(exchange));
                    // Sent again, which says nothing new.
                    connection.feed(write.side, &piece, |_| unreachable!("it is old"));
                    at = end;
                }
            }
            (exchanges, connection.counters())
        };
        prop_assert_eq!(in_pieces(&[usize::MAX / 2]), in_pieces(&lens));
    }

    #[test]
    fn who_joins_late_leaves_unknown_what_was_said_before((calls, writes) in traffic()) {
        let frames: Vec<(Side, u64)> = [Side::Client, Side::Server]
            .into_iter()
            .flat_map(|side| boundaries(&writes, side).into_iter().map(move |at| (side, at)))
            .collect();
        for (side, at) in frames {
            // From the write with this frame on; the other side from its next frame on.
            let since = writes.iter().position(|write| {
                write.side == side && at < write.position + write.bytes.len() as u64
            }).expect("it was written");
            let mut connection = Connection::new(Limits::default());
            connection.resume(side, at);
            let exchanges = feed_resuming(&mut connection, &writes, whole_pieces(&writes).skip(since));
            let first = if side == Side::Client { at } else {
                let next = writes[since..].iter().find(|write| write.side == Side::Client);
                next.map_or(u64::MAX, |write| write.position)
            };
            prop_assert_eq!(exchanges.len(), requests_since(&writes, first));
            for exchange in &exchanges {
                check(&calls, exchange)?;
            }
            prop_assert_eq!(connection.counters().corrupt, 0);
        }
    }

    #[test]
    fn a_lost_piece_makes_nothing_wrong((calls, writes) in traffic()) {
        for lost in 0..writes.len() {
            let mut connection = started();
            let rest = whole_pieces(&writes).enumerate().filter(|(nth, _)| *nth != lost);
            let exchanges = feed_resuming(&mut connection, &writes, rest.map(|(_, piece)| piece));
            for exchange in &exchanges {
                check(&calls, exchange)?;
            }
            prop_assert_eq!(connection.counters().corrupt, 0);
        }
    }

    #[test]
    fn a_short_capture_makes_nothing_wrong((calls, writes) in traffic(), captured in 9..400usize) {
        let mut connection = started();
        let pieces = whole_pieces(&writes).map(|(side, piece)| {
            (side, Piece { bytes: &piece.bytes[..piece.bytes.len().min(captured)], ..piece })
        });
        let exchanges = feed_resuming(&mut connection, &writes, pieces);
        for exchange in &exchanges {
            check(&calls, exchange)?;
        }
        prop_assert_eq!(connection.counters().corrupt, 0);
    }

    #[test]
    fn small_limits_lose_but_are_never_wrong((calls, writes) in traffic(), table in 0..200usize) {
        let limits = Limits { streams: 2, table, block: 60, text: 4 };
        let mut connection = Connection::new(limits);
        connection.start(Side::Client, 0);
        connection.start(Side::Server, 0);
        let mut exchanges = Vec::new();
        for (side, piece) in whole_pieces(&writes) {
            connection.feed(side, &piece, |exchange| exchanges.push(exchange));
            prop_assert!(connection.open() <= 2);
        }
        let counters = connection.counters();
        prop_assert_eq!(counters.corrupt, 0);
        prop_assert!(exchanges.len() as u64 + counters.refused + counters.cut >= calls.len() as u64);
        for mut exchange in exchanges {
            let call = truth(&calls, &exchange);
            if let Some(path) = exchange.path.take() {
                prop_assert!(call.path.starts_with(&*path) && path.len() <= 4);
                prop_assert_eq!(exchange.truncated, call.path.len() > 4);
            }
            if let Some(authority) = exchange.authority.take() {
                prop_assert!(call.authority.starts_with(&*authority) && authority.len() <= 4);
            }
            exchange.method = exchange.method.filter(|method| call.method.len() <= method.len());
            check(&calls, &exchange)?;
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        pieces in proptest::collection::vec((any::<bool>(), 0..9u64, frame(), 0..20u64), 0..40),
    ) {
        let limits = Limits { streams: 3, table: 200, block: 200, text: 10 };
        let mut connection = Connection::new(limits);
        let mut positions = [0, 0];
        for (server, gap, bytes, more) in pieces {
            let side = if server { Side::Server } else { Side::Client };
            let position = &mut positions[usize::from(server)];
            *position += gap / 8;
            if connection.is_lost(side) {
                connection.resume(side, *position);
            }
            let len = bytes.len() as u64 + more / 18;
            let piece = Piece { position: *position, bytes: &bytes, len, time: 1 };
            connection.feed(side, &piece, |_| ());
            prop_assert!(connection.open() <= 3);
            *position += len;
        }
    }
}

/// `PROPTEST_CASES` if set: each case is a conversation, so fewer than usual.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

/// Mostly well-formed frames with any content.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        proptest::collection::vec(0x80..0xc3u8, 0..9),
    ];
    let flags = prop_oneof![Just(4u8), Just(5), Just(0), Just(0xc), any::<u8>()];
    (payload, 0..11u8, flags, 0..8u8, 0..12u8).prop_map(|(payload, kind, flags, stream, odd)| {
        let len = payload.len() as u8 + u8::from(odd == 0);
        let mut bytes = vec![0, 0, len, kind, flags, 0, 0, 0, stream];
        bytes.extend(payload);
        bytes
    })
}
