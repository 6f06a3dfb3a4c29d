//! httpflow counts what web servers answer. In: real clients and servers in two namespaces, also at full speed. Out: the same
//! requests, status codes, counts, sizes and delays as the servers logged, on both ends.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use system_tests::exchanges::{LAST, Scene};
use system_tests::flows::{Flows, Side};
use system_tests::hosts::Family;
use system_tests::web::{Answers, BIG, answers};
use system_tests::{program, uring, wait};

#[test]
fn requests_of_curl_are_counted_as_nginx_logged_them() {
    let scene = Scene::new();
    let urls = ["/hello", "/hello?page=2", "/none", "/cached", "/error", "/nowhere"];
    let urls = urls.map(|path| scene.url(path));
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    // On one connection, and on one each.
    scene.curl(&urls);
    for url in &urls {
        scene.curl(&[url]);
    }
    scene.curl(&["--head", urls[0]]);
    scene.curl(&["--http1.0", urls[0]]);
    scene.curl(&["--data", "a=1", urls[0]]);
    scene.curl(&["--request", "DELETE", urls[5]]);
    let v6 = format!("http://{}/hello", scene.hosts.server_address(Family::V6, 80));
    scene.curl(&[&v6]);

    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/hello", 200, 6);
    seen.logged("HEAD", "/hello", 200, 1);
    seen.logged("GET", "/cached", 304, 2);
    let worker = seen.worker.to_string();
    assert_eq!(seen.server.values("pid"), [worker.as_str()].into(), "the one that answered");
    assert_eq!(seen.client.values("process_name"), ["curl"].into());
    assert_eq!(seen.client.values("dst_port"), ["80"].into());
}

#[test]
fn bytes_of_requests_and_responses_are_those_that_curl_counts() {
    let scene = Scene::new();
    let counts = scene.curl(&[
        "--write-out",
        "%{size_request} %{size_header} %{size_download}",
        &scene.url("/big"),
    ]);
    let counts: Vec<i64> = counts.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [request, header, body] = counts[..] else { panic!("{counts:?}") };
    assert_eq!(body, BIG.cast_signed());
    let seen = scene.end();
    seen.agree();
    for (end, read, written) in
        [(&seen.client, header + body, request), (&seen.server, request, header + body)]
    {
        assert_eq!((end.sum("bytes_read"), end.sum("bytes_written")), (read, written));
        assert_eq!((end.sum("client_sent"), end.sum("server_sent")), (request, header + body));
    }
}

#[test]
fn uploads_are_one_request_however_they_are_sent() {
    const UPLOAD: usize = 3_000_000;
    let scene = Scene::new();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), vec![b'G'; UPLOAD]).expect("it can be written");
    let data = format!("@{}", file.path().display());
    let url = scene.url("/upload");
    for header in ["Expect: 100-continue", "Expect:", "Transfer-Encoding: chunked"] {
        scene.curl(&["--header", header, "--data-binary", &data, &url, &scene.url("/hello")]);
    }
    let seen = scene.end();
    seen.agree();
    seen.logged("POST", "/upload", 204, 3);
    assert!(seen.server.sum("client_sent") > 3 * UPLOAD as i64, "{}", seen.server);
}

/// What each sees of a delay lies within what the next one outside of it sees: the server itself, its socket, the client's
/// socket, the client.
#[test]
fn the_latency_is_the_servers_delay() {
    let scene = Scene::new();
    let address = scene.hosts.server.v4.to_string();
    let mut python = Command::new("/usr/bin/python3");
    python.arg(program("slow_web.py")).args([&address, "8090"]);
    let _server = scene.hosts.server.spawn(&mut python);
    scene.hosts.server.wait_for_port("tcp", 8090);

    let ask = |path: &str| {
        let mut stream = scene.hosts.client.enter(|| TcpStream::connect((address.as_str(), 8090)));
        let stream = stream.as_mut().expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let begin = Instant::now();
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = vec![0];
        stream.read_exact(&mut answer).expect("the server answers");
        let waited = begin.elapsed().as_nanos() as i64;
        stream.read_to_end(&mut answer).expect("the server answers");
        let took = answer.rsplit(|byte| *byte == b'\n').next().expect("there is a last line");
        let took = std::str::from_utf8(took).ok().and_then(|took| took.parse::<i64>().ok());
        (took.expect("the server tells"), waited)
    };
    let delays = ["/5", "/50", "/500"].map(|path| (path, ask(path)));
    let seen = scene.end();
    for (path, (took, waited)) in delays {
        let of = |end: &Flows, side| {
            let points = end.on(side, 8090);
            let mut points = points.points().iter();
            let point = points.find(|point| point.text("path") == Some(path));
            point.and_then(|point| point.int("latency")).unwrap_or_else(|| panic!("{path}: {end}"))
        };
        let (server, client) = (of(&seen.server, Side::Server), of(&seen.client, Side::Client));
        println!(
            "{path} ms: server {took} ns, its socket {server}, client's {client}, the client {waited}"
        );
        assert!(took <= server && server <= client && client <= waited, "{path}");
    }
}

#[test]
fn requests_through_io_uring_are_seen() {
    let scene = Scene::new();
    let stream = scene.connect();
    for request in [&b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"[..], LAST] {
        uring::send(&stream, request);
        let is_head = |answer: &[u8]| answer.windows(4).any(|end| end == b"\r\n\r\n");
        uring::receive(&stream, |answer| !is_head(answer));
    }
    drop(stream);
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/hello", 200, 1);
    seen.logged("GET", "/none", 204, 1);
}

#[test]
fn both_ends_can_be_aiohttp() {
    const TIMES: i64 = 25;
    let scene = Scene::new();
    let address = scene.hosts.server.v4.to_string();
    let python = |args: &[&str]| {
        let mut python = Command::new("/usr/bin/python3");
        python.arg(program("aio_web.py")).args(args);
        python
    };
    let mut server = scene.hosts.server.spawn(&mut python(&["serve", &address, "8091"]));
    assert_eq!(server.line(), "ready");
    let url = format!("http://{address}:8091");
    scene.hosts.client.run(&mut python(&["ask", &url, &TIMES.to_string()]));
    let mut logged = Answers::new();
    for _ in 0..3 * TIMES {
        let line = server.line();
        let [method, path, status] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("the server said: {line}")
        };
        let status = status.parse().expect("a status is a number");
        *logged.entry((method.to_owned(), path.to_owned(), status)).or_default() += 1;
    }
    let pid = server.pid().to_string();
    let seen = scene.end();
    assert_eq!(logged.len() as i64, 2 + TIMES, "{logged:?}");
    assert_eq!(answers(&seen.server, Side::Server), logged);
    assert_eq!(answers(&seen.client, Side::Client), logged);
    assert_eq!(seen.server.values("pid"), [pid.as_str()].into());
}

#[test]
fn http2_in_clear_is_followed() {
    let scene = Scene::new();
    let address = scene.hosts.server_address(Family::V4, 81);
    for path in ["/hello", "/none", "/nowhere", "/hello?x=1", "/big"] {
        scene.curl(&["--http2-prior-knowledge", &format!("http://{address}{path}")]);
    }
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/hello", 200, 2);
    for point in seen.client.points() {
        assert_eq!(point.text("http_version"), Some("2.0"));
    }
    assert!(seen.client.sum("bytes_read") > BIG.cast_signed(), "{}", seen.client);
}

/// A request over HTTP/2, with what a client says before the first one.
fn first_over_http2(path: &str) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // GET, http, the path and the authority, by the table of RFC 7541, appendix A.
    let mut head = vec![0x82, 0x86, 0x04, path.len() as u8];
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(&[0x01, 1, b'x']);
    let (settings, headers) = (frame(4, 0, 0, &[]), frame(1, 5, 1, &head));
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &headers].concat()
}

#[test]
fn http2_that_begins_after_its_connection_was_reported_is_followed() {
    let scene = Scene::new();
    let address = scene.hosts.server_address(Family::V4, 81);
    let stream = scene.hosts.client.enter(|| TcpStream::connect(address));
    let mut stream = stream.expect("nginx listens");
    wait::until("both ends are reported", || {
        let seen = scene.receiver.netflow();
        let ends = [(&scene.hosts.client, Side::Client), (&scene.hosts.server, Side::Server)];
        let opened = ends.map(|(host, side)| seen.of(host).on(side, 81).tcp().established);
        if opened == [1, 1] { Ok(()) } else { Err(format!("{opened:?}")) }
    });
    stream.write_all(&first_over_http2("/none")).expect("nginx reads");
    wait::until_true("it has answered", || !scene.web.answers().is_empty(), String::new);
    drop(stream);
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/none", 204, 1);
}

#[test]
fn none_of_200_000_requests_at_full_speed_is_lost() {
    const EACH: i64 = 50_000;
    let scene = Scene::new();
    let mut counted = BTreeMap::new();
    for path in ["/hello", "/none", "/error", "/nowhere"] {
        let count: &mut i64 = counted.entry(path).or_default();
        while *count < EACH {
            let mut wrk = Command::new("wrk");
            wrk.args(["-t", "1", "-c", "16", "-d", "1s", &scene.url(path)]);
            let (_, report) = scene.hosts.client.run(&mut wrk);
            let requests = report.lines().find(|line| line.contains("requests in"));
            let requests = requests.and_then(|line| line.split_whitespace().next()?.parse().ok());
            let requests: i64 = requests.unwrap_or_else(|| panic!("{report}"));
            assert!(requests > 0, "{report}");
            *count += requests;
        }
    }
    println!("wrk counted {counted:?}");
    let ledger = scene.collector.ledger();
    assert!(ledger.balances(), "{ledger:?}");
    let seen = scene.end();
    assert_eq!(answers(&seen.server, Side::Server), seen.log);
    let client = answers(&seen.client, Side::Client);
    for ((method, path, status), logged) in &seen.log {
        // wrk hangs up on what is on its way when its time is over.
        let told = client.get(&(method.clone(), path.clone(), *status)).copied().unwrap_or(0);
        let counted = counted[path.as_str()];
        assert!((counted..=*logged).contains(&told), "{path}: {counted} <= {told} <= {logged}");
    }
    assert!(seen.metrics.contains("http_lost_total{plugin=\"ebpf-net\"} 0"), "{}", seen.metrics);
}
