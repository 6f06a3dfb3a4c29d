//! What a host can be busy with. In: servers, started here, and how long. Out: how much was done, and how long that took. Both ends
//! are on this machine: whatever the collector does, it does twice.

use std::cell::OnceCell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::hosts::{Hosts, Netns};
use system_tests::nginx::Nginx;
use system_tests::process::run;
use system_tests::{ports, wait};

/// What `redis-benchmark`, which takes no length of time, is asked for instead of a second.
const REDIS_REQUESTS: u64 = 80_000;

/// What a run has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
}

impl Done {
    pub(crate) fn per_second(self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// A load: by which name it is asked for, what it is, what it counts, and a run of it for about so long, in whole seconds.
pub(crate) struct Load {
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) run: fn(&Servers, Duration) -> Done,
}

pub(crate) const NGINX: Load = Load {
    key: "nginx",
    name: "nginx + wrk, between namespaces",
    unit: "request",
    run: |servers, length| {
        let hosts = servers.hosts();
        wrk(&hosts.client, &format!("http://{}", hosts.server.v4), length)
    },
};
pub(crate) const HTTPS: Load = Load {
    key: "https",
    name: "nginx + wrk through TLS, between namespaces",
    unit: "request",
    run: |servers, length| {
        let hosts = servers.hosts();
        wrk(&hosts.client, &format!("https://{}", hosts.server.v4), length)
    },
};
pub(crate) const HTTP_EXCHANGE: Load = Load {
    key: "exchange",
    name: "nginx + wrk, loopback",
    unit: "exchange",
    run: |servers, length| wrk(&servers.hosts().server, "http://127.0.0.1", length),
};
pub(crate) const HTTP_APART: Load = Load {
    key: "exchange-apart",
    name: "the same, head and body apart",
    unit: "exchange",
    run: |servers, length| wrk(&servers.hosts().server, "http://127.0.0.1:81", length),
};
pub(crate) const HTTPS_EXCHANGE: Load = Load {
    key: "tls-exchange",
    name: "nginx + wrk through TLS, loopback",
    unit: "exchange",
    run: |servers, length| wrk(&servers.hosts().server, "https://127.0.0.1", length),
};
pub(crate) const REDIS: Load = Load {
    key: "redis",
    name: "redis-benchmark GET, loopback",
    unit: "request",
    run: |servers, length| servers.redis.get_or_init(Redis::start).benchmark(length),
};
pub(crate) const BULK: Load = Load {
    key: "bulk",
    name: "bulk over one connection, between namespaces",
    unit: "MiB",
    run: |servers, length| bulk(servers.hosts(), length),
};
pub(crate) const SHORT: Load = Load {
    key: "connections",
    name: "short connections, loopback",
    unit: "connection",
    run: |_, length| short_connections(length),
};
pub(crate) const UDP_STREAM: Load = Load {
    key: "udp-stream",
    name: "UDP flood, one way, loopback",
    unit: "datagram",
    run: |_, length| udp_stream(length),
};
pub(crate) const UDP_ASK: Load = Load {
    key: "udp-ask",
    name: "UDP question and answer, loopback",
    unit: "datagram",
    run: |_, length| udp_ask(length),
};
pub(crate) const FILES: Load = Load {
    key: "files",
    name: "files: fio in blocks of 4 KiB, no network",
    unit: "block",
    run: |_, length| files(length),
};

/// Servers that are started when a load needs them, and run until the end.
#[derive(Default)]
pub(crate) struct Servers {
    hosts: OnceCell<(Hosts, Nginx)>,
    redis: OnceCell<Redis>,
}

impl Servers {
    fn hosts(&self) -> &Hosts {
        let start = || {
            let hosts = Hosts::new();
            let nginx = Nginx::start_with_tls(&hosts.server);
            (hosts, nginx)
        };
        &self.hosts.get_or_init(start).0
    }

    /// Starts what must be there before a collector looks for it.
    pub(crate) fn prepare(&self) {
        self.hosts();
    }
}

fn wrk(from: &Netns, server: &str, length: Duration) -> Done {
    let seconds = length.as_secs();
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c16", &format!("-d{seconds}s"), &format!("{server}/nginx.conf")]);
    let (_, text) = from.run(&mut wrk);
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{wrk:?}: {text}");
    // `  123456 requests in 3.01s, 78.90MB read`
    let line = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let (count, rest) = line.unwrap_or_else(|| panic!("{wrk:?}: {text}"));
    let seconds = rest.split_once("s,").and_then(|(seconds, _)| seconds.parse().ok());
    let count = count.parse().unwrap_or_else(|error| panic!("{wrk:?}: {error}: {text}"));
    Done { count, seconds: seconds.unwrap_or_else(|| panic!("{wrk:?}: {text}")) }
}

/// A redis of its own; killed when dropped.
struct Redis {
    server: Child,
    port: String,
}

impl Redis {
    fn start() -> Self {
        let address = ports::free_address();
        let port = address.port().to_string();
        let server = Command::new("redis-server")
            .args(["--port", &port, "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Self { server, port };
        wait::until("redis listens", || {
            TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        redis
    }

    fn benchmark(&self, length: Duration) -> Done {
        let count = length.as_secs() * REDIS_REQUESTS;
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port, "-t", "get", "-c", "16", "--csv"]);
        let text = run(command.args(["-n", &count.to_string()]));
        // `"GET","98765.43",...`
        let line = text.lines().last().unwrap_or_default();
        let rate = line.split(',').nth(1).and_then(|word| word.trim_matches('"').parse().ok());
        let rate: f64 = rate.unwrap_or_else(|| panic!("{command:?}: {text}"));
        Done { count, seconds: count as f64 / rate }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).expect("it was running");
    }
}

fn bulk(hosts: &Hosts, length: Duration) -> Done {
    let listener = hosts.server.listen(SocketAddr::new(hosts.server.v4.into(), 0));
    let address = listener.local_addr().expect("it is bound");
    let mut client = hosts.client.dial(address);
    let (mut server, _) = listener.accept().expect("a client");
    let start = Instant::now();
    let bytes = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let (mut buffer, mut bytes) = (vec![0; 256 * 1024], 0);
            loop {
                match server.read(&mut buffer).expect("the peer writes") {
                    0 => return bytes,
                    read => bytes += read,
                }
            }
        });
        let block = vec![b'x'; 128 * 1024];
        while start.elapsed() < length {
            client.write_all(&block).expect("the peer reads");
        }
        drop(client);
        reader.join().expect("it has read to the end")
    });
    Done { count: (bytes >> 20) as u64, seconds: start.elapsed().as_secs_f64() }
}

/// Each asks for something, and the server closes: its ports are the ones that wait, and the clients' do not run out.
fn short_connections(length: Duration) -> Done {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < length {
        let mut client = TcpStream::connect(address).expect("it listens");
        let (mut server, _) = listener.accept().expect("a client");
        let mut buffer = [0; 64];
        client.write_all(b"question").expect("the server is there");
        assert_eq!(server.read(&mut buffer).expect("it was sent"), 8);
        server.write_all(b"answer").expect("the client is there");
        drop(server);
        assert_eq!(client.read(&mut buffer).expect("it was sent"), 6);
        assert_eq!(client.read(&mut buffer).expect("it was closed"), 0);
        count += 1;
    }
    Done { count, seconds: start.elapsed().as_secs_f64() }
}

fn udp_pair() -> [UdpSocket; 2] {
    let [one, other] = [0; 2].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    for (from, to) in [(&one, &other), (&other, &one)] {
        from.connect(to.local_addr().expect("it is bound")).expect("it is on loopback");
    }
    [one, other]
}

/// As fast as it can be sent; what the reader has no room for counts too.
fn udp_stream(length: Duration) -> Done {
    let [from, to] = udp_pair();
    to.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                // Nothing comes at the end.
                to.recv(&mut buffer).ok();
            }
        });
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < length {
            for _ in 0..100 {
                from.send(&[0; 64]).expect("loopback takes it");
            }
            count += 100;
        }
        is_over.store(true, Ordering::Relaxed);
        Done { count, seconds: start.elapsed().as_secs_f64() }
    })
}

fn udp_ask(length: Duration) -> Done {
    let [client, server] = udp_pair();
    let mut buffer = [0; 64];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < length {
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.send(&[0; 64]).expect("loopback takes it");
            to.recv(&mut buffer).expect("it was sent");
        }
        count += 2;
    }
    Done { count, seconds: start.elapsed().as_secs_f64() }
}

/// Reads and writes a file in memory: one system call per block, no disk to wait for, and so little data that the speed of the
/// memory, which differs from file to file, hardly matters.
fn files(length: Duration) -> Done {
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/dev/shm");
    let folder = folder.expect("a folder in memory");
    let mut fio = Command::new("fio");
    fio.args(["--name=files", "--rw=rw", "--bs=4k", "--size=1m", "--ioengine=psync"]);
    fio.args(["--time_based", &format!("--runtime={}", length.as_secs()), "--output-format=json"]);
    let text = run(fio.arg(format!("--directory={}", folder.path().display())));
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{fio:?}: {e}: {text}"));
    let job = &report["jobs"][0];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{fio:?}: {text}"));
    let blocks = |direction: &str| number(&job[direction]["total_ios"]);
    let ms = number(&job["job_runtime"]);
    Done { count: blocks("read") + blocks("write"), seconds: ms as f64 / 1000.0 }
}
