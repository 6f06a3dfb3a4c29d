//! httpflow-tls: the same for requests that go through a TLS library.
//!
//! ```text
//! library, files --uprobes--> kernel --pieces--> collect --bytes--> decode --Piece--> follow
//!       --Exchange--> the aggregate and the points of httpflow
//! ```
//!
//! Here all bytes come out of the kernel, as far as they are captured, and requests are paired
//! with responses as on connections in clear that are handed over as pieces.

pub(crate) mod collect;
mod decode;
pub(crate) mod explain;
mod files;
mod follow;
mod library;
mod unseen;
