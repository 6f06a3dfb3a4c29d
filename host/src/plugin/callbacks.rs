//! What a running plugin calls, from any of its threads. Nothing here waits.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use abi_stable::std_types::{RSlice, RStr};
use flume::Sender;
use plugin_api::loading::HostApi;
use plugin_api::{Level, LogField, Points};
use rustix::process::{Pid, getpid};
use tracing::{debug, error, info, warn};

use crate::pipeline::inbox::Inbox;
use crate::pipeline::ledger::Account;
use crate::plugin::keeper::Order;
use crate::plugin::maps::Maps;
use crate::plugin::threads::Threads;

/// The host, as one plugin has it.
#[derive(Clone)]
pub(crate) struct Callbacks {
    pub(crate) plugin: Arc<str>,
    pub(crate) inbox: Inbox,
    pub(crate) account: Arc<Account>,
    pub(crate) maps: Arc<Maps>,
    pub(crate) threads: Arc<Threads>,
    /// Which start of the plugin this is.
    pub(crate) life: u64,
    pub(crate) keeper: Sender<Order>,
}

impl Callbacks {
    /// Offers a map that `process` has the descriptor of.
    pub(crate) fn offer_of(&self, process: Pid, name: &str, descriptor: i32) -> bool {
        let offered = self.maps.offer(&self.plugin, name, process, descriptor);
        if let Err(error) = &offered {
            let error = format!("{error:#}");
            warn!(plugin = self.plugin.as_ref(), map = name, error, "map is not offered");
        }
        offered.is_ok()
    }
}

impl HostApi for Callbacks {
    fn send(&self, points: Points) -> bool {
        self.threads.enter();
        self.inbox.put(points, &self.account)
    }

    fn log(&self, level: Level, message: RStr<'_>, fields: RSlice<'_, LogField>) {
        self.threads.enter();
        let plugin = self.plugin.as_ref();
        let shown = fields.iter().map(|LogField { name, value }| format!(" {name}={value}"));
        let text: String = iter::once(message.as_str().to_owned()).chain(shown).collect();
        match level {
            Level::Error => error!(plugin, "{text}"),
            Level::Warn => warn!(plugin, "{text}"),
            Level::Info => info!(plugin, "{text}"),
            Level::Debug => debug!(plugin, "{text}"),
        }
    }

    fn fail(&self, reason: RStr<'_>) {
        let failed = Order::Failed { life: self.life, reason: reason.as_str().into() };
        if self.keeper.send(failed).is_err() {
            error!(plugin = self.plugin.as_ref(), %reason, "plugin failed while the host ended");
        }
    }

    fn expect(&self, within_ms: u64) {
        self.threads.enter();
        self.threads.expect((within_ms > 0).then(|| Duration::from_millis(within_ms)));
    }

    fn offer_map(&self, name: RStr<'_>, descriptor: i32) -> bool {
        self.offer_of(getpid(), name.as_str(), descriptor)
    }

    fn map(&self, name: RStr<'_>) -> i32 {
        self.maps.find(name.as_str()).unwrap_or(-1)
    }
}
