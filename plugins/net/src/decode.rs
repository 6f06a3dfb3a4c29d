//! Records to [`Delta`]s. Pure: no maps, no clock, no `/proc`.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv6Addr};

use bpf::net::abi;
use zerocopy::FromBytes;

/// What one conversation did since it was last reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    /// The socket's own end.
    pub(crate) local: Endpoint,
    /// The other end.
    pub(crate) remote: Endpoint,
    /// Who opened the conversation.
    pub(crate) direction: Direction,
    /// The process that holds the socket.
    pub(crate) owner: Owner,
    /// Inode of the network namespace; 0 when unknown.
    pub(crate) netns: u32,
    /// Where the other end really is, if its address is translated and that is known: no record
    /// says so.
    pub(crate) translated: Option<Endpoint>,
    /// Payload bytes sent, and received. Below zero to put an earlier report right.
    pub(crate) sent: i64,
    pub(crate) received: i64,
    /// What only TCP has; `None` for UDP.
    pub(crate) tcp: Option<Tcp>,
}

impl Delta {
    /// Whether there is nothing in it to report.
    pub(crate) fn is_nothing(&self) -> bool {
        let has_event = self.tcp.as_ref().is_some_and(|tcp| tcp.opened || tcp.closed);
        self.sent == 0 && self.received == 0 && !has_event
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    /// `None` when the kernel side has masked it.
    pub(crate) port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Incoming,
    Outgoing,
}

/// A process: its id, and its name as the kernel has it, padded with NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    pub(crate) comm: [u8; 16],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) opened: bool,
    pub(crate) closed: bool,
    pub(crate) retransmits: u32,
    /// Smoothed round-trip time and its mean deviation in µs, if there was a sample.
    pub(crate) rtt: Option<Rtt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rtt {
    pub(crate) mean_us: u32,
    pub(crate) deviation_us: u32,
}

/// A record that is not one. The caller counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Truncated { record: &'static str, need: usize, have: usize },
    UnknownRole(u8),
    UnknownTransport(u8),
}

impl Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { record, need, have } => {
                write!(formatter, "{record} has {have} bytes of {need}")
            }
            Self::UnknownRole(role) => write!(formatter, "no role has number {role}"),
            Self::UnknownTransport(number) => write!(formatter, "no transport has number {number}"),
        }
    }
}

/// A `tcp_delta`.
pub(crate) fn tcp(bytes: &[u8]) -> Result<Delta, DecodeError> {
    tcp_delta(read("tcp_delta", bytes)?)
}

fn tcp_delta(raw: abi::tcp_delta) -> Result<Delta, DecodeError> {
    let abi::tcp_delta {
        tuple,
        owner: abi::owner { pid, comm },
        family,
        role,
        opened,
        closed,
        sent,
        received,
        retransmits,
        rtt_us,
        rtt_var_us,
        padding: _,
    } = raw;
    let (local, remote) = endpoints(&tuple, family);
    Ok(Delta {
        local,
        remote,
        direction: direction(role)?,
        owner: Owner { pid, comm },
        netns: tuple.netns,
        translated: None,
        sent,
        received,
        tcp: Some(Tcp {
            opened: opened != 0,
            closed: closed != 0,
            retransmits,
            rtt: (rtt_us != 0).then_some(Rtt { mean_us: rtt_us, deviation_us: rtt_var_us }),
        }),
    })
}

/// A `tcp_total`: everything that the connection of this cookie has done.
pub(crate) fn tcp_total(bytes: &[u8]) -> Result<(u64, Delta), DecodeError> {
    let abi::tcp_total { delta, cookie } = read("tcp_total", bytes)?;
    Ok((cookie, tcp_delta(delta)?))
}

/// A `udp_delta`, and the key to remove its conversation with when it was idle.
pub(crate) fn udp(bytes: &[u8]) -> Result<(Delta, abi::udp_key), DecodeError> {
    let abi::udp_delta { key, comm, sent, received } = read("udp_delta", bytes)?;
    Ok((udp_delta(&key, comm, sent, received)?, key))
}

/// What was left in a conversation that was removed.
pub(crate) fn udp_rest(key: &abi::udp_key, rest: &abi::udp_flow) -> Result<Delta, DecodeError> {
    let abi::udp_flow { sent, received, sent_reported, received_reported, comm } = *rest;
    udp_delta(key, comm, sent - sent_reported, received - received_reported)
}

fn udp_delta(
    key: &abi::udp_key,
    comm: [u8; 16],
    sent: u64,
    received: u64,
) -> Result<Delta, DecodeError> {
    let abi::udp_key { tuple, pid, family, role, padding: _ } = *key;
    let (local, remote) = endpoints(&tuple, family);
    Ok(Delta {
        local,
        remote,
        direction: direction(role)?,
        owner: Owner { pid, comm },
        netns: tuple.netns,
        translated: None,
        sent: sent as i64,
        received: received as i64,
        tcp: None,
    })
}

pub(crate) fn read<T: FromBytes>(record: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    read_prefix(record, bytes).map(|(value, _)| value)
}

/// A record, and the bytes that follow it.
pub(crate) fn read_prefix<'a, T: FromBytes>(
    record: &'static str,
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), DecodeError> {
    T::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated {
        record,
        need: size_of::<T>(),
        have: bytes.len(),
    })
}

fn direction(role: u8) -> Result<Direction, DecodeError> {
    match u32::from(role) {
        abi::ROLE_ACCEPTOR => Ok(Direction::Incoming),
        // Unknown: no listener was seen, so this side must have called.
        abi::ROLE_CONNECTOR | abi::ROLE_UNKNOWN => Ok(Direction::Outgoing),
        _ => Err(DecodeError::UnknownRole(role)),
    }
}

/// A v6 socket that talks to a v4 peer is shown as IPv4, which is what is on the wire.
pub(crate) fn endpoints(tuple: &abi::tuple, family: u8) -> (Endpoint, Endpoint) {
    let local = Ipv6Addr::from(tuple.local_addr);
    let remote = Ipv6Addr::from(tuple.remote_addr);
    let (local, remote) = match (embedded_ipv4(local), embedded_ipv4(remote)) {
        (Some(local), Some(remote)) => (local, remote),
        _ if u32::from(family) == abi::FAMILY_IPV4 => (local.to_canonical(), remote.to_canonical()),
        _ => (local.into(), remote.into()),
    };
    let port = |port: u16| (u32::from(port) != abi::PORT_MASKED).then_some(port);
    (
        Endpoint { ip: local, port: port(tuple.local_port) },
        Endpoint { ip: remote, port: port(tuple.remote_port) },
    )
}

/// The IPv4 address in a mapped (`::ffff:a.b.c.d`) or compatible (`::a.b.c.d`) address.
fn embedded_ipv4(ip: Ipv6Addr) -> Option<IpAddr> {
    if ip.is_loopback() || ip.is_unspecified() {
        return None;
    }
    ip.to_ipv4().map(IpAddr::V4)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{DecodeError, Direction, Rtt, tcp, udp};
    use bpf::net::abi;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use zerocopy::IntoBytes as _;

    /// 10.0.0.5:40000 opened a connection to 93.184.216.34:443 and closed it.
    pub(crate) fn closed() -> abi::tcp_delta {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"curl");
        abi::tcp_delta {
            tuple: abi::tuple {
                local_addr: Ipv4Addr::new(10, 0, 0, 5).to_ipv6_mapped().octets(),
                remote_addr: Ipv4Addr::new(93, 184, 216, 34).to_ipv6_mapped().octets(),
                local_port: 40000,
                remote_port: 443,
                netns: 4_026_531_840,
            },
            owner: abi::owner { pid: 2210, comm },
            family: abi::FAMILY_IPV4 as u8,
            role: abi::ROLE_CONNECTOR as u8,
            opened: 1,
            closed: 1,
            sent: 820,
            received: 5120,
            retransmits: 2,
            rtt_us: 23110,
            rtt_var_us: 4100,
            padding: 0,
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let record = closed();
        let bytes = record.as_bytes();
        for len in 0..bytes.len() {
            assert!(
                matches!(tcp(&bytes[..len]), Err(DecodeError::Truncated { have, .. }) if have == len),
                "{len} bytes"
            );
        }
        assert!(tcp(bytes).is_ok());
        assert!(udp(&[0; 79]).is_err());
    }

    #[test]
    fn a_connection_comes_out_as_it_went_in() {
        let delta = tcp(closed().as_bytes()).unwrap();
        assert_eq!(delta.local.ip.to_string(), "10.0.0.5");
        assert_eq!(delta.remote.port, Some(443));
        assert_eq!((delta.sent, delta.received), (820, 5120));
        assert_eq!(delta.direction, Direction::Outgoing);
        let tcp = delta.tcp.unwrap();
        assert!(tcp.opened && tcp.closed);
        assert_eq!(tcp.rtt, Some(Rtt { mean_us: 23110, deviation_us: 4100 }));
    }

    #[test]
    fn a_mapped_pair_on_a_v6_socket_is_ipv4() {
        let mut record = closed();
        record.family = abi::FAMILY_IPV6 as u8;
        assert!(tcp(record.as_bytes()).unwrap().local.ip.is_ipv4());
    }

    #[test]
    fn a_compatible_pair_is_ipv4_and_the_v6_loopback_is_not() {
        let mut record = closed();
        record.family = abi::FAMILY_IPV6 as u8;
        record.tuple.local_addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0x0a00, 1).octets();
        record.tuple.remote_addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0x0a00, 2).octets();
        assert_eq!(tcp(record.as_bytes()).unwrap().remote.ip.to_string(), "10.0.0.2");
        record.tuple.local_addr = Ipv6Addr::LOCALHOST.octets();
        record.tuple.remote_addr = Ipv6Addr::LOCALHOST.octets();
        assert_eq!(tcp(record.as_bytes()).unwrap().remote.ip.to_string(), "::1");
    }

    #[test]
    fn a_role_from_nowhere_is_an_error() {
        let mut record = closed();
        record.role = 9;
        assert_eq!(tcp(record.as_bytes()), Err(DecodeError::UnknownRole(9)));
    }
}
