//! One request and its response on a stream of their own. In: what the header blocks and frames
//! of the stream say. Out: an [`Exchange`] when both sides have said their last word.

use std::borrow::Cow;

use super::hpack::Field;
use crate::http1::Method;

/// How an exchange came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides finished.
    Whole,
    /// One side reset the stream, with this error code.
    Reset(u32),
    /// The server went away and told that it does not answer this one.
    GoneAway,
    /// Nobody saw its end: the connection was closed, or it was given up for others.
    Unseen,
}

/// What one side sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// When the first byte of its header block was seen, interim responses left out.
    pub first: Option<u64>,
    /// When its latest byte was seen.
    pub last: u64,
    /// Bytes of content: DATA without padding.
    pub data: u64,
    /// Bytes of its HEADERS, CONTINUATION and DATA frames, with their headers.
    pub wire: u64,
}

/// A request and what came of it. What was not seen is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The stream's number.
    pub stream: u32,
    /// `:method`
    pub method: Option<Cow<'static, str>>,
    /// `:path` without query.
    pub path: Option<Box<str>>,
    /// The path was longer than we keep.
    pub truncated: bool,
    /// `:authority`
    pub authority: Option<Box<str>>,
    /// The request's content type is gRPC's.
    pub grpc: bool,
    /// `:status`
    pub status: Option<u16>,
    /// `grpc-status`
    pub grpc_status: Option<u32>,
    /// What the client sent.
    pub request: Message,
    /// What the server sent.
    pub response: Message,
    /// How it ended.
    pub end: End,
    /// Nothing of the connection was missed while it was open: its byte counts are exact.
    pub exact: bool,
}

/// What a header block said that matters here.
#[derive(Debug, Default)]
pub(super) struct Block {
    method: Option<Cow<'static, str>>,
    path: Option<Box<str>>,
    truncated: bool,
    authority: Option<Box<str>>,
    grpc: bool,
    status: Option<u16>,
    grpc_status: Option<u32>,
    /// A field that only requests have.
    asks: bool,
}

impl Block {
    /// Takes a field; of long texts, no more than `longest` bytes.
    pub(super) fn take(&mut self, field: Field<'_>, longest: usize) {
        let Some(name) = field.name else { return };
        match name {
            b":method" | b":path" | b":authority" | b":scheme" => self.asks = true,
            b":status" | b"content-type" | b"grpc-status" => {}
            _ => return,
        }
        let Some(value) = field.value else { return };
        match name {
            b":method" => self.method = Some(method(value, longest)),
            b":path" => {
                let end = value.iter().position(|byte| *byte == b'?').unwrap_or(value.len());
                self.truncated = end > longest;
                self.path = Some(text(&value[..end.min(longest)]).into());
            }
            b":authority" => {
                self.authority = Some(text(&value[..value.len().min(longest)]).into());
            }
            b":status" => self.status = number(value).and_then(|number| number.try_into().ok()),
            b"content-type" => self.grpc = value.starts_with(b"application/grpc"),
            b"grpc-status" => self.grpc_status = number(value),
            _ => {}
        }
    }

    /// It opens a response.
    pub(super) fn answers(&self) -> bool {
        self.status.is_some()
    }

    /// It opens a stream. A block of which no name is known does not tell.
    pub(super) fn asks(&self) -> bool {
        self.asks
    }

    fn is_interim(&self) -> bool {
        self.status.is_some_and(|status| (100..200).contains(&status))
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn method(value: &[u8], longest: usize) -> Cow<'static, str> {
    match Method::named(value) {
        Some(method) => Cow::Borrowed(method.as_str()),
        None => Cow::Owned(text(&value[..value.len().min(longest)]).into_owned()),
    }
}

fn number(value: &[u8]) -> Option<u32> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

/// A stream that is not at its end.
#[derive(Debug)]
pub(super) struct Stream {
    exchange: Exchange,
    client_ended: bool,
    server_ended: bool,
}

impl Stream {
    pub(super) fn new(stream: u32, time: u64, block: Block) -> Self {
        let exchange = Exchange {
            stream,
            method: block.method,
            path: block.path,
            truncated: block.truncated,
            authority: block.authority,
            grpc: block.grpc,
            status: None,
            grpc_status: None,
            request: Message { first: Some(time), last: time, ..Message::default() },
            response: Message::default(),
            end: End::Unseen,
            exact: true,
        };
        Self { exchange, client_ended: false, server_ended: false }
    }

    /// The server's header block: an interim response, the response's head, or its trailers.
    pub(super) fn answer(&mut self, time: u64, block: &Block, ends: bool) {
        let exchange = &mut self.exchange;
        if block.is_interim() && !ends {
            return;
        }
        // Trailers have no status and end the stream. If that much is missing and the head may
        // have been missed too, nothing is known.
        let first = exchange.response.first.is_none() && exchange.exact;
        if block.answers() || !ends || first {
            exchange.response.first = Some(time);
            exchange.status = block.status;
        }
        exchange.grpc_status = block.grpc_status.or(exchange.grpc_status);
    }

    pub(super) fn request(&mut self) -> &mut Message {
        &mut self.exchange.request
    }

    pub(super) fn response(&mut self) -> &mut Message {
        &mut self.exchange.response
    }

    pub(super) fn end_client(&mut self) {
        self.client_ended = true;
    }

    pub(super) fn end_server(&mut self) {
        self.server_ended = true;
    }

    /// Something of the connection was missed.
    pub(super) fn doubt(&mut self) {
        self.exchange.exact = false;
    }

    pub(super) fn is_doubtful(&self) -> bool {
        !self.exchange.exact
    }

    pub(super) fn has_ended(&self) -> bool {
        self.client_ended && self.server_ended
    }

    /// When it was last heard of.
    pub(super) fn latest(&self) -> u64 {
        self.exchange.request.last.max(self.exchange.response.last)
    }

    pub(super) fn close(mut self, end: End) -> Exchange {
        // A server may answer before it has read the request, and then ask the client to stop.
        let answered = self.server_ended && end == End::Reset(0);
        self.exchange.end = if answered { End::Whole } else { end };
        self.exchange
    }
}
