//! A heap profile of this process. In: what the allocator remembers of a sample of all allocations
//! since the start. Out: a profile of what is in use by now, of host, plugins and C libraries alike.
//! Memory that does not come from `malloc` (BPF maps, rings, stacks of threads) is not in it.

use std::collections::HashMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use jemalloc_pprof::PROF_CTL;

use super::code::Code;
use super::format::Builder;

/// Allocations of one stack.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allocations {
    /// Where functions were called from, the innermost first.
    addresses: Vec<u64>,
    objects: i64,
    bytes: i64,
}

/// What is in use now.
pub(crate) fn take() -> Result<Vec<u8>> {
    let Some(control) = PROF_CTL.as_ref() else {
        bail!("the allocator does not profile: remove prof:false from MALLOC_CONF");
    };
    let mut text = String::new();
    let mut dump =
        control.blocking_lock().dump().context("have the allocator write its profile")?;
    dump.read_to_string(&mut text).context("read the allocator's profile")?;
    let (sampled_every, allocations) = parse(&text).context("read the allocator's profile")?;

    let mut code = Code::default();
    code.refresh();
    let addresses = allocations.iter().flat_map(|stack| stack.addresses.iter().copied());
    let names = code.names(&addresses.collect());
    let space = ("space", "bytes");
    let kinds = [("inuse_objects", "count"), ("inuse_space", "bytes")];
    let mut profile = Builder::new(&kinds, (space, sampled_every));
    profile.comment(
        "memory from malloc, of host, plugins and C libraries, estimated from a sample; BPF maps, \
         rings and thread stacks are not in it",
    );
    let files: HashMap<u64, u64> = profile.mappings(&code);
    for stack in allocations {
        let outside =
            stack.addresses.iter().skip_while(|address| is_allocator(&names[address].text));
        let locations = outside.map(|address| {
            let file = code.find(*address).map_or(0, |file| files[&file.memory.start]);
            profile.location(file, *address, &names[address])
        });
        let locations = locations.collect();
        profile.sample(locations, vec![stack.objects, stack.bytes], &[]);
    }
    profile.finish().context("write the profile")
}

/// What is inside of `malloc` tells nobody anything.
fn is_allocator(function: &str) -> bool {
    function.starts_with("_rjem_je_") || function.starts_with("prof_")
}

/// Reads the text form of jemalloc:
///
/// ```text
/// heap_v2/131072
///   t*: 12: 345678 [0: 0]
/// @ 0x55d0c8a01234 0x55d0c8a05678
///   t*: 2: 34567 [0: 0]
///   t1: ...
/// MAPPED_LIBRARIES: ...
/// ```
///
/// `None` if it is something else.
fn parse(text: &str) -> Option<(i64, Vec<Allocations>)> {
    let mut lines = text.lines();
    let every: i64 = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
    let mut stacks = Vec::new();
    let mut addresses = None;
    for line in lines.take_while(|line| !line.starts_with("MAPPED_LIBRARIES")) {
        if let Some(stack) = line.strip_prefix('@') {
            let hex = stack.split_ascii_whitespace().map(|word| word.strip_prefix("0x"));
            let stack: Option<Vec<u64>> =
                hex.map(|hex| u64::from_str_radix(hex?, 16).ok()).collect();
            // They are return addresses: the call is right before.
            addresses = Some(stack?.iter().map(|address| address.saturating_sub(1)).collect());
        } else if let Some(all_threads) = line.trim_start().strip_prefix("t*: ")
            && let Some(addresses) = addresses.take()
        {
            let (objects, rest) = all_threads.split_once(": ")?;
            let (objects, bytes) = (objects.parse().ok()?, rest.split(' ').next()?.parse().ok()?);
            let (objects, bytes) = estimate(objects, bytes, every);
            stacks.push(Allocations { addresses, objects, bytes });
        }
    }
    Some((every, stacks))
}

/// All allocations, from those in the sample: the larger one is, the likelier it was taken.
fn estimate(objects: i64, bytes: i64, every: i64) -> (i64, i64) {
    if objects <= 0 || bytes <= 0 || every <= 0 {
        return (0, 0);
    }
    let size = bytes as f64 / objects as f64;
    let scale = 1.0 / -(-size / every as f64).exp_m1();
    ((objects as f64 * scale).round() as i64, (bytes as f64 * scale).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "heap_v2/1000
  t*: 3: 20100 [0: 0]
  t0: 3: 20100 [0: 0]
@ 0x11 0x21
  t*: 1: 100000 [0: 0]
  t0: 1: 100000 [0: 0]
@ 0x31
  t*: 2: 200 [0: 0]
  t0: 2: 200 [0: 0]

MAPPED_LIBRARIES:
00400000-00500000 r-xp 00000000 fe:00 1 /a
@ 0x41
";

    #[test]
    fn each_stack_is_taken_once_and_scaled_up() {
        let (every, stacks) = parse(DUMP).expect("it is one");
        assert_eq!(every, 1000);
        // Of objects of 100 bytes, one in 10.5 is in the sample.
        let large = Allocations { addresses: vec![0x10, 0x20], objects: 1, bytes: 100_000 };
        let small = Allocations { addresses: vec![0x30], objects: 21, bytes: 2_102 };
        assert_eq!(stacks, [large, small]);
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        for text in ["", "heap_v2/", "heap_v2/x\n", "heap_v2/8\n@ 0xzz\n  t*: 1: 8 [0: 0]\n"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("heap_v2/8\n@ 0x1\n"), Some((8, vec![])));
    }
}
