//! `ebpf-conntrack`: where translated connections of this host really go.
//!
//! ```text
//! conntrack --events of all namespaces, filtered--> netlink --bytes--> decode --Change--+
//!           --dump of one namespace, when needed--------------------------------------> table
//! table --map "nat"--> host --> plugins that report connections
//! ```
//!
//! `netns` knows the network namespaces, `collect` is the thread that puts all this in order;
//! `plugin` starts and stops it, `config` reads its settings, `probes` says what is attached.
//!
//! What comes in: connections whose destination is translated (DNAT, REDIRECT), in any network
//! namespace. What goes out: a BPF map, and no points. Translation of sources alone (masquerade)
//! does not change where a connection goes, and is left out.
//!
//! # Why it is done this way
//!
//! - One netlink socket in our own namespace hears of all of them (`NETLINK_LISTEN_ALL_NSID`).
//!   A socket inside each would keep namespaces of dead containers alive.
//! - The kernel tells of nothing that was there before we listened, not even its end, unless
//!   `nf_conntrack_events` is 1. What came out of a dump is therefore compared with a new dump
//!   from time to time, until it is gone.
//! - An overrun of the socket loses events. The next thing that is done then is a dump of
//!   everything.
#![forbid(unsafe_code)]

mod collect;
mod config;
mod decode;
mod netlink;
mod netns;
mod plugin;
mod probes;
mod table;

plugin_api::export_plugin!(plugin::Conntrack);
