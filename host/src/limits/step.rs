//! What can be limited, what helps against using too much of it, and what all steps together ask
//! for.

use crate::output::console::bytes;

/// What may be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Cpu,
    Memory,
    Bandwidth,
}

/// One thing to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Upload no faster than the limit allows.
    SlowerUploads,
    /// A quarter of the memory for what waits for upload.
    SmallerQueue,
    SampleHalf,
    SampleQuarter,
    SampleEighth,
    /// Stop the plugins that the operator can do without.
    PausePlugins,
}

impl Resource {
    /// As people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Bandwidth => "bandwidth",
        }
    }

    /// As in `/metrics` and `/status`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Bandwidth => "bandwidth",
        }
    }

    /// What helps, the mildest first. Plugins are paused only if there are any to pause.
    pub(super) fn steps(self, can_pause: bool) -> Vec<Step> {
        use Step::{SampleEighth, SampleHalf, SampleQuarter, SlowerUploads, SmallerQueue};
        let mut steps = match self {
            // What waits costs no CPU.
            Self::Cpu => vec![SampleHalf, SampleQuarter, SampleEighth],
            // Fewer points wait, and fewer are encoded at a time; that ends soon to matter.
            Self::Memory => vec![SmallerQueue, SampleHalf, SampleQuarter],
            // What does not pass waits, and only what still does not is left out.
            Self::Bandwidth => vec![SlowerUploads, SampleHalf, SampleQuarter, SampleEighth],
        };
        steps.extend(can_pause.then_some(Step::PausePlugins));
        steps
    }

    /// For how many seconds the limit may be exceeded. Memory that is not there ends others too.
    pub(super) fn grace(self) -> u32 {
        match self {
            Self::Cpu | Self::Bandwidth => 15,
            Self::Memory => 5,
        }
    }

    /// `210 MiB of 200 MiB`.
    pub(super) fn figures(self, used: f64, limit: f64) -> String {
        match self {
            Self::Cpu => format!("{used:.2} of {limit} cores"),
            Self::Memory => format!("{} of {}", bytes(used as i64), bytes(limit as i64)),
            Self::Bandwidth => format!("{}/s of {}/s", bytes(used as i64), bytes(limit as i64)),
        }
    }
}

impl Step {
    /// As in `/metrics`, `/status` and the log.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::SlowerUploads => "slower_uploads",
            Self::SmallerQueue => "smaller_queue",
            Self::SampleHalf => "sample_1_2",
            Self::SampleQuarter => "sample_1_4",
            Self::SampleEighth => "sample_1_8",
            Self::PausePlugins => "pause_plugins",
        }
    }
}

/// What the steps of all resources ask for: for each thing, the hardest step counts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demands {
    pub(super) slower_uploads: bool,
    pub(super) smaller_queue: bool,
    /// How often the share of points that is kept is halved.
    pub(super) halvings: u32,
    pub(super) paused_plugins: bool,
}

impl FromIterator<Step> for Demands {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        let mut demands = Self::default();
        for step in steps {
            match step {
                Step::SlowerUploads => demands.slower_uploads = true,
                Step::SmallerQueue => demands.smaller_queue = true,
                Step::SampleHalf => demands.halvings = demands.halvings.max(1),
                Step::SampleQuarter => demands.halvings = demands.halvings.max(2),
                Step::SampleEighth => demands.halvings = demands.halvings.max(3),
                Step::PausePlugins => demands.paused_plugins = true,
            }
        }
        demands
    }
}

#[cfg(test)]
mod tests {
    use super::{Demands, Resource, Step};

    #[test]
    fn the_hardest_step_of_all_resources_counts() {
        let taken = [Step::SampleHalf, Step::SmallerQueue, Step::SampleQuarter, Step::SampleHalf];
        let expected = Demands { smaller_queue: true, halvings: 2, ..Demands::default() };
        assert_eq!(taken.into_iter().collect::<Demands>(), expected);
        assert_eq!(Demands::from_iter([]), Demands::default());
    }

    #[test]
    fn plugins_are_paused_last_and_only_if_there_are_any() {
        for resource in [Resource::Cpu, Resource::Memory, Resource::Bandwidth] {
            assert_eq!(resource.steps(true).last(), Some(&Step::PausePlugins));
            assert!(!resource.steps(false).contains(&Step::PausePlugins));
        }
    }

    #[test]
    fn figures_have_the_unit_of_the_resource() {
        let mib = f64::from(1 << 20);
        assert_eq!(Resource::Cpu.figures(1.234, 0.5), "1.23 of 0.5 cores");
        assert_eq!(Resource::Memory.figures(210.0 * mib, 200.0 * mib), "210 MiB of 200 MiB");
        let rates = Resource::Bandwidth.figures(1.5 * mib, 1.0 * mib);
        assert_eq!(rates, "1.5 MiB/s of 1.0 MiB/s");
    }
}
