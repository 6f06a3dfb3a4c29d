//! TCP traffic of known size between two [`Hosts`]. In: how many bytes in which direction. Out: open sockets, and the
//! assertion that both ends were reported exactly. The sockets belong to the test's own process.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::flows::{Flows, Side, Tcp};
use crate::hosts::{Family, Hosts, Netns};
use crate::receiver::Receiver;
use crate::wait;

/// How many connections are many; `CONNECTIONS=100000` for as many as a busy host has, or fewer on an emulated one.
pub fn connections() -> usize {
    std::env::var("CONNECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// Both ends of one connection.
pub struct Pair {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that was accepted.
    pub server: TcpStream,
}

impl Pair {
    /// The client sends, the server reads it all.
    #[track_caller]
    pub fn up(&self, bytes: usize) {
        transfer(&self.client, &self.server, bytes);
    }

    /// The server sends, the client reads it all.
    #[track_caller]
    pub fn down(&self, bytes: usize) {
        transfer(&self.server, &self.client, bytes);
    }
}

/// Sends that many bytes from one end, and reads as many at the other.
#[track_caller]
pub fn transfer(from: &TcpStream, to: &TcpStream, bytes: usize) {
    thread::scope(|scope| {
        scope.spawn(move || send(from, bytes));
        receive(to, bytes);
    });
}

/// Sends that many bytes.
pub fn send(mut to: &TcpStream, bytes: usize) {
    to.write_all(&vec![b'x'; bytes]).expect("the peer reads");
}

/// Reads exactly that many bytes.
#[track_caller]
pub fn receive(mut from: &TcpStream, bytes: usize) {
    let mut rest = bytes;
    let mut buffer = vec![0; 64 * 1024];
    while rest > 0 {
        let want = rest.min(buffer.len());
        match from.read(&mut buffer[..want]) {
            Ok(0) => panic!("the connection ended {rest} bytes too early"),
            Ok(read) => rest -= read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("read with {rest} of {bytes} bytes to come: {error}"),
        }
    }
}

/// Reads to the end; how many bytes there were.
#[track_caller]
pub fn drain(mut from: &TcpStream) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return total,
            Ok(read) => total += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("read after {total} bytes: {error}"),
        }
    }
}

impl Netns {
    /// Listens on an address in this namespace.
    #[track_caller]
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.enter(|| TcpListener::bind(address));
        listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"))
    }

    /// Connects from this namespace.
    #[track_caller]
    pub fn dial(&self, address: SocketAddr) -> TcpStream {
        let connected = self.enter(|| TcpStream::connect(address));
        patient(connected.unwrap_or_else(|error| panic!("connect to {address}: {error}")))
    }
}

/// A test that would read forever shall fail instead.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(wait::patience())).expect("not zero");
    stream.set_write_timeout(Some(wait::patience())).expect("not zero");
    stream
}

/// Accepts one connection.
#[track_caller]
pub fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().expect("a connection comes").0)
}

impl Hosts {
    /// One closed connection, in IPv4, that sent so much from the client to the server.
    #[track_caller]
    pub fn talk(&self, port: u16, bytes: usize) {
        self.connect(Family::V4, port).up(bytes);
        self.settle();
    }

    /// Waits until the receiver has taken the closing of both ends of a port.
    #[track_caller]
    pub fn wait_for_both_ends(&self, receiver: &Receiver, port: u16) {
        wait::within(wait::patience() * 3, &format!("port {port} is reported"), || {
            let seen = receiver.netflow();
            let closed = |side| self.tcp(&seen, side, port).closed;
            match (closed(Side::Client), closed(Side::Server)) {
                (1.., 1..) => Ok(()),
                other => Err(format!("closed {other:?}")),
            }
        });
    }

    /// Listens on the server's address.
    #[track_caller]
    pub fn listen(&self, family: Family, port: u16) -> TcpListener {
        self.server.listen(self.server_address(family, port))
    }

    /// One connection from the client to a port of the server; the listener is gone afterwards.
    #[track_caller]
    pub fn connect(&self, family: Family, port: u16) -> Pair {
        self.connect_to(&self.listen(family, port))
    }

    /// One more connection to a listener of the server.
    #[track_caller]
    pub fn connect_to(&self, listener: &TcpListener) -> Pair {
        let address = listener.local_addr().expect("a listener has an address");
        let client = self.client.dial(address);
        Pair { client, server: accept(listener) }
    }

    /// What was seen of a port at one end.
    #[track_caller]
    pub fn tcp(&self, seen: &Flows, side: Side, port: u16) -> Tcp {
        self.end(side, seen).on(side, port).tcp()
    }

    /// Asserts what was seen of a port at the client's end, and the mirror image of it at the server's.
    #[track_caller]
    pub fn assert_tcp(&self, seen: &Flows, port: u16, client: Tcp) {
        let server = Tcp { read: client.written, written: client.read, ..client };
        for (side, want) in [(Side::Client, client), (Side::Server, server)] {
            let got = self.tcp(seen, side, port);
            let points = self.end(side, seen);
            assert_eq!(got, want, "port {port}, {side:?}; points of this host: {points}");
        }
    }

    /// Asserts that no point of either host has this port on any side.
    #[track_caller]
    pub fn assert_nothing_on(&self, seen: &Flows, port: u16) {
        for host in [&self.client, &self.server] {
            for tag in ["src_port", "dst_port"] {
                let points = seen.of(host).with(tag, port);
                assert!(points.is_empty(), "nothing was to be reported on port {port}: {points}");
            }
        }
    }

    /// The points of one end.
    pub fn end(&self, side: Side, seen: &Flows) -> Flows {
        match side {
            Side::Client => seen.of(&self.client),
            Side::Server => seen.of(&self.server),
        }
    }
}
