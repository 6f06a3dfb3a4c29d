//! The code that is mapped into this process: how to unwind through it, and what its functions are
//! called. In: `/proc/self/maps` and the files that it names. Out: return addresses of a stack that
//! was copied, and names. Nothing of it runs in a signal handler or reads a live stack.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    UnwindRegsNative, Unwinder as _, UnwinderNative,
};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, ReadCache};

/// Deeper stacks are cut off at the outer end.
const MAX_DEPTH: usize = 256;
/// More mapped files than any collector has.
const MAX_FILES: usize = 1_024;

type Elf<'a> = ElfFile64<'a, Endianness, &'a ReadCache<File>>;

/// A piece of a file that is mapped executable.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub(crate) path: String,
    pub(crate) memory: Range<u64>,
    pub(crate) offset: u64,
    /// What to add to an address in the file; `None` if the file cannot be read.
    bias: Option<u64>,
}

/// What a function is called.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    /// By people.
    pub(crate) text: String,
    /// By the linker.
    pub(crate) symbol: String,
}

impl Name {
    fn of(symbol: &str) -> Self {
        // Without the hash at the end.
        let text = format!("{:#}", rustc_demangle::demangle(symbol));
        Self { text, symbol: symbol.to_owned() }
    }

    /// For what is no function.
    pub(crate) fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), symbol: text.to_owned() }
    }
}

/// Registers from which to unwind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registers {
    pub(crate) instruction: u64,
    pub(crate) stack: u64,
    pub(crate) frame: u64,
    #[cfg(target_arch = "aarch64")]
    pub(crate) link: u64,
}

/// All mapped code that was seen so far; what has been unmapped since stays known.
#[derive(Default)]
pub(crate) struct Code {
    mapped: BTreeMap<u64, Mapped>,
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Code {
    /// Looks for files that were mapped since the last time.
    pub(crate) fn refresh(&mut self) {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for mapped in maps.lines().filter_map(executable) {
            if self.mapped.len() < MAX_FILES && !self.mapped.contains_key(&mapped.memory.start) {
                self.add(mapped);
            }
        }
    }

    fn add(&mut self, mut mapped: Mapped) {
        if let Some(file) = open(&mapped) {
            let file = ReadCache::new(file);
            if let Ok(elf) = Elf::parse(&file)
                && let Some(bias) = bias(&elf, &mapped)
            {
                mapped.bias = Some(bias);
                let (path, memory) = (mapped.path.clone(), mapped.memory.clone());
                self.unwinder.add_module(Module::new(path, memory, bias, sections(&elf)));
            }
        }
        self.mapped.insert(mapped.memory.start, mapped);
    }

    /// Where the functions on a copied stack were called from, the innermost first.
    pub(crate) fn unwind(&mut self, registers: Registers, stack: &[u8]) -> Vec<u64> {
        let mut read = |address: u64| {
            let at = usize::try_from(address.wrapping_sub(registers.stack)).map_err(|_| ())?;
            let word = stack.get(at..).and_then(|rest| rest.first_chunk()).ok_or(())?;
            Ok(u64::from_ne_bytes(*word))
        };
        let mut frames = self.unwinder.iter_frames(
            registers.instruction,
            registers.native(),
            &mut self.cache,
            &mut read,
        );
        let mut addresses = Vec::new();
        // An error is the end of what can be known.
        while let Ok(Some(frame)) = frames.next()
            && addresses.len() < MAX_DEPTH
        {
            addresses.push(FrameAddress::address_for_lookup(frame));
        }
        addresses
    }

    /// The mapped file that an address is in.
    pub(crate) fn find(&self, address: u64) -> Option<&Mapped> {
        let (_, mapped) = self.mapped.range(..=address).next_back()?;
        mapped.memory.contains(&address).then_some(mapped)
    }

    /// All mapped files; this program is the first, as readers take it to be.
    pub(crate) fn files(&self) -> Vec<&Mapped> {
        let program = env::current_exe().unwrap_or_default();
        let mut files: Vec<_> = self.mapped.values().collect();
        files.sort_by_key(|mapped| Path::new(&mapped.path) != program);
        files
    }

    /// The functions at these addresses. Where there is no name, the file's name is in brackets.
    pub(crate) fn names(&self, addresses: &HashSet<u64>) -> HashMap<u64, Name> {
        let mut by_file: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut names = HashMap::new();
        for &address in addresses {
            let name = match self.find(address) {
                Some(mapped) => {
                    by_file.entry(mapped.memory.start).or_default().push(address);
                    let path = Path::new(&mapped.path);
                    format!("[{}]", path.file_name().unwrap_or(path.as_os_str()).display())
                }
                None => "[unknown]".to_owned(),
            };
            names.insert(address, Name::plain(&name));
        }
        for (start, mut addresses) in by_file {
            addresses.sort_unstable();
            self.mapped[&start].name(&addresses, &mut names);
        }
        names
    }
}

impl Mapped {
    fn name(&self, sorted: &[u64], names: &mut HashMap<u64, Name>) {
        let (Some(bias), Some(file)) = (self.bias, open(self)) else { return };
        let file = ReadCache::new(file);
        let Ok(elf) = Elf::parse(&file) else { return };
        // The full table last: it knows more than the one for the dynamic linker.
        for symbol in elf.dynamic_symbols().chain(elf.symbols()) {
            let start = symbol.address().wrapping_add(bias);
            let end = start.saturating_add(symbol.size());
            let first = sorted.partition_point(|&address| address < start);
            let inside = sorted[first..].iter().take_while(|&&address| address < end);
            for address in inside {
                if let Ok(symbol) = symbol.name() {
                    names.insert(*address, Name::of(symbol));
                }
            }
        }
    }
}

impl Registers {
    #[cfg(target_arch = "x86_64")]
    fn native(self) -> UnwindRegsNative {
        UnwindRegsNative::new(self.instruction, self.stack, self.frame)
    }

    #[cfg(target_arch = "aarch64")]
    fn native(self) -> UnwindRegsNative {
        UnwindRegsNative::new(self.link, self.stack, self.frame)
    }
}

/// `55d0c8a00000-55d0c8b00000 r-xp 00001000 fe:00 1234      /usr/bin/name`.
fn executable(line: &str) -> Option<Mapped> {
    let mut columns = line.splitn(6, ' ');
    let (start, end) = columns.next()?.split_once('-')?;
    let memory = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    columns.next().filter(|flags| flags.as_bytes().get(2) == Some(&b'x'))?;
    let offset = u64::from_str_radix(columns.next()?, 16).ok()?;
    let path = columns.nth(2)?.trim_start().to_owned();
    (!path.is_empty()).then_some(Mapped { path, memory, offset, bias: None })
}

/// The very file that is mapped, also if another one is at its path by now.
fn open(mapped: &Mapped) -> Option<File> {
    if !mapped.path.starts_with('/') {
        return None;
    }
    let Range { start, end } = mapped.memory;
    let opened = File::open(format!("/proc/self/map_files/{start:x}-{end:x}"));
    opened.or_else(|_| File::open(&mapped.path)).ok()
}

/// What the loader has added to the addresses in the file.
fn bias(elf: &Elf<'_>, mapped: &Mapped) -> Option<u64> {
    let endian = elf.endian();
    let page = rustix::param::page_size() as u64;
    let holds = |offset: u64, size: u64| {
        (offset / page * page..offset.saturating_add(size)).contains(&mapped.offset)
    };
    let segment = elf.elf_program_headers().iter().find(|segment| {
        segment.p_type(endian) == object::elf::PT_LOAD
            && segment.p_flags(endian) & object::elf::PF_X != 0
            && holds(segment.p_offset(endian), segment.p_filesz(endian))
    })?;
    let at_offset_0 = mapped.memory.start.wrapping_sub(mapped.offset);
    Some(at_offset_0.wrapping_add(segment.p_offset(endian)).wrapping_sub(segment.p_vaddr(endian)))
}

fn sections(elf: &Elf<'_>) -> ExplicitModuleSectionInfo<Vec<u8>> {
    let range = |name| {
        let section = elf.section_by_name(name)?;
        Some(section.address()..section.address().saturating_add(section.size()))
    };
    let data = |name| Some(elf.section_by_name(name)?.data().ok()?.to_vec());
    ExplicitModuleSectionInfo {
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn only_executable_files_are_taken_from_the_maps() {
        let line = "55d0c8a00000-55d0c8b00000 r-xp 00001000 fe:00 1234       /usr/bin/a name";
        let mapped = executable(line).expect("it is one");
        assert_eq!(mapped.path, "/usr/bin/a name");
        assert_eq!(mapped.memory, 0x55d0_c8a0_0000..0x55d0_c8b0_0000);
        assert_eq!(mapped.offset, 0x1000);
        for other in [
            "55d0c8a00000-55d0c8b00000 r--p 00001000 fe:00 1234       /usr/bin/name",
            "55d0c8a00000-55d0c8b00000 r-xp 00001000 fe:00 0",
            "55d0c8a00000 r-xp 00001000 fe:00 1234 /usr/bin/name",
            "",
        ] {
            assert!(executable(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_function_of_this_program_has_its_name() {
        let mut code = Code::default();
        code.refresh();
        let address = a_function_of_this_program_has_its_name as fn() as usize as u64;
        let names = code.names(&HashSet::from([address, 1]));
        assert!(
            names[&address].text.contains("a_function_of_this_program_has_its_name"),
            "{names:?}"
        );
        assert_eq!(names[&1].text, "[unknown]");
    }

    #[test]
    fn a_stack_that_is_garbage_ends_the_unwinding() {
        let mut code = Code::default();
        code.refresh();
        let address = a_function_of_this_program_has_its_name as fn() as usize as u64;
        for fill in [0, 1, 0x7f, 0xff] {
            let stack = vec![fill; 4096];
            let registers = Registers {
                instruction: address,
                stack: u64::from(fill) << 40,
                frame: u64::from(fill) << 40,
                #[cfg(target_arch = "aarch64")]
                link: 0,
            };
            assert!(code.unwind(registers, &stack).len() <= MAX_DEPTH, "fill {fill}");
        }
    }
}
