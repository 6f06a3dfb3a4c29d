//! What a plugin may ask of the host. No call blocks: a plugin that reads a kernel ring must
//! never wait for the network.

use std::fmt::{self, Debug, Display};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RArc, RString};

use crate::module::{HostApi, HostApi_TO};
use crate::point::Points;

/// How important a log line is.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is lost or broken and stays so.
    Error,
    /// Something is lost or degraded for now.
    Warn,
    /// What an operator wants to read once.
    Info,
    /// What a developer wants to read.
    Debug,
}

/// A name and a value beside the message of a log line.
#[repr(C)]
#[derive(StableAbi, Debug)]
pub struct LogField {
    /// The name, lower case.
    pub name: RString,
    /// The value as text.
    pub value: RString,
}

impl LogField {
    /// `value` as it displays itself.
    pub fn new(name: &str, value: impl Display) -> Self {
        Self { name: name.into(), value: value.to_string().into() }
    }
}

/// The host, as a plugin sees it. Cheap to clone, and may be used from any thread.
#[repr(transparent)]
#[derive(StableAbi, Clone)]
pub struct Host {
    inner: HostApi_TO<RArc<()>>,
}

impl Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Host")
    }
}

impl Host {
    /// Wraps the host's implementation; called by the host.
    pub fn new(host: impl HostApi) -> Self {
        Self { inner: HostApi_TO::from_ptr(RArc::new(host), TD_Opaque) }
    }

    /// Hands a batch over. Returns at once; `false` means that the host had no room and has
    /// counted the points as dropped. Batches of up to some thousand points are best.
    pub fn send(&self, points: Points) -> bool {
        points.is_empty() || self.inner.send(points)
    }

    /// Writes a line to the host's log: a constant message, and fields for what varies.
    pub fn log(&self, level: Level, message: &str, fields: &[LogField]) {
        self.inner.log(level, message.into(), fields.into());
    }

    /// Says that the plugin cannot go on, for instance because a thread of it ended in a panic.
    /// The host marks it as failed, with `reason`, and keeps running.
    pub fn fail(&self, reason: impl Display) {
        self.inner.fail(reason.to_string().as_str().into());
    }

    /// Promises that the calling thread calls this again `within` that time. If it does not, the
    /// host says that the plugin makes no progress. `None` takes the promise back.
    pub fn expect(&self, within: Option<Duration>) {
        // 0 is no promise, so the shortest one is a millisecond.
        let within = within.map_or(0, |within| within.as_millis().clamp(1, u64::MAX.into()) as u64);
        self.inner.expect(within);
    }

    /// Offers a BPF map to the other plugins under `name`, until this plugin stops. The host
    /// keeps its own descriptor of it. `false` means that it cannot, and has logged why.
    pub fn offer_map(&self, name: &str, map: BorrowedFd<'_>) -> bool {
        self.inner.offer_map(name.into(), map.as_raw_fd())
    }

    /// The host's descriptor of a BPF map that another plugin offers now, to be duplicated at
    /// once: it is closed when that plugin stops. Ask again from time to time: plugins come and
    /// go while the collector runs.
    pub fn map(&self, name: &str) -> Option<RawFd> {
        Some(self.inner.map(name.into())).filter(|descriptor| *descriptor >= 0)
    }
}
