//! The same requests, in every way that is covered. In: clients and servers of several libraries, each started after the collector.
//! Out: the same points for all of them, and the table in docs/plugins/ebpf-net.md, which must say what was seen here
//! (`UPDATE_DOCS=1` has the test write it).

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::collector::Collector;
use system_tests::flows::{Flows, Side};
use system_tests::hosts::{Family, Hosts, Netns};
use system_tests::receiver::Receiver;
use system_tests::tls::{Server, build_go, certificate, curl, wait_until_watched, wget};
use system_tests::{program, wait, workspace};

const NET: &str = "ebpf-net";
const PATHS: [&str; 6] = [
    "/same.Set/One",
    "/same.Set/Two",
    "/same.Set/Two",
    "/same.Set/Three",
    "/same.Set/Three",
    "/same.Set/Three",
];
const ENABLED: [&str; 2] = ["--l7net-enabled", "httpflow,httpflow-tls"];

/// One way to send the requests.
struct Way {
    /// What of a row is not a protocol: who, with which library.
    client: &'static str,
    server: &'static str,
    protocol: &'static str,
    version: &'static str,
    serve: Serve,
    ask: Ask,
}

enum Serve {
    /// With what follows the port in its configuration.
    Nginx(&'static str),
    /// One of our programs, with its first arguments.
    Ours(Vec<PathBuf>),
}

enum Ask {
    Curl(&'static [&'static str], &'static str),
    Wget,
    Ours(Vec<PathBuf>, &'static str),
}

impl Way {
    /// A program that is both ends.
    fn ours(name: &'static str, protocol: &'static str, words: &[PathBuf]) -> Self {
        let version = if protocol.starts_with("HTTP/1.1") { "1.1" } else { "2" };
        Self {
            client: name,
            server: name,
            protocol,
            version: if version == "2" { "2.0" } else { version },
            serve: Serve::Ours(words.to_vec()),
            ask: Ask::Ours(words.to_vec(), version),
        }
    }

    fn curl(protocol: &'static str, flag: &'static [&'static str], listen: &'static str) -> Self {
        let is_tls = listen.contains("ssl");
        Self {
            client: if is_tls { "curl: OpenSSL" } else { "curl" },
            server: if is_tls { "nginx: OpenSSL" } else { "nginx" },
            protocol,
            version: if protocol.starts_with("HTTP/1.1") { "1.1" } else { "2.0" },
            serve: Serve::Nginx(listen),
            ask: Ask::Curl(flag, if is_tls { "https" } else { "http" }),
        }
    }

    /// Has the requests sent; the pids of both ends.
    fn send(
        &self,
        hosts: &Hosts,
        folder: &Path,
        collector: &Collector,
        port: u16,
    ) -> (u32, u32, Server) {
        let address = hosts.server_address(Family::V4, port);
        let server = match &self.serve {
            Serve::Nginx(listen) => Server::nginx(&hosts.server, folder, port, listen),
            Serve::Ours(words) => {
                let mut command = ours(words, folder);
                Server::start(&hosts.server, command.arg("serve").arg(address.to_string()))
            }
        };
        if let (Serve::Ours(words), false) = (&self.serve, self.protocol.contains("clear")) {
            // A program with TLS inside, unless it is one that maps a library.
            if words[0].is_absolute() && !words[0].ends_with("python3") {
                wait_until_watched(collector, &words[0].canonicalize().expect("it is there"));
            }
        }
        let (client, said) = hosts.client.run(&mut self.command(folder, address));
        if !matches!(self.ask, Ask::Wget) {
            assert_eq!(
                said.trim(),
                ["200"; PATHS.len()].join(" "),
                "{} {}",
                self.client,
                self.protocol
            );
        }
        (client, server.pid(), server)
    }

    fn command(&self, folder: &Path, to: SocketAddr) -> Command {
        match &self.ask {
            Ask::Curl(flags, scheme) => curl(flags, scheme, to, &PATHS),
            Ask::Wget => wget(to, &PATHS),
            Ask::Ours(words, version) => {
                let mut command = ours(words, folder);
                command.arg("ask").arg(to.to_string()).arg(version).args(PATHS);
                command
            }
        }
    }

    fn row(&self) -> String {
        format!("| {} | {} | {} |", self.protocol, self.client, self.server)
    }
}

fn ours(words: &[PathBuf], folder: &Path) -> Command {
    let mut command = Command::new(&words[0]);
    command.current_dir(folder).args(&words[1..]);
    command
}

/// All ways. What is built for them is in the folder.
fn ways(folder: &Path) -> Vec<Way> {
    let go = |name, flags: &[&str]| vec![build_go(folder, name, flags)];
    let plain = go("same", &[]);
    let stripped = go("same-stripped", &["-ldflags=-s -w"]);
    let anywhere = go("same-anywhere", &["-ldflags=-s -w", "-buildmode=pie"]);
    let python = |interpreter: &str, kind: &str| {
        vec![PathBuf::from(interpreter), program("same.py"), PathBuf::from(kind)]
    };
    let node = [which("node"), program("same.js")];
    let (one, two) = ("HTTP/1.1 through TLS", "HTTP/2 through TLS");
    vec![
        Way::curl("HTTP/1.1 in clear", &["--http1.1"], ""),
        Way {
            client: "node",
            server: "nginx",
            protocol: "HTTP/2 in clear",
            version: "2.0",
            serve: Serve::Nginx("http2"),
            ask: Ask::Ours(node.to_vec(), "2c"),
        },
        Way::curl(one, &["--http1.1"], "ssl"),
        Way::curl(two, &["--http2"], "ssl http2"),
        Way {
            client: "wget: GnuTLS",
            server: "Go",
            protocol: one,
            version: "1.1",
            serve: Serve::Ours(plain.clone()),
            ask: Ask::Wget,
        },
        Way::ours("node: OpenSSL", one, &node),
        Way::ours("node: OpenSSL", two, &node),
        Way::ours("Python's asyncio: OpenSSL", one, &python("python3", "asyncio")),
        Way::ours("Go", one, &plain),
        Way::ours("Go", two, &plain),
        Way::ours("Go, stripped", two, &stripped),
        Way::ours("Go, stripped, at any address", one, &anywhere),
        Way::ours("Python's gRPC", "gRPC in clear", &python("/usr/bin/python3", "grpc")),
        Way::ours(
            "Python's gRPC: OpenSSL",
            "gRPC through TLS",
            &python("/usr/bin/python3", "grpcs"),
        ),
    ]
}

fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found.find(|path| path.is_file()).unwrap_or_else(|| panic!("{name} is not installed"))
}

/// Method, path and status, and how often.
type Counts = BTreeMap<(String, String, i64), i64>;

fn counts(flows: &Flows) -> Counts {
    let mut counts = Counts::new();
    for point in flows.points() {
        let text =
            |name: &str| point.text(name).unwrap_or_else(|| panic!("no {name} in {point:?}"));
        let int = |name: &str| point.int(name).unwrap_or_else(|| panic!("no {name} in {point:?}"));
        let key = (text("method").to_owned(), text("path").to_owned(), int("status_code"));
        *counts.entry(key).or_default() += int("count");
    }
    counts
}

#[track_caller]
fn wait_for(receiver: &Receiver, host: &Netns, side: Side, port: u16, what: &str) -> Flows {
    let expected: Counts = [("One", 1), ("Two", 2), ("Three", 3)]
        .map(|(name, count)| (("POST".to_owned(), format!("/same.Set/{name}"), 200), count))
        .into();
    wait::until(&format!("{what}: every request is reported at the {side:?}"), || {
        let flows = receiver.measurement("httpflow").of(host).on(side, port);
        let seen = counts(&flows);
        if seen == expected { Ok(flows) } else { Err(format!("{seen:?}")) }
    })
}

#[test]
fn the_same_requests_are_the_same_points_in_every_way() {
    let hosts = Hosts::new();
    let folder = certificate();
    let receiver = Receiver::start();
    let ways = ways(folder.path());
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    let mut rows = Vec::new();
    for (way, port) in ways.iter().zip(8400..) {
        let what = format!("{} to {}, {}", way.client, way.server, way.protocol);
        let (client, server, _server) = way.send(&hosts, folder.path(), &collector, port);
        let ends = [(&hosts.client, Side::Client, client), (&hosts.server, Side::Server, server)];
        for (host, side, pid) in ends {
            let flows = wait_for(&receiver, host, side, port, &what);
            assert_eq!(flows.values("pid"), [pid.to_string().as_str()].into(), "{what}: {side:?}");
            for point in flows.points() {
                assert_eq!(point.text("http_version"), Some(way.version), "{what}: {point:?}");
                let status = point.int("grpc_status");
                let is_grpc = way.protocol.starts_with("gRPC");
                assert_eq!(status, is_grpc.then_some(0), "{what}: {point:?}");
            }
        }
        rows.push(way.row());
    }
    for lost in
        ["tls_pieces_lost", "tls_without_socket", "tls_not_understood", "http_not_understood"]
    {
        assert_eq!(collector.metric(NET, &format!("{lost}_total")), 0, "{lost}");
    }
    collector.stop();
    compare_with_docs(&rows);
}

/// The table between two marks in the plugin's page.
fn compare_with_docs(rows: &[String]) {
    const BEGIN: &str = "<!-- written by tests/tests/tls_coverage.rs -->\n";
    const END: &str = "<!-- end -->";
    let path = workspace().join("docs/plugins/ebpf-net.md");
    let page = fs::read_to_string(&path).expect("the plugin has a page");
    let (before, rest) = page.split_once(BEGIN).expect("the page has the first mark");
    let (table, after) = rest.split_once(END).expect("the page has the second mark");
    let seen = format!("| what | client | server |\n| --- | --- | --- |\n{}\n", rows.join("\n"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{seen}{END}{after}")).expect("it can be written");
    } else {
        assert_eq!(table, seen, "run this test with UPDATE_DOCS=1");
    }
}

#[test]
fn a_process_that_becomes_another_program_is_seen_with_both() {
    let hosts = Hosts::new();
    let folder = certificate();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    let go = build_go(folder.path(), "becomes", &[]);
    let port = 8443;
    let address = hosts.server_address(Family::V4, port);
    let serve = ["serve", &address.to_string()];
    let _server =
        Server::start(&hosts.server, Command::new(&go).current_dir(folder.path()).args(serve));
    wait_until_watched(&collector, &go);
    let mut command = Command::new(&go);
    command.args(["become", &address.to_string(), "1.1", "/as-go"]).arg(which("curl"));
    command.args(["--silent", "--insecure", "--http1.1", "--data", "question"]);
    let (pid, said) = hosts.client.run(command.arg(format!("https://{address}/as-curl")));
    assert_eq!(said, "200 \nanswer");
    wait::until("both requests are reported", || {
        let flows = receiver.measurement("httpflow").of(&hosts.client).on(Side::Client, port);
        let seen = counts(&flows.with("pid", pid));
        let paths: Vec<_> = seen.iter().map(|((_, path, _), n)| (path.as_str(), *n)).collect();
        if paths == [("/as-curl", 1), ("/as-go", 1)] { Ok(()) } else { Err(format!("{paths:?}")) }
    });
    collector.stop();
}

#[test]
fn a_session_is_not_joined_with_the_socket_that_happened_to_be_written_to() {
    let hosts = Hosts::new();
    let folder = certificate();
    let receiver = Receiver::start();
    let collector = Collector::setup(&receiver).args(ENABLED).start();
    let (port, other) = (8443, 8080);
    let _server = Server::nginx(&hosts.server, folder.path(), port, "ssl");
    let _other = Server::nginx(&hosts.server, folder.path(), other, "");
    let mut python = Command::new("python3");
    python.arg(program("memory_bio.py")).arg("ask");
    for port in [port, other] {
        python.arg(hosts.server_address(Family::V4, port).to_string());
    }
    let (pid, said) = hosts.client.run(&mut python);
    assert_eq!(said.trim(), "200 200");
    let flows = wait::until("both requests are reported", || {
        let flows = receiver.measurement("httpflow").of(&hosts.client).with("pid", pid);
        let paths: Vec<_> = flows.points().iter().filter_map(|point| point.text("path")).collect();
        if paths.len() == 2 { Ok(flows) } else { Err(format!("{paths:?}")) }
    });
    assert_eq!(flows.values("server_port"), [port.to_string().as_str()].into());
    collector.stop();
}
