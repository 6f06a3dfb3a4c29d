//! The netlink sockets: conntrack's events, its dumps, and what becomes of network namespaces.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_timeout,
};

use crate::decode::{self, DST_NAT, DecodeError, Message};

// From the kernel's linux/netlink.h, linux/rtnetlink.h, linux/net_namespace.h and
// linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h.
const SOL_NETLINK: i32 = 270;
const NETLINK_LISTEN_ALL_NSID: i32 = 8;
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NSID: u32 = 28;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const CONNTRACK_GET: u16 = 0x101;
const CTA_STATUS: u16 = 3;
const CTA_STATUS_MASK: u16 = 26;
const RTM_NEWNSID: u16 = 88;
const RTM_DELNSID: u16 = 89;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NSID_NONE: i32 = -1;

/// The largest datagram of the kernel's is a page of a dump, up to 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Room for events that wait, about 10,000 of them; the kernel charges more than their length.
const EVENTS_ROOM: usize = 8 * 1024 * 1024;

/// Datagrams read in a row, so that other work is not put off for ever.
const MOST_IN_A_ROW: usize = 4096;

/// A kernel that does not answer at all must not stop the thread.
const PATIENCE: Duration = Duration::from_secs(3);

/// Conntrack's events, of all network namespaces.
#[derive(Debug)]
pub(crate) struct Events {
    socket: Socket,
    inode: u64,
    buffer: Vec<u8>,
}

/// What reading events came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// The kernel had no room for some since the last time.
    pub(crate) overrun: bool,
    /// There are more to read.
    pub(crate) more: bool,
}

impl Events {
    /// Listens; the second value says why other namespaces cannot be heard, if so.
    pub(crate) fn open() -> Result<(Self, Option<String>)> {
        let mut socket = open(NETLINK_NETFILTER)?;
        if let Err(error) = set_socket_recv_buffer_size_force(&socket, EVENTS_ROOM) {
            log::warn!(error:%; "the event buffer keeps to net.core.rmem_max, needs CAP_NET_ADMIN");
            set_socket_recv_buffer_size(&socket, EVENTS_ROOM).context("set the event buffer")?;
        }
        let others = socket.set_listen_all_namespaces(true).err();
        socket.bind(&SocketAddr::new(0, 0)).context("bind a netlink socket")?;
        for group in [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY] {
            socket.add_membership(group).context(
                "listen to conntrack events: needs CAP_NET_ADMIN, and a kernel with \
                 CONFIG_NF_CONNTRACK_EVENTS (modprobe nf_conntrack_netlink)",
            )?;
        }
        let inode = rustix::fs::fstat(&socket).context("look at a socket")?.st_ino;
        let others = others.map(|error| format!("only our own namespace is seen: {error}"));
        Ok((Self { socket, inode, buffer: vec![0; BUFFER] }, others))
    }

    /// Passes on what has arrived, with the namespace's number if it is not our own.
    pub(crate) fn drain(
        &mut self,
        mut each: impl FnMut(Option<i32>, Result<Message, DecodeError>),
    ) -> io::Result<Drained> {
        let mut drained = Drained::default();
        for _ in 0..MOST_IN_A_ROW {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let mut control = nix::cmsg_space!(i32);
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let received = recvmsg::<NetlinkAddr>(fd, &mut parts, Some(&mut control), flags);
            let (length, nsid) = match received {
                Ok(message) if message.address.is_some_and(|address| address.pid() != 0) => {
                    continue;
                }
                Ok(message) => (message.bytes, message.cmsgs()?.find_map(nsid_of)),
                Err(Errno::ENOBUFS) => {
                    drained.overrun = true;
                    continue;
                }
                Err(Errno::EAGAIN) => return Ok(drained),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = self.buffer.get(..length).unwrap_or_default();
            decode::datagram(bytes, |message| each(nsid, message));
        }
        drained.more = true;
        Ok(drained)
    }

    /// How many events found no room, by the kernel's count for this socket.
    pub(crate) fn lost(&self) -> Option<u64> {
        lost(&fs::read_to_string("/proc/thread-self/net/netlink").ok()?, self.inode)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Columns: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
fn lost(table: &str, inode: u64) -> Option<u64> {
    let inode = inode.to_string();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(9).is_some_and(|found| *found == inode))?;
    row.get(8)?.parse().ok()
}

fn nsid_of(message: ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(message) = message else { return None };
    let header = message.cmsg_header;
    let is_nsid = (header.cmsg_level, header.cmsg_type) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID);
    is_nsid.then(|| message.data_bytes.first_chunk().copied().map(i32::from_ne_bytes)).flatten()
}

/// All translated connections of the namespace that the calling thread is in. Returns whether the
/// dump is whole: the table may have been rebuilt in the middle of it.
pub(crate) fn dump(mut each: impl FnMut(Result<Message, DecodeError>)) -> Result<bool> {
    let mut socket = open(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0)).context("bind a netlink socket")?;
    // Kernels that do not know the filter ignore it.
    let status = DST_NAT.to_be_bytes();
    let filter = [attribute(CTA_STATUS, &status), attribute(CTA_STATUS_MASK, &status)].concat();
    let ask = request(CONNTRACK_GET, NLM_F_DUMP, &filter);
    socket.send(&ask, 0).context("ask for all connections")?;
    let mut buffer = vec![0; BUFFER];
    let (mut whole, mut done, mut refused) = (true, false, None);
    while !done && refused.is_none() {
        let bytes = receive(&socket, &mut buffer)?;
        whole &= !decode::datagram(bytes, |message| match message {
            Ok(Message::Done) => done = true,
            Ok(Message::Refused(number)) => refused = Some(number),
            other => each(other),
        });
    }
    match refused {
        Some(number) => Err(io::Error::from_raw_os_error(number)).context(
            "ask for all connections: needs CAP_NET_ADMIN, and a kernel with \
             CONFIG_NF_CT_NETLINK (modprobe nf_conntrack_netlink)",
        ),
        None => Ok(whole),
    }
}

/// What becomes of network namespaces, and the numbers that they have in ours.
#[derive(Debug)]
pub(crate) struct Route {
    news: Socket,
    buffer: Vec<u8>,
}

impl Route {
    pub(crate) fn open() -> Result<Self> {
        let mut news = open(NETLINK_ROUTE)?;
        news.bind(&SocketAddr::new(0, 0)).context("bind a netlink socket")?;
        // A new container shows as a new interface, or as a new number.
        for group in [RTNLGRP_LINK, RTNLGRP_NSID] {
            news.add_membership(group).context("listen to changes of network namespaces")?;
        }
        Ok(Self { news, buffer: vec![0; BUFFER] })
    }

    /// Passes on numbers of namespaces that are gone; returns whether there may be new ones.
    pub(crate) fn drain(&mut self, mut gone: impl FnMut(i32)) -> bool {
        let mut news = false;
        for _ in 0..MOST_IN_A_ROW {
            let flags = rustix::net::RecvFlags::DONTWAIT;
            match rustix::net::recv(&self.news, &mut self.buffer[..], flags) {
                Ok((length, _)) => {
                    news = true;
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    if let Some((RTM_DELNSID, payload)) = first_message(bytes) {
                        nsid_in(payload).into_iter().for_each(&mut gone);
                    }
                }
                // What was lost is found by looking at everything.
                Err(rustix::io::Errno::NOBUFS) => news = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        news
    }
}

impl AsFd for Route {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

/// The number that a namespace has in ours. `assign` gives it one, without which its events do
/// not reach us; the number keeps nothing alive.
pub(crate) fn nsid(namespace: &File, assign: bool) -> Result<Option<i32>> {
    let mut socket = open(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0)).context("bind a netlink socket")?;
    let descriptor = attribute(NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
    let general = [0; 4];
    let ask = request_with(RTM_GETNSID, 0, general, &descriptor);
    let mut buffer = vec![0; 4096];
    let mut exchange = |ask: &[u8]| -> Result<Option<i32>> {
        socket.send(ask, 0)?;
        match first_message(receive(&socket, &mut buffer)?) {
            Some((RTM_NEWNSID, payload)) => Ok(nsid_in(payload).filter(|nsid| *nsid >= 0)),
            Some((_, payload)) => match payload.first_chunk().map(|code| i32::from_ne_bytes(*code))
            {
                Some(0) => Ok(None),
                Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg()).into()),
                None => bail!("the kernel's answer is too short"),
            },
            None => bail!("the kernel's answer is too short"),
        }
    };
    let found = exchange(&ask).context("ask for the number of a network namespace")?;
    if found.is_some() || !assign {
        return Ok(found);
    }
    let any = attribute(NETNSA_NSID, &NSID_NONE.to_ne_bytes());
    let give = request_with(RTM_NEWNSID, NLM_F_ACK, general, &[any, descriptor.clone()].concat());
    // Somebody else may have come first: the answer to the next question decides.
    if let Err(error) = exchange(&give) {
        log::debug!(error:% = format!("{error:#}"); "no number given to a network namespace");
    }
    exchange(&ask).context("ask for the number of a network namespace")
}

fn open(protocol: isize) -> Result<Socket> {
    let socket = Socket::new(protocol).context("open a netlink socket")?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).context("set a timeout")?;
    Ok(socket)
}

fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let flags = rustix::net::RecvFlags::empty();
    let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, flags))
        .context("wait for the kernel's answer")?;
    Ok(buffer.get(..length).unwrap_or_default())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn request(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    request_with(kind, flags, [0; 4], attributes)
}

/// `general` is the fixed part, `nfgenmsg` or `rtgenmsg`, padded.
fn request_with(kind: u16, flags: u16, general: [u8; 4], attributes: &[u8]) -> Vec<u8> {
    let length = 16 + general.len() + attributes.len();
    let mut bytes = (length as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(general);
    bytes.extend(attributes);
    bytes
}

fn first_message(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let buffer = netlink_packet_core::NetlinkBuffer::new_checked(bytes).ok()?;
    Some((buffer.message_type(), buffer.payload()))
}

fn nsid_in(payload: &[u8]) -> Option<i32> {
    decode::pairs(payload.get(4..)?).find_map(|(kind, value)| {
        (kind == NETNSA_NSID).then(|| value.first_chunk().copied().map(i32::from_ne_bytes))?
    })
}

#[cfg(test)]
mod tests {
    use super::lost;

    #[test]
    fn the_kernels_count_of_lost_events_is_the_one_of_our_socket() {
        let table = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                     00000000b2a6a8bb 12  1042       00000005 0        0        0     2        7        3301\n\
                     00000000b2a6a8bc 12  1043       00000005 0        0        0     2        8192     3302\n";
        assert_eq!(lost(table, 3302), Some(8192));
        assert_eq!(lost(table, 8192), None);
        assert_eq!(lost("", 1), None);
    }
}
