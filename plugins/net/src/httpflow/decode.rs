//! Records to [`Exchange`]s. Pure: no maps, no clock, no `/proc`.

use std::borrow::Cow;
use std::cmp::Ordering;

use bpf::net::abi;
use plugin_proto::http1::{self, BodyLength, RequestHead, Target, Version};

use super::http1::HeadRest;
use crate::decode::{DecodeError, Direction, Endpoint, Owner, endpoints, read};

/// The two ends of a connection and whose it is, as a record tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// The socket's own end.
    pub(super) local: Endpoint,
    /// The other end.
    pub(super) remote: Endpoint,
    /// Outgoing: this end asked.
    pub(super) direction: Direction,
    /// The process that holds the socket.
    pub(super) owner: Owner,
    /// Inode of the network namespace; 0 when unknown.
    pub(super) netns: u32,
}

/// A request and its response; or several of one connection that look the same, and their sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange<'a> {
    pub(super) ends: Ends,
    pub(super) method: Cow<'static, str>,
    /// Without query.
    pub(super) path: Cow<'a, str>,
    /// The path was longer than what was captured.
    pub(super) truncated: bool,
    pub(super) version: Version,
    pub(super) status: u16,
    /// What a gRPC server said beside the status.
    pub(super) grpc_status: Option<u32>,
    /// How many they are.
    pub(super) count: u64,
    /// From the first byte of each request to the first of its response.
    pub(super) latency_sum_ns: u64,
    /// Bytes on the connection.
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

/// A part of a connection that is followed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) ends: Ends,
    /// What the connection is known by.
    pub(super) cookie: u64,
    pub(super) kind: Kind,
    /// Sent by the end that asks.
    pub(super) is_request: bool,
    pub(super) time_ns: u64,
    /// The sequence number of its first byte.
    pub(super) seq: u32,
    /// How long it was; `bytes` is its beginning.
    pub(super) len: u32,
    pub(super) bytes: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bytes,
    /// Of a request that was taken for one before the connection was handed over: how its head
    /// goes on after these bytes and those that are missing behind them, if it does.
    Earlier(HeadRest),
    Closed,
}

/// What a record turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read<'a> {
    Exchange(Exchange<'a>),
    /// As an exchange; but more was sent than its head says, so that other requests were in it.
    Crowded(Exchange<'a>),
    /// As an exchange; but less was sent than its head says, so that what was taken for the next
    /// request of this connection is the rest of it. That holds for `count` as well: the first of
    /// them is told.
    Cut {
        first: Exchange<'a>,
        count: u64,
    },
    /// The request has no path: CONNECT, and OPTIONS for the server as a whole.
    WithoutPath,
    NotUnderstood,
}

/// An `http_exchange` and the beginning of its request, with what its connection is known by.
pub(super) fn exchange(bytes: &[u8]) -> Result<(u64, Read<'_>), DecodeError> {
    let abi::http_exchange {
        tuple,
        owner: abi::owner { pid, comm },
        family,
        way,
        major,
        minor,
        cookie,
        latency_ns,
        request_bytes,
        response_bytes,
        count,
        status,
        captured,
    } = read("http_exchange", bytes)?;
    let head = rest::<abi::http_exchange>("head of http_exchange", bytes, captured.into())?;
    let ends = ends(&tuple, family, way, Owner { pid, comm });
    let Ok(request) = http1::parse_request_head(head) else {
        return Ok((cookie, Read::NotUnderstood));
    };
    if matches!(request.target, Target::Authority | Target::Asterisk) {
        return Ok((cookie, Read::WithoutPath));
    }
    let expected = expected_bytes(&request).unwrap_or(request_bytes);
    let exchange = Exchange {
        ends,
        method: Cow::Borrowed(request.method.as_str()),
        path: String::from_utf8_lossy(request.path),
        truncated: request.truncated,
        version: Version { major, minor },
        status,
        grpc_status: None,
        count: count.into(),
        latency_sum_ns: latency_ns,
        request_bytes: request_bytes.saturating_mul(count.into()),
        response_bytes,
    };
    let read = match expected.cmp(&request_bytes) {
        Ordering::Less => Read::Crowded(exchange),
        Ordering::Equal => Read::Exchange(exchange),
        Ordering::Greater => {
            let count = exchange.count.max(1);
            let first = Exchange {
                count: 1,
                latency_sum_ns: exchange.latency_sum_ns / count,
                request_bytes,
                response_bytes: response_bytes / count,
                ..exchange
            };
            Read::Cut { first, count }
        }
    };
    Ok((cookie, read))
}

/// An `http_piece` and its bytes.
pub(super) fn part(bytes: &[u8]) -> Result<Part<'_>, DecodeError> {
    let abi::http_piece {
        tuple,
        owner: abi::owner { pid, comm },
        family,
        way,
        kind,
        is_request,
        cookie,
        time_ns,
        seq,
        len,
        captured,
        head_end,
    } = read("http_piece", bytes)?;
    Ok(Part {
        ends: ends(&tuple, family, way, Owner { pid, comm }),
        cookie,
        kind: match u32::from(kind) {
            abi::PIECE_CLOSED => Kind::Closed,
            abi::PIECE_EARLIER => Kind::Earlier(match head_end {
                abi::HEAD_GOES_ON => HeadRest::InLine,
                abi::HEAD_AFTER_LINE => HeadRest::AfterLine,
                abi::HEAD_AFTER_RETURN => HeadRest::AfterReturn,
                _ => HeadRest::Nothing,
            }),
            _ => Kind::Bytes,
        },
        is_request: is_request != 0,
        time_ns,
        seq,
        len,
        bytes: rest::<abi::http_piece>("bytes of http_piece", bytes, captured)?,
    })
}

/// What follows a record of type `T`.
fn rest<'a, T>(
    record: &'static str,
    bytes: &'a [u8],
    captured: u32,
) -> Result<&'a [u8], DecodeError> {
    let (need, rest) = (captured as usize, bytes.get(size_of::<T>()..).unwrap_or_default());
    rest.get(..need).ok_or(DecodeError::Truncated { record, need, have: rest.len() })
}

pub(super) fn ends(tuple: &abi::tuple, family: u8, way: u8, owner: Owner) -> Ends {
    let (local, remote) = endpoints(tuple, family);
    Ends { local, remote, direction: direction(way), owner, netns: tuple.netns }
}

/// How long the request is by its own account, if all of its head was captured.
fn expected_bytes(request: &RequestHead<'_>) -> Option<u64> {
    let body = match BodyLength::of_request(request) {
        BodyLength::None => 0,
        BodyLength::Length(length) => length,
        _ => return None,
    };
    Some(body.saturating_add(request.len? as u64))
}

fn direction(way: u8) -> Direction {
    if u32::from(way) == abi::HTTP_OUTGOING { Direction::Outgoing } else { Direction::Incoming }
}

#[cfg(test)]
mod tests {
    use super::{Read, exchange, part};
    use crate::decode::tests::closed;
    use bpf::net::abi;
    use zerocopy::IntoBytes as _;

    fn record(head: &[u8], request_bytes: u64) -> Vec<u8> {
        let abi::tcp_delta { tuple, owner, .. } = closed();
        let record = abi::http_exchange {
            tuple,
            owner,
            family: abi::FAMILY_IPV4 as u8,
            way: abi::HTTP_OUTGOING as u8,
            major: 1,
            minor: 1,
            cookie: 7,
            latency_ns: 5,
            request_bytes,
            response_bytes: 9,
            count: 1,
            status: 200,
            captured: head.len() as u16,
        };
        [record.as_bytes(), head].concat()
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = record(b"GET /a HTTP/1.1\r\n\r\n", 19);
        for len in 0..bytes.len() {
            assert!(exchange(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(exchange(&bytes).is_ok());
        assert!(part(&[0; 95]).is_err());
    }

    #[test]
    fn a_request_is_measured_against_what_its_head_says() {
        let head = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        let len = head.len() as u64;
        let read = |bytes| exchange(&record(head, bytes)).map(|(_, read)| format!("{read:?}"));
        assert!(read(len + 3).unwrap().starts_with("Exchange"));
        assert!(read(len + 2).unwrap().starts_with("Cut"));
        assert!(read(len + 4).unwrap().starts_with("Crowded"));
    }

    #[test]
    fn a_target_without_a_path_is_not_reported() {
        for head in [&b"OPTIONS * HTTP/1.1\r\n\r\n"[..], b"CONNECT h:443 HTTP/1.1\r\n\r\n"] {
            let read = exchange(&record(head, head.len() as u64))
                .map(|(_, read)| read == Read::WithoutPath);
            assert_eq!(read, Ok(true));
        }
    }
}
