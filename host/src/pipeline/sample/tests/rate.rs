//! A rate keeps its share, of every flow and of whole groups.

use std::collections::BTreeSet;

use super::*;

const RATES: [f64; 7] = [0.01, 0.1, 0.34, 0.5, 0.75, 0.99, 1.0];

fn keep_at_rate(rate: f64, points: &Points) -> Vec<bool> {
    let decision = Sampler::new(Sampling::Rate(rate)).keep(points, Instant::now());
    (0..points.len()).map(|index| decision.keeps(index)).collect()
}

/// Checks that every rate keeps its share of a million points, give or take a part of it.
fn check_rates(tolerance: f64, batches: impl Iterator<Item = Points>) {
    let now = Instant::now();
    let mut samplers = RATES.map(|rate| (rate, Sampler::new(Sampling::Rate(rate)), 0));
    let mut offered = 0;
    for points in batches {
        offered += points.len();
        for (_, sampler, left_out) in &mut samplers {
            *left_out += sampler.keep(&points, now).left_out();
        }
    }
    assert_eq!(offered, 1_000_000);
    for (rate, _, left_out) in samplers {
        let kept = 1.0 - left_out as f64 / offered as f64;
        assert!((kept / rate - 1.0).abs() < tolerance, "{rate}: {kept}");
    }
}

#[test]
fn a_rate_keeps_its_share_of_many_flows_over_some_minutes() {
    check_rates(0.01, flows(100_000, 10));
}

#[test]
fn a_rate_keeps_its_share_of_a_few_flows_over_many_minutes() {
    check_rates(0.01, flows(50, 20_000));
}

#[test]
fn a_rate_keeps_its_share_of_groups_however_they_are_numbered() {
    check_rates(
        0.03,
        (0..100).map(|batch| groups("f", batch * 10_000 + 1..=batch * 10_000 + 10_000)),
    );
    check_rates(
        0.03,
        (0..100).map(|batch| {
            groups("f", (batch * 10_000 + 1..=batch * 10_000 + 10_000).map(|group| group << 40))
        }),
    );
}

#[test]
fn no_flow_is_left_out_for_ever() {
    let mut seen = BTreeSet::new();
    for points in flows(100, 100) {
        let kept = keep_at_rate(0.1, &points).into_iter().enumerate();
        seen.extend(kept.filter(|(_, kept)| *kept).map(|(flow, _)| flow));
    }
    assert_eq!(seen.len(), 100);
}

#[test]
fn tags_and_measurement_are_a_points_identity_and_fields_are_not() {
    let key_of = |build: &dyn Fn(&mut Points)| {
        let mut points = Points::new(Category::Network, "f");
        build(&mut points);
        key(&points, points.iter().next().unwrap())
    };
    let identity = key_of(&|points| {
        points.point("m", START_NS).tag("a", "bc").field("n", 1_i64);
    });
    let same = key_of(&|points| {
        points.point("m", START_NS + MINUTE_NS - 1).tag_display("a", "bc").field("n", 2_i64);
    });
    assert_eq!(identity, same);
    for (measurement, time_ns, key, value) in [
        ("n", START_NS, "a", "bc"),
        ("m", START_NS + MINUTE_NS, "a", "bc"),
        ("m", START_NS, "ab", "c"),
        ("m", START_NS, "a", "b"),
    ] {
        let other = key_of(&|points| {
            points.point(measurement, time_ns).tag(key, value);
        });
        assert_ne!(identity, other);
    }
}

#[test]
fn a_group_is_kept_or_dropped_as_a_whole_in_every_batch_and_process() {
    // From the reference implementation of SplitMix64, seeded with 1 and 1234567.
    assert_eq!(mix(1), 0x910a_2dec_8902_5cc1);
    assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);

    let mut points = Points::new(Category::Tracing, "f");
    for number in 0..10_000 {
        let group = number % 100 + 1;
        points.point("span", START_NS + number as i64 * MINUTE_NS).group(group);
    }
    let kept = keep_at_rate(0.5, &points);
    assert!(kept.chunks(100).all(|round| round == &kept[..100]));
    assert_eq!(kept[..100], keep_at_rate(0.5, &groups("other", 1..=100)));
    assert!(kept.contains(&true) && kept.contains(&false));
}

#[test]
fn what_a_rate_keeps_a_higher_rate_keeps_too() {
    let flows = flows(10_000, 1).next().unwrap();
    for points in [flows, groups("f", 1..=10_000)] {
        for pair in RATES.windows(2) {
            let (low, high) = (keep_at_rate(pair[0], &points), keep_at_rate(pair[1], &points));
            assert!(low.iter().zip(&high).all(|(low, high)| *high || !low), "{pair:?}");
        }
        let mut sampler = Sampler::new(Sampling::PointsPerMinute(1500.0));
        let decision = sampler.keep(&points, Instant::now());
        let rate = sampler.rate(Category::Network) + 0.005;
        assert!((0.14..0.165).contains(&rate), "{rate}");
        let high = keep_at_rate(rate, &points);
        assert!((0..points.len()).all(|index| high[index] || !decision.keeps(index)));
    }
}

#[test]
fn off_and_1_and_a_batch_below_the_target_keep_everything() {
    let mut points = groups("f", 1..=1000);
    flow(&mut points, 1, START_NS);
    for sampling in [Sampling::Off, Sampling::Rate(1.0), Sampling::PointsPerMinute(1001.0)] {
        let mut sampler = Sampler::new(sampling);
        for minute in 0..5 {
            let now = Instant::now() + MINUTE * minute;
            assert_eq!(sampler.keep(&points, now), Decision::All, "{sampling:?}");
            assert_eq!(sampler.keep(&groups("f", []), now), Decision::All);
        }
        assert!(sampler.rate(Category::Network) >= 1.0);
    }
}

#[test]
fn two_samplers_decide_the_same() {
    let start = Instant::now();
    for sampling in [Sampling::Rate(0.3), Sampling::PointsPerMinute(150.0)] {
        let (mut one, mut other) = (Sampler::new(sampling), Sampler::new(sampling));
        for (number, points) in flows(300, 100).enumerate() {
            let now = start + MINUTE / 7 * number as u32;
            assert_eq!(one.keep(&points, now), other.keep(&points, now));
        }
        let rates = [one, other].map(|sampler| sampler.rate(Category::Network).to_bits());
        assert_eq!(rates[0], rates[1]);
    }
}
