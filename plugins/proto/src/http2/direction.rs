//! What is known about one direction: where its frames are, its HPACK table, and the frame or
//! header block that is not complete yet.

use super::connection::Limits;
use super::frame::{
    CONTINUATION, DATA, FLAG_PADDED, FLAG_PRIORITY, FrameHeader, Frames, GOAWAY, HEADER_LEN,
    HEADERS, PUSH_PROMISE, RST_STREAM,
};
use super::hpack::Decoder;

/// Room that a buffer keeps after it was needed: a connection has several, and may be idle.
pub(super) const KEPT: usize = 1024;

/// A header block that goes on in CONTINUATION frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) first: FrameHeader,
    pub(super) time: u64,
    pub(super) wire: u64,
    /// Its end was not captured or had no room.
    pub(super) cut: bool,
}

/// What is known about one direction.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) frames: Frames,
    pub(super) decoder: Decoder,
    /// The frame we are in.
    pub(super) header: FrameHeader,
    pub(super) time: u64,
    /// What was captured of its payload, if that matters.
    pub(super) payload: Vec<u8>,
    /// Some of it was not.
    pub(super) holed: bool,
    /// It was read at once and is done.
    pub(super) read: bool,
    pub(super) pending: Option<Pending>,
    pub(super) block: Vec<u8>,
}

impl Direction {
    pub(super) fn joined(limits: &Limits) -> Self {
        Self {
            frames: Frames::lost(),
            decoder: Decoder::joined(limits.table),
            header: FrameHeader { len: 0, kind: 0, flags: 0, stream: 0 },
            time: 0,
            payload: Vec::new(),
            holed: false,
            read: false,
            pending: None,
            block: Vec::new(),
        }
    }

    pub(super) fn lose(&mut self) {
        self.frames = Frames::lost();
        self.decoder.forget();
        self.pending = None;
        self.block.clear();
    }
}

/// Its payload, or the beginning of it, is worth keeping.
pub(super) fn matters(header: FrameHeader) -> bool {
    match header.kind {
        DATA => header.has(FLAG_PADDED),
        HEADERS | PUSH_PROMISE | CONTINUATION | RST_STREAM | GOAWAY => true,
        _ => false,
    }
}

pub(super) fn wire_len(header: FrameHeader) -> u64 {
    HEADER_LEN as u64 + u64::from(header.len)
}

/// The part of a HEADERS or `PUSH_PROMISE` payload that is header block, and whether its end is
/// not among what was captured. `None` if it cannot be one.
pub(super) fn fragment(header: FrameHeader, payload: &[u8]) -> Option<(&[u8], bool)> {
    let mut skipped = usize::from(header.has(FLAG_PADDED));
    let padding = if skipped > 0 { payload.first().map_or(0, |len| usize::from(*len)) } else { 0 };
    if header.kind == PUSH_PROMISE {
        skipped += 4;
    } else if header.has(FLAG_PRIORITY) {
        skipped += 5;
    }
    let len = (header.len as usize).checked_sub(skipped + padding)?;
    let captured = payload.get(skipped..).unwrap_or_default();
    Some((&captured[..captured.len().min(len)], captured.len() < len))
}
