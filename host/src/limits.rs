//! Limits on what the collector uses. In come readings of its CPU time, memory and traffic, one a
//! second; out go steps towards less while a limit is near, and the end when one is exceeded for
//! too long. Without a limit nothing is measured.
//!
//! | module | what it knows |
//! | --- | --- |
//! | `rate` | what was used a second, lately |
//! | `ladder` | when to take a step, when to undo it, when to give up |
//! | `step` | which steps help against what |
//! | `standing` | what there is to tell about it |

use std::error::Error;
use std::fmt::{self, Display};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::Limits;
use crate::pipeline::backlog::Backlog;
use crate::pipeline::thin::Thinner;
use crate::plugin::supervisor::Supervisor;
use crate::telemetry::usage::Usage;
use crate::traffic::Traffic;

mod ladder;
mod rate;
mod standing;
mod step;

use ladder::{Ladder, Move};
use rate::Rate;
pub(crate) use standing::{Standing, Standings};
use step::{Demands, Resource};

const SECOND: Duration = Duration::from_secs(1);

/// The share of the bandwidth that uploads may take while they are held back. The rest is for
/// answers, last errors and the status server.
const FOR_UPLOADS: f64 = 0.75;

/// A limit is exceeded and nothing has helped; the sentence says which one.
#[derive(Debug)]
pub(crate) struct OverLimit(String);

impl Display for OverLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for OverLimit {}

/// What steps are taken on.
pub(crate) struct Controls {
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) thinner: Arc<Thinner>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) plugins: Arc<Supervisor>,
}

/// Keeps the collector within its limits.
pub(crate) struct Watch {
    watched: Vec<Watched>,
    cpu: Rate,
    bandwidth: Rate,
    controls: Controls,
    /// Plugins that the operator can do without.
    optional: Vec<String>,
    demands: Demands,
    standings: Arc<Standings>,
    seconds: Interval,
}

struct Watched {
    resource: Resource,
    limit: f64,
    ladder: Ladder,
}

impl Watch {
    pub(crate) fn new(limits: &Limits, controls: Controls) -> Result<Self> {
        let given = [
            (Resource::Cpu, limits.cpu_cores),
            (Resource::Memory, limits.mem_bytes.map(|bytes| bytes as f64)),
            (Resource::Bandwidth, limits.net_bytes_per_s.map(|bytes| bytes as f64)),
        ];
        let watched: Vec<_> = given
            .into_iter()
            .filter_map(|(resource, limit)| {
                let steps = resource.steps(!limits.optional.is_empty());
                Some(Watched {
                    resource,
                    limit: limit?,
                    ladder: Ladder::new(steps, resource.grace()),
                })
            })
            .collect();
        let (now, usage) = (Instant::now(), Usage::with_children());
        if !watched.is_empty() && usage.resident_bytes == 0 {
            bail!("/proc/self/statm cannot be read, so limits cannot be kept: mount /proc");
        }
        let mut seconds = interval(SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let standings = watched.iter().map(Watched::standing).collect();
        Ok(Self {
            watched,
            cpu: Rate::new(usage.cpu_seconds, now),
            bandwidth: Rate::new(controls.traffic.total(), now),
            controls,
            optional: limits.optional.clone(),
            demands: Demands::default(),
            standings: Arc::new(standings),
            seconds,
        })
    }

    /// How the limits stand, for whoever asks.
    pub(crate) fn standings(&self) -> Arc<Standings> {
        Arc::clone(&self.standings)
    }

    /// Returns when a limit is exceeded and nothing has helped. May be dropped and called again.
    pub(crate) async fn over(&mut self) -> OverLimit {
        if self.watched.is_empty() {
            return pending().await;
        }
        loop {
            self.seconds.tick().await;
            if let Some(over) = self.look() {
                return over;
            }
        }
    }

    fn look(&mut self) -> Option<OverLimit> {
        let (now, usage) = (Instant::now(), Usage::with_children());
        let cpu = self.cpu.of(usage.cpu_seconds, now);
        let bandwidth = self.bandwidth.of(self.controls.traffic.total(), now);
        let mut over = None;
        for watched in &mut self.watched {
            let used = match watched.resource {
                Resource::Cpu => cpu,
                Resource::Memory => usage.resident_bytes as f64,
                Resource::Bandwidth => bandwidth,
            };
            let gives_up = watched.observe(used, &self.standings);
            // A plugin that leaks in a process of its own is no reason to end all others.
            let is_memory = gives_up.is_some() && watched.resource == Resource::Memory;
            if is_memory && self.controls.plugins.end_largest_process(usage.resident_bytes) {
                watched.ladder.begin_anew();
            } else {
                over = gives_up.or(over);
            }
        }
        let demands = self.watched.iter().flat_map(|watched| watched.ladder.taken()).copied();
        self.apply(demands.collect());
        over
    }

    fn apply(&mut self, demands: Demands) {
        if demands == self.demands {
            return;
        }
        let Demands { slower_uploads, smaller_queue, halvings, paused_plugins } = demands;
        let bandwidth = self.watched.iter().find(|of| of.resource == Resource::Bandwidth);
        let pace = bandwidth.filter(|_| slower_uploads).map(|of| (of.limit * FOR_UPLOADS) as u64);
        self.controls.traffic.hold_back(pace);
        if smaller_queue != self.demands.smaller_queue {
            self.controls.backlog.make_small(smaller_queue);
        }
        self.controls.thinner.set(halvings);
        if paused_plugins != self.demands.paused_plugins {
            self.controls.plugins.pause(&self.optional, paused_plugins);
        }
        self.demands = demands;
    }
}

impl Watched {
    fn standing(&self) -> Standing {
        Standing {
            resource: self.resource.label(),
            limit: self.limit,
            used: 0.0,
            steps: Vec::new(),
            steps_taken: self.ladder.steps().iter().map(|step| (step.label(), 0)).collect(),
        }
    }

    fn observe(&mut self, used: f64, standings: &Standings) -> Option<OverLimit> {
        let Self { resource, limit, ladder } = self;
        let figures = resource.figures(used, *limit);
        let name = resource.name();
        let done = ladder.observe(used / *limit);
        let taken = ladder.taken().iter().map(|step| step.label()).collect();
        standings.update(resource.label(), used, taken);
        match done {
            Move::Stay => None,
            Move::Take(step) => {
                standings.count(resource.label(), step.label());
                warn!(
                    limit = name,
                    used = figures,
                    step = step.label(),
                    "near a limit: doing less"
                );
                None
            }
            Move::Undo(step) => {
                info!(
                    limit = name,
                    used = figures,
                    step = step.label(),
                    "well below a limit again"
                );
                None
            }
            Move::GiveUp(seconds) => {
                Some(OverLimit(format!("over the {name} limit: {figures} for {seconds} s")))
            }
        }
    }
}
