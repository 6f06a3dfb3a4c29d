//! What collecting may do beyond what any process may.

use rustix::thread::CapabilitySet;

/// A capability and what it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) capability: CapabilitySet,
    /// What cannot be had without it.
    pub(crate) purpose: &'static str,
    /// Whether plugins can be expected to do less, or nothing, without it.
    pub(crate) is_required: bool,
}

/// Everything that plugins may need, now or when they are started or attach something later.
pub(crate) const NEEDS: [Need; 5] = [
    Need {
        capability: CapabilitySet::BPF,
        purpose: "load programs and make maps",
        is_required: true,
    },
    Need {
        capability: CapabilitySet::PERFMON,
        purpose: "attach programs to the kernel's functions and tracepoints",
        is_required: true,
    },
    Need {
        capability: CapabilitySet::NET_ADMIN,
        purpose: "attach programs to sockets and interfaces",
        is_required: true,
    },
    Need {
        capability: CapabilitySet::SYS_PTRACE,
        purpose: "see which programs and libraries other users' processes run",
        is_required: false,
    },
    Need {
        capability: CapabilitySet::DAC_READ_SEARCH,
        purpose: "read programs and libraries that are not readable by all",
        is_required: false,
    },
];

/// `CAP_BPF` and the like.
pub(crate) fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::names;
    use rustix::thread::CapabilitySet;

    #[test]
    fn capabilities_are_named_as_the_kernel_names_them() {
        let set = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        assert_eq!(names(set), ["CAP_NET_ADMIN", "CAP_BPF"]);
    }
}
