//! UDP traffic of known size between two [`Hosts`]. In: payloads. Out: sockets, and the assertion that both ends were reported
//! exactly. Every datagram is received before the next is sent, so that none is dropped on the way.

use std::net::{SocketAddr, UdpSocket};

use crate::flows::{Flows, Side, Udp};
use crate::hosts::{Family, Hosts, Netns};
use crate::wait;

impl Netns {
    /// Binds a UDP socket in this namespace.
    #[track_caller]
    pub fn bind_udp(&self, address: SocketAddr) -> UdpSocket {
        let bound = self.enter(|| UdpSocket::bind(address));
        let socket = bound.unwrap_or_else(|error| panic!("bind UDP {address}: {error}"));
        socket.set_read_timeout(Some(wait::patience())).expect("not zero");
        socket
    }

    /// Binds a UDP socket to any port.
    #[track_caller]
    pub fn any_udp(&self, family: Family) -> UdpSocket {
        self.bind_udp(SocketAddr::new(self.ip(family), 0))
    }
}

/// The client sends one datagram, the server answers with one to whom it came from. Both sockets may be connected or not;
/// `to` is given where the client's is not.
#[track_caller]
pub fn ask(client: &UdpSocket, to: Option<SocketAddr>, server: &UdpSocket, up: usize, down: usize) {
    let mut buffer = vec![b'u'; 64 * 1024];
    let sent = match to {
        Some(address) => client.send_to(&buffer[..up], address),
        None => client.send(&buffer[..up]),
    };
    assert_eq!(sent.expect("a datagram fits"), up);
    let (read, from) = server.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!(read, up);
    assert_eq!(server.send_to(&buffer[..down], from).expect("a datagram fits"), down);
    assert_eq!(client.recv(&mut buffer).expect("the answer arrives"), down);
}

impl Hosts {
    /// Asserts what was seen of a UDP port at the client's end, and the mirror image of it at the server's.
    #[track_caller]
    pub fn assert_udp(&self, seen: &Flows, port: u16, client: Udp) {
        let server = Udp { read: client.written, written: client.read };
        for (side, want) in [(Side::Client, client), (Side::Server, server)] {
            let points = self.end(side, seen);
            let got = points.with("transport", "udp").on(side, port).udp();
            assert_eq!(got, want, "UDP port {port}, {side:?}; points of this host: {points}");
        }
    }
}
