//! Why a plugin could not do what the host asked: one sentence that crosses the boundary.

use std::error::Error;
use std::fmt::{self, Debug, Display};

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

/// A failure of a plugin, as a sentence that says what was attempted and what to do.
///
/// Any error converts into it with `?`; its chain of causes becomes one line.
#[repr(C)]
#[derive(StableAbi)]
pub struct PluginError {
    message: RString,
}

impl PluginError {
    /// An error that says `message`.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string().into() }
    }
}

impl Display for PluginError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Debug for PluginError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, formatter)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for PluginError {
    fn from(error: E) -> Self {
        let error: Box<dyn Error + Send + Sync> = error.into();
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self { message: message.into() }
    }
}
