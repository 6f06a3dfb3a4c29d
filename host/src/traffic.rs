//! What this process sends and receives over the network: counted, and held back when asked.
//!
//! Counted are HTTP heads and bodies, both ways: uploads, last errors, and what the status server
//! answers. Not counted is what lies below HTTP (TLS, TCP, IP), and what plugins might send.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters, and how fast uploads may be.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    /// Bytes a second for uploads; 0: as many as there are.
    pace: AtomicU64,
}

impl Traffic {
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Both together, so far.
    pub(crate) fn total(&self) -> f64 {
        (self.sent() + self.received()) as f64
    }

    /// Uploads take no more than so many bytes a second from now on; `None`: as many as there are.
    pub(crate) fn hold_back(&self, bytes_per_s: Option<u64>) {
        self.pace.store(bytes_per_s.map_or(0, |pace| pace.max(1)), Ordering::Relaxed);
    }

    /// How long nothing more is to be uploaded after so many bytes; `None`: go on.
    pub(crate) fn pause_after(&self, bytes: u64) -> Option<Duration> {
        match self.pace.load(Ordering::Relaxed) {
            0 => None,
            pace => Some(Duration::from_millis(bytes.saturating_mul(1000) / pace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Traffic;
    use std::time::Duration;

    #[test]
    fn the_pause_is_as_long_as_the_bytes_may_take() {
        let traffic = Traffic::default();
        assert_eq!(traffic.pause_after(1 << 20), None);
        traffic.hold_back(Some(1 << 19));
        assert_eq!(traffic.pause_after(1 << 20), Some(Duration::from_secs(2)));
        traffic.hold_back(None);
        assert_eq!(traffic.pause_after(1 << 20), None);
    }
}
