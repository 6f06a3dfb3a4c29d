//! httpflow pairs what is on the wire, however it is cut into packets. In: requests written by hand, to a real web server. Out: the
//! same requests, status codes and counts as in the server's log, on both ends. Real clients are in `httpflow_clients`.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use system_tests::collector::Collector;
use system_tests::exchanges::{ENABLED, LAST, Scene, Seen};
use system_tests::flows::Side;
use system_tests::hosts::{Family, Hosts};
use system_tests::receiver::Receiver;
use system_tests::wait;
use system_tests::web::{Web, answers};

/// Writes these pieces, each in a packet of its own, and reads until the server hangs up.
fn talk(mut stream: TcpStream, pieces: &[&[u8]]) -> String {
    for piece in pieces {
        stream.write_all(piece).expect("the server reads");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers in text");
    answer
}

/// Asks so often, and waits for each answer.
fn ask_often(stream: &mut TcpStream, ask: &[u8], times: usize) {
    let mut lines = BufReader::new(stream);
    for _ in 0..times {
        lines.get_mut().write_all(ask).expect("nginx reads");
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).expect("nginx answers in text");
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().expect("a length is a number");
            }
        }
        lines.read_exact(&mut vec![0; length]).expect("nginx sends all of it");
    }
}

/// Both ends of a connection to a server that says what it is told to.
fn by_hand(scene: &Scene) -> (TcpStream, TcpStream) {
    let address = scene.hosts.server_address(Family::V4, 8080);
    // A process that another test forks has the listener of the call before until it execs.
    let listener = wait::until("the port is free", || {
        scene.hosts.server.enter(|| TcpListener::bind(address)).map_err(|error| error.to_string())
    });
    let client = scene.hosts.client.enter(|| TcpStream::connect(address)).expect("it listens");
    let (server, _) = listener.accept().expect("the client has connected");
    client.set_nodelay(true).expect("it is TCP");
    (client, server)
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
fn pipelined_requests_with_long_heads_are_told_apart() {
    let scene = Scene::new();
    for len in [100, 300, 700, 3000] {
        let header = format!("Host: x\r\nCookie: {}\r\n", "c".repeat(len));
        let mut all = String::new();
        for path in ["/hello", "/none", "/hello"] {
            write!(all, "GET {path} HTTP/1.1\r\n{header}\r\n").expect("a string grows");
        }
        all.push_str(str::from_utf8(LAST).expect("it is text"));
        talk(scene.connect(), &[all.as_bytes()]);
    }
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/hello", 200, 8);
}

#[test]
fn requests_that_repeat_are_all_counted() {
    let scene = Scene::new();
    let ask = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = scene.connect();
    // The same bytes, answered otherwise in between.
    ask_often(&mut stream, ask, 3);
    scene.web.put("here", "now");
    ask_often(&mut stream, ask, 5);
    scene.web.remove("here");
    ask_often(&mut stream, ask, 2);
    talk(stream, &[ask, LAST]);
    let seen = scene.end();
    seen.agree();
    seen.logged("GET", "/here", 200, 5);
    seen.logged("GET", "/here", 404, 6);
    for (points, side) in [(&seen.client, Side::Client), (&seen.server, Side::Server)] {
        let sent = points.with("direction", side.direction()).sum("client_sent");
        assert_eq!(sent, (ask.len() * 11 + LAST.len()) as i64, "{points}");
    }
}

#[test]
fn what_has_ended_is_reported_while_the_next_request_waits_for_its_answer() {
    let scene = Scene::new();
    let (mut client, mut server) = by_hand(&scene);
    let (ask, answer) = (b"GET /slow HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n");
    for _ in 0..3 {
        client.write_all(ask).expect("the server reads");
        server.read_exact(&mut [0; 22]).expect("the client asks");
        server.write_all(answer).expect("the client reads");
        client.read_exact(&mut [0; 27]).expect("the server answers");
    }
    client.write_all(ask).expect("the server reads");
    let counts = || {
        let points = scene.receiver.measurement("httpflow");
        [&scene.hosts.client, &scene.hosts.server].map(|host| points.of(host).sum("count"))
    };
    wait::until("what has ended is reported", || match counts() {
        [3, 3] => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
    server.write_all(answer).expect("the client reads");
    drop((client, server));
    scene.hosts.settle();
    wait::until("the last one is reported", || match counts() {
        [4, 4] => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
}

#[test]
fn what_has_ended_before_a_connection_becomes_something_else_is_reported() {
    let scene = Scene::new();
    let (mut client, mut server) = by_hand(&scene);
    let ask = b"GET /chat HTTP/1.1\r\nUpgrade: chat\r\n\r\n";
    for answer in ["HTTP/1.1 204 Not Yet\r\n\r\n", "HTTP/1.1 101 Go\r\nUpgrade: chat\r\n\r\n"] {
        client.write_all(ask).expect("the server reads");
        server.read_exact(&mut [0; 37]).expect("the client asks");
        server.write_all(answer.as_bytes()).expect("the client reads");
        client.read_exact(&mut vec![0; answer.len()]).expect("the server answers");
    }
    drop((client, server));
    let Seen { client, server, .. } = scene.end();
    for (points, side) in [(client, Side::Client), (server, Side::Server)] {
        let expected = [204, 101].map(|status| (("GET".to_owned(), "/chat".to_owned(), status), 1));
        assert_eq!(answers(&points, side), expected.into(), "{side:?}");
    }
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
fn requests_that_come_before_the_answer_to_one_in_parts_are_told_apart() {
    let scene = Scene::new();
    let long = format!("x: {}\r\n", "y".repeat(300));
    for parts in [
        &["GET /hello HTTP/1.1\r\n", "Host: x\r\n", "\r\n", "GET /none HTTP/1.1\r\n\r\n"][..],
        &["GET /hello HTTP/1.1\r\n", "Host: x\r\n\r\nGET /none HTTP/1.1\r\n\r\n"],
        &["GET /hello HTTP/1.1\r\n\r", "\nGET /none HTTP/1.1\r\n\r\n"],
        &["GET /hello HTTP/1.1\r\n", &long, "\r\nGET /none HTTP/1.1\r\n\r\n"],
        &["GET /hello HTTP/1.1\r\n", &long, &long, "\r\n", "GET /none HTTP/1.1\r\n\r\n"],
    ] {
        let (mut client, mut server) = by_hand(&scene);
        for part in parts {
            client.write_all(part.as_bytes()).expect("there is room");
            server.read_exact(&mut vec![0; part.len()]).expect("the client asks");
        }
        for answer in
            ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 None\r\n\r\n"]
        {
            server.write_all(answer.as_bytes()).expect("there is room");
            client.read_exact(&mut vec![0; answer.len()]).expect("the server answers");
        }
    }
    let Seen { client, server, .. } = scene.end();
    for (points, side) in [(client, Side::Client), (server, Side::Server)] {
        let seen = answers(&points, side);
        let expected = [("/hello", 200), ("/none", 204)]
            .map(|(path, status)| (("GET".to_owned(), path.to_owned(), status), 5));
        assert_eq!(seen, expected.into(), "{side:?}");
    }
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
    assert_eq!(web.finish().values().sum::<i64>(), 3);
}

#[test]
fn an_exchange_on_a_connection_that_stays_idle_is_reported() {
    let scene = Scene::new();
    let mut stream = scene.connect();
    stream.write_all(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n").expect("nginx reads");
    stream.read_exact(&mut [0; 16]).expect("nginx answers");
    wait::until("both ends are reported", || {
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
