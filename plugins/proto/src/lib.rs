//! What bytes on a wire mean.
//!
//! In: bytes that somebody else captured, usually only the beginnings of what was sent. Out: what
//! they say. No I/O, no clock, no logging; nothing here panics, and nothing takes more memory or
//! work than its own limits say, whatever the bytes are. What cannot be known is left empty.
//!
//! | module | what it reads |
//! | --- | --- |
//! | [`http1`] | heads of HTTP/1 messages, and where their bodies end |
//! | [`http2`] | a connection's frames and header blocks, paired to exchanges |
//! | [`dns`] | messages, and their framing on TCP |
//! | [`path`] | which paths of a service are the same route |
//! | [`piece`] | how all of them are given a stream with holes |
#![forbid(unsafe_code)]

pub mod dns;
pub mod http1;
pub mod http2;
pub mod path;
pub mod piece;
