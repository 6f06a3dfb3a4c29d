//! A plugin in a process of its own: the child's side. Standard input is the socket to the host.
//! Calls are carried out one after the other; what the plugin says goes out as it comes.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use abi_stable::std_types::{RSlice, RStr};
use anyhow::{Context as _, Result};
use plugin_api::loading::{HostApi, PluginBox};
use plugin_api::{Level, LogField, Points};
use rustix::stdio::stdin;
use rustix::thread::gettid;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::plugin::isolated::frame::{
    self, Answer, Call, Expect, Line, LineField, Offer, Open, Said,
};
use crate::plugin::isolated::points;
use crate::plugin::loader;
use crate::plugin::runner::sentence;
use crate::supervise;

/// Characters of a reason to fail that people are told.
const LONGEST_REASON: usize = 10_000;

/// Serves the host until it says stop, or has gone.
pub(crate) fn run() -> Result<()> {
    supervise::follow_parent()?;
    ignore_signals()?;
    let voice = Voice::default();
    let mut plugin = None;
    let mut buffer = vec![0; frame::MAX_BYTES];
    while let Some(call) = frame::receive_call(stdin(), &mut buffer)? {
        let is_last = matches!(call, Call::Stop(_));
        let mut answer = carry_out(call, &mut plugin, &voice).unwrap_or_else(|error| Answer {
            error: Some(format!("{error:#}")),
            ..Answer::default()
        });
        answer.handed_over = voice.handed_over();
        frame::say(stdin(), Said::Answer(answer), true)?;
        if is_last {
            break;
        }
    }
    Ok(())
}

fn carry_out(call: Call, plugin: &mut Option<PluginBox>, voice: &Voice) -> Result<Answer> {
    if let Call::Open(open) = call {
        let (opened, version) = load(&open, voice)?;
        *plugin = Some(opened);
        return Ok(Answer { version, ..Answer::default() });
    }
    let plugin = plugin.as_mut().context("no plugin is loaded")?;
    match call {
        Call::Open(_) => {}
        Call::Start(_) => plugin.start().into_result().map_err(sentence)?,
        Call::Stop(_) => plugin.stop().into_result().map_err(sentence)?,
        Call::Ask(_) => {
            let probes = plugin.probes().into_result().map_err(sentence)?;
            let metrics = plugin.metrics().into_result().map_err(sentence)?;
            return Ok(Answer::of_report(&probes, &metrics));
        }
    }
    Ok(Answer::default())
}

fn load(open: &Open, voice: &Voice) -> Result<(PluginBox, String)> {
    let Open { name, folder, trusts_any, settings } = open;
    let module = loader::open(Path::new(folder), name, *trusts_any)?;
    let plugin = module.create(settings, voice.clone()).map_err(sentence)?;
    Ok((plugin, module.version().into()))
}

/// The host says when to stop; signals that reach the whole group do not.
fn ignore_signals() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build().context("start tokio")?;
    let _guard = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        // A handler that nobody listens to stays for the life of the process.
        drop(signal(kind).context("ignore a signal")?);
    }
    Ok(())
}

/// The host, as the plugin has it.
#[derive(Debug, Default, Clone)]
struct Voice {
    /// Points that the plugin has handed over. Locked while points are sent, so that their order
    /// is that of the count.
    handed_over: Arc<Mutex<u64>>,
}

impl Voice {
    fn handed_over(&self) -> u64 {
        *self.handed_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(said: Said) -> bool {
        // What finds no room is counted by the host, which knows what did not arrive.
        frame::say(stdin().as_fd(), said, false).is_ok()
    }
}

impl HostApi for Voice {
    fn send(&self, points: Points) -> bool {
        let mut handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all_sent = true;
        for mut batch in points::to_batches(points) {
            *handed_over += batch.points.len() as u64;
            batch.handed_over = *handed_over;
            all_sent &= Self::say(Said::Batch(batch));
        }
        all_sent
    }

    fn log(&self, level: Level, message: RStr<'_>, fields: RSlice<'_, LogField>) {
        let fields = fields.iter().map(|LogField { name, value }| LineField {
            name: name.to_string(),
            value: value.to_string(),
        });
        let line = Line::new(level, message.as_str().to_owned(), fields.collect());
        if !Self::say(Said::Log(line)) && level == Level::Error {
            eprintln!("{message}");
        }
    }

    fn fail(&self, reason: RStr<'_>) {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        // Must not be lost, and whoever says it has nothing better to do than to wait. Without a
        // host there is nobody to tell, and this process ends too.
        if let Err(error) = frame::say(stdin(), Said::Fail(reason), true) {
            eprintln!("{error:#}");
        }
    }

    fn expect(&self, within_ms: u64) {
        let thread = gettid().as_raw_nonzero().get();
        Self::say(Said::Expect(Expect { thread, within_ms }));
    }

    fn offer_map(&self, name: RStr<'_>, descriptor: i32) -> bool {
        Self::say(Said::Offer(Offer { name: name.as_str().to_owned(), descriptor }))
    }

    fn map(&self, _name: RStr<'_>) -> i32 {
        // The descriptor of another process is no use here.
        -1
    }
}
