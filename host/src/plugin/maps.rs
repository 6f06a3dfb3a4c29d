//! The BPF maps that plugins share. The host keeps a descriptor of each; the kernel keeps the map.
//!
//! A descriptor crosses the boundary as a number, and whoever wants to keep it takes a duplicate
//! through the process's pidfd, which needs no trust in the number.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Maps that may be offered at a time, by all plugins together.
const MOST: usize = 64;

/// All maps that are on offer.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    offers: Mutex<BTreeMap<String, Offer>>,
}

#[derive(Debug)]
struct Offer {
    plugin: Arc<str>,
    map: OwnedFd,
}

impl Maps {
    /// Puts a map on offer whose descriptor is one of `process`. A plugin may replace its own
    /// offer, not another plugin's.
    pub(crate) fn offer(
        &self,
        plugin: &Arc<str>,
        name: &str,
        process: Pid,
        descriptor: RawFd,
    ) -> Result<()> {
        let process = pidfd_open(process, PidfdFlags::empty()).context("open a pidfd")?;
        let map = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())
            .with_context(|| format!("duplicate the descriptor of map {name}"))?;
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(offer) = offers.get(name) {
            ensure!(offer.plugin == *plugin, "{} offers a map {name} already", offer.plugin);
        }
        ensure!(offers.len() < MOST || offers.contains_key(name), "{MOST} maps are on offer");
        offers.insert(name.to_owned(), Offer { plugin: Arc::clone(plugin), map });
        Ok(())
    }

    /// The descriptor of the map `name`, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<RawFd> {
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.get(name).map(|offer| offer.map.as_raw_fd())
    }

    /// Takes back what `plugin` has offered.
    pub(crate) fn withdraw(&self, plugin: &str) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|_, offer| offer.plugin.as_ref() != plugin);
    }
}

#[cfg(test)]
mod tests {
    use super::Maps;
    use rustix::process::getpid;
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_map_is_on_offer_until_its_plugin_stops() {
        let (maps, file) = (Maps::default(), File::open("/dev/null").unwrap());
        maps.offer(&"one".into(), "nat", getpid(), file.as_raw_fd()).unwrap();
        assert_ne!(maps.find("nat").unwrap(), file.as_raw_fd(), "a descriptor of its own");
        let refused = maps.offer(&"other".into(), "nat", getpid(), file.as_raw_fd()).unwrap_err();
        assert!(refused.to_string().contains("one offers a map nat"), "{refused}");
        maps.withdraw("other");
        assert!(maps.find("nat").is_some());
        maps.withdraw("one");
        assert!(maps.find("nat").is_none());
    }

    #[test]
    fn a_number_that_is_no_descriptor_is_an_error() {
        let refused = Maps::default().offer(&"one".into(), "nat", getpid(), -1).unwrap_err();
        assert!(refused.to_string().contains("nat"), "{refused}");
    }
}
