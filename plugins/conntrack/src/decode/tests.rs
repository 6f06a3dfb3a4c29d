use super::{DST_NAT, DecodeError, Message, Path, TCP, Translation, datagram};
use std::net::{IpAddr, SocketAddr};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn tuple(kind: u16, protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let address = |kind: u16, ip: IpAddr| match ip {
        IpAddr::V4(ip) => attribute(kind, &ip.octets()),
        IpAddr::V6(ip) => attribute(kind + 2, &ip.octets()),
    };
    let ip = [address(1, from.ip()), address(2, to.ip())].concat();
    let ports = [
        attribute(1, &[protocol]),
        attribute(2, &from.port().to_be_bytes()),
        attribute(3, &to.port().to_be_bytes()),
    ];
    attribute(0x8000 | kind, &[attribute(0x8001, &ip), attribute(0x8002, &ports.concat())].concat())
}

/// A message as the kernel makes it, of a connection from `client` to `server` that is answered
/// by `real` to `seen`.
fn message(kind: u16, protocol: u8, status: u32, ends: [&str; 4]) -> Vec<u8> {
    let [client, server, real, seen] = ends.map(|end| end.parse().unwrap());
    let attributes = [
        tuple(1, protocol, client, server),
        tuple(2, protocol, real, seen),
        attribute(3, &status.to_be_bytes()),
        attribute(12, &[0; 4]),
    ];
    let payload = [vec![2, 0, 0, 0], attributes.concat()].concat();
    let mut bytes = ((payload.len() + 16) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes
}

const V4: [&str; 4] = ["10.0.0.5:40000", "10.96.0.1:80", "10.0.0.9:8080", "10.0.0.1:40000"];

fn path(from: &str, to: &str) -> Path {
    let ends: [SocketAddr; 2] = [from, to].map(|end| end.parse().unwrap());
    let [src_addr, dst_addr] = ends.map(|end| match end.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    });
    Path { src_addr, src_port: ends[0].port(), dst_addr, dst_port: ends[1].port() }
}

/// The connection of [`V4`], to be changed.
pub(crate) fn translated() -> Translation {
    Translation {
        protocol: TCP,
        from: path("10.0.0.5:40000", "10.96.0.1:80"),
        to: path("10.0.0.1:40000", "10.0.0.9:8080"),
    }
}

fn decode(bytes: &[u8]) -> Vec<Result<Message, DecodeError>> {
    let mut found = Vec::new();
    datagram(bytes, |message| found.push(message));
    found
}

#[test]
fn a_translated_connection_says_where_it_goes_and_as_whom() {
    let bytes = message(0x100, TCP, DST_NAT | 8, V4);
    assert_eq!(decode(&bytes), [Ok(Message::There(translated()))]);
    let bytes = message(0x102, TCP, DST_NAT | 8, V4);
    assert_eq!(decode(&bytes), [Ok(Message::Gone(translated()))]);
}

#[test]
fn ipv6_connections_are_translated_likewise() {
    let ends = ["[fd00::5]:40000", "[fd00::1]:80", "[fd01::9]:8080", "[fd00::5]:40000"];
    let to = path("[fd00::5]:40000", "[fd01::9]:8080");
    let from = path("[fd00::5]:40000", "[fd00::1]:80");
    let expected = Translation { protocol: 17, from, to };
    assert_eq!(decode(&message(0x100, 17, DST_NAT, ends)), [Ok(Message::There(expected))]);
}

#[test]
fn connections_that_go_where_they_say_are_of_no_interest() {
    let same = ["10.0.0.5:40000", "10.96.0.1:80", "10.96.0.1:80", "10.0.0.1:61000"];
    for bytes in [
        message(0x100, TCP, 8 | 1 << 4, same),
        message(0x100, TCP, DST_NAT, same),
        message(0x100, 132, DST_NAT, V4),
        message(0x101, TCP, DST_NAT, V4),
    ] {
        assert_eq!(decode(&bytes), [Ok(Message::Other)]);
    }
}

#[test]
fn a_datagram_may_hold_several_messages_and_the_end_of_a_dump() {
    let mut bytes = [message(0x100, TCP, DST_NAT, V4), message(0x102, TCP, DST_NAT, V4)].concat();
    bytes.extend([20, 0, 0, 0, 3, 0, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut found = Vec::new();
    let interrupted = datagram(&bytes, |message| found.push(message.unwrap()));
    assert_eq!(found, [Message::There(translated()), Message::Gone(translated()), Message::Done]);
    assert!(interrupted, "the last message says so");
}

#[test]
fn a_refusal_carries_its_number() {
    let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend((-1_i32).to_ne_bytes());
    bytes.extend([0; 16]);
    assert_eq!(decode(&bytes), [Ok(Message::Refused(1))]);
}

#[test]
fn no_truncation_yields_a_connection() {
    let whole = message(0x100, TCP, DST_NAT, V4);
    for len in 1..whole.len() {
        // As it is, and with a length that matches.
        let mut cut = whole[..len].to_vec();
        assert_eq!(decode(&cut), [Err(DecodeError::Malformed)], "{len} bytes");
        if len >= 16 {
            cut[..4].copy_from_slice(&(len as u32).to_ne_bytes());
            // Without the last attribute it is still whole.
            if len < whole.len() - 8 {
                let found = decode(&cut);
                assert!(!matches!(found[..], [Ok(Message::There(_))]), "{len} bytes: {found:?}");
            }
        }
    }
}

#[test]
fn whatever_bytes_arrive_decoding_ends_and_does_not_panic() {
    let whole = [message(0x100, TCP, DST_NAT, V4), message(0x102, TCP, DST_NAT, V4)].concat();
    // xorshift: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut connections = 0;
    for _ in 0..200_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(1 + random() as usize % bytes.len());
        let mut messages = 0;
        datagram(&bytes, |message| {
            messages += 1;
            connections += usize::from(matches!(message, Ok(Message::There(_))));
        });
        assert!(messages <= 1 + bytes.len() / 16, "no message is shorter than its header");
    }
    assert!(connections > 10_000, "most are whole enough to be read: {connections}");
}
