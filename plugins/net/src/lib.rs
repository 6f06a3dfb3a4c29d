//! `ebpf-net`: who talks to whom on this host, how much, and by which name.
//!
//! ```text
//! kernel --records--> collect --bytes--> decode --Delta--> nat --Delta--> netflow::aggregate
//!        --Flow--> netflow::point --Points--> host
//! ```
//!
//! `dnsflow` says the same of itself; from what it reads, `domains` names the addresses of flows.
//! `httpflow` has a thread and a flow of its own. `conversation` has the tags that flows share, and
//! `batches` sends them.
//! `plugin` starts and stops it, `config` reads its settings, `probes` says what is attached.
#![forbid(unsafe_code)]

mod batches;
mod collect;
mod config;
mod conversation;
mod decode;
mod dnsflow;
mod domains;
mod httpflow;
mod nat;
mod netflow;
mod plugin;
mod probes;

plugin_api::export_plugin!(plugin::Net);
