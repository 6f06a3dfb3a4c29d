//! What the host says about itself: its log, and a small server with `/metrics` and `/status`.

pub(crate) mod log;
mod metrics;
pub(crate) mod server;
pub(crate) mod usage;
