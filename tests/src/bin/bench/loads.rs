//! What a host can be busy with. In: servers, started here, and a name. Out: how much was done, and how long that took. Both ends
//! are on this machine: whatever the collector does, it does twice.

use std::cell::OnceCell;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::hosts::{Hosts, Netns};
use system_tests::nginx::Nginx;
use system_tests::process::run;
use system_tests::{ports, wait};

/// How long a load runs, where its length is a time.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);

const REQUESTS: u64 = 200_000;
/// Half of what a round of comparisons makes, which runs each load twice.
const CONNECTIONS: u64 = 50_000;

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

    /// Both runs.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, seconds: self.seconds + other.seconds }
    }
}

/// A load: by which name it is asked for, what it is, what it counts, and a run of it.
pub(crate) struct Load {
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) run: fn(&Servers) -> Done,
}

pub(crate) const NGINX: Load = Load {
    key: "nginx",
    name: "nginx + wrk, between namespaces",
    unit: "request",
    run: |servers| wrk(&servers.hosts().client, &format!("http://{}", servers.hosts().server.v4)),
};
pub(crate) const HTTPS: Load = Load {
    key: "https",
    name: "nginx + wrk through TLS, between namespaces",
    unit: "request",
    run: |servers| wrk(&servers.hosts().client, &format!("https://{}", servers.hosts().server.v4)),
};
pub(crate) const HTTP_EXCHANGE: Load = Load {
    key: "exchange",
    name: "nginx + wrk, loopback",
    unit: "exchange",
    run: |servers| wrk(&servers.hosts().server, "http://127.0.0.1"),
};
pub(crate) const HTTP_APART: Load = Load {
    key: "exchange-apart",
    name: "the same, head and body apart",
    unit: "exchange",
    run: |servers| wrk(&servers.hosts().server, "http://127.0.0.1:81"),
};
pub(crate) const HTTPS_EXCHANGE: Load = Load {
    key: "tls-exchange",
    name: "nginx + wrk through TLS, loopback",
    unit: "exchange",
    run: |servers| wrk(&servers.hosts().server, "https://127.0.0.1"),
};
pub(crate) const REDIS: Load = Load {
    key: "redis",
    name: "redis-benchmark GET, loopback",
    unit: "request",
    run: |servers| servers.redis.get_or_init(Redis::start).benchmark(),
};
pub(crate) const BULK: Load = Load {
    key: "bulk",
    name: "bulk over one connection, between namespaces",
    unit: "MiB",
    run: |servers| bulk(servers.hosts()),
};
pub(crate) const SHORT: Load = Load {
    key: "connections",
    name: "100,000 short connections, loopback",
    unit: "connection",
    run: |_| short_connections(),
};
pub(crate) const UDP_STREAM: Load = Load {
    key: "udp-stream",
    name: "UDP flood, one way, loopback",
    unit: "datagram",
    run: |_| udp_stream(),
};
pub(crate) const UDP_ASK: Load = Load {
    key: "udp-ask",
    name: "UDP question and answer, loopback",
    unit: "datagram",
    run: |_| udp_ask(),
};
pub(crate) const FILES: Load = Load {
    key: "files",
    name: "files: dd in blocks of 4 KiB, no network",
    unit: "block",
    run: |_| files(),
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

fn wrk(from: &Netns, server: &str) -> Done {
    let seconds = WINDOW.as_secs();
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

    fn benchmark(&self) -> Done {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port, "-t", "get", "-c", "16", "--csv"]);
        let text = run(command.args(["-n", &REQUESTS.to_string()]));
        // `"GET","98765.43",...`
        let line = text.lines().last().unwrap_or_default();
        let rate = line.split(',').nth(1).and_then(|word| word.trim_matches('"').parse().ok());
        let rate: f64 = rate.unwrap_or_else(|| panic!("{command:?}: {text}"));
        Done { count: REQUESTS, seconds: REQUESTS as f64 / rate }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).expect("it was running");
    }
}

fn bulk(hosts: &Hosts) -> Done {
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
        while start.elapsed() < WINDOW {
            client.write_all(&block).expect("the peer reads");
        }
        drop(client);
        reader.join().expect("it has read to the end")
    });
    Done { count: (bytes >> 20) as u64, seconds: start.elapsed().as_secs_f64() }
}

/// Each asks for something, and the server closes: its ports are the ones that wait, and the clients' do not run out.
fn short_connections() -> Done {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    times(CONNECTIONS, || {
        let mut client = TcpStream::connect(address).expect("it listens");
        let (mut server, _) = listener.accept().expect("a client");
        let mut buffer = [0; 64];
        client.write_all(b"question").expect("the server is there");
        assert_eq!(server.read(&mut buffer).expect("it was sent"), 8);
        server.write_all(b"answer").expect("the client is there");
        drop(server);
        assert_eq!(client.read(&mut buffer).expect("it was sent"), 6);
        assert_eq!(client.read(&mut buffer).expect("it was closed"), 0);
    })
}

fn udp_pair() -> [UdpSocket; 2] {
    let [one, other] = [0; 2].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    for (from, to) in [(&one, &other), (&other, &one)] {
        from.connect(to.local_addr().expect("it is bound")).expect("it is on loopback");
    }
    [one, other]
}

/// As fast as it can be sent; what the reader has no room for counts too.
fn udp_stream() -> Done {
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
        while start.elapsed() < WINDOW {
            for _ in 0..100 {
                from.send(&[0; 64]).expect("loopback takes it");
            }
            count += 100;
        }
        is_over.store(true, Ordering::Relaxed);
        Done { count, seconds: start.elapsed().as_secs_f64() }
    })
}

fn udp_ask() -> Done {
    let [client, server] = udp_pair();
    let mut buffer = [0; 64];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < WINDOW {
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.send(&[0; 64]).expect("loopback takes it");
            to.recv(&mut buffer).expect("it was sent");
        }
        count += 2;
    }
    Done { count, seconds: start.elapsed().as_secs_f64() }
}

/// Copies a file in memory again and again: two system calls per block, and no disk to wait for.
fn files() -> Done {
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/dev/shm");
    let folder = folder.expect("a folder in memory");
    let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
    fs::write(&from, vec![b'x'; 64 << 20]).expect("there are 64 MiB");
    let blocks = (64 << 20) / 4096;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < WINDOW {
        let mut dd = Command::new("dd");
        dd.args(["bs=4k", "conv=notrunc", "status=none"]);
        dd.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
        run(&mut dd);
        count += blocks;
    }
    Done { count, seconds: start.elapsed().as_secs_f64() }
}

fn times(count: u64, mut run: impl FnMut()) -> Done {
    let start = Instant::now();
    (0..count).for_each(|_| run());
    Done { count, seconds: start.elapsed().as_secs_f64() }
}
