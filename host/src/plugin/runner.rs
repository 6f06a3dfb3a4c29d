//! A plugin that is loaded, in this process or in one of its own: the same calls either way.

use std::path::PathBuf;

use anyhow::{Error, Result};
use plugin_api::loading::PluginBox;
use plugin_api::{Metric, PluginError, ProbeVerdict};

use crate::plugin::callbacks::Callbacks;
use crate::plugin::isolated::Isolated;
use crate::plugin::loader;

/// Where a plugin runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// In the host's own process: an abort or a wild pointer of the plugin ends the collector.
    #[default]
    None,
    /// In a child of the host.
    Process,
}

/// What to run, and how. A plugin whose task is unchanged is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) folder: PathBuf,
    pub(crate) trusts_any: bool,
    /// As the plugin is given them.
    pub(crate) settings: String,
    pub(crate) isolation: Isolation,
}

/// What is known of a plugin as soon as it is loaded.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) version: String,
    pub(crate) process: Option<u32>,
}

/// A loaded plugin.
pub(crate) enum Runner {
    Here(PluginBox),
    Apart(Box<Isolated>),
}

impl Runner {
    /// Loads a plugin and hands it its settings.
    pub(crate) fn open(name: &str, task: &Task, callbacks: Callbacks) -> Result<(Self, Facts)> {
        match task.isolation {
            Isolation::None => {
                let module = loader::open(&task.folder, name, task.trusts_any)?;
                let version = module.version().into();
                let plugin = module.create(&task.settings, callbacks).map_err(sentence)?;
                Ok((Self::Here(plugin), Facts { version, process: None }))
            }
            Isolation::Process => {
                let (isolated, version) = Isolated::open(name, task, callbacks)?;
                let process = Some(isolated.process());
                Ok((Self::Apart(Box::new(isolated)), Facts { version, process }))
            }
        }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        match self {
            Self::Here(plugin) => plugin.start().into_result().map_err(sentence),
            Self::Apart(isolated) => isolated.start(),
        }
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        match self {
            Self::Here(plugin) => plugin.stop().into_result().map_err(sentence),
            Self::Apart(isolated) => isolated.stop(),
        }
    }

    /// How it is.
    pub(crate) fn ask(&mut self) -> Result<(Vec<ProbeVerdict>, Vec<Metric>)> {
        match self {
            Self::Here(plugin) => {
                let probes = plugin.probes().into_result().map_err(sentence)?;
                let metrics = plugin.metrics().into_result().map_err(sentence)?;
                Ok((probes.into(), metrics.into()))
            }
            Self::Apart(isolated) => isolated.ask(),
        }
    }
}

/// As an error of ours; its chain of causes is in the sentence already.
pub(crate) fn sentence(error: PluginError) -> anyhow::Error {
    Error::msg(error)
}
