//! Plugins: opened, started, watched, stopped.
//!
//! ```text
//! manifest   who made the file, out of its constants
//! loader     a name -> a library -> its module, or a sentence on why not
//! elf        what the file says, before any of its code runs
//! supervisor which plugins are to run
//! keeper     one plugin and the thread that calls into it: starts, restarts, stops it
//! state      how a plugin is, for whoever asks
//! runner     a loaded plugin, in this process or
//! isolated   in one of its own
//! callbacks  what a running plugin calls: points, log lines, "I have failed"
//! threads    a plugin's threads: their CPU time, and whether they come back
//! maps       BPF maps that plugins share
//! command    list, inspect and check, for people
//! trial      a plugin started and stopped in a child, for people who ask whether it works
//! ```

mod callbacks;
pub(crate) mod command;
mod elf;
pub(crate) mod isolated;
mod keeper;
pub(crate) mod loader;
pub(crate) mod manifest;
pub(crate) mod maps;
mod runner;
pub(crate) mod state;
pub(crate) mod supervisor;
mod threads;
pub(crate) mod trial;
