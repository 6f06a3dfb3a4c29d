//! Functions of Go programs, out of the table that each carries for its own runtime, also where
//! symbols were stripped (`.gopclntab`, as written since Go 1.18). Comes in: a file and where the
//! table lies in it. Goes out: addresses. Nothing in the file is believed: it is read in pieces,
//! and how much is bounded.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;

/// The tables of Go 1.18 and 1.20, which look the same.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// The fixed part at the begin.
const HEADER: usize = 72;
/// Where the header says at which address the code begins.
pub(super) const TEXT_START: u64 = 24;
/// More than the largest programs have.
const MOST_FUNCTIONS: u64 = 4 * 1024 * 1024;
/// All that is read of one file; the largest tables have some 60 MiB.
const MOST_READ: u64 = 512 * 1024 * 1024;
/// Read at once. Names that are looked for are much shorter.
const WINDOW: usize = 256 * 1024;

/// Where a table lies in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A function, by its distance from the begin of all code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) from: u32,
    pub(super) to: u32,
}

/// A table.
#[derive(Debug)]
pub(super) struct Table<'a> {
    file: &'a File,
    place: Place,
    functions: u64,
    text_start: u64,
    /// Parts of the table, by their begin in it.
    names: u64,
    names_end: u64,
    lines: u64,
}

impl<'a> Table<'a> {
    /// Reads the header.
    pub(super) fn open(file: &'a File, place: Place) -> Result<Self> {
        let mut header = [0; HEADER];
        ensure!(place.size >= HEADER as u64, "Go's table of functions is cut");
        file.read_exact_at(&mut header, place.offset).context("read Go's table of functions")?;
        let magic = u32_at(&header, 0);
        ensure!(MAGICS.contains(&magic), "Go before 1.18 wrote it, or something else than Go");
        ensure!(header[7] == 8, "it is no 64-bit program of Go");
        let word = |index: usize| u64_at(&header, 8 * index);
        let table = Self {
            file,
            place,
            functions: word(1),
            text_start: word(3),
            names: word(4),
            names_end: word(5),
            lines: word(8),
        };
        ensure!(table.functions <= MOST_FUNCTIONS, "Go's table of functions is too large");
        let parts = [table.names, table.names_end, table.lines];
        ensure!(parts.iter().all(|part| *part <= place.size), "Go's table of functions is cut");
        Ok(table)
    }

    /// The address at which the code begins, if the file says so.
    pub(super) fn text_start(&self) -> Option<u64> {
        (self.text_start != 0).then_some(self.text_start)
    }

    /// The functions of these names.
    pub(super) fn find(&self, names: &[&str]) -> Result<Vec<Option<Function>>> {
        let mut budget = MOST_READ;
        let wanted = self.find_names(names, &mut budget)?;
        let mut found = vec![None; names.len()];
        if wanted.iter().all(Option::is_none) {
            return Ok(found);
        }
        let mut entries = Window::new(self, &mut budget);
        let mut left = wanted.iter().flatten().count();
        // A second window, which goes forward as well: one entry names the place of the other.
        let mut other = MOST_READ;
        let mut records = Window::new(self, &mut other);
        for index in 0..self.functions {
            let entry = entries.read(self.lines + index * 8, 12)?;
            let (from, at, to) = (u32_at(entry, 0), u32_at(entry, 4), u32_at(entry, 8));
            let name = u32_at(records.read(self.lines + u64::from(at) + 4, 4)?, 0);
            if let Some(index) = wanted.iter().position(|wanted| *wanted == Some(name)) {
                ensure!(from < to, "a function of Go ends before it begins");
                found[index] = Some(Function { from, to });
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Where each name lies among the names.
    fn find_names(&self, names: &[&str], budget: &mut u64) -> Result<Vec<Option<u32>>> {
        let needles: Vec<_> = names.iter().map(|name| format!("\0{name}\0")).collect();
        let overlap = needles.iter().map(String::len).max().unwrap_or_default() as u64;
        let finders: Vec<_> = needles.iter().map(memmem::Finder::new).collect();
        let mut found = vec![None; names.len()];
        let mut window = Window::new(self, budget);
        let mut at = self.names;
        while at < self.names_end && found.iter().any(Option::is_none) {
            let length = (self.names_end - at).min(WINDOW as u64);
            let bytes = window.read(at, length as usize)?;
            for (finder, found) in finders.iter().zip(&mut found) {
                if found.is_none()
                    && let Some(index) = finder.find(bytes)
                {
                    *found = u32::try_from(at - self.names + index as u64 + 1).ok();
                }
            }
            if length <= overlap {
                break;
            }
            at += length - overlap;
        }
        Ok(found)
    }
}

/// Reads a table from front to back, mostly.
struct Window<'a> {
    file: &'a File,
    place: Place,
    bytes: Vec<u8>,
    begin: u64,
    budget: &'a mut u64,
}

impl<'a> Window<'a> {
    fn new(table: &Table<'a>, budget: &'a mut u64) -> Self {
        let Table { file, place, .. } = *table;
        Self { file, place, bytes: Vec::new(), begin: 0, budget }
    }

    /// Bytes at an offset in the table; no more than [`WINDOW`].
    fn read(&mut self, at: u64, length: usize) -> Result<&[u8]> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.place.size);
        let end = end.context("Go's table of functions points out of itself")?;
        if at < self.begin || end > self.begin + self.bytes.len() as u64 {
            let size = (self.place.size - at).min(WINDOW as u64);
            let left = self.budget.checked_sub(size);
            *self.budget = left.context("Go's table of functions leads to and fro")?;
            self.bytes.resize(size as usize, 0);
            let offset = self.place.offset.checked_add(at).context("an offset overflows")?;
            self.begin = at;
            if let Err(error) = self.file.read_exact_at(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(error).context("read Go's table of functions");
            }
        }
        let from = (at - self.begin) as usize;
        Ok(&self.bytes[from..from + length])
    }
}

/// cmp r12, [r14+16]
const COMPARE: [u8; 4] = [0x4d, 0x3b, 0x66, 0x10];

/// Whether a function begins as Go's compiler has it begin since it passes arguments in registers:
/// it looks whether the goroutine, of which a register has the address, has stack enough.
pub(super) fn begins_like_go(code: &[u8], is_arm: bool) -> bool {
    if is_arm {
        // ldr x16, [x28, #16]
        return code.starts_with(&[0x90, 0x0b, 0x40, 0xf9]);
    }
    // cmp rsp, [r14+16]
    code.starts_with(&[0x49, 0x3b, 0x66, 0x10])
        // lea r12, [rsp-n]; cmp r12, [r14+16]
        || (code.starts_with(&[0x4c, 0x8d, 0x64, 0x24]) && code.get(5..9) == Some(&COMPARE))
        || (code.starts_with(&[0x4c, 0x8d, 0xa4, 0x24]) && code.get(8..12) == Some(&COMPARE))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_le_bytes(word.unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Function, HEADER, Place, Table, begins_like_go};
    use std::fs::File;
    use std::io::Write as _;

    const NAMES: [&str; 3] = ["main.one", "main.two", "main.none"];

    /// A table of two functions, somewhere in a file.
    fn table() -> (Vec<u8>, Place) {
        let names = b"\0main.one\0runtime.x\0main.two\0";
        let (names_at, lines_at) = (HEADER as u64, (HEADER + names.len()) as u64);
        let mut bytes = 0xffff_fff1_u32.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        let words = [2, 1, 0x40_1000, names_at, lines_at, lines_at, lines_at, lines_at];
        bytes.extend(words.iter().flat_map(|word: &u64| word.to_le_bytes()));
        bytes.extend(names);
        // Entries, the end of the last one, and records of which only the name is read.
        let words = [0_u32, 20, 0x20, 28, 0x60, 0, 1, 0x20, 20];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let place = Place { offset: 5, size: bytes.len() as u64 };
        ([b"front".to_vec(), bytes, b"behind".to_vec()].concat(), place)
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile();
        file.write_all(bytes).unwrap();
        file
    }

    fn tempfile() -> File {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("go-table-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        std::fs::remove_file(path).unwrap();
        options.unwrap()
    }

    #[test]
    fn functions_are_found_by_name() {
        let (bytes, place) = table();
        let file = file(&bytes);
        let table = Table::open(&file, place).unwrap();
        assert_eq!(table.text_start(), Some(0x40_1000));
        let (one, two) = (Function { from: 0, to: 0x20 }, Function { from: 0x20, to: 0x60 });
        assert_eq!(table.find(&NAMES).unwrap(), [Some(one), Some(two), None]);
    }

    #[test]
    fn no_cut_and_no_changed_byte_is_more_than_an_error() {
        let (bytes, place) = table();
        for cut in 0..bytes.len() {
            let file = file(&bytes[..cut]);
            Table::open(&file, place).and_then(|table| table.find(&NAMES)).ok();
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let file = file(&bytes);
                Table::open(&file, place).and_then(|table| table.find(&NAMES)).ok();
            }
        }
    }

    #[test]
    fn older_tables_are_refused() {
        let (mut bytes, place) = table();
        bytes[5] = 0xfa;
        let error = Table::open(&file(&bytes), place).unwrap_err();
        assert!(error.to_string().contains("Go before 1.18"), "{error}");
    }

    #[test]
    fn a_function_that_does_not_look_at_its_stack_is_none_of_go() {
        assert!(begins_like_go(&[0x49, 0x3b, 0x66, 0x10, 0x76], false));
        assert!(begins_like_go(&[0x4c, 0x8d, 0x64, 0x24, 0xb0, 0x4d, 0x3b, 0x66, 0x10], false));
        // mov rcx, fs:-8, as before 1.17
        assert!(!begins_like_go(&[0x64, 0x48, 0x8b, 0x0c, 0x25], false));
        assert!(!begins_like_go(&[], false));
        assert!(begins_like_go(&[0x90, 0x0b, 0x40, 0xf9], true));
        assert!(!begins_like_go(&[0x49, 0x3b, 0x66, 0x10], true));
    }
}
