//! Two hosts on one machine: network namespaces joined by a veth pair, with an IPv4 and an IPv6 address each.
//! In: nothing. Out: namespaces to run closures and commands in. Every pair has its own names and subnets, so tests can run
//! side by side; collectors see the whole machine, so tests look only at points of their own namespaces.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{panic, thread};

use nix::sched::{CloneFlags, setns};

use crate::process::run;
use crate::wait;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A network namespace with one interface `eth0`; deleted when dropped.
pub struct Netns {
    name: String,
    inode: u64,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// A client and a server host.
pub struct Hosts {
    /// Where connections come from.
    pub client: Netns,
    /// Where they go to.
    pub server: Netns,
}

/// Making the first namespace also makes the folder for their names: one at a time.
static MAKING: Mutex<()> = Mutex::new(());
static MADE: AtomicU32 = AtomicU32::new(0);

/// A subnet of the caller's own, and the right to make namespaces, as long as the guard is held.
pub(crate) fn next_subnet() -> (u8, MutexGuard<'static, ()>) {
    let one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    (subnet(std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)), one_at_a_time)
}

/// Two test programs at the same time do not begin with the same one.
fn subnet(process: u32, made: u32) -> u8 {
    (process.wrapping_add(made) % 250 + 1) as u8
}

impl Hosts {
    /// Makes both hosts and the cable between them.
    #[expect(clippy::new_without_default, reason = "making namespaces is not a default")]
    pub fn new() -> Self {
        let (subnet, _one_at_a_time) = next_subnet();
        let client = Netns::new(subnet, 1);
        let server = Netns::new(subnet, 2);
        let mut link = Command::new("ip");
        link.args(["link", "add", "eth0", "netns", &client.name, "type", "veth"]);
        run(link.args(["peer", "name", "eth0", "netns", &server.name]));
        client.configure();
        server.configure();
        Self { client, server }
    }

    /// The server's address of a family, with a port.
    pub fn server_address(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.server.ip(family), port)
    }

    /// Waits until every connection is really closed on both hosts; the kernel does that after `close` has returned.
    #[track_caller]
    pub fn settle(&self) {
        for host in [&self.client, &self.server] {
            let open =
                || host.sockets("tcp").into_iter().filter(|socket| socket.is_open()).collect();
            wait::until("all connections are closed", || {
                let open: Vec<Socket> = open();
                if open.is_empty() { Ok(()) } else { Err(format!("{}: {open:?}", host.name)) }
            });
        }
    }
}

/// A line of `/proc/net/tcp`, `tcp6`, `udp` or `udp6`.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// The local port.
    pub port: u16,
    /// The kernel's number of its state.
    pub state: u8,
    /// Bytes that were received and not read; of a listener, connections that were not accepted.
    pub unread: usize,
}

impl Socket {
    const LISTEN: u8 = 10;
    const TIME_WAIT: u8 = 6;

    fn is_open(self) -> bool {
        self.state != Self::LISTEN && self.state != Self::TIME_WAIT
    }
}

impl Netns {
    pub(crate) fn new(subnet: u8, host: u8) -> Self {
        let name = format!("st-{}-{subnet}-{host}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let inode = fs::metadata(path(&name)).expect("a new namespace has a file").ino();
        let v4 = Ipv4Addr::new(10, 77, subnet, host);
        let v6 = Ipv6Addr::new(0xfd77, subnet.into(), 0, 0, 0, 0, 0, host.into());
        Self { name, inode, v4, v6 }
    }

    fn configure(&self) {
        let Self { v4, v6, .. } = self;
        self.ip_command(&format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
             link set lo up\nlink set eth0 up\n"
        ));
    }

    /// Runs lines of `ip` commands in the namespace.
    #[track_caller]
    pub fn ip_command(&self, lines: &str) {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]).stdin(Stdio::piped());
        let mut child = ip.spawn().expect("iproute2 is installed");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(lines.as_bytes()).expect("ip reads its commands");
        drop(stdin);
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success(), "ip -n {} -batch: {status}: {lines}", self.name);
    }

    /// Runs `nft` commands in the namespace; its rules go with it.
    #[track_caller]
    pub fn nft(&self, commands: &str) {
        self.run(Command::new("nft").arg(commands));
    }

    /// Sets a kernel parameter below `net` in the namespace.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        let set = self.enter(|| fs::write(&path, value));
        set.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Its name below `/run/netns`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The inode: the value of the tag `netns`.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Runs a closure on a thread inside the namespace. Sockets made there stay there wherever they are used, and so do
    /// processes.
    #[track_caller]
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let file =
            File::open(path(&self.name)).expect("the namespace exists as long as this value");
        let entered = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                inside()
            });
            thread.join()
        });
        entered.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Its sockets of a protocol, `tcp` or `udp`, in both families.
    pub fn sockets(&self, protocol: &str) -> Vec<Socket> {
        let tables = self.enter(|| {
            ["", "6"].map(|suffix| {
                let table = format!("/proc/thread-self/net/{protocol}{suffix}");
                fs::read_to_string(table).expect("the kernel lists its sockets")
            })
        });
        tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(socket).collect()
    }

    /// Waits until something listens on, or is bound to, a port.
    #[track_caller]
    pub fn wait_for_port(&self, protocol: &str, port: u16) {
        wait::until(&format!("{protocol} port {port} is served"), || {
            let sockets = self.sockets(protocol);
            let served = |socket: &Socket| socket.port == port;
            if sockets.iter().any(served) { Ok(()) } else { Err(format!("{sockets:?}")) }
        });
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing depends on it: a namespace left over harms nobody.
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 ...`: ends, state, bytes to send and to read.
fn socket(line: &str) -> Option<Socket> {
    let mut columns = line.split_whitespace();
    let (_, port) = columns.nth(1)?.rsplit_once(':')?;
    let state = columns.nth(1)?;
    let (_, unread) = columns.next()?.split_once(':')?;
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        unread: usize::from_str_radix(unread, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::subnet;
    use std::collections::BTreeSet;

    #[test]
    fn a_subnet_comes_again_after_all_others() {
        for process in [0, 244, 250, 30_247, 4_194_303] {
            let subnets: Vec<u8> = (0..600).map(|made| subnet(process, made)).collect();
            for some in subnets.windows(250) {
                assert_eq!(BTreeSet::from_iter(some).len(), 250, "of process {process}: {some:?}");
            }
        }
    }
}
