//! Plugins: opened, started, watched, stopped.
//!
//! ```text
//! manifest   who made the file, out of its constants
//! loader     a name -> a library -> its module, or a sentence on why not
//! elf        what the file says, before any of its code runs
//! callbacks  what a running plugin calls: points, log lines, "I have failed"
//! command    list, inspect and check, for people
//! trial      a plugin started and stopped in a child, for people who ask whether it works
//! supervisor the one thread that calls into plugins, and keeps their states
//! ```

mod callbacks;
pub(crate) mod command;
mod elf;
pub(crate) mod loader;
pub(crate) mod manifest;
pub(crate) mod supervisor;
pub(crate) mod trial;
