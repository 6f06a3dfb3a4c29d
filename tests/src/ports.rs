//! Port numbers on 127.0.0.1 that nobody else gets. They lie below the kernel's ephemeral range, so that no outgoing
//! connection takes one while its owner has it closed.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

static HANDED_OUT: AtomicU16 = AtomicU16::new(0);

/// An address on loopback that is free now and is handed out once per process.
pub fn free_address() -> SocketAddr {
    // Processes that run side by side begin at different places.
    let start = (std::process::id() % 180) as u16 * 100;
    for _ in 0..COUNT {
        let port = FIRST + (start + HANDED_OUT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if can_bind(port) {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
    panic!("no free port on loopback between {FIRST} and {}", FIRST + COUNT);
}

/// Binds without listening: a process that another test forks at this moment shares the socket until it execs, and a listener
/// would keep the port from its owner that long.
fn can_bind(port: u16) -> bool {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .expect("a new socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("a socket has this option");
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).is_ok()
}
