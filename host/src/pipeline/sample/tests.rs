use super::*;

/// 2025-10-30, 04:53:20 in UTC, the middle of a minute.
const START_NS: i64 = 1_761_800_000_000_000_000;

const SECOND_NS: i64 = 1_000_000_000;

const RATES: [f64; 7] = [0.01, 0.1, 0.34, 0.5, 0.75, 0.99, 1.0];

/// One flow as the network plugin reports it, less most tags.
fn flow(points: &mut Points, number: u64, time_ns: i64) {
    let mut point = points.point("netflow", time_ns);
    point.tag_display("src_ip", format_args!("10.0.{}.{}", number / 256 % 256, number % 256));
    point.tag("dst_ip", "10.96.0.1").tag("direction", "outgoing").tag("transport", "tcp");
    point.tag_display("src_port", 32_768 + number / 65_536);
    point.field("bytes_read", 5_i64);
}

/// A batch of `count` groups of one point each, `number` counting them through.
fn groups(feed: &'static str, count: usize, number: &mut u64) -> Points {
    let mut points = Points::new(Category::Network, feed);
    for _ in 0..count {
        *number += 1;
        points.point("netflow", START_NS).group(*number);
    }
    points
}

/// The share that each of `RATES` keeps of `batches`.
fn shares(batches: impl Iterator<Item = Points>) -> [f64; 7] {
    let now = Instant::now();
    let mut samplers = RATES.map(|rate| Sampler::new(Sampling::Rate(rate)));
    let (mut offered, mut kept) = (0, [0; 7]);
    for points in batches {
        offered += points.len();
        for (sampler, kept) in samplers.iter_mut().zip(&mut kept) {
            *kept += points.len() - sampler.keep(&points, now).left_out();
        }
    }
    assert_eq!(offered, 1_000_000);
    kept.map(|kept: usize| kept as f64 / offered as f64)
}

fn assert_shares(batches: impl Iterator<Item = Points>) {
    for (rate, share) in RATES.into_iter().zip(shares(batches)) {
        let near = (share - rate).abs() < 0.01 && (share / rate - 1.0).abs() < 0.1;
        assert!(near, "{rate} keeps {share}");
    }
}

/// What is kept, by feed and minute, of a load of batches: second, feed and size.
fn kept_of(target: f64, load: impl IntoIterator<Item = (f64, &'static str, usize)>) -> Kept {
    let mut sampler = Sampler::new(Sampling::PointsPerMinute(target));
    let (start, mut number, mut kept) = (Instant::now(), 0, Kept::default());
    for (second, feed, count) in load {
        let points = groups(feed, count, &mut number);
        let decision = sampler.keep(&points, start + Duration::from_secs_f64(second));
        *kept.entry((second / 60.0) as u64).or_default().entry(feed).or_default() +=
            count - decision.left_out();
    }
    kept
}
type Kept = std::collections::BTreeMap<u64, std::collections::BTreeMap<&'static str, usize>>;

fn show(name: &str, kept: &Kept) {
    let v: Vec<String> = kept
        .values()
        .map(|m| {
            let s: usize = m.values().sum();
            if m.len() > 1 { format!("{s}{m:?}") } else { s.to_string() }
        })
        .collect();
    println!("{name}: {}", v.join(" "));
}

fn steady(
    from: u64,
    to: u64,
    every: f64,
    size: impl Fn(f64) -> usize,
) -> Vec<(f64, &'static str, usize)> {
    let mut out = vec![];
    let mut t = from as f64;
    while t < to as f64 {
        out.push((t, "a", size(t)));
        t += every;
    }
    out
}

#[test]
fn explore() {
    for target in [1500.0, 100.0] {
        println!("target {target}");
        show("steady", &kept_of(target, steady(0, 900, 1.0, |_| 500)));
        show("steady single", &kept_of(target, steady(0, 900, 0.01, |_| 1)));
        show("steady 5s", &kept_of(target, steady(0, 900, 5.0, |_| 2000)));
        show("steady 20s", &kept_of(target, steady(0, 900, 20.0, |_| 8000)));
        show("steady 45s", &kept_of(target, steady(0, 900, 45.0, |_| 8000)));
        show("burst", &kept_of(target, steady(0, 900, 60.0, |_| 20000)));
        show(
            "burst jitter",
            &kept_of(
                target,
                (0..15).map(|m| {
                    (f64::from(m) * 60.0 + 5.0 + f64::from(m * 7919 % 11) / 5.0, "a", 20000)
                }),
            ),
        );
        show(
            "train",
            &kept_of(
                target,
                (0..15).flat_map(|m| {
                    (0..40).map(move |c| (f64::from(m) * 60.0 + f64::from(c) * 0.02, "a", 512))
                }),
            ),
        );
        show(
            "three",
            &kept_of(
                target,
                (0..8).flat_map(|m| {
                    [("a", 20000), ("b", 5000), ("c", 5000)]
                        .into_iter()
                        .enumerate()
                        .map(move |(c, (f, n))| (f64::from(m) * 60.0 + c as f64 * 0.02, f, n))
                }),
            ),
        );
        let mut mix: Vec<(f64, &'static str, usize)> = steady(0, 480, 1.0, |_| 200);
        mix.extend((0..8).map(|m| (f64::from(m) * 60.0 + 10.5, "b", 12000)));
        mix.sort_by(|x, y| x.0.total_cmp(&y.0));
        show("steady+burst", &kept_of(target, mix));
        for every in [1.0, 5.0, 10.0, 20.0, 30.0, 60.0] {
            show(
                &format!("fall 10x/{every}"),
                &kept_of(
                    target,
                    steady(
                        0,
                        600,
                        every,
                        |t| if t < 210.0 { 1500.0 * every } else { 150.0 * every } as usize,
                    ),
                ),
            );
            show(
                &format!("rise 10x/{every}"),
                &kept_of(
                    target,
                    steady(
                        0,
                        600,
                        every,
                        |t| if t < 210.0 { 150.0 * every } else { 1500.0 * every } as usize,
                    ),
                ),
            );
            show(
                &format!("rise 100x/{every}"),
                &kept_of(
                    target,
                    steady(
                        0,
                        600,
                        every,
                        |t| if t < 210.0 { 10.0 * every } else { 1000.0 * every } as usize,
                    ),
                ),
            );
            show(&format!("ramp up then fall/{every}"), &kept_of(target, steady(0, 1200, every, |t| if t < 840.0 { (100.0 + t * 2.0) * every } else { 100.0 * every } as usize)));
            show(
                &format!("ramp down/{every}"),
                &kept_of(target, steady(0, 900, every, |t| ((2000.0 - 2.0 * t) * every) as usize)),
            );
        }
        show(
            "silence",
            &kept_of(
                target,
                steady(0, 120, 1.0, |_| 500).into_iter().chain(steady(600, 900, 1.0, |_| 500)),
            ),
        );
        show("at 1.02", &kept_of(target, steady(0, 900, 1.0, |_| (target * 1.02 / 60.0) as usize)));
    }
}

#[test]
fn a_rate_keeps_its_share_of_many_flows_over_several_minutes() {
    assert_shares((0..100).map(|batch| {
        let mut points = Points::new(Category::Network, "netflow");
        let minute = batch / 20;
        for number in 0..10_000 {
            let number = batch as u64 % 20 * 10_000 + number;
            flow(&mut points, number, START_NS + minute * 60 * SECOND_NS);
        }
        points
    }));
}
