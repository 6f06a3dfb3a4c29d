//! Copied packets out of records. Pure: no maps, no clock, no `/proc`.

use std::net::SocketAddr;

use bpf::net::abi;

use crate::decode::{DecodeError, endpoints, read_prefix};
use crate::netflow::aggregate::Transport;

/// A packet as a socket of this host saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// The kernel's number of the socket.
    pub(crate) socket: u64,
    /// The socket's own end.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// Inode of the network namespace.
    pub(crate) netns: u32,
    pub(crate) transport: Transport,
    pub(crate) way: Way,
    /// When it was seen, on the kernel's monotonic clock.
    pub(crate) time_ns: u64,
    /// Its payload, or the beginning of it.
    pub(crate) bytes: &'a [u8],
    /// How long its payload was.
    pub(crate) len: u32,
    /// TCP: the sequence number of the first byte.
    pub(crate) sequence: u32,
    /// TCP: what ends with it.
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// The socket sent it.
    Sent,
    /// It came in.
    Received,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Nothing,
    /// The sender of this packet sends no more.
    OneWay,
    BothWays,
}

/// A `dns_packet` and what follows it.
pub(crate) fn packet(bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    const RECORD: &str = "dns_packet";
    let (record, payload) = read_prefix(RECORD, bytes)?;
    let abi::dns_packet {
        tuple,
        socket,
        time_ns,
        len,
        copied,
        sequence,
        family,
        transport,
        sent,
        end,
    } = record;
    let need = copied as usize;
    let payload = payload.get(..need).ok_or(DecodeError::Truncated {
        record: "payload of dns_packet",
        need,
        have: payload.len(),
    })?;
    let transport = match u32::from(transport) {
        abi::TRANSPORT_UDP => Transport::Udp,
        abi::TRANSPORT_TCP => Transport::Tcp,
        _ => return Err(DecodeError::UnknownTransport(transport)),
    };
    let (local, remote) = endpoints(&tuple, family);
    Ok(Packet {
        socket,
        local: SocketAddr::new(local.ip, tuple.local_port),
        remote: SocketAddr::new(remote.ip, tuple.remote_port),
        netns: tuple.netns,
        transport,
        way: if sent != 0 { Way::Sent } else { Way::Received },
        time_ns,
        bytes: payload,
        len,
        sequence,
        end: match u32::from(end) {
            0 => End::Nothing,
            abi::STREAM_END_ONE => End::OneWay,
            _ => End::BothWays,
        },
    })
}
