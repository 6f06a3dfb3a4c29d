//! How a plugin is, for whoever asks while its thread is busy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plugin_api::{Metric, ProbeStatus, ProbeVerdict};
use serde::Serialize;

/// Failures within [`MEMORY`] after which a plugin stays off.
const MOST_STRIKES: usize = 5;

/// How long a failure counts.
const MEMORY: Duration = Duration::from_mins(10);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A call that takes longer than this is said to hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// The life of a plugin.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its library is mapped and fits.
    Loaded,
    /// It attaches its probes.
    Starting,
    /// It delivers all that it can.
    Running,
    /// It delivers, but something is missing.
    Degraded,
    /// It does not run. It is started again if it ran into trouble rather than said why it cannot.
    Failed,
    /// It has failed too often, and stays off until the configuration is read again.
    Quarantined,
    /// It is not to run, or not yet.
    #[default]
    Stopped,
}

impl State {
    /// All there are.
    pub(crate) const ALL: [Self; 7] = [
        Self::Loaded,
        Self::Starting,
        Self::Running,
        Self::Degraded,
        Self::Failed,
        Self::Quarantined,
        Self::Stopped,
    ];

    /// As in `/status` and `/metrics`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        }
    }

    /// Whether points may come.
    pub(crate) fn delivers(self) -> bool {
        matches!(self, Self::Running | Self::Degraded)
    }
}

/// How a plugin is, for `/status` and `/metrics`.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) name: Arc<str>,
    pub(crate) version: String,
    pub(crate) state: State,
    /// Why it is in this state, unless all is well.
    pub(crate) reason: Option<String>,
    /// When it came into this state, in seconds since 1970.
    pub(crate) since: u64,
    /// How often it has failed and was, or will be, started again.
    pub(crate) restarts: u64,
    /// The process that it runs in, if it has one of its own.
    pub(crate) process: Option<u32>,
    /// What its threads have used.
    pub(crate) cpu: Duration,
    pub(crate) probes: Vec<ProbeVerdict>,
    pub(crate) metrics: Vec<Metric>,
}

/// What is known of a plugin without asking it.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) version: String,
    pub(crate) process: Option<u32>,
    pub(crate) probes: Vec<ProbeVerdict>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) restarts: u64,
    /// Whether it will be started again by itself.
    pub(crate) comes_back: bool,
    state: State,
    reason: Option<String>,
    since: u64,
    /// The call that its thread is in.
    call: Option<(&'static str, Instant)>,
    /// Why it is thought to hang, since it was last asked.
    hangs: Option<String>,
}

impl Standing {
    pub(crate) fn enter(&mut self, state: State, reason: Option<String>) {
        (self.state, self.reason, self.since) = (state, reason, unix_seconds());
        self.comes_back = false;
    }

    pub(crate) fn begin(&mut self, call: &'static str) {
        self.call = Some((call, Instant::now()));
    }

    pub(crate) fn end(&mut self) {
        self.call = None;
    }

    /// Notes whether the plugin hangs, where `stuck` says that one of its threads does. Returns
    /// the sentence on it the first time.
    pub(crate) fn examine(&mut self, now: Instant, stuck: Option<Duration>) -> Option<String> {
        let before = self.hangs.is_some();
        let call = self.call.and_then(|(call, since)| {
            let lasts = now.saturating_duration_since(since);
            let seconds = lasts.as_secs();
            (lasts > PATIENCE).then(|| format!("its {call} has not returned for {seconds} s"))
        });
        let thread = || {
            let seconds = stuck?.as_secs();
            Some(format!("a thread of it is {seconds} s late and makes no progress"))
        };
        self.hangs = call.or_else(thread);
        self.hangs.clone().filter(|_| !before)
    }

    /// What it is, and why.
    pub(crate) fn state(&self) -> (State, Option<String>) {
        let missing: Vec<_> =
            self.probes.iter().filter(|probe| probe.status != ProbeStatus::Attached).collect();
        match (self.state, &self.hangs) {
            (State::Running, Some(hangs)) => (State::Degraded, Some(hangs.clone())),
            (State::Running, None) if !missing.is_empty() => {
                let names: Vec<_> = missing
                    .iter()
                    .map(|probe| format!("{}: {}", probe.name, probe.detail))
                    .collect();
                (State::Degraded, Some(format!("without {}", names.join("; "))))
            }
            (state, Some(hangs)) => {
                let reason = self.reason.as_ref().map(|reason| format!("{reason}; "));
                (state, Some(reason.unwrap_or_default() + hangs))
            }
            (state, None) => (state, self.reason.clone()),
        }
    }

    /// Whether nothing will come of it any more unless somebody does something.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.state, State::Failed | State::Quarantined) && !self.comes_back
    }

    pub(crate) fn report(&self, name: &Arc<str>, cpu: Duration) -> Report {
        let (state, reason) = self.state();
        Report {
            name: Arc::clone(name),
            version: self.version.clone(),
            state,
            reason,
            since: self.since,
            restarts: self.restarts,
            process: self.process,
            cpu,
            probes: self.probes.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

/// The failures of late.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    times: VecDeque<Instant>,
}

impl Strikes {
    /// Counts a failure at `now`. Returns how long to pause before the next start; `None` if
    /// there should be none.
    pub(crate) fn count(&mut self, now: Instant) -> Option<Duration> {
        let recent = |time: &Instant| now.saturating_duration_since(*time) < MEMORY;
        self.times.retain(recent);
        self.times.push_back(now);
        let before = self.times.len() - 1;
        let pause = FIRST_PAUSE * 2_u32.pow(before.min(10) as u32);
        (self.times.len() < MOST_STRIKES).then_some(pause.min(LONGEST_PAUSE))
    }

    pub(crate) fn forget(&mut self) {
        self.times.clear();
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::{MEMORY, PATIENCE, Standing, State, Strikes};
    use plugin_api::{ProbeStatus, ProbeVerdict};
    use std::time::{Duration, Instant};

    #[test]
    fn pauses_grow_until_a_plugin_has_failed_too_often() {
        let (mut strikes, now) = (Strikes::default(), Instant::now());
        let pauses: Vec<_> = (0..5).map(|_| strikes.count(now)).collect();
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(pauses, [seconds(1), seconds(2), seconds(4), seconds(8), None]);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let (mut strikes, now) = (Strikes::default(), Instant::now());
        for _ in 0..4 {
            strikes.count(now);
        }
        assert_eq!(strikes.count(now + MEMORY), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_plugin_without_one_of_its_probes_is_degraded_and_says_which() {
        let mut standing = Standing::default();
        standing.enter(State::Running, None);
        assert_eq!(standing.state(), (State::Running, None));
        standing.probes.push(ProbeVerdict {
            name: "packets sent".into(),
            hook: "cgroup_skb/egress".into(),
            status: ProbeStatus::Missing,
            detail: "no cgroup".into(),
        });
        let (state, reason) = standing.state();
        assert_eq!(state, State::Degraded);
        assert_eq!(reason.as_deref(), Some("without packets sent: no cgroup"));
    }

    #[test]
    fn a_call_that_does_not_return_is_told_once_and_shown_as_long_as_it_lasts() {
        let mut standing = Standing::default();
        standing.enter(State::Running, None);
        standing.begin("stop");
        let later = Instant::now() + 2 * PATIENCE;
        assert!(standing.examine(later, None).is_some_and(|text| text.contains("stop")));
        assert_eq!(standing.examine(later, None), None);
        assert_eq!(standing.state().0, State::Degraded);
        standing.end();
        assert_eq!(standing.examine(later, None), None);
        assert_eq!(standing.state(), (State::Running, None));
    }
}
