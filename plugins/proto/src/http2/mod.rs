//! HTTP/2: frames, header blocks (HPACK), and the exchanges of a connection.
//!
//! In: the pieces of both directions of a connection, from its start or from some later frame on,
//! with holes. Out: one [`Exchange`] per request that ended. It keeps no bodies and does not
//! check whether the peers keep to flow control or priorities.
//!
//! HPACK is read by our own decoder, not by a crate: the crates that decode it are no longer kept
//! or sit inside a whole HTTP/2 stack, and all of them must see a connection from its first byte.
//! This one says "unknown" where it joined too late, and stays right about the rest.

mod connection;
mod direction;
mod frame;
pub mod hpack;
mod huffman;
mod stream;

pub use connection::{Connection, Counters, Limits, Side};
pub use frame::{Event, FrameHeader, Frames, looks_like_frames};
pub use stream::{End, Exchange, Message};

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a client's first bytes are the preface; `None` while that is open.
pub fn is_preface(bytes: &[u8]) -> Option<bool> {
    if bytes.len() < PREFACE.len() {
        return (!PREFACE.starts_with(bytes)).then_some(false);
    }
    Some(bytes.starts_with(PREFACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_told_as_soon_as_it_can_be() {
        for len in 0..PREFACE.len() {
            assert_eq!(is_preface(&PREFACE[..len]), None, "len {len}");
        }
        assert_eq!(is_preface(PREFACE), Some(true));
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06"), Some(true));
        assert_eq!(is_preface(b"PROPFIND"), Some(false));
    }
}
