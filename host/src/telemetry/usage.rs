//! What processes use: this one, and those that it has started.

use std::fs;
use std::time::Duration;

/// CPU time and memory of processes so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Of this process. What cannot be read is 0.
    pub(crate) fn now() -> Self {
        let [user, system, ..] = ticks("self").unwrap_or_default();
        Self { cpu_seconds: seconds(user + system), resident_bytes: resident_bytes("self") }
    }

    /// Of this process and its children. Those that have ended count with their CPU time.
    pub(crate) fn with_children() -> Self {
        let mut sum = Self::default();
        for process in children().iter().map(String::as_str).chain(["self"]) {
            sum.cpu_seconds += seconds(ticks(process).unwrap_or_default().iter().sum());
            sum.resident_bytes += resident_bytes(process);
        }
        sum
    }
}

/// utime, stime, and the same of children that were waited for.
fn ticks(process: &str) -> Option<[u64; 4]> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; utime is field 14.
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11).take(4);
    fields.map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?.try_into().ok()
}

/// CPU time of one process so far; none if it has gone.
pub(crate) fn cpu_of(process: u32) -> Duration {
    let [user, system, ..] = ticks(&process.to_string()).unwrap_or_default();
    Duration::from_secs_f64(seconds(user + system))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Of one process; 0 if it has gone.
pub(crate) fn resident_bytes(process: &str) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The ids of all children, whichever thread has started them.
fn children() -> Vec<String> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let lists = threads.filter_map(Result::ok).filter_map(of_thread);
    lists
        .flat_map(|ids| ids.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Usage;
    use std::process::{Command, Stdio};

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::now().resident_bytes > 100_000);
    }

    #[test]
    fn children_count_while_they_run_and_after_their_end() {
        // The kernel rounds each of its sums to ticks.
        const ROUNDING: f64 = 0.05;
        let before = Usage::with_children().cpu_seconds;
        let burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo; read line";
        let mut child = Command::new("sh")
            .args(["-c", burn])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let burnt = std::io::Read::read(&mut child.stdout.take().unwrap(), &mut [0; 1]);
        assert_eq!(burnt.unwrap(), 1);
        let running = Usage::with_children();
        assert!(running.cpu_seconds > before);
        assert!(running.resident_bytes > Usage::now().resident_bytes);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(Usage::with_children().cpu_seconds >= running.cpu_seconds - ROUNDING);
    }
}
