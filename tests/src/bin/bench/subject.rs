//! The collector that is measured. In: which parts of it are on, and how often it reports. Out: itself, running; when it ends, what
//! it held and lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::collector::Collector;
use system_tests::receiver::Receiver;
use system_tests::usage;
use system_tests::wait;
use system_tests::wire::Point;

const NET: &str = "ebpf-net";

/// How long a load runs whose cost is measured.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);

/// Which parts of `ebpf-net` are on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) name: &'static str,
    l7net: &'static str,
}

pub(crate) const NETFLOW: Parts = Parts { name: "netflow, dnsflow", l7net: "" };
pub(crate) const HTTP: Parts = Parts { name: "+ httpflow", l7net: "httpflow" };
pub(crate) const TLS: Parts = Parts { name: "+ httpflow-tls", l7net: "httpflow,httpflow-tls" };

/// How often it reports.
#[derive(Clone, Copy)]
pub(crate) enum Reports {
    /// About once in each window.
    OncePerWindow,
    /// Once a minute, as operators have it: not within a window.
    Seldom,
    /// Once a second.
    Often,
}

/// What it used and lost until it ended.
pub(crate) struct Seen {
    pub(crate) resident_kib: u64,
    pub(crate) losses: BTreeMap<String, u64>,
}

/// A running collector, and the receiver that it reports to.
pub(crate) struct Subject {
    pub(crate) collector: Collector,
    exchanges: Arc<AtomicU64>,
    _receiver: Receiver,
}

impl Subject {
    pub(crate) fn start(parts: Parts, reports: Reports) -> Self {
        let exchanges = Arc::<AtomicU64>::default();
        let reported = Arc::clone(&exchanges);
        let receiver = Receiver::watched(move |points| {
            reported.fetch_add(points.iter().map(answered).sum(), Ordering::Relaxed);
        });
        let window = format!("{}s", WINDOW.as_secs());
        let mut setup = Collector::setup(&receiver).args(["--include-loopback"]);
        if !parts.l7net.is_empty() {
            setup = setup.args(["--l7net-enabled", parts.l7net]);
        }
        let setup = match reports {
            Reports::Often => setup,
            Reports::Seldom => setup.seldom(),
            Reports::OncePerWindow => {
                setup.seldom().args(["--min-interval", "1s", "--interval", &window])
            }
        };
        let collector = setup.start();
        if parts == TLS {
            wait::until_true(
                "nginx's library is attached to",
                || collector.metric(NET, "tls_files_attached") > 0,
                || collector.status().to_string(),
            );
        }
        Self { collector, exchanges, _receiver: receiver }
    }

    /// The HTTP exchanges that servers of this host have answered, by the points that came.
    pub(crate) fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Waits until so many are reported, or no more can be expected.
    pub(crate) fn wait_for_exchanges(&self, wanted: u64) {
        let end = Instant::now() + 2 * WINDOW + Duration::from_secs(1);
        while self.exchanges() < wanted && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it in good order.
    pub(crate) fn finish(mut self) -> Seen {
        let seen = Seen {
            resident_kib: usage::resident_kib(self.collector.pid()),
            losses: usage::losses(&self.collector.metrics()),
        };
        let status = self.collector.terminate();
        assert!(status.success(), "the collector ended with {status}: {}", self.collector.log());
        seen
    }
}

fn answered(point: &Point) -> u64 {
    let is_one = point.name == "httpflow" && point.tag("direction") == Some("incoming");
    point.int("count").filter(|_| is_one).unwrap_or_default().cast_unsigned()
}
