//! A host that never rests. In: two hosts with servers. Out: what was done, counted, until it is told to stop: short processes,
//! connections, requests in clear and through TLS, DNS, containers with namespaces of their own, and shells that are typed into.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use system_tests::dns::Dnsmasq;
use system_tests::hosts::{Family, Hosts};
use system_tests::nginx::Nginx;
use system_tests::process::run;
use system_tests::shell::Shell;

/// What was done so far.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) processes: AtomicU64,
    pub(crate) containers: AtomicU64,
    /// To nginx, in clear and through TLS.
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) tls_requests: AtomicU64,
    pub(crate) questions: AtomicU64,
    pub(crate) lines: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// A client's host, and a server's with nginx and dnsmasq.
pub(crate) struct Place {
    pub(crate) hosts: Hosts,
    /// Asks for names, and does nothing else: dnsflow does not tell namespaces apart, and other
    /// tests on this machine have the same addresses.
    pub(crate) asker: Ipv4Addr,
    _nginx: Nginx,
    _dnsmasq: Dnsmasq,
}

impl Place {
    pub(crate) fn new() -> Self {
        let hosts = Hosts::new();
        let nginx = Nginx::start_with_tls(&hosts.server);
        let dnsmasq = Dnsmasq::start(&hosts.server, ["--address=/test/10.1.2.3"]);
        let [.., high, low] = std::process::id().to_be_bytes();
        let asker = Ipv4Addr::new(198, 19, high, low);
        hosts.client.ip_command(&format!("addr add {asker}/32 dev eth0\n"));
        hosts.server.ip_command(&format!("route add {asker}/32 via {}\n", hosts.client.v4));
        Self { hosts, asker, _nginx: nginx, _dnsmasq: dnsmasq }
    }

    fn server(&self, port: u16) -> SocketAddr {
        self.hosts.server_address(Family::V4, port)
    }
}

/// What the lines that are typed hold, so that they can be told from other people's.
pub(crate) fn marker() -> String {
    format!("soak-{}", std::process::id())
}

/// Starts everything that goes on at the same time.
pub(crate) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    place: &'env Place,
    done: &'env Done,
    stop: &'env AtomicBool,
) -> Vec<ScopedJoinHandle<'scope, ()>> {
    let every = |ms: u64, act: Box<dyn Fn() + Send + 'env>| {
        scope.spawn(move || repeat(Duration::from_millis(ms), stop, act))
    };
    vec![
        every(30, Box::new(|| short_process(done))),
        every(100, Box::new(|| connection(place, done))),
        every(250, Box::new(|| process_that_connects(place, done))),
        every(500, Box::new(|| requests_through_tls(place, done))),
        every(20, Box::new(|| question(place, done))),
        every(1000, Box::new(|| container(done))),
        every(3000, Box::new(|| typed_lines(done))),
    ]
}

/// What is late is not made up for.
fn repeat(period: Duration, stop: &AtomicBool, act: impl Fn()) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        act();
        next = (next + period).max(Instant::now());
        thread::sleep(next - Instant::now());
    }
}

fn short_process(done: &Done) {
    run(&mut Command::new("true"));
    add(&done.processes, 1);
}

/// Three requests on one connection.
fn connection(place: &Place, done: &Done) {
    let mut stream = BufReader::new(place.hosts.client.dial(place.server(80)));
    for _ in 0..3 {
        let request = b"GET /nginx.conf HTTP/1.1\r\nHost: soak\r\n\r\n";
        stream.get_mut().write_all(request).expect("nginx reads");
        read_answer(&mut stream);
        add(&done.requests, 1);
    }
    add(&done.connections, 1);
}

fn read_answer(stream: &mut BufReader<TcpStream>) {
    let mut length = None;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("nginx answers");
        assert!(!line.is_empty(), "nginx closed");
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim_end().parse().ok();
        }
    }
    let mut body = vec![0; length.expect("nginx tells it")];
    stream.read_exact(&mut body).expect("nginx sends it all");
}

fn process_that_connects(place: &Place, done: &Done) {
    let script = format!(
        "exec 3<>/dev/tcp/{}/80; printf 'GET /nginx.conf HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
        place.hosts.server.v4
    );
    let (_, answer) = place.hosts.client.run(Command::new("bash").args(["-c", &script]));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    add(&done.processes, 2);
    add(&done.connections, 1);
    add(&done.requests, 1);
}

fn requests_through_tls(place: &Place, done: &Done) {
    let url = format!("https://{}/nginx.conf", place.hosts.server.v4);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--fail", &url, &url]);
    place.hosts.client.run(&mut curl);
    add(&done.processes, 1);
    add(&done.connections, 1);
    add(&done.tls_requests, 2);
}

/// From a socket of its own, for `soak.test`.
fn question(place: &Place, done: &Done) {
    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04soak\x04test\0\0\x01\0\x01";
    let socket = place.hosts.client.bind_udp(SocketAddr::new(place.asker.into(), 0));
    socket.connect(place.server(53)).expect("there is a way");
    socket.send(QUESTION).expect("the cable takes it");
    let mut answer = [0; 512];
    let length = loop {
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.expect("dnsmasq answers"),
        }
    };
    assert!(length > QUESTION.len() && answer[3] % 16 == 0, "{:?}", &answer[..length]);
    add(&done.questions, 1);
}

/// A container in all but the image: namespaces of its own, and a translated connection in them.
fn container(done: &Done) {
    const INSIDE: &str = "ip link set lo up
nft 'table ip nat { chain out { type nat hook output priority -100; tcp dport 81 redirect to :80; }; }'
socat -u EXEC:'echo hello' TCP-LISTEN:80,bind=127.0.0.1 &
socat -u TCP:127.0.0.1:81,retry=200,interval=0.02 -
wait";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc"]);
    assert_eq!(run(unshare.args(["sh", "-c", INSIDE])), "hello\n");
    // unshare, sh, ip, nft, socat twice, echo.
    add(&done.processes, 7);
    add(&done.containers, 1);
}

fn typed_lines(done: &Done) {
    let mut shell = Shell::bash();
    for line in 0..3 {
        shell.enter(&format!(": {} {line}", marker()));
        add(&done.lines, 1);
    }
    shell.exit();
    add(&done.processes, 2);
}
