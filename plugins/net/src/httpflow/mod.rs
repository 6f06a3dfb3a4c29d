//! httpflow: which URLs were asked for, by whom, how fast and with what outcome.
//!
//! ```text
//! kernel --exchanges--> collect --bytes--> decode ----------Exchange----------> aggregate
//!        --pieces---->                       +---Part--> follow --Exchange--> aggregate
//!                                                        --summaries--> point --Points--> host
//! ```
//!
//! The kernel side pairs requests with responses as long as single packets tell enough; here
//! their heads are read. Other connections come packet by packet and are followed here: HTTP/1
//! with several requests on their way, split heads, HTTP/2. Exchanges that look the same are
//! added up.

mod aggregate;
pub(crate) mod collect;
mod decode;
mod early;
mod follow;
mod http1;
mod order;
mod point;
pub(crate) mod tls;
