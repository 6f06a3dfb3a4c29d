//! Where functions are in an ELF file, and where they return. Files belong to whoever may run a
//! process: nothing in them is believed, and what is read of them is bounded.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, anyhow, ensure};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Register};
use memchr::memmem;
use object::elf::{
    EM_AARCH64, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD, ProgramHeader64, SHT_DYNSYM,
    SHT_RELA, SHT_SYMTAB, STT_FUNC, STT_GNU_IFUNC, SectionHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader as _, SectionHeader as _, Sym as _};
use object::{Endianness, FileKind, ReadCache, ReadRef};

use crate::uprobe::golang::{self, TEXT_START, Table, begins_like_go};
use crate::uprobe::places::{Function, Place};
use crate::uprobe::target::Target;

/// Where Go keeps its table of functions, in programs at fixed addresses and in others.
const GO_TABLES: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];

/// More than the symbols of any program need.
const LARGEST_READ: u64 = 64 * 1024 * 1024;
/// More than any function that is worth a probe has.
const LARGEST_FUNCTION: u64 = 64 * 1024;

/// A function in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Where its code begins in the file.
    pub offset: u64,
    /// Bytes of its code; 0 when the file does not say.
    pub size: u64,
}

/// What a program reads at the beginning of a function, and must find as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The first two arguments, by C's convention.
    TwoArguments,
    /// The first four.
    FourArguments,
    /// The first three by Go's, and the goroutine.
    OfGo,
}

/// The code in a file.
pub struct Code<'a> {
    target: &'a Target,
    cache: ReadCache<File>,
}

/// Reads a file in pieces of a bounded size.
#[derive(Clone, Copy)]
struct Pieces<'a>(&'a ReadCache<File>);

impl<'a> ReadRef<'a> for Pieces<'a> {
    fn len(self) -> Result<u64, ()> {
        self.0.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        if size > LARGEST_READ { Err(()) } else { self.0.read_bytes_at(offset, size) }
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, end: u8) -> Result<&'a [u8], ()> {
        self.0.read_bytes_at_until(range, end)
    }
}

impl<'a> Code<'a> {
    /// Opens the code of a target.
    pub fn of(target: &'a Target) -> Result<Self> {
        let file = target.file().try_clone().context("duplicate a descriptor")?;
        Ok(Self { target, cache: ReadCache::new(file) })
    }

    /// Where the functions of these names are; `None` for those that the file does not define.
    pub fn symbols(&self, names: &[&str]) -> Result<Vec<Option<Symbol>>> {
        self.read_symbols(names).with_context(|| format!("read symbols of {}", self.target.name()))
    }

    fn read_symbols(&self, names: &[&str]) -> Result<Vec<Option<Symbol>>> {
        let data = Pieces(&self.cache);
        match FileKind::parse(data).context("it is no ELF file")? {
            FileKind::Elf64 => find::<FileHeader64<Endianness>>(data, names),
            FileKind::Elf32 => find::<FileHeader32<Endianness>>(data, names),
            other => Err(anyhow!("it is no ELF file but {other:?}")),
        }
    }

    /// Where Go's functions of these names are, whether the file has symbols or not; `None` if it
    /// is no program of Go.
    pub fn go_functions(&self, names: &[&str]) -> Result<Option<Vec<Option<Symbol>>>> {
        self.read_go_functions(names)
            .with_context(|| format!("read Go's functions in {}", self.target.name()))
    }

    /// Which of these words are among the constants of the file; the first 64 MiB are looked at.
    pub fn mentions(&self, words: &[&str]) -> Result<Vec<bool>> {
        const WINDOW: u64 = 256 * 1024;
        let data = Pieces(&self.cache);
        let header = FileHeader64::<Endianness>::parse(data).context("read the file's header")?;
        let endian = header.endian()?;
        let sections = header.sections(endian, data)?;
        let is_constants = |section: &&SectionHeader64<Endianness>| {
            sections.section_name(endian, *section).is_ok_and(|name| name == b".rodata")
        };
        let mut found = vec![false; words.len()];
        let Some(section) = sections.iter().find(is_constants) else { return Ok(found) };
        let finders: Vec<_> = words.iter().map(memmem::Finder::new).collect();
        let overlap = words.iter().map(|word| word.len()).max().unwrap_or_default() as u64;
        let (begin, size) = (section.sh_offset(endian), section.sh_size(endian).min(LARGEST_READ));
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size && found.contains(&false) {
            let length = (size - at).min(WINDOW + overlap);
            buffer.resize(length as usize, 0);
            let offset = begin.checked_add(at).context("an offset overflows")?;
            self.target.file().read_exact_at(&mut buffer, offset).context("read constants")?;
            for (finder, found) in finders.iter().zip(&mut found) {
                *found |= finder.find(&buffer).is_some();
            }
            at += WINDOW;
        }
        Ok(found)
    }

    fn read_go_functions(&self, names: &[&str]) -> Result<Option<Vec<Option<Symbol>>>> {
        let data = Pieces(&self.cache);
        let Ok(header) = FileHeader64::<Endianness>::parse(data) else { return Ok(None) };
        let endian = header.endian()?;
        let sections = header.sections(endian, data)?;
        let section_of = |wanted: &[u8]| {
            let name = |section| sections.section_name(endian, section);
            sections.iter().find(|section| name(section).is_ok_and(|name| name == wanted))
        };
        let Some(section) = GO_TABLES.iter().find_map(|name| section_of(name)) else {
            return Ok(None);
        };
        let place =
            golang::Place { offset: section.sh_offset(endian), size: section.sh_size(endian) };
        let table = Table::open(self.target.file(), place)?;
        let at = section.sh_addr(endian).checked_add(TEXT_START).context("an address overflows")?;
        let text = table
            .text_start()
            .or_else(|| relocation(data, sections.iter(), endian, at))
            .or_else(|| section_of(b".text").map(|text| text.sh_addr(endian)))
            .context("it does not say where its code begins")?;
        let segments = header.program_headers(endian, data)?;
        let is_arm = header.e_machine(endian) == EM_AARCH64;
        let symbol = |function: golang::Function| {
            let address = text.checked_add(function.from.into()).context("an address overflows")?;
            let offset = offset_of(segments, endian, address).context("its code is not in it")?;
            let size = u64::from(function.to - function.from);
            // A probe in the middle of an instruction would break the program.
            let code = data.read_bytes_at(offset, size.min(16)).unwrap_or_default();
            ensure!(begins_like_go(code, is_arm), "its code is not as Go's compiler writes it");
            Ok(Symbol { offset, size })
        };
        let found = table.find(names)?;
        found
            .into_iter()
            .map(|found| found.map(symbol).transpose())
            .collect::<Result<_>>()
            .map(Some)
    }

    /// Where in a function, near its beginning, a probe costs least; `None` if no place is better
    /// than the beginning itself.
    pub fn beginning(&self, symbol: Symbol, kept: Kept) -> Option<Place> {
        let registers: &[Register] = match kept {
            Kept::TwoArguments => &[Register::RDI, Register::RSI],
            Kept::FourArguments => &[Register::RDI, Register::RSI, Register::RDX, Register::RCX],
            Kept::OfGo => &[Register::RAX, Register::RBX, Register::RCX, Register::R14],
        };
        let place = self.function(symbol)?.beginning(registers)?;
        Some(Place { offset: symbol.offset + place.offset, ..place })
    }

    /// Where a probe costs least that sees each call of a function end, with its result; `None` if
    /// there are no such places.
    pub fn ends(&self, symbol: Symbol) -> Option<Vec<Place>> {
        let places = self.function(symbol)?.ends()?;
        let place = |place: Place| Place { offset: symbol.offset + place.offset, ..place };
        Some(places.into_iter().map(place).collect())
    }

    fn function(&self, symbol: Symbol) -> Option<Function> {
        let data = Pieces(&self.cache);
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        if header.e_machine.get(header.endian().ok()?) != EM_X86_64
            || !(1..=LARGEST_FUNCTION).contains(&symbol.size)
        {
            return None;
        }
        Function::new(data.read_bytes_at(symbol.offset, symbol.size).ok()?)
    }

    /// Offsets of the instructions with which a function returns. An error if it may also leave
    /// in another way, and on machines whose code this cannot read.
    pub fn returns(&self, symbol: Symbol) -> Result<Vec<u64>> {
        let data = Pieces(&self.cache);
        ensure!(
            (1..=LARGEST_FUNCTION).contains(&symbol.size),
            "the function has {} bytes by its symbol",
            symbol.size
        );
        let code = data
            .read_bytes_at(symbol.offset, symbol.size)
            .map_err(|()| anyhow!("the function ends behind the file"))?;
        let header = FileHeader64::<Endianness>::parse(data).context("read the file's header")?;
        let found = match header.e_machine.get(header.endian()?) {
            EM_X86_64 => returns_of_x86_64(code)?,
            EM_AARCH64 => returns_of_aarch64(code),
            machine => return Err(anyhow!("code of machine {machine} is not understood")),
        };
        ensure!(!found.is_empty(), "the function never returns");
        Ok(found.into_iter().map(|at| symbol.offset + at).collect())
    }
}

/// What the loader of a program that lies anywhere writes to an address of it.
fn relocation<'a>(
    data: Pieces<'_>,
    sections: impl Iterator<Item = &'a SectionHeader64<Endianness>>,
    endian: Endianness,
    at: u64,
) -> Option<u64> {
    for section in sections.filter(|section| section.sh_type(endian) == SHT_RELA) {
        let (relocations, _) = section.rela(endian, data).ok()??;
        if let Some(found) = relocations.iter().find(|each| each.r_offset.get(endian) == at) {
            return u64::try_from(found.r_addend.get(endian)).ok();
        }
    }
    None
}

/// Where an address of code lies in the file.
fn offset_of(
    segments: &[ProgramHeader64<Endianness>],
    endian: Endianness,
    address: u64,
) -> Option<u64> {
    segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).find_map(|segment| {
        let within = address.checked_sub(segment.p_vaddr(endian))?;
        let offset = segment.p_offset(endian).checked_add(within)?;
        (within < segment.p_filesz(endian)).then_some(offset)
    })
}

fn find<Elf: FileHeader<Endian = Endianness>>(
    data: Pieces<'_>,
    names: &[&str],
) -> Result<Vec<Option<Symbol>>> {
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let sections = header.sections(endian, data)?;
    let mut found = vec![None; names.len()];
    for kind in [SHT_DYNSYM, SHT_SYMTAB] {
        let Some((_, section)) =
            sections.enumerate().find(|(_, section)| section.sh_type(endian) == kind)
        else {
            continue;
        };
        let symbols: &[Elf::Sym] = section.data_as_array(endian, data)?;
        let strings = sections.section(section.link(endian))?.data(endian, data)?;
        for symbol in symbols {
            if !matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC) || symbol.is_undefined(endian)
            {
                continue;
            }
            let name = strings.get(symbol.st_name(endian) as usize..).unwrap_or_default();
            let is_named = |wanted: &&str| {
                name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            };
            let Some(index) = names.iter().position(is_named) else { continue };
            let address: u64 = symbol.st_value(endian).into();
            let segment = segments.iter().find(|segment| {
                let start: u64 = segment.p_vaddr(endian).into();
                let size: u64 = segment.p_filesz(endian).into();
                segment.p_type(endian) == PT_LOAD
                    && address.checked_sub(start).is_some_and(|within| within < size)
            });
            if let (Some(segment), None) = (segment, found[index]) {
                let start: u64 = segment.p_vaddr(endian).into();
                let offset: u64 = segment.p_offset(endian).into();
                let offset =
                    (address - start).checked_add(offset).context("an offset overflows")?;
                found[index] = Some(Symbol { offset, size: symbol.st_size(endian).into() });
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(found)
}

fn returns_of_x86_64(code: &[u8]) -> Result<Vec<u64>> {
    let mut returns = Vec::new();
    for instruction in Decoder::new(64, code, DecoderOptions::NONE) {
        ensure!(!instruction.is_invalid(), "not all of the function's code is understood");
        match instruction.flow_control() {
            FlowControl::Return => returns.push(instruction.ip()),
            // A jump to another function, which returns in this one's place.
            FlowControl::UnconditionalBranch => {
                let leaves = instruction.near_branch_target() >= code.len() as u64;
                ensure!(!leaves, "the function may end with a jump to another one");
            }
            FlowControl::IndirectBranch => {
                return Err(anyhow!("the function may end with a jump to anywhere"));
            }
            _ => {}
        }
    }
    Ok(returns)
}

/// `ret`, and the same with a check of the address.
fn returns_of_aarch64(code: &[u8]) -> Vec<u64> {
    const RETURNS: [u32; 3] = [0xd65f_03c0, 0xd65f_0bff, 0xd65f_0fff];
    let words = code.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
    let returns = words.map(u32::from_le_bytes).zip((0..).step_by(4));
    returns.filter(|(word, _)| RETURNS.contains(word)).map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::{Code, returns_of_aarch64, returns_of_x86_64};
    use crate::uprobe::target::Target;
    use std::fs;

    fn target(name: &str, content: &[u8]) -> Target {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::write(&path, content).unwrap();
        let target = Target::in_root(std::process::id(), path.to_str().unwrap()).unwrap();
        fs::remove_file(path).unwrap();
        target
    }

    /// The C library of this process: present wherever tests run.
    fn libc() -> Target {
        let is_libc = |path: &str| path.contains("/libc.so") || path.contains("/libc-");
        Target::mapped(std::process::id(), is_libc).unwrap().expect("a C library is mapped")
    }

    #[test]
    fn functions_are_found_and_others_are_not() {
        let target = libc();
        let code = Code::of(&target).unwrap();
        let found = code.symbols(&["no_such_function", "getenv", "geten"]).unwrap();
        assert_eq!((found[0], found[2]), (None, None));
        let getenv = found[1].expect("every C library has it");
        assert!(getenv.size > 0, "{getenv:?}");
        for at in code.returns(getenv).unwrap() {
            assert!((getenv.offset..getenv.offset + getenv.size).contains(&at), "{at:#x}");
        }
    }

    /// Go itself is a program of Go, and one that speaks TLS.
    fn go() -> Vec<u8> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).find_map(|folder| fs::read(folder.join("go")).ok());
        found.expect("Go is installed")
    }

    #[test]
    fn functions_of_go_are_found_without_symbols_and_return_somewhere() {
        let target = target("go", &go());
        let code = Code::of(&target).unwrap();
        let names = ["crypto/tls.(*Conn).Read", "no.such.Function", "crypto/tls.(*Conn).Write"];
        let found = code.go_functions(&names).unwrap().expect("it is a program of Go");
        assert_eq!(found[1], None);
        for symbol in [found[0], found[2]].map(Option::unwrap) {
            assert!(!code.returns(symbol).unwrap().is_empty(), "{symbol:?}");
        }
        assert_eq!(Code::of(&libc()).unwrap().go_functions(&names).unwrap(), None);
    }

    #[test]
    fn words_among_constants_are_found() {
        let target = target("words", &go());
        let code = Code::of(&target).unwrap();
        assert_eq!(code.mentions(&["crypto/tls", "no such word"]).unwrap(), [true, false]);
    }

    #[test]
    fn no_truncation_of_a_program_of_go_is_more_than_an_error() {
        let whole = go();
        for part in (0..16).map(|part| whole.len() * part / 16) {
            let target = target("cut-go", &whole[..part]);
            Code::of(&target).unwrap().go_functions(&["crypto/tls.(*Conn).Read"]).ok();
        }
    }

    #[test]
    fn what_is_no_elf_file_is_an_error_that_names_it() {
        let target = target("no-elf", b"#!/bin/sh\n");
        let error = Code::of(&target).unwrap().symbols(&["main"]).unwrap_err();
        assert!(format!("{error:#}").contains("no-elf"), "{error:#}");
    }

    #[test]
    fn no_truncation_of_a_real_file_is_more_than_an_error() {
        let whole = fs::read("/bin/bash").unwrap();
        for part in (0..64).map(|part| whole.len() * part / 64) {
            let target = target("cut", &whole[..part]);
            let code = Code::of(&target).unwrap();
            if let Ok(found) = code.symbols(&["readline", "main"]) {
                for symbol in found.into_iter().flatten() {
                    code.returns(symbol).ok();
                }
            }
        }
    }

    #[test]
    fn all_returns_are_found_and_none_inside_of_other_instructions() {
        // mov eax, 0xc3; ret; test edi, edi; je +1; ret 8 (imm16); ret
        let code = [0xb8, 0xc3, 0, 0, 0, 0xc3, 0x85, 0xff, 0x74, 0x01, 0xc2, 0x08, 0x00, 0xc3];
        assert_eq!(returns_of_x86_64(&code).unwrap(), [5, 10, 13]);
        let code = [0xc0, 0x03, 0x5f, 0xd6, 0x1f, 0x20, 0x03, 0xd5, 0xff, 0x0b, 0x5f, 0xd6];
        assert_eq!(returns_of_aarch64(&code), [0, 8]);
    }

    #[test]
    fn a_function_that_ends_in_another_one_is_refused() {
        // ret; jmp +0x100
        assert!(returns_of_x86_64(&[0xc3, 0xe9, 0, 1, 0, 0]).is_err());
        // ret; jmp rax
        assert!(returns_of_x86_64(&[0xc3, 0xff, 0xe0]).is_err());
        // ret; jmp -3, to itself
        assert_eq!(returns_of_x86_64(&[0xc3, 0xeb, 0xfd]).unwrap(), [0]);
    }
}
