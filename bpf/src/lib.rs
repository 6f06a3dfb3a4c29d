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

/// What programs of uprobes, and each function that they call, may keep on their stack.
///
/// From 64 bytes on, in steps of 16, kernels since 6.13 give a program a stack per CPU
/// (`BPF_PRIV_STACK_MIN_SIZE` in Linux's `kernel/bpf/verifier.c`), which takes that it is not run
/// again on that CPU before it has ended. Programs of uprobes are: where the kernel preempts, a
/// thread loses its CPU within one, and the next thread that comes by writes over its stack.
#[cfg(test)]
const STACK_BYTES_AT_UPROBES: i64 = 48;

#[cfg(test)]
mod tests {
    use super::{STACK_BYTES_AT_UPROBES, bash, net};
    use aya_obj::generated::bpf_insn;
    use aya_obj::{Object, ProgramSection};
    use std::collections::HashSet;

    const FRAME_POINTER: u8 = 10;
    /// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    /// `BPF_LDX`, `BPF_ST`, `BPF_STX`.
    const LOAD: u8 = 0x01;
    const STORES: [u8; 2] = [0x02, 0x03];

    /// How far below the frame pointer these instructions reach.
    fn depth(instructions: &[bpf_insn]) -> i64 {
        let mut deepest = 0;
        let mut copies = HashSet::from([FRAME_POINTER]);
        for instruction in instructions {
            let (to, from) = (instruction.dst_reg(), instruction.src_reg());
            let class = instruction.code & 0x07;
            let at = match class {
                LOAD if copies.contains(&from) => i64::from(instruction.off),
                _ if STORES.contains(&class) && copies.contains(&to) => i64::from(instruction.off),
                _ if instruction.code == ADD && copies.contains(&to) => i64::from(instruction.imm),
                _ => 0,
            };
            deepest = deepest.min(at);
            if instruction.code == MOVE && copies.contains(&from) {
                copies.insert(to);
            } else if to != FRAME_POINTER && (class == 0x07 || class == LOAD) {
                copies.remove(&to);
            }
        }
        -deepest
    }

    #[test]
    fn programs_of_uprobes_have_no_stack_that_others_write_to() {
        let mut looked_at = 0;
        for bytes in [net::OBJECT, bash::OBJECT] {
            let mut object = Object::parse(bytes).unwrap();
            let sections = object.functions.keys().map(|(section, _)| *section).collect();
            object.relocate_calls(&sections).unwrap();
            for (name, program) in &object.programs {
                if !matches!(
                    program.section,
                    ProgramSection::UProbe { .. } | ProgramSection::URetProbe { .. }
                ) {
                    continue;
                }
                // With it come the functions that it calls.
                let depth = depth(&object.functions[&program.function_key()].instructions);
                assert!(depth <= STACK_BYTES_AT_UPROBES, "{name}: {depth} bytes");
                looked_at += 1;
            }
        }
        assert!(looked_at > 20, "{looked_at}");
    }

    #[test]
    fn a_stack_is_as_deep_as_its_lowest_byte() {
        let object = Object::parse(net::OBJECT).unwrap();
        let program = &object.programs["state_store"];
        let depth = depth(&object.functions[&program.function_key()].instructions);
        assert!(depth > 100, "it has a record of some hundred bytes there: {depth}");
    }
}
