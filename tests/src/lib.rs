//! The harness of the system tests: a receiver shaped like DataKit, the real collector as a child process, and pairs of
//! network namespaces to make traffic between.
//!
//! In: the folder that `make build` leaves (`EXTERNALS_DIR`, or `dist/externals`). Out: the points that were uploaded, decoded
//! by types of its own, and what `/status` says. It shares no code with the product: a mistake cannot cancel itself out.
//!
//! Helpers panic with what they saw: they are the assertions of the tests. They need root, and touch nothing but loopback
//! and the namespaces that they make.

pub mod collector;
pub mod dns;
pub mod exchanges;
pub mod flows;
pub mod hosts;
pub mod nginx;
pub mod plugins;
pub mod ports;
pub mod process;
pub mod receiver;
pub mod routed;
pub mod shell;
pub mod tcp;
pub mod tls;
pub mod typed;
pub mod udp;
pub mod uring;
pub mod usage;
pub mod wait;
pub mod web;
pub mod wire;

use std::path::PathBuf;

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the workspace is where it was when the tests were built")
}

/// A small program below `tests/programs`.
pub fn program(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}
