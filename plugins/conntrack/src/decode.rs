//! Netlink messages to [`Change`]s. Pure: no sockets, no map, no clock.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkBuffer, NlasIterator};

// From the kernel's linux/netlink.h and linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const CONNTRACK_NEW: u16 = 0x100;
const CONNTRACK_DELETE: u16 = 0x102;
const NFGENMSG_BYTES: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Bit of the status: the destination is translated.
pub(crate) const DST_NAT: u32 = 1 << 5;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Where a packet comes from and goes to. IPv4 addresses are mapped ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    pub(crate) src_addr: [u8; 16],
    pub(crate) src_port: u16,
    pub(crate) dst_addr: [u8; 16],
    pub(crate) dst_port: u16,
}

/// A connection whose destination is translated: its packets before and after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) protocol: u8,
    pub(crate) from: Path,
    pub(crate) to: Path,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// This connection is there.
    There(Translation),
    /// This connection is gone.
    Gone(Translation),
    /// Nothing of interest, such as a connection that is not translated.
    Other,
    /// A dump is complete.
    Done,
    /// The kernel refused a request, with this number.
    Refused(i32),
}

/// A message that is not one. The caller counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// Its lengths contradict each other.
    Malformed,
    /// A tuple of it lacks an address or a port.
    Incomplete,
}

impl Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "lengths of a conntrack message contradict each other",
            Self::Incomplete => "a conntrack message lacks an address or a port",
        })
    }
}

/// All messages of a datagram; whether the kernel says that they are of a dump that changed while
/// it was made.
pub(crate) fn datagram(
    mut bytes: &[u8],
    mut each: impl FnMut(Result<Message, DecodeError>),
) -> bool {
    let mut interrupted = false;
    while !bytes.is_empty() {
        let Ok(buffer) = NetlinkBuffer::new_checked(bytes) else {
            each(Err(DecodeError::Malformed));
            break;
        };
        interrupted |= buffer.flags() & NLM_F_DUMP_INTR != 0;
        each(message(buffer.message_type(), buffer.payload()));
        let length = (buffer.length() as usize).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    interrupted
}

fn message(kind: u16, payload: &[u8]) -> Result<Message, DecodeError> {
    match kind {
        CONNTRACK_NEW => {
            translation(payload).map(|found| found.map_or(Message::Other, Message::There))
        }
        CONNTRACK_DELETE => {
            translation(payload).map(|found| found.map_or(Message::Other, Message::Gone))
        }
        NLMSG_DONE => Ok(Message::Done),
        NLMSG_ERROR => {
            let code = payload.first_chunk().ok_or(DecodeError::Malformed)?;
            Ok(Message::Refused(i32::from_ne_bytes(*code).wrapping_neg()))
        }
        _ => Ok(Message::Other),
    }
}

/// `None` for a connection whose destination is not translated, or of another protocol.
fn translation(payload: &[u8]) -> Result<Option<Translation>, DecodeError> {
    let attributes = payload.get(NFGENMSG_BYTES..).ok_or(DecodeError::Malformed)?;
    let (mut original, mut reply, mut status) = (&[][..], &[][..], 0);
    for (kind, value) in pairs(attributes) {
        match kind {
            CTA_TUPLE_ORIG => original = value,
            CTA_TUPLE_REPLY => reply = value,
            CTA_STATUS => {
                let bits = value.first_chunk().ok_or(DecodeError::Malformed)?;
                status = u32::from_be_bytes(*bits);
            }
            _ => {}
        }
    }
    if status & DST_NAT == 0 {
        return Ok(None);
    }
    let Some((protocol, from)) = tuple(original)? else { return Ok(None) };
    let Some((_, back)) = tuple(reply)? else { return Ok(None) };
    let to = Path {
        src_addr: back.dst_addr,
        src_port: back.dst_port,
        dst_addr: back.src_addr,
        dst_port: back.src_port,
    };
    let moved = (to.dst_addr, to.dst_port) != (from.dst_addr, from.dst_port);
    Ok(moved.then_some(Translation { protocol, from, to }))
}

/// A tuple with its protocol; `None` if it is neither TCP nor UDP.
fn tuple(bytes: &[u8]) -> Result<Option<(u8, Path)>, DecodeError> {
    let (mut protocol, mut src_addr, mut dst_addr) = (None, None, None);
    let (mut src_port, mut dst_port) = (None, None);
    for (kind, value) in pairs(bytes) {
        for (inner, value) in pairs(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC) => src_addr = mapped(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST) => dst_addr = mapped(value),
                (CTA_TUPLE_IP, CTA_IP_V6_SRC) => src_addr = value.first_chunk().copied(),
                (CTA_TUPLE_IP, CTA_IP_V6_DST) => dst_addr = value.first_chunk().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => src_port = port(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => dst_port = port(value),
                _ => {}
            }
        }
    }
    if !matches!(protocol, None | Some(TCP | UDP)) {
        return Ok(None);
    }
    match (protocol, src_addr, src_port, dst_addr, dst_port) {
        (Some(protocol), Some(src_addr), Some(src_port), Some(dst_addr), Some(dst_port)) => {
            Ok(Some((protocol, Path { src_addr, src_port, dst_addr, dst_port })))
        }
        _ => Err(DecodeError::Incomplete),
    }
}

/// Kinds and values of attributes, up to the first one that is cut off: what is missing then is
/// noticed where it is needed.
pub(crate) fn pairs(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| {
        let length = attribute.value_length();
        let kind = attribute.kind();
        (kind, attribute.into_inner().get(4..4 + length).unwrap_or_default())
    })
}

fn mapped(value: &[u8]) -> Option<[u8; 16]> {
    let octets: [u8; 4] = *value.first_chunk()?;
    Some(Ipv4Addr::from(octets).to_ipv6_mapped().octets())
}

fn port(value: &[u8]) -> Option<u16> {
    value.first_chunk().copied().map(u16::from_be_bytes)
}

/// Whether packets from this address never leave their namespace.
pub(crate) fn is_loopback(address: [u8; 16]) -> bool {
    Ipv6Addr::from(address).to_canonical().is_loopback()
}

#[cfg(test)]
pub(crate) mod tests;
