//! What the host and a plugin's process say to each other: protobuf messages, one per packet of a
//! `SOCK_SEQPACKET` socket. Both are the same executable, so the messages have no versions.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use plugin_api::{Level, Metric, MetricKind, ProbeStatus, ProbeVerdict};
use prost::{Message, Oneof};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::pipeline::wire::PbPoint;

/// The longest message.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// What the host calls.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Call {
    #[prost(message, tag = "1")]
    Open(Open),
    #[prost(bool, tag = "2")]
    Start(bool),
    #[prost(bool, tag = "3")]
    Ask(bool),
    #[prost(bool, tag = "4")]
    Stop(bool),
}

#[derive(Clone, PartialEq, Message)]
struct ToChild {
    #[prost(oneof = "Call", tags = "1, 2, 3, 4")]
    call: Option<Call>,
}

/// What is to be loaded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Open {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) folder: String,
    #[prost(bool, tag = "3")]
    pub(super) trusts_any: bool,
    #[prost(string, tag = "4")]
    pub(super) settings: String,
}

/// What the plugin's process says.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Said {
    #[prost(message, tag = "1")]
    Answer(Answer),
    #[prost(message, tag = "2")]
    Batch(PbBatch),
    #[prost(message, tag = "3")]
    Log(Line),
    #[prost(string, tag = "4")]
    Fail(String),
    #[prost(message, tag = "5")]
    Expect(Expect),
    #[prost(message, tag = "6")]
    Offer(Offer),
}

#[derive(Clone, PartialEq, Message)]
struct ToHost {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5, 6")]
    said: Option<Said>,
}

/// The answer to the oldest call that has none yet.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(string, optional, tag = "1")]
    pub(super) error: Option<String>,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) probes: Vec<PbVerdict>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metrics: Vec<PbMetric>,
    /// See [`PbBatch::handed_over`].
    #[prost(uint64, tag = "5")]
    pub(super) handed_over: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PbVerdict {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    hook: String,
    /// 0 attached, 1 missing, 2 failed.
    #[prost(uint32, tag = "3")]
    status: u32,
    #[prost(string, tag = "4")]
    detail: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PbMetric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(bool, tag = "3")]
    is_gauge: bool,
    #[prost(double, tag = "4")]
    value: f64,
}

/// Points of one feed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PbBatch {
    /// 0 network, 1 logging, 2 tracing.
    #[prost(uint32, tag = "1")]
    pub(super) category: u32,
    #[prost(string, tag = "2")]
    pub(super) feed: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) points: Vec<PbPoint>,
    /// The group of each point.
    #[prost(uint64, repeated, tag = "4")]
    pub(super) groups: Vec<u64>,
    /// Points that the plugin has handed over so far, these included.
    #[prost(uint64, tag = "5")]
    pub(super) handed_over: u64,
}

/// A log line.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Line {
    /// 0 error, 1 warn, 2 info, 3 debug.
    #[prost(uint32, tag = "1")]
    level: u32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) fields: Vec<LineField>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LineField {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// A thread will be back.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Expect {
    #[prost(int32, tag = "1")]
    pub(super) thread: i32,
    /// 0: who knows.
    #[prost(uint64, tag = "2")]
    pub(super) within_ms: u64,
}

/// A map is on offer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Offer {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// As the plugin's process numbers it.
    #[prost(int32, tag = "2")]
    pub(super) descriptor: i32,
}

pub(super) fn send_call(socket: impl AsFd, call: Call) -> Result<()> {
    let bytes = ToChild { call: Some(call) }.encode_to_vec();
    retry_on_intr(|| send(&socket, &bytes, SendFlags::NOSIGNAL)).context("call the process")?;
    Ok(())
}

/// The next call; `None` when the host has gone.
pub(super) fn receive_call(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Call>> {
    let Some(bytes) = packet(socket, buffer)? else { return Ok(None) };
    Ok(ToChild::decode(bytes).context("decode a call")?.call)
}

/// Sends a message. `waits` says whether to wait for room; if not, no room is an error.
pub(super) fn say(socket: impl AsFd, said: Said, waits: bool) -> Result<()> {
    let bytes = ToHost { said: Some(said) }.encode_to_vec();
    if bytes.len() > MAX_BYTES {
        bail!("a message of {} bytes is too long", bytes.len());
    }
    let flags = if waits { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    retry_on_intr(|| send(&socket, &bytes, flags)).context("tell the host")?;
    Ok(())
}

/// The next message, which may make no sense; `None` when the process has gone.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Result<Said>>> {
    let Some(bytes) = packet(socket, buffer)? else { return Ok(None) };
    let said = ToHost::decode(bytes).context("decode a message");
    Ok(Some(said.and_then(|message| message.said.context("an empty message"))))
}

fn packet(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<&[u8]>> {
    let received = retry_on_intr(|| recv(&socket, &mut *buffer, RecvFlags::TRUNC));
    let length = match received {
        Ok((_, length)) => length,
        Err(Errno::CONNRESET) => 0,
        Err(error) => return Err(error).context("read from the socket"),
    };
    if length == 0 {
        return Ok(None);
    }
    buffer.get(..length).map(Some).with_context(|| format!("a message of {length} bytes"))
}

impl Answer {
    pub(super) fn of_report(probes: &[ProbeVerdict], metrics: &[Metric]) -> Self {
        let probes = probes.iter().map(|probe| PbVerdict {
            name: probe.name.to_string(),
            hook: probe.hook.to_string(),
            status: match probe.status {
                ProbeStatus::Attached => 0,
                ProbeStatus::Missing => 1,
                ProbeStatus::Failed => 2,
            },
            detail: probe.detail.to_string(),
        });
        let metrics = metrics.iter().map(|metric| PbMetric {
            name: metric.name.to_string(),
            help: metric.help.to_string(),
            is_gauge: metric.kind == MetricKind::Gauge,
            value: metric.value,
        });
        Self { probes: probes.collect(), metrics: metrics.collect(), ..Self::default() }
    }

    pub(super) fn into_report(self) -> (Vec<ProbeVerdict>, Vec<Metric>) {
        let probes = self.probes.into_iter().map(|probe| ProbeVerdict {
            name: probe.name.into(),
            hook: probe.hook.into(),
            status: match probe.status {
                0 => ProbeStatus::Attached,
                1 => ProbeStatus::Missing,
                _ => ProbeStatus::Failed,
            },
            detail: probe.detail.into(),
        });
        let metrics = self.metrics.into_iter().map(|metric| Metric {
            name: metric.name.into(),
            help: metric.help.into(),
            kind: if metric.is_gauge { MetricKind::Gauge } else { MetricKind::Counter },
            value: metric.value,
        });
        (probes.collect(), metrics.collect())
    }
}

impl Line {
    pub(super) fn new(level: Level, message: String, fields: Vec<LineField>) -> Self {
        let level = match level {
            Level::Error => 0,
            Level::Warn => 1,
            Level::Info => 2,
            Level::Debug => 3,
        };
        Self { level, message, fields }
    }

    pub(super) fn level(&self) -> Level {
        match self.level {
            0 => Level::Error,
            1 => Level::Warn,
            2 => Level::Info,
            _ => Level::Debug,
        }
    }
}

impl Expect {
    pub(super) fn within(&self) -> Option<Duration> {
        (self.within_ms > 0).then(|| Duration::from_millis(self.within_ms))
    }
}
