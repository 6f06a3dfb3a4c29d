//! Records to [`Exchange`]s. Pure: no maps, no clock, no `/proc`.

use std::borrow::Cow;

use bpf::net::abi;
use plugin_proto::http1::{self, BodyLength, RequestHead, Target, Version};

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

/// A request and its response.
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
    /// From the first byte of the request to the first of the response.
    pub(super) latency_ns: u64,
    /// Bytes of each on the connection.
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

/// What a record turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read<'a> {
    Exchange(Exchange<'a>),
    /// As an exchange; but what was sent is not what its head says, so that more requests were in it.
    Crowded(Exchange<'a>),
    /// The request is none that is reported.
    NotUnderstood,
}

/// An `http_exchange` and the beginning of its request.
pub(super) fn exchange(bytes: &[u8]) -> Result<Read<'_>, DecodeError> {
    let abi::http_exchange {
        tuple,
        owner: abi::owner { pid, comm },
        family,
        way,
        major,
        minor,
        cookie: _,
        latency_ns,
        request_bytes,
        response_bytes,
        status,
        captured,
    } = read("http_exchange", bytes)?;
    let head = &bytes[size_of::<abi::http_exchange>()..];
    let Some(head) = head.get(..captured as usize) else {
        return Err(DecodeError::Truncated {
            record: "http_exchange's head",
            need: captured as usize,
            have: head.len(),
        });
    };
    let (local, remote) = endpoints(&tuple, family);
    let ends = Ends {
        local,
        remote,
        direction: direction(way),
        owner: Owner { pid, comm },
        netns: tuple.netns,
    };
    let Ok(request) = http1::parse_request_head(head) else { return Ok(Read::NotUnderstood) };
    // CONNECT has no path, and `*` is none.
    if matches!(request.target, Target::Authority | Target::Asterisk) {
        return Ok(Read::NotUnderstood);
    }
    let crowded = expected_bytes(&request).is_some_and(|expected| expected < request_bytes);
    let exchange = Exchange {
        ends,
        method: Cow::Borrowed(request.method.as_str()),
        path: String::from_utf8_lossy(request.path),
        truncated: request.truncated,
        version: Version { major, minor },
        status: status as u16,
        grpc_status: None,
        latency_ns,
        request_bytes,
        response_bytes,
    };
    Ok(if crowded { Read::Crowded(exchange) } else { Read::Exchange(exchange) })
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
