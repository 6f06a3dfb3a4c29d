//! httpflow: which URLs were asked for, by whom, how fast and with what outcome.
//!
//! ```text
//! kernel --exchanges--> collect --bytes--> decode --Exchange--> aggregate
//!        --Summary--> point --Points--> host
//! ```
//!
//! The kernel side pairs requests with responses; here their heads are read and exchanges that
//! look the same are added up.

mod aggregate;
pub(crate) mod collect;
mod decode;
mod point;
pub(crate) mod tls;
