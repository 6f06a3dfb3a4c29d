//! What a running plugin calls, from any of its threads. Nothing here waits.

use std::iter;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RStr};
use flume::Sender;
use plugin_api::loading::HostApi;
use plugin_api::{Level, LogField, Points};
use tracing::{debug, error, info, warn};

use crate::pipeline::inbox::Inbox;
use crate::pipeline::ledger::Account;
use crate::plugin::supervisor::Request;

/// The host, as one plugin has it.
#[derive(Clone)]
pub(crate) struct Callbacks {
    pub(crate) plugin: Arc<str>,
    pub(crate) inbox: Inbox,
    pub(crate) account: Arc<Account>,
    pub(crate) supervisor: Sender<Request>,
}

impl HostApi for Callbacks {
    fn send(&self, points: Points) -> bool {
        self.inbox.put(points, &self.account)
    }

    fn log(&self, level: Level, message: RStr<'_>, fields: RSlice<'_, LogField>) {
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
        let failed =
            Request::Failed { plugin: Arc::clone(&self.plugin), reason: reason.as_str().into() };
        if self.supervisor.send(failed).is_err() {
            error!(plugin = self.plugin.as_ref(), %reason, "plugin failed while the host ended");
        }
    }
}
