//! What this process uses.

use std::fs;

/// CPU time and memory of this process so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Reads them; what cannot be read is 0.
    pub(crate) fn now() -> Self {
        Self {
            cpu_seconds: cpu_seconds().unwrap_or_default(),
            resident_bytes: resident_bytes().unwrap_or_default(),
        }
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 =
        fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::now().resident_bytes > 100_000);
    }
}
