//! Plugins: opened, started, watched, stopped.
//!
//! ```text
//! loader     a name -> a library -> its module, or a sentence on why not
//! elf        what the file says, before any of its code runs
//! callbacks  what a running plugin calls: points, log lines, "I have failed"
//! supervisor the one thread that calls into plugins, and keeps their states
//! ```

mod callbacks;
mod elf;
mod loader;
pub(crate) mod supervisor;
