//! `ebpf-bash`: what is typed into every bash of this host, by whom; and into other shells on request.
//!
//! ```text
//! kernel --records--> collect --bytes--> decode --Event--> bash::command
//!        --Command--> bash::point --Points--> host
//! ```
//!
//! `bash::files` attaches to each shell as it appears, `bash::user` names its users. `plugin`
//! starts and stops it all, `config` reads its settings, `probes` says what is loaded.
#![forbid(unsafe_code)]

mod bash;
mod collect;
mod config;
mod decode;
mod plugin;
mod probes;

plugin_api::export_plugin!(plugin::Bash);
