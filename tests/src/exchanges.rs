//! What the tests of httpflow share. In: nothing. Out: two namespaces with a web server and a collector that looks for HTTP; at the
//! end, what the server logged and what the collector saw of it at both ends.

use std::net::TcpStream;
use std::process::Command;

use crate::collector::Collector;
use crate::flows::{Flows, Side};
use crate::hosts::{Family, Hosts};
use crate::receiver::Receiver;
use crate::web::{Answers, Web, answers};

/// What has the collector look for HTTP.
pub const ENABLED: [&str; 2] = ["--l7net-enabled", "httpflow"];

/// The last request of a connection.
pub const LAST: &[u8] = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Both hosts, a web server on one of them, and a collector that looks for HTTP.
pub struct Scene {
    /// The client and the server.
    pub hosts: Hosts,
    /// What serves on the server.
    pub web: Web,
    /// Where the points arrive.
    pub receiver: Receiver,
    /// What is tested.
    pub collector: Collector,
}

impl Scene {
    /// Makes all of it, and waits until it runs.
    #[expect(clippy::new_without_default, reason = "making namespaces is not a default")]
    pub fn new() -> Self {
        let hosts = Hosts::new();
        let web = Web::start(&hosts.server);
        let receiver = Receiver::start();
        let collector = Collector::setup(&receiver).args(ENABLED).start();
        Self { hosts, web, receiver, collector }
    }

    /// Runs curl on the client; what it prints beside the answers.
    pub fn curl(&self, args: &[&str]) -> String {
        let mut curl = Command::new("curl");
        self.hosts.client.run(curl.args(["--silent", "--output", "/dev/null"]).args(args)).1
    }

    /// A path of the web server, as a URL.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.hosts.server_address(Family::V4, 80))
    }

    /// A connection to write to by hand, without delay.
    pub fn connect(&self) -> TcpStream {
        let address = self.hosts.server_address(Family::V4, 80);
        let stream = self.hosts.client.enter(|| TcpStream::connect(address));
        let stream = stream.expect("nginx listens");
        stream.set_nodelay(true).expect("it is TCP");
        stream
    }

    /// Ends the collector; what nginx logged, and the points of both ends.
    pub fn end(self) -> Seen {
        self.hosts.settle();
        let worker = self.web.worker();
        let metrics = self.collector.metrics();
        self.collector.stop();
        let log = self.web.finish();
        let points = self.receiver.measurement("httpflow");
        let client = points.of(&self.hosts.client);
        let server = points.of(&self.hosts.server);
        Seen { log, worker, metrics, client, server }
    }
}

/// What was seen.
pub struct Seen {
    /// How often nginx answered what.
    pub log: Answers,
    /// The process that answered.
    pub worker: u32,
    /// `/metrics`, before the end.
    pub metrics: String,
    /// The points of the client's end.
    pub client: Flows,
    /// Those of the server's.
    pub server: Flows,
}

impl Seen {
    /// Both ends have exactly what nginx logged.
    #[track_caller]
    pub fn agree(&self) {
        assert_eq!(answers(&self.server, Side::Server), self.log, "the server's end");
        assert_eq!(answers(&self.client, Side::Client), self.log, "the client's end");
        assert!(self.metrics.contains("http_lost_total{plugin=\"ebpf-net\"} 0"), "none is lost");
    }

    /// nginx has logged exactly that many.
    #[track_caller]
    pub fn logged(&self, method: &str, path: &str, status: i64, count: i64) {
        let key = (method.to_owned(), path.to_owned(), status);
        assert_eq!(self.log.get(&key), Some(&count), "{key:?} in {:?}", self.log);
    }
}
