//! How much the sampler keeps, for `/metrics` and `/status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use plugin_api::Category;

/// What share of the latest points was kept, by category.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    by_category: Mutex<BTreeMap<&'static str, f64>>,
}

impl Rates {
    pub(crate) fn all(&self) -> BTreeMap<&'static str, f64> {
        self.by_category.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, category: Category, rate: f64) {
        let name = match category {
            Category::Network => "network",
            Category::Logging => "logging",
            Category::Tracing => "tracing",
        };
        self.by_category.lock().unwrap_or_else(PoisonError::into_inner).insert(name, rate);
    }
}
