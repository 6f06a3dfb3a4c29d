//! BPF programs, compiled, and the records that they share with Rust.
//!
//! Comes in: `progs/` and `abi/`, through the build script. Goes out: per plugin one object, and
//! its record types with asserted layouts. Loads and attaches nothing.

/// Puts an object where the ELF parser needs it: at a multiple of eight.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

macro_rules! object {
    ($plugin:literal) => {{
        static ALIGNED: &$crate::Aligned<[u8]> =
            &$crate::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $plugin, ".bpf.o")));
        &ALIGNED.0
    }};
}

/// `ebpf-net`: connections and what they moved.
pub mod net {
    /// The programs and maps of `progs/net/net.bpf.c`.
    pub static OBJECT: &[u8] = object!("net");

    /// Those of `progs/net/net_early.bpf.c`, for kernels before 5.12.
    pub static EARLY_OBJECT: &[u8] = object!("net_early");

    /// The records of `abi/net.h`; their meaning is documented there.
    pub mod abi {
        #![allow(
            missing_docs,
            non_camel_case_types,
            non_upper_case_globals,
            unreachable_pub,
            clippy::allow_attributes_without_reason,
            clippy::pedantic,
            reason = "generated from C, in C's names"
        )]
        include!(concat!(env!("OUT_DIR"), "/net.rs"));
    }
}

/// `ebpf-conntrack`: connections whose destination is translated.
pub mod conntrack {
    /// The programs and maps of `progs/conntrack/conntrack.bpf.c`.
    pub static OBJECT: &[u8] = object!("conntrack");

    /// The name under which the table is offered to other plugins.
    pub const MAP: &str = "nat";

    /// The records of `abi/conntrack.h`; their meaning is documented there.
    pub mod abi {
        #![allow(
            missing_docs,
            non_camel_case_types,
            non_upper_case_globals,
            unreachable_pub,
            clippy::allow_attributes_without_reason,
            clippy::pedantic,
            reason = "generated from C, in C's names"
        )]
        include!(concat!(env!("OUT_DIR"), "/conntrack.rs"));
    }
}

/// `ebpf-bash`: lines that are typed into it.
pub mod bash {
    /// The programs and maps of `progs/bash/bash.bpf.c`.
    pub static OBJECT: &[u8] = object!("bash");

    /// The same without storage of tasks, for kernels before 5.11.
    pub static EARLY_OBJECT: &[u8] = object!("bash_early");

    /// The records of `abi/bash.h`; their meaning is documented there.
    pub mod abi {
        #![allow(
            missing_docs,
            non_camel_case_types,
            non_upper_case_globals,
            unreachable_pub,
            clippy::allow_attributes_without_reason,
            clippy::pedantic,
            reason = "generated from C, in C's names"
        )]
        include!(concat!(env!("OUT_DIR"), "/bash.rs"));
    }
}
