//! What a plugin says about itself: what became of its probes, and its own counters.

use std::fmt::{self, Display};

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

/// What became of a probe when the plugin started.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStatus {
    /// It is attached and delivers.
    Attached,
    /// It is not attached; the plugin runs without the feature it is for.
    Missing,
    /// It is not attached and the plugin cannot run without it.
    Failed,
}

impl Display for ProbeStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Attached => "attached",
            Self::Missing => "missing",
            Self::Failed => "failed",
        })
    }
}

/// The outcome for one probe: a logical hook and the way that was taken to attach it.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ProbeVerdict {
    /// The logical hook, such as `TCP state change`.
    pub name: RString,
    /// The way it was attached, or the last one tried, such as `tp_btf/inet_sock_set_state`.
    pub hook: RString,
    /// What became of it.
    pub status: ProbeStatus,
    /// Why it is not attached and what is lost without it; empty when it is attached.
    pub detail: RString,
}

/// How a metric behaves over time.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, from 0 at the start of the plugin.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One number of a plugin, read when somebody asks the host for `/metrics`.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct Metric {
    /// Lower case with underscores and without the plugin's name, such as `closes_lost`.
    pub name: RString,
    /// One sentence: what it counts, and its unit.
    pub help: RString,
    /// How it behaves over time.
    pub kind: MetricKind,
    /// Its value now.
    pub value: f64,
}

impl Metric {
    /// A number that only grows.
    pub fn counter(name: &str, help: &str, value: u64) -> Self {
        Self {
            name: name.into(),
            help: help.into(),
            kind: MetricKind::Counter,
            value: value as f64,
        }
    }

    /// A number that goes up and down.
    pub fn gauge(name: &str, help: &str, value: f64) -> Self {
        Self { name: name.into(), help: help.into(), kind: MetricKind::Gauge, value }
    }
}
