//! Whether something grew. In: samples, one every few seconds. Out: a sentence for each thing that is not as it should be; none if all
//! is well.

use system_tests::usage::Held;

/// What the collector held at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) resident_kib: u64,
    pub(crate) held: Held,
}

/// One of the numbers of a sample.
type Count = fn(&Sample) -> u64;

/// Growth of resident memory that is let pass.
const MOST_GROWTH: f64 = 0.05;

/// Of samples after the warm-up; `per_minute` of them are a minute.
pub(crate) fn growth(samples: &[Sample], per_minute: usize) -> Vec<String> {
    let mut complaints = Vec::new();
    let length = per_minute.min(samples.len() / 2);
    if length == 0 {
        return vec!["there are too few samples to judge growth".to_owned()];
    }
    let resident = |samples: &[Sample]| median(samples, |sample| sample.resident_kib);
    let (first, last) =
        (resident(&samples[..length]), resident(&samples[samples.len() - length..]));
    let growth = last as f64 / first as f64 - 1.0;
    if growth >= MOST_GROWTH {
        complaints.push(format!(
            "resident memory grew by {:.1} %, from {first} to {last} KiB",
            growth * 100.0
        ));
    }
    let kinds: [(&str, Count); 4] = [
        ("open files", |sample| sample.held.files),
        ("BPF maps", |sample| sample.held.maps),
        ("BPF programs", |sample| sample.held.programs),
        ("BPF links", |sample| sample.held.links),
    ];
    for (name, count) in kinds {
        // They come and go: it grows if what is usual at the end was not even seen at first.
        let quarter = (samples.len() / 4).max(length);
        let most = samples[..quarter].iter().map(count).max().unwrap_or_default();
        let usual = median(&samples[samples.len() - quarter..], count);
        if usual > most {
            complaints.push(format!("{name} grew: at most {most} at first, {usual} at the end"));
        }
    }
    complaints
}

fn median(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// What was done and not reported, beyond what the collector says that it has lost; and what was reported and not done.
pub(crate) fn losses(compared: &[(&str, u64, u64)], lost: u64) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, done, reported) in compared {
        if reported + lost < *done {
            complaints.push(format!(
                "{name}: {done} done, {reported} reported, and only {lost} things are counted as lost"
            ));
        }
        if reported > done {
            complaints.push(format!("{name}: {done} done, but {reported} reported"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::{Sample, growth, losses};
    use system_tests::usage::Held;

    fn samples(of: impl Fn(u64) -> Sample) -> Vec<Sample> {
        (0..60).map(of).collect()
    }

    fn steady() -> Sample {
        Sample {
            resident_kib: 100_000,
            held: Held { files: 90, maps: 20, programs: 30, links: 25 },
        }
    }

    #[test]
    fn what_goes_up_and_down_does_not_grow() {
        let wobble = |at: u64| {
            let mut sample = steady();
            sample.resident_kib += at % 7 * 1000;
            sample.held.files += at % 5;
            sample
        };
        assert_eq!(growth(&samples(wobble), 6), Vec::<String>::new());
    }

    #[test]
    fn a_leak_is_growth_however_slow() {
        let leak = |at: u64| {
            let mut sample = steady();
            sample.resident_kib += at * 100;
            sample.held.files += at / 15;
            sample
        };
        let complaints = growth(&samples(leak), 6);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
    }

    #[test]
    fn a_loss_must_be_counted_and_nothing_be_invented() {
        assert_eq!(losses(&[("a", 10, 10), ("b", 10, 8)], 2), Vec::<String>::new());
        assert_eq!(losses(&[("a", 10, 8)], 1).len(), 1);
        assert_eq!(losses(&[("a", 10, 11)], 5).len(), 1);
    }
}
