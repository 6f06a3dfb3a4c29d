//! What the host says about itself: its log, and a small server with `/metrics`, `/status`
//! and profiles.

pub(crate) mod log;
mod metrics;
mod profile;
pub(crate) mod server;
pub(crate) mod usage;
