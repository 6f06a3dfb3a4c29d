//! All that crosses the boundary between the host and a plugin, and nothing else.
//!
//! A plugin is a shared library that exports one [`Plugin`] with [`export_plugin!`]. The host
//! opens it by name (`my-plugin` is `libmy_plugin.so` in the plugin folder), gives it its
//! settings and a [`Host`], and takes [`Points`] from it in batches.
//!
//! ```
//! use plugin_api::{Category, Host, Plugin, PluginError, Points, export_plugin};
//!
//! struct Heartbeat {
//!     host: Host,
//! }
//!
//! impl Plugin for Heartbeat {
//!     const NAME: &'static str = "heartbeat";
//!     const VERSION: &'static str = "1.0.0";
//!
//!     fn new(_settings: &str, host: Host) -> Result<Self, PluginError> {
//!         Ok(Self { host })
//!     }
//!
//!     fn start(&mut self) -> Result<(), PluginError> {
//!         let mut points = Points::new(Category::Logging, "heartbeat");
//!         points.point("heartbeat", 1_700_000_000_000_000_000).field("beats", 1_i64);
//!         self.host.send(points);
//!         Ok(())
//!     }
//!
//!     fn stop(&mut self) {}
//! }
//!
//! export_plugin!(Heartbeat);
//! # fn main() {}
//! ```
//!
//! # What a batch costs
//!
//! All text of a batch lies in one buffer and all tags and fields in two vectors, so a batch
//! allocates when one of these grows: about 60 times for 10,000 points of 23 tags and 9 fields,
//! less than one allocation per hundred points. The host takes the buffer over without a copy
//! and allocates once per point, for the list of its encoded fields. `cargo test -p plugin-api
//! --test allocations -- --nocapture` counts the plugin's side.
//!
//! # Compatibility
//!
//! Both sides check the layout of every type below when a library is opened; a mismatch is
//! refused with a sentence that says what to rebuild. The host keeps the tables of older versions,
//! so a plugin that was built against one of them finds what it knows.
//!
//! | version | what came with it |
//! | --- | --- |
//! | 1 | points, log lines, probes, metrics |
//! | 2 | [`Host::expect`], [`Host::offer_map`], [`Host::map`], [`Plugin::CAPABILITIES`], [`Plugin::COMMANDS`], [`Plugin::answer`] |

mod error;
mod export;
mod host;
mod manifest;
mod module;
mod plugin;
mod point;
mod report;

pub use crate::error::PluginError;
pub use crate::host::{Host, Level, LogField};
pub use crate::plugin::Plugin;
pub use crate::point::{Category, Point, PointBuilder, Points, Text, Value};
pub use crate::report::{Metric, MetricKind, ProbeStatus, ProbeVerdict};

/// The version of this interface. Its number grows with every addition; a host takes plugins that
/// were built against [`OLDEST_API_VERSION`] up to its own.
pub const API_VERSION: u32 = 2;

/// The oldest version that a host of this one still takes.
pub const OLDEST_API_VERSION: u32 = 1;

/// What the host needs to open a plugin; plugin authors do not use it.
pub mod loading {
    pub use crate::export::is_panic;
    pub use crate::manifest::{MARK, Manifest};
    pub use crate::module::{AnyModule, HostApi, Module_Ref, PluginApi, PluginBox};
}

// `export_plugin!` makes this crate known as `abi_stable` in the plugin, so that a plugin
// depends on `plugin-api` alone. These are the names that its attribute macro then looks up.
#[doc(hidden)]
pub use abi_stable::{export_root_module, library};
#[doc(hidden)]
pub use export::module_of;
#[doc(hidden)]
pub use manifest::manifest_of;
