//! httpflow counts what web servers answer. In: real clients and servers in two namespaces. Out: the same requests, status codes
//! and counts as in the server's log, on both ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use system_tests::collector::Collector;
use system_tests::flows::{Flows, Side};
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::web::{Answers, BIG, Web, answers};
use system_tests::{program, uring};

const ENABLED: [&str; 2] = ["--l7net-enabled", "httpflow"];

/// Both hosts, a web server on one of them, and a collector that looks for HTTP.
struct Scene {
    hosts: Hosts,
    web: Web,
    receiver: Receiver,
    collector: Collector,
}

impl Scene {
    fn new() -> Self {
        let hosts = Hosts::new();
        let web = Web::start(&hosts.server);
        let receiver = Receiver::start();
        let collector = Collector::setup(&receiver).args(ENABLED).start();
        Self { hosts, web, receiver, collector }
    }

    fn curl(&self, args: &[&str]) -> String {
        let mut curl = Command::new("curl");
        self.hosts.client.run(curl.args(["--silent", "--output", "/dev/null"]).args(args)).1
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.hosts.server_address(Family::V4, 80))
    }

    /// A connection to write to by hand, without delay.
    fn connect(&self) -> TcpStream {
        let address = self.hosts.server_address(Family::V4, 80);
        let stream = self.hosts.client.enter(|| TcpStream::connect(address));
        let stream = stream.expect("nginx listens");
        stream.set_nodelay(true).expect("it is TCP");
        stream
    }

    /// Ends the collector; what nginx logged, and the points of both ends.
    fn end(self) -> Seen {
        self.hosts.settle();
        let log = self.web.answers();
        let worker = self.web.worker();
        let metrics = self.collector.metrics();
        self.collector.stop();
        let points = self.receiver.measurement("httpflow");
        let client = points.of(&self.hosts.client);
        let server = points.of(&self.hosts.server);
        Seen { log, worker, metrics, client, server }
    }
}

struct Seen {
    log: Answers,
    worker: u32,
    metrics: String,
    client: Flows,
    server: Flows,
}

impl Seen {
    /// Both ends have exactly what nginx logged.
    #[track_caller]
    fn agree(&self) {
        assert_eq!(answers(&self.server, Side::Server), self.log, "the server's end");
        assert_eq!(answers(&self.client, Side::Client), self.log, "the client's end");
        assert!(self.metrics.contains("http_lost_total{plugin=\"ebpf-net\"} 0"), "none is lost");
    }

    #[track_caller]
    fn logged(&self, method: &str, path: &str, status: i64, count: i64) {
        let key = (method.to_owned(), path.to_owned(), status);
        assert_eq!(self.log.get(&key), Some(&count), "{key:?} in {:?}", self.log);
    }
}

/// The last request of a connection.
const LAST: &[u8] = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Writes these pieces, each in a packet of its own, and reads until the server hangs up.
fn talk(mut stream: TcpStream, pieces: &[&[u8]]) -> String {
    for piece in pieces {
        stream.write_all(piece).expect("the server reads");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers in text");
    answer
}

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
fn a_point_has_the_tags_and_fields_of_the_manual() {
    let scene = Scene::new();
    scene.curl(&[&scene.url("/hello?x")]);
    let seen = scene.end();
    let [point] = seen.client.points() else { panic!("{}", seen.client) };
    let fields: Vec<&str> = point.fields.keys().map(String::as_str).collect();
    let expected = [
        "bytes_read",
        "bytes_written",
        "client_sent",
        "count",
        "http_version",
        "latency",
        "method",
        "path",
        "server_sent",
        "status_code",
        "truncated",
    ];
    assert_eq!(fields, expected);
    assert_eq!(point.text("http_version"), Some("1.1"));
    let tags: Vec<&str> = point.tags.keys().map(String::as_str).collect();
    let expected = [
        "client_ip",
        "client_ip_type",
        "client_port",
        "conn_side",
        "direction",
        "dst_domain",
        "dst_ip",
        "dst_ip_type",
        "dst_nat_ip",
        "dst_nat_port",
        "dst_port",
        "family",
        "host",
        "netns",
        "pid",
        "process_name",
        "server_domain",
        "server_ip",
        "server_ip_type",
        "server_port",
        "service",
        "src_ip",
        "src_ip_type",
        "src_port",
        "transport",
    ];
    let tags: Vec<&str> = tags.into_iter().filter(|tag| !tag.contains("k8s")).collect();
    assert_eq!(tags, expected);
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

#[test]
fn pipelined_requests_are_paired_in_their_order() {
    let scene = Scene::new();
    let mut all = String::new();
    for path in ["/hello", "/none", "/nowhere", "/cached", "/hello"] {
        write!(all, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("a string grows");
    }
    all.push_str(str::from_utf8(LAST).expect("it is text"));
    // In one packet, and in one packet each.
    talk(scene.connect(), &[all.as_bytes()]);
    let each: Vec<&[u8]> = all.split_inclusive("\r\n\r\n").map(str::as_bytes).collect();
    talk(scene.connect(), &each);
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/hello", 200, 4);
    seen.logged("GET", "/nowhere", 404, 2);
}

#[test]
fn a_request_that_comes_byte_by_byte_is_understood() {
    let scene = Scene::new();
    let request = [b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", LAST].concat();
    let bytes: Vec<&[u8]> = request.chunks(1).collect();
    talk(scene.connect(), &bytes);
    let lines: Vec<&[u8]> = request.split_inclusive(|byte| *byte == b'\n').collect();
    talk(scene.connect(), &lines);
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/none", 204, 2);
}

#[test]
fn a_body_that_looks_like_a_request_is_none() {
    let scene = Scene::new();
    let body = b"GET /fake HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = format!("POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    // nginx answers before it has the body, and waits for the body then.
    let mut early = scene.connect();
    early.write_all(head.as_bytes()).expect("nginx reads");
    let mut first = [0; 1];
    early.read_exact(&mut first).expect("nginx answers");
    talk(early, &[body, LAST]);
    let head = head.replace("/hello", "/upload");
    talk(scene.connect(), &[head.as_bytes(), body, LAST]);
    let chunked = b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"1f\r\n", &body[..], b"\r\n0\r\n\r\n", LAST].concat();
    talk(scene.connect(), &[chunked, &chunk]);

    let seen = scene.end();
    seen.agree();
    seen.logged("POST", "/upload", 204, 2);
    seen.logged("GET", "/none", 204, 3);
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

#[test]
fn connections_that_are_older_than_the_collector_are_followed_from_their_next_request() {
    let hosts = Hosts::new();
    let web = Web::start(&hosts.server);
    let address = hosts.server_address(Family::V4, 80);
    let mut stream = hosts.client.enter(|| TcpStream::connect(address)).expect("nginx listens");
    let request = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    let ask = |stream: &mut TcpStream| {
        stream.write_all(request).expect("nginx reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello\n") {
            let mut more = [0; 512];
            let read = stream.read(&mut more).expect("nginx answers");
            assert!(read > 0, "nginx hung up after {answer:?}");
            answer.extend_from_slice(&more[..read]);
        }
    };
    ask(&mut stream);
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    ask(&mut stream);
    ask(&mut stream);
    drop(stream);
    hosts.settle();
    collector.stop();
    let points = receiver.measurement("httpflow");
    let told = answers(&points.of(&hosts.server), Side::Server);
    assert_eq!(told, [(("GET".to_owned(), "/hello".to_owned(), 200), 2)].into());
    assert_eq!(answers(&points.of(&hosts.client), Side::Client), told);
    assert_eq!(web.answers().values().sum::<i64>(), 3);
}

#[test]
fn an_exchange_on_a_connection_that_stays_idle_is_reported() {
    let scene = Scene::new();
    let mut stream = scene.connect();
    stream.write_all(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n").expect("nginx reads");
    stream.read_exact(&mut [0; 16]).expect("nginx answers");
    system_tests::wait::until("both ends are reported", || {
        let points = scene.receiver.measurement("httpflow");
        let ends = [&scene.hosts.client, &scene.hosts.server].map(|host| points.of(host));
        let counts = ends.map(|end| end.points().len());
        if counts == [1, 1] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    drop(stream);
    scene.end().agree();
}

#[test]
fn without_httpflow_there_is_none() {
    for args in [&["--l7net-disabled", "httpflow"][..], &["--l7net-enabled", "httpflow-tls"], &[]] {
        let hosts = Hosts::new();
        let _web = Web::start(&hosts.server);
        let receiver = Receiver::start();
        let collector = Collector::setup(&receiver).args(args).start();
        let url = format!("http://{}/hello", hosts.server_address(Family::V4, 80));
        hosts.client.run(Command::new("curl").args(["--silent", &url]));
        hosts.settle();
        collector.stop();
        assert!(receiver.measurement("httpflow").is_empty(), "{args:?}");
        assert!(!receiver.netflow().of(&hosts.client).is_empty(), "{args:?}");
    }
}

#[test]
fn paths_with_values_in_them_are_merged_beyond_the_budget() {
    let hosts = Hosts::new();
    let _web = Web::start(&hosts.server);
    let receiver = Receiver::start();
    let config = "[plugins.ebpf-net]\nhttp_paths = 10\n";
    let collector = Collector::setup(&receiver).config(config).args(ENABLED).start();
    let url = format!("http://{}/user/[1-50]/show", hosts.server_address(Family::V4, 80));
    hosts.client.run(Command::new("curl").args(["--silent", "--output", "/dev/null", &url]));
    hosts.settle();
    collector.stop();
    let points = receiver.measurement("httpflow").of(&hosts.server);
    let told = answers(&points, Side::Server);
    assert!(told.contains_key(&("GET".to_owned(), "/user/*/show".to_owned(), 404)), "{told:?}");
    assert_eq!(told.values().sum::<i64>(), 50, "{told:?}");
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
