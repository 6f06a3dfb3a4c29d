//! From an author's [`Plugin`] to an exported module. Every call into the plugin passes through
//! here, so that no panic crosses the boundary, where it would end the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RResult, RSlice, RStr, RString, RVec};

use crate::API_VERSION;
use crate::error::PluginError;
use crate::host::Host;
use crate::module::{Module, Module_Ref, PluginApi, PluginApi_TO, PluginBox};
use crate::plugin::Plugin;
use crate::report::{Metric, ProbeVerdict};

/// Exports a [`Plugin`] from this library. Goes once into the root of a `cdylib` crate.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        #[doc(hidden)]
        extern crate plugin_api as abi_stable;

        mod plugin_export {
            #![allow(
                missing_docs,
                unreachable_pub,
                clippy::wildcard_imports,
                reason = "the export is for the loader alone"
            )]
            use super::*;

            #[used]
            static MANIFEST: $crate::loading::Manifest = $crate::manifest_of::<$plugin>(
                if cfg!(debug_assertions) { "debug" } else { "release" },
                ::std::env::consts::ARCH,
            );

            #[$crate::export_root_module]
            pub fn plugin_module() -> $crate::loading::Module_Ref {
                $crate::module_of::<$plugin>()
            }
        }
    };
}

/// The module of `P`; called by [`export_plugin!`].
pub fn module_of<P: Plugin>() -> Module_Ref {
    Module {
        api_version: API_VERSION,
        name: RStr::from_str(P::NAME),
        version: RStr::from_str(P::VERSION),
        new: new_plugin::<P>,
        answer: answer::<P>,
    }
    .leak_into_prefix()
}

extern "C" fn new_plugin<P: Plugin>(
    settings: RStr<'_>,
    host: Host,
) -> RResult<PluginBox, PluginError> {
    guard("new", || {
        let plugin = P::new(settings.as_str(), host)?;
        Ok(PluginApi_TO::from_value(Guarded(plugin), TD_Opaque))
    })
}

extern "C" fn answer<P: Plugin>(words: RSlice<'_, RStr<'_>>) -> RResult<RString, PluginError> {
    guard("answer", || {
        let words: Vec<_> = words.iter().map(RStr::as_str).collect();
        P::answer(&words).map(RString::from)
    })
}

/// What the sentence begins with that a call returns when it has panicked.
const PANIC: &str = "panic in ";

/// Whether a plugin's call has panicked, rather than said why it cannot do what it was asked.
pub fn is_panic(error: &str) -> bool {
    error.starts_with(PANIC)
}

struct Guarded<P>(P);

impl<P: Plugin> PluginApi for Guarded<P> {
    fn start(&mut self) -> RResult<(), PluginError> {
        guard("start", || self.0.start())
    }

    fn stop(&mut self) -> RResult<(), PluginError> {
        guard("stop", || {
            self.0.stop();
            Ok(())
        })
    }

    fn probes(&self) -> RResult<RVec<ProbeVerdict>, PluginError> {
        guard("probes", || Ok(self.0.probes().into()))
    }

    fn metrics(&self) -> RResult<RVec<Metric>, PluginError> {
        guard("metrics", || Ok(self.0.metrics().into()))
    }
}

fn guard<T>(call: &str, body: impl FnOnce() -> Result<T, PluginError>) -> RResult<T, PluginError> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.into(),
        Err(panic) => RResult::RErr(PluginError::new(format_args!(
            "{PANIC}{call}: {}",
            panic_text(panic.as_ref())
        ))),
    }
}

/// The message of a panic that was caught.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
