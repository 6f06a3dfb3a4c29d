use super::{HeadRest, Http1, Message, Next};
use plugin_proto::piece::News;

fn news(bytes: &[u8]) -> News<'_> {
    News { missing_before: 0, bytes, missing_after: 0 }
}

/// Requests at time 1, 2.. and responses at 101, 102..; what was told.
fn talk(requests: &[&[u8]], responses: &[&[u8]]) -> (Vec<Message>, u64) {
    let mut http1 = Http1::new();
    let mut told = Vec::new();
    for (time, request) in (1..).zip(requests) {
        http1.request(&news(request), time, &mut |message| told.push(message));
    }
    for (time, response) in (101..).zip(responses) {
        let next = http1.response(&news(response), time, &mut |message| told.push(message));
        assert!(matches!(next, Next::Http1), "{next:?}");
    }
    (told, http1.take_not_understood())
}

fn shown(told: &[Message]) -> Vec<(&str, u16, u64, u64, u64)> {
    let show = |message: &'_ Message| {
        let answer = message.answer.unwrap();
        (answer.status, answer.at - message.asked_at)
    };
    told.iter()
        .map(|message| {
            let (status, latency) = show(message);
            let path = message.path.as_deref().unwrap();
            (path, status, latency, message.request_bytes, message.response_bytes)
        })
        .collect()
}

#[test]
fn pipelined_requests_get_their_responses_in_order() {
    let (told, lost) = talk(
        &[b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /c HTTP/1.1\r\n\r\n"],
        &[
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 N",
            b"ot\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        ],
    );
    let expected = [("/a", 200, 100, 19, 66), ("/b", 404, 100, 41, 39), ("/c", 204, 101, 19, 19)];
    assert_eq!((shown(&told), lost), (expected.to_vec(), 0));
}

#[test]
fn what_is_split_anywhere_is_put_together() {
    let request = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let requests: Vec<&[u8]> = request.chunks(1).collect();
    let responses: Vec<&[u8]> = response.chunks(1).collect();
    let (told, lost) = talk(&requests, &responses);
    let bytes = (request.len() as u64, response.len() as u64);
    assert_eq!(shown(&told), [("/a", 200, 100, bytes.0, bytes.1)]);
    assert_eq!(lost, 0);
}

/// What is sent and received, in this order.
enum Event<'a> {
    Request(&'a [u8]),
    Response(&'a [u8]),
    /// Of a request, which goes on for so long.
    CutRequest(&'a [u8], u64),
}

use Event::{CutRequest, Request, Response};

fn told(mut http1: Http1, events: &[Event<'_>]) -> (Vec<(String, u16)>, u64) {
    let mut told = Vec::new();
    let mut tell = |message: Message| {
        told.push((message.path.unwrap().into(), message.answer.unwrap().status));
    };
    for (time, event) in (1..).zip(events) {
        match event {
            Request(bytes) => http1.request(&news(bytes), time, &mut tell),
            CutRequest(bytes, missing_after) => {
                let news = News { missing_before: 0, bytes, missing_after: *missing_after };
                http1.request(&news, time, &mut tell);
            }
            Response(bytes) => drop(http1.response(&news(bytes), time, &mut tell)),
        }
    }
    (told, http1.take_not_understood())
}

const GET_A: &[u8] = b"GET /a HTTP/1.1\r\n\r\n";
const GET_B: &[u8] = b"GET /b HTTP/1.1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const NONE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

fn is(path: &str, status: u16) -> (String, u16) {
    (path.into(), status)
}

#[test]
fn what_is_not_http_is_counted_and_a_later_request_understood() {
    let events = [Request(b"\0\0\0"), Response(b"noise"), Request(GET_A), Response(NONE)];
    assert_eq!(told(Http1::new(), &events), (vec![is("/a", 204)], 1));
}

#[test]
fn a_response_to_what_was_given_up_is_not_taken_for_that_to_the_next_request() {
    let cut = CutRequest(b"GET /cut HTTP/1.1\r\nHost: x\r\n", 5);
    let events =
        [cut, Request(GET_A), Response(OK), Response(NONE), Request(GET_B), Response(NONE)];
    assert_eq!(told(Http1::new(), &events), (vec![], 2));
}

#[test]
fn who_waits_for_each_response_is_understood_again() {
    let cut = CutRequest(b"GET /cut HTTP/1.1\r\nHost: x\r\n", 5);
    let events = [cut, Response(OK), Request(GET_A), Response(NONE), Request(GET_B), Response(OK)];
    assert_eq!(told(Http1::new(), &events), (vec![is("/a", 204), is("/b", 200)], 0));
}

#[test]
fn a_head_of_which_only_the_end_is_known_is_a_request() {
    let line = b"GET /cut HTTP/1.1\r\n";
    let events = [CutRequest(line, 9), Request(GET_A), Response(OK), Response(NONE)];
    let expected = vec![is("/cut", 200), is("/a", 204)];
    assert_eq!(told(Http1::after_cut_head(HeadRest::Nothing), &events), (expected.clone(), 0));
    for (rest, more) in [
        (HeadRest::InLine, &b"x: y\r\n\r\n"[..]),
        (HeadRest::InLine, b"\n\n"),
        (HeadRest::AfterLine, b"\r\n"),
        (HeadRest::AfterLine, b"x: y\r\n\r\n"),
        (HeadRest::AfterReturn, b"\n"),
    ] {
        for len in 1..=more.len() {
            let mut events = vec![CutRequest(line, 9)];
            events.extend(more.chunks(len).map(Request));
            events.extend([Request(GET_A), Response(OK), Response(NONE)]);
            let seen = told(Http1::after_cut_head(rest), &events);
            assert_eq!(seen, (expected.clone(), 0), "{rest:?}, {more:?}, {len}");
        }
    }
}

#[test]
fn a_hole_in_a_head_gives_up_what_is_open() {
    let mut http1 = Http1::new();
    let mut told = Vec::new();
    http1.request(&news(b"GET /a HTTP/1.1\r\n\r\n"), 1, &mut |message| told.push(message));
    let holed = News { missing_before: 0, bytes: b"HTTP/1.1 200", missing_after: 9 };
    http1.response(&holed, 2, &mut |message| told.push(message));
    assert_eq!((told.len(), http1.take_not_understood()), (0, 1));
}
