//! How each limit stands, for `/status` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// How one limit stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Standing {
    pub(crate) resource: &'static str,
    /// Cores, bytes, or bytes a second.
    pub(crate) limit: f64,
    /// Likewise, as it was last measured.
    pub(crate) used: f64,
    /// What is done about it now.
    pub(crate) steps: Vec<&'static str>,
    /// How often each step was taken.
    pub(crate) steps_taken: BTreeMap<&'static str, u64>,
}

/// The standings of all limits that were given.
#[derive(Debug, Default)]
pub(crate) struct Standings(Mutex<Vec<Standing>>);

impl Standings {
    pub(crate) fn all(&self) -> Vec<Standing> {
        self.lock().clone()
    }

    pub(super) fn update(&self, resource: &str, used: f64, steps: Vec<&'static str>) {
        self.change(resource, |standing| {
            standing.used = used;
            standing.steps = steps;
        });
    }

    pub(super) fn count(&self, resource: &str, step: &'static str) {
        self.change(resource, |standing| *standing.steps_taken.entry(step).or_default() += 1);
    }

    fn change(&self, resource: &str, change: impl FnOnce(&mut Standing)) {
        if let Some(standing) = self.lock().iter_mut().find(|of| of.resource == resource) {
            change(standing);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Standing> for Standings {
    fn from_iter<I: IntoIterator<Item = Standing>>(standings: I) -> Self {
        Self(Mutex::new(standings.into_iter().collect()))
    }
}
