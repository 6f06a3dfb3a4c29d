//! HTTP/1 against written examples, against arbitrary bytes, and against another parser.

use plugin_proto::http1::{
    BodyLength, ChunkedScanner, HeadError, Method, Progress, RequestHead, Target, Version,
    parse_request_head, parse_response_head,
};
use proptest::prelude::*;

fn request(text: &str) -> RequestHead<'_> {
    parse_request_head(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"))
}

fn path(text: &str) -> (&str, bool) {
    let head = request(text);
    (std::str::from_utf8(head.path).expect("it was"), head.truncated)
}

#[test]
fn the_path_is_what_is_before_the_query() {
    let cases = [
        ("GET /a/b?x=1 HTTP/1.1\r\n\r\n", "/a/b"),
        ("GET http://h:80/p?q HTTP/1.1\r\n\r\n", "/p"),
        ("GET http://h HTTP/1.1\r\n\r\n", "/"),
        ("GET HTTPS://h?q HTTP/1.1\r\n\r\n", "/"),
        ("GET http://h.example/abs/p?q=1 HTTP/1.1\r\n\r\n", "/abs/p"),
        ("OPTIONS * HTTP/1.1\r\n\r\n", "*"),
        ("CONNECT h:443 HTTP/1.1\r\n\r\n", ""),
        ("GET /a%2Fb%20c HTTP/1.1\r\n\r\n", "/a%2Fb%20c"),
        ("GET /frag#x HTTP/1.1\r\n\r\n", "/frag#x"),
        ("GET //dbl//x HTTP/1.1\r\n\r\n", "//dbl//x"),
        ("TRACE / HTTP/1.0\n\n", "/"),
    ];
    for (text, wanted) in cases {
        assert_eq!(path(text), (wanted, false), "{text:?}");
    }
}

#[test]
fn a_path_is_truncated_only_if_its_own_end_is_missing() {
    assert_eq!(path("GET /lo"), ("/lo", true));
    assert_eq!(path("GET /long?que"), ("/long", false));
    assert_eq!(path("GET /long "), ("/long", false));
    assert_eq!(path("GET http://host/lo"), ("/lo", true));
    assert_eq!(path("GET /long HTTP/1.1"), ("/long", false));
    assert_eq!(request("GET /long HTTP/1.1").version, None, "a digit may follow");
    assert_eq!(request("GET /long HTTP/1.1\r\n").version, Some(Version::HTTP_11));
}

#[test]
fn what_is_no_request_is_told_from_one_that_is_cut() {
    let never = [
        "get /x HTTP/1.1\r\n",
        "PROPFIND /dav HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "GETS / ",
        "GET  /two HTTP/1.1\r\n",
        "GET /sp ace HTTP/1.1\r\n",
        "GET /x HTTP/1.10\r\n",
        "GET /x HTTP/1.1 \r\n",
        "GET /lower http/1.1\r\n",
        "GET /nover\r\n",
        "GET ?q HTTP/1.1\r\n",
        "HEAD x HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "CONNECT h HTTP/1.1\r\n",
        "\r\n",
        "\u{16}\u{3}",
        "OPTIONS ** HTTP/1.1\r\n",
        "GET /\u{1} HTTP/1.1\r\n",
        "GET httq://h/ HTTP/1.1\r\n",
    ];
    for text in never {
        assert_eq!(parse_request_head(text.as_bytes()), Err(HeadError::NotHttp), "{text:?}");
    }
    for text in
        ["", "G", "GET", "GET ", "P", "CONNECT h:4", "GET ht", "GET http://hos", "OPTIONS *"]
    {
        assert_eq!(parse_request_head(text.as_bytes()), Err(HeadError::NeedMore), "{text:?}");
    }
}

#[test]
fn status_lines_are_read() {
    for (text, version, status) in [
        ("HTTP/1.1 404 Not Found\r\n", "1.1", 404),
        ("HTTP/1.0 200\r\n", "1.0", 200),
        ("HTTP/1.1 200 \r\n", "1.1", 200),
        ("HTTP/1.1 099 OK\r\n", "1.1", 99),
        ("HTTP/1.1 999 O", "1.1", 999),
        ("HTTP/2.0 200 OK\r\n", "2.0", 200),
    ] {
        let head = parse_response_head(text.as_bytes()).expect(text);
        assert_eq!((head.version.to_string().as_str(), head.status), (version, status), "{text:?}");
    }
    for text in [
        "HTTP/1.1 2000 X\r\n",
        "HTTP/1.1 20 X\r\n",
        "HTTP/1.1 abc X\r\n",
        "HTTP/1.1 -01 OK\r\n",
        "HTTP/2 200",
        "HTTP/x 200 OK\r\n",
        "HTTP/ 200 OK\r\n",
        "HTTP/1.1  200 OK",
        "<html>",
    ] {
        assert_eq!(parse_response_head(text.as_bytes()), Err(HeadError::NotHttp), "{text:?}");
    }
    for text in ["", "HTTP", "HTTP/1.", "HTTP/1.1 20", "HTTP/1.1 200"] {
        assert_eq!(parse_response_head(text.as_bytes()), Err(HeadError::NeedMore), "{text:?}");
    }
}

#[test]
fn headers_that_say_how_it_goes_on_are_read() {
    let text = "POST / HTTP/1.1\r\ncontent-LENGTH: 12\r\nConnection: Upgrade, close\r\n\
                Upgrade: websocket, h2c\r\nno header\r\nExpect: 100-Continue\r\n folded: 1\r\n\r\nbody";
    let head = request(text);
    assert_eq!(head.fields.content_length, Some(12));
    assert!(head.fields.close && !head.fields.keep_alive && head.fields.expects_continue);
    assert!(head.wants_h2c());
    assert_eq!(head.len, Some(text.len() - 4));
    assert_eq!(head.headers.value(b"UPGRADE"), Some(&b"websocket, h2c"[..]));
    assert_eq!(BodyLength::of_request(&head), BodyLength::Length(12));

    let cut = request("POST / HTTP/1.1\r\nContent-Length: 12");
    assert_eq!(cut.fields.content_length, None, "120 may follow");
    assert_eq!(BodyLength::of_request(&cut), BodyLength::Unknown);
}

#[test]
fn the_body_of_a_request_ends_where_its_head_says() {
    for (headers, wanted) in [
        ("", BodyLength::None),
        ("Content-Length: 0\r\n", BodyLength::None),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", BodyLength::Length(5)),
        ("Content-Length: 5, 5\r\n", BodyLength::Length(5)),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", BodyLength::Unknown),
        ("Content-Length: abc\r\n", BodyLength::Unknown),
        ("Content-Length: 99999999999999999999\r\n", BodyLength::Unknown),
        ("Transfer-Encoding: gzip, chunked\r\n", BodyLength::Chunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BodyLength::Chunked),
        ("Transfer-Encoding: gzip\r\n", BodyLength::Unknown),
    ] {
        let text = format!("POST / HTTP/1.1\r\n{headers}\r\n");
        assert_eq!(BodyLength::of_request(&request(&text)), wanted, "{headers:?}");
    }
}

#[test]
fn the_body_of_a_response_depends_on_its_request() {
    let (get, head) = (Some(Method::Get), Some(Method::Head));
    for (method, text, wanted) in [
        (get, "200 OK\r\nContent-Length: 5\r\n\r\n", BodyLength::Length(5)),
        (head, "200 OK\r\nContent-Length: 5\r\n\r\n", BodyLength::None),
        (None, "200 OK\r\nContent-Length: 5\r\n\r\n", BodyLength::Unknown),
        (get, "204 No\r\nContent-Length: 5\r\n\r\n", BodyLength::None),
        (None, "304 No\r\n", BodyLength::None),
        (get, "100 Continue\r\n\r\n", BodyLength::None),
        (get, "200 OK\r\n\r\n", BodyLength::UntilClose),
        (get, "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", BodyLength::Chunked),
        (get, "200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", BodyLength::UntilClose),
        (get, "200 OK\r\nContent-Length: 5\r\n", BodyLength::Unknown),
        (get, "101 Switching\r\nUpgrade: h2c\r\n\r\n", BodyLength::Tunnel),
        (Some(Method::Connect), "200 OK\r\n\r\n", BodyLength::Tunnel),
        (Some(Method::Connect), "407 No\r\nContent-Length: 5\r\n\r\n", BodyLength::Length(5)),
    ] {
        let text = format!("HTTP/1.1 {text}");
        let head = parse_response_head(text.as_bytes()).expect("a response");
        assert_eq!(BodyLength::of_response(method, &head), wanted, "{method:?} {text:?}");
    }
}

const CHUNKED: &[u8] = b"5\r\nhello\r\nA;ext=\"1\"\r\n0123456789\r\n000\r\nTrailer: x\r\n\r\n";

#[test]
fn a_chunked_body_ends_where_it_ends_however_it_is_split() {
    let next = b"HTTP/1.1 200 OK";
    let bytes = [CHUNKED, next].concat();
    for first in 0..=CHUNKED.len() {
        let mut scanner = ChunkedScanner::new();
        match scanner.feed(&bytes[..first]) {
            Progress::More(_) => {
                let rest = scanner.feed(&bytes[first..]);
                assert_eq!(rest, Progress::Done(CHUNKED.len() - first), "split at {first}");
            }
            done => assert_eq!((done, first), (Progress::Done(CHUNKED.len()), CHUNKED.len())),
        }
    }
}

#[test]
fn only_the_inside_of_a_chunk_can_be_skipped() {
    let mut scanner = ChunkedScanner::new();
    assert_eq!(scanner.feed(b"400\r\nab"), Progress::More(1022));
    assert_eq!(scanner.skip(1000), Progress::More(22));
    assert_eq!(scanner.clone().skip(23), Progress::Lost);
    assert_eq!(scanner.skip(22), Progress::More(0));
    assert_eq!(scanner.feed(b"\r\n0\r\n\r\nHTTP"), Progress::Done(7));
}

#[test]
fn what_is_not_chunked_is_lost() {
    for text in ["\r\n", "x\r\n", "5\r\nhelloo", "11111111111111111\r\n", "5;\r\nhello0", ";\r\n"] {
        assert_eq!(ChunkedScanner::new().feed(text.as_bytes()), Progress::Lost, "{text:?}");
    }
}

#[test]
fn endless_extensions_and_trailers_are_lost() {
    let endless = vec![b'x'; 1 << 20];
    for start in ["5;", "0\r\n"] {
        let mut scanner = ChunkedScanner::new();
        assert_eq!(scanner.feed(start.as_bytes()), Progress::More(0));
        assert_eq!(scanner.feed(&endless), Progress::Lost);
    }
}

fn method() -> impl Strategy<Value = Method> {
    proptest::sample::select(Method::ALL.to_vec())
}

prop_compose! {
    fn valid_request()(
        method in method(),
        path in "/[!->@-~]{0,40}",
        query in proptest::option::of("[!-~]{0,20}"),
        version in 0..2u8,
        headers in proptest::collection::vec(("[A-Za-z-]{1,12}", "[!-~]([ -~]{0,18}[!-~])?"), 0..8),
    ) -> String {
        let target = match (method, query) {
            (Method::Connect, _) => "host:443".to_owned(),
            (_, Some(query)) => format!("{path}?{query}"),
            (_, None) => path,
        };
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        format!("{method} {target} HTTP/1.{version}\r\n{headers}\r\n")
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, start in 0..12usize, split: usize) {
        let starts: [&[u8]; 12] = [
            b"", b"GET ", b"GET /", b"GET http://", b"CONNECT ", b"OPTIONS *", b"GET / HTTP/1.1\r\n",
            b"HTTP/1.1 ", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n", b"0\r\n", b"5;",
        ];
        let bytes = [starts[start], &bytes].concat();
        if let Ok(head) = parse_request_head(&bytes) {
            BodyLength::of_request(&head);
            prop_assert!(head.headers.count() <= bytes.len());
        }
        if let Ok(head) = parse_response_head(&bytes) {
            BodyLength::of_response(Some(Method::Get), &head);
        }
        let split = split % (bytes.len() + 1);
        let mut whole = ChunkedScanner::new();
        let at_once = whole.feed(&bytes);
        let mut scanner = ChunkedScanner::new();
        let in_parts = match scanner.feed(&bytes[..split]) {
            Progress::More(_) => match scanner.feed(&bytes[split..]) {
                Progress::Done(count) => Progress::Done(split + count),
                other => other,
            },
            other => other,
        };
        prop_assert_eq!(at_once, in_parts);
    }

    #[test]
    fn every_truncation_needs_more_or_says_the_same(text in valid_request()) {
        let whole = parse_request_head(text.as_bytes()).expect("it is one");
        prop_assert_eq!(whole.len, Some(text.len()));
        for len in 0..text.len() {
            match parse_request_head(&text.as_bytes()[..len]) {
                Err(error) => prop_assert_eq!(error, HeadError::NeedMore),
                Ok(cut) => {
                    prop_assert_eq!(cut.method, whole.method);
                    prop_assert_eq!(cut.target, whole.target);
                    prop_assert!(whole.path.starts_with(cut.path));
                    prop_assert!(cut.truncated || cut.path == whole.path);
                    prop_assert!(cut.version.is_none() || cut.version == whole.version);
                    prop_assert_eq!(cut.len, None);
                    let all: Vec<_> = whole.headers.clone().collect();
                    let some: Vec<_> = cut.headers.collect();
                    prop_assert_eq!(&some[..], &all[..some.len()]);
                }
            }
        }
    }

    #[test]
    fn another_parser_reads_the_same(text in valid_request()) {
        let mut slots = [httparse::EMPTY_HEADER; 16];
        let mut theirs = httparse::Request::new(&mut slots);
        let parsed = theirs.parse(text.as_bytes()).expect("it is one");
        let ours = parse_request_head(text.as_bytes()).expect("it is one");
        prop_assert_eq!(parsed, httparse::Status::Complete(ours.len.expect("it is whole")));
        prop_assert_eq!(theirs.method, Some(ours.method.as_str()));
        let target = theirs.path.expect("it has one");
        let path = target.split('?').next().expect("at least one");
        if ours.target == Target::Origin {
            prop_assert_eq!(ours.path, path.as_bytes());
        }
        prop_assert_eq!(theirs.version, ours.version.map(|version| version.minor));
        let headers: Vec<_> =
            theirs.headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
        prop_assert_eq!(headers, ours.headers.collect::<Vec<_>>());
    }
}
