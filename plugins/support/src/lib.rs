//! How a plugin talks to the kernel and to the host.
//!
//! An ordinary library inside each plugin, not an interface between them: two plugins may be
//! built against two versions of it.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`probe`] | what to attach, as data: logical hooks, their ways, their need |
//! | [`loader`] | an object into the kernel, its probes attached |
//! | [`ring`], [`iter`] | records out of the kernel |
//! | [`uprobe`] | programs in files that processes run, attached as they come and go |
//! | [`map`] | the few things done to a map by hand |
//! | [`usage`] | what programs cost |
//! | [`worker`] | the plugin's own thread |
//! | [`settings`] | what the operator configured |
//! | [`process`], [`clock`], [`log`] | names of processes, the time, the host's log |
//! | [`memory`] | what a burst has left |

mod cgroup;
pub mod clock;
pub mod iter;
pub mod loader;
pub mod log;
pub mod map;
pub mod memory;
pub mod probe;
pub mod process;
mod raw;
pub mod ring;
pub mod settings;
pub mod uprobe;
pub mod usage;
pub mod worker;
