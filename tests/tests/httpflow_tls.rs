//! HTTP through TLS libraries. In: real servers and clients in two namespaces, with a certificate of the test's own. Out: the same
//! requests as the server logged, by path and status, seen at both ends, each with its process.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use system_tests::collector::Collector;
use system_tests::flows::{Flows, Side};
use system_tests::hosts::{Family, Hosts, Netns};
use system_tests::process::Process;
use system_tests::receiver::Receiver;
use system_tests::tls::certificate;
use system_tests::{program, wait};
use tempfile::TempDir;

const NET: &str = "ebpf-net";
const PORT: u16 = 443;
const ENABLED: [&str; 2] = ["--l7net-enabled", "httpflow,httpflow-tls"];

/// An nginx with TLS that logs what it answered.
struct Server {
    master: Process,
    folder: TempDir,
}

impl Server {
    fn start(netns: &Netns) -> Self {
        let folder = certificate();
        let path = folder.path().to_str().expect("temporary paths are text");
        fs::write(folder.path().join("small"), "x".repeat(900)).expect("a new file");
        fs::write(folder.path().join("large"), "x".repeat(300_000)).expect("a new file");
        let config = folder.path().join("nginx.conf");
        fs::write(&config, configuration(path)).expect("a new file");
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&config).arg("-e").arg("error.log");
        let master = netns.spawn(&mut nginx);
        netns.wait_for_port("tcp", PORT);
        wait::until_true(
            "nginx has its worker",
            || master.children().len() == 1,
            || format!("children {:?}", master.children()),
        );
        Self { master, folder }
    }

    fn worker(&self) -> u32 {
        self.master.children().first().copied().expect("the worker runs as long as the master")
    }

    /// How many requests it has answered, by path and status.
    fn log(&self) -> Counts {
        let text = fs::read_to_string(self.folder.path().join("access.log")).expect("it has a log");
        let mut counts = Counts::new();
        for line in text.lines() {
            let mut words = line.split(' ').map(str::to_owned);
            let [Some(path), Some(status)] = [words.next(), words.next()] else { panic!("{line}") };
            *counts.entry((path, status.parse().expect("a status"))).or_default() += 1;
        }
        counts
    }
}

fn configuration(folder: &str) -> String {
    format!(
        "user root;
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  sendfile on;
  log_format short '$uri $status';
  access_log {folder}/access.log short;
  default_type text/plain;
  server {{
    listen {PORT} ssl http2;
    listen [::]:{PORT} ssl http2;
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    root {folder};
    location = /made {{ return 201 made; }}
    location = /broken {{ return 503; }}
  }}
}}
"
    )
}

/// Requests by path and status.
type Counts = BTreeMap<(String, i64), i64>;

fn counts(flows: &Flows) -> Counts {
    let mut counts = Counts::new();
    for point in flows.points() {
        let path = point.text("path").unwrap_or_else(|| panic!("no path in {point:?}")).to_owned();
        let [Some(status), Some(count)] = ["status_code", "count"].map(|name| point.int(name))
        else {
            panic!("no status or count in {point:?}")
        };
        *counts.entry((path, status)).or_default() += count;
    }
    counts
}

/// Waits until all requests are seen at this end; the points.
#[track_caller]
fn wait_for(receiver: &Receiver, host: &Netns, side: Side, wanted: &Counts) -> Flows {
    wait::until("every request is reported", || {
        let flows = receiver.measurement("httpflow").of(host).on(side, PORT);
        let seen = counts(&flows);
        let all = |counts: &Counts| counts.values().sum::<i64>();
        if all(&seen) >= all(wanted) { Ok(flows) } else { Err(format!("{seen:?} of {wanted:?}")) }
    })
}

fn curl(from: &Netns, version: &str, to: SocketAddr, paths: &[&str]) -> u32 {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", version]);
    for path in paths {
        curl.args(["--output", "/dev/null"]).arg(format!("https://{to}{path}"));
    }
    from.run(&mut curl).0
}

/// Waits until the collector watches the library that nginx uses.
fn wait_for_library(collector: &Collector) {
    wait::until_true(
        "a TLS library is watched",
        || collector.metric(NET, "tls_files_attached") > 0,
        || collector.plugin(NET).map(|entry| entry.to_string()).unwrap_or_default(),
    );
}

/// Both ends saw what the server logged, and nothing was lost.
#[track_caller]
fn check(version: &str, shown: &str, method: &str) {
    let hosts = Hosts::new();
    let server = Server::start(&hosts.server);
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    wait_for_library(&collector);

    let address = hosts.server_address(Family::V4, PORT);
    let paths = ["/small?q=secret", "/large", "/none", "/made", "/small", "/broken"];
    let pid = curl(&hosts.client, version, address, &paths.repeat(5));
    let wanted = server.log();
    assert_eq!(wanted.values().sum::<i64>(), 30, "{wanted:?}");

    for (host, side, pid) in
        [(&hosts.client, Side::Client, pid), (&hosts.server, Side::Server, server.worker())]
    {
        let flows = wait_for(&receiver, host, side, &wanted);
        assert_eq!(counts(&flows), wanted, "{side:?}");
        assert_eq!(flows.values("pid"), [pid.to_string().as_str()].into(), "{side:?}");
        for point in flows.points() {
            assert_eq!(point.text("http_version"), Some(shown), "{point:?}");
            assert_eq!(point.text("method"), Some(method), "{point:?}");
            assert!(point.int("latency") > Some(0), "{point:?}");
            let (path, count) = (point.text("path"), point.int("count").unwrap_or_default());
            let body = if path == Some("/large") { 300_000 } else { 0 };
            assert!(point.int("server_sent") > Some(body * count), "{point:?}");
            assert!(point.int("server_sent") < Some((body + 3000) * count), "{point:?}");
        }
    }
    for lost in ["pieces_lost", "without_socket", "not_understood", "streams_refused"] {
        let lost = format!("tls_{lost}_total");
        assert_eq!(collector.metric(NET, &lost), 0, "{lost}");
    }
    collector.stop();
}

#[test]
fn requests_of_curl_to_nginx_over_http1_are_what_nginx_logged() {
    check("--http1.1", "1.1", "GET");
}

#[test]
fn requests_of_curl_to_nginx_over_http2_are_what_nginx_logged() {
    check("--http2", "2.0", "GET");
}

#[test]
fn a_python_client_and_server_are_seen() {
    let hosts = Hosts::new();
    let folder = certificate();
    let at = folder.path();
    let mut server = hosts.server.spawn(&mut python("serve", at, &["0.0.0.0", &PORT.to_string()]));
    assert_eq!(server.line(), "ready");
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    wait_for_library(&collector);

    let address = hosts.server_address(Family::V4, PORT);
    let (pid, statuses) = hosts.client.run(&mut python("ask", at, &[&address.to_string(), "3"]));
    assert_eq!(statuses.trim(), "200 404 200 200 404 200 200 404 200");
    let wanted = Counts::from([
        (("/cert.pem".to_owned(), 200), 3),
        (("/none".to_owned(), 404), 3),
        (("/posted".to_owned(), 200), 3),
    ]);
    for (host, side, pid) in
        [(&hosts.client, Side::Client, pid), (&hosts.server, Side::Server, server.pid())]
    {
        let flows = wait_for(&receiver, host, side, &wanted);
        assert_eq!(counts(&flows), wanted, "{side:?}");
        assert_eq!(flows.values("pid"), [pid.to_string().as_str()].into(), "{side:?}");
    }
    collector.stop();
}

fn python(what: &str, folder: &Path, args: &[&str]) -> Command {
    let mut python = Command::new("python3");
    python.arg(program("https.py")).arg(what).current_dir(folder).args(args);
    python
}

#[test]
fn nothing_is_attached_unless_it_is_wanted() {
    let hosts = Hosts::new();
    let _server = Server::start(&hosts.server);
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(["--l7net-enabled", "httpflow"]).start();
    let entry = collector.plugin(NET).expect("it runs").to_string();
    assert!(!entry.contains("SSL_read"), "{entry}");
    assert_eq!(collector.metric(NET, "tls_files_attached"), 0);
    collector.stop();
}

#[test]
fn a_process_without_tls_is_not_attached_to() {
    let receiver = Receiver::start();
    let hosts = Hosts::new();
    let idle = hosts.client.spawn(Command::new("sleep").arg("1000"));
    let server = Server::start(&hosts.server);
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    wait_for_library(&collector);
    let entry = collector.plugin(NET).expect("it runs").to_string();
    let executable = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
    for pid in [idle.pid(), server.worker()] {
        let name = executable(pid);
        assert!(!entry.contains(&format!("{} (", name.display())), "{}: {entry}", name.display());
    }
    collector.stop();
}
