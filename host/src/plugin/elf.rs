//! What a plugin's file says of itself, read without running any of it. The dynamic linker trusts
//! its input: a file that was cut short would take the process down, so it must not get there.

use anyhow::{Result, bail, ensure};
use object::elf::{EM_AARCH64, EM_X86_64, ET_DYN, FileHeader64, PT_DYNAMIC, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// The machine that this host was built for, as ELF numbers it.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = EM_AARCH64;

/// Checks that `file` is a complete shared library for this machine.
pub(crate) fn check(file: &[u8]) -> Result<()> {
    ensure!(!file.is_empty(), "it is empty");
    let Ok(header) = FileHeader64::<object::Endianness>::parse(file) else {
        bail!("it is not a 64-bit ELF file");
    };
    let Ok(endian) = header.endian() else { bail!("its byte order is unknown") };
    let machine = header.e_machine(endian);
    ensure!(
        machine == MACHINE,
        "it was built for {}, not for {}",
        machine_name(machine),
        machine_name(MACHINE)
    );
    ensure!(header.e_type(endian) == ET_DYN, "it is not a shared library");
    let Ok(segments) = header.program_headers(endian, file) else {
        bail!("it has been cut short: its program headers are missing");
    };
    let has = |kind| segments.iter().any(|segment| segment.p_type(endian) == kind);
    ensure!(
        has(PT_LOAD) && has(PT_DYNAMIC),
        "it has the header of a shared library and nothing sensible behind it"
    );
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let (offset, size) = segment.file_range(endian);
        let end = offset.saturating_add(size);
        let have = file.len() as u64;
        ensure!(end <= have, "it has been cut short: it has {have} bytes of at least {end}");
    }
    // Symbols are found through the section that comes last in the file.
    let have = file.len() as u64;
    let end = header
        .e_shoff(endian)
        .saturating_add(u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian)));
    ensure!(end <= have, "it has been cut short: it has {have} bytes of {end}");
    Ok(())
}

fn machine_name(machine: u16) -> String {
    match machine {
        EM_X86_64 => "x86-64".into(),
        EM_AARCH64 => "aarch64".into(),
        other => format!("machine number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use object::elf::EM_AARCH64;

    /// This test binary is a position-independent executable, which is the same type of file.
    fn whole() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    fn refusal(file: &[u8]) -> String {
        check(file).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_file_for_this_machine_passes() {
        check(&whole()).unwrap();
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused() {
        let whole = whole();
        for length in [0, 10, 64, 1000, whole.len() / 2, whole.len() - 1] {
            refusal(&whole[..length]);
        }
    }

    #[test]
    fn a_header_with_garbage_behind_it_is_refused() {
        let mut file = whole();
        file[64..].fill(0x5a);
        assert!(refusal(&file).contains("nothing sensible behind it"), "{}", refusal(&file));
    }

    #[test]
    fn headers_with_any_byte_changed_do_no_harm() {
        let whole = whole();
        for at in 0..1024 {
            let mut file = whole.clone();
            file[at] ^= 0xff;
            // Most of them pass: this looks at little, and must only survive.
            check(&file).ok();
        }
    }

    #[test]
    fn a_text_and_a_library_for_another_machine_are_refused_by_name() {
        assert_eq!(refusal(b"#!/bin/sh\n"), "it is not a 64-bit ELF file");
        let mut foreign = whole();
        foreign[18..20].copy_from_slice(&EM_AARCH64.to_le_bytes());
        assert!(refusal(&foreign).contains("built for aarch64"), "{}", refusal(&foreign));
    }
}
