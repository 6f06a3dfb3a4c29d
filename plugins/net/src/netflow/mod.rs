//! netflow: bytes, round-trip times and connection counts per conversation.

pub(crate) mod aggregate;
pub(crate) mod filter;
pub(crate) mod point;
pub(crate) mod totals;
pub(crate) mod udp;
