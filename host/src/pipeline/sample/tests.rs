use super::*;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A minute's begin.
const START_NS: i64 = 1_761_800_040_000_000_000;

const MINUTE_NS: i64 = 60_000_000_000;

const RATES: [f64; 7] = [0.01, 0.1, 0.34, 0.5, 0.75, 0.99, 1.0];

/// Some of what the network plugin says of a flow.
fn flow(points: &mut Points, number: i64, time_ns: i64) {
    let mut point = points.point("netflow", time_ns);
    point.tag_display("src_ip", format_args!("10.0.{}.{}", number / 256 % 256, number % 256));
    point.tag("dst_ip", "10.96.0.1").tag("direction", "outgoing").tag("transport", "tcp");
    point.tag_display("src_port", 32_768 + number / 65_536);
    point.field("bytes_read", 5_i64);
}

/// One batch of `flows` per minute.
fn flows(flows: i64, minutes: i64) -> impl Iterator<Item = Points> {
    (0..minutes).map(move |minute| {
        let mut points = Points::new(Category::Network, "netflow");
        (0..flows).for_each(|number| flow(&mut points, number, START_NS + minute * MINUTE_NS));
        points
    })
}

/// A batch of one point for each group.
fn groups(feed: &'static str, groups: impl IntoIterator<Item = u64>) -> Points {
    let mut points = Points::new(Category::Network, feed);
    for group in groups {
        points.point("netflow", START_NS).group(group);
    }
    points
}

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

/// When a batch comes in seconds, of which feed, and how many points.
type Load = Vec<(f64, &'static str, usize)>;

/// A batch every second of `from..to`.
fn steady(from: u32, to: u32, points: impl Fn(u32) -> usize) -> Load {
    (from..to).map(|second| (f64::from(second), "steady", points(second))).collect()
}

/// A batch every minute.
fn bursts(minutes: u32, points: impl Fn(u32) -> usize) -> Load {
    (0..minutes).map(|minute| (f64::from(minute) * 60.0, "bursts", points(minute))).collect()
}

/// Of each batch of a load, how many points are kept.
fn run(target: f64, load: &Load) -> Vec<usize> {
    let mut sampler = Sampler::new(Sampling::PointsPerMinute(target));
    let (start, mut next) = (Instant::now(), 1);
    let keep = |(second, feed, count): &(f64, &'static str, usize)| {
        let points = groups(feed, next..next + *count as u64);
        next += *count as u64;
        count - sampler.keep(&points, start + Duration::from_secs_f64(*second)).left_out()
    };
    load.iter().map(keep).collect()
}

/// Checks that every minute that was offered the target keeps it, give or take a tenth, wherever
/// a minute begins: `phases` are the seconds after the start.
fn check(name: &str, load: &Load, phases: Range<u32>) {
    let end = load.last().unwrap().0;
    for target in [300.0, 1500.0] {
        let kept = run(target, load);
        for phase in phases.clone() {
            let mut minutes = BTreeMap::<u64, (usize, usize)>::new();
            for ((second, _, offered), kept) in load.iter().zip(&kept) {
                let since = second - f64::from(phase);
                if since >= 0.0 && second - since % 60.0 + 59.0 <= end {
                    let minute = minutes.entry((since / 60.0) as u64).or_default();
                    *minute = (minute.0 + offered, minute.1 + kept);
                }
            }
            for (minute, (offered, kept)) in minutes {
                let part = kept as f64 / target.min(offered as f64);
                let note = format!("{name} at {target}, minute {minute} from second {phase}");
                assert!((0.9..=1.1).contains(&part), "{note}: {part}");
            }
        }
    }
}

/// Minutes since the start only.
fn check_minutes(name: &str, load: &Load) {
    check(name, load, 0..1);
}

/// Minutes since the start and, once the first ones are over, any sixty seconds.
fn check_any_minute(name: &str, load: &Load) {
    check(name, load, 0..1);
    check(name, load, 600..660);
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
fn off_and_1_and_a_load_below_the_target_keep_everything() {
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
    for load in [steady(0, 600, |_| 24), steady(0, 600, |second| second as usize % 40)] {
        let offered: usize = load.iter().map(|(_, _, points)| points).sum();
        let kept: usize = run(1500.0, &load).iter().sum();
        assert_eq!(kept, offered);
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

#[test]
fn a_steady_load_is_held_to_the_target_from_the_first_minute_on() {
    check_minutes("large batches", &steady(0, 1200, |_| 2000));
    check_minutes("uneven batches", &steady(0, 1200, |second| 100 + second as usize * 7 % 300));
    let single = (0..120_000).map(|number| (f64::from(number) / 100.0, "single", 1)).collect();
    check_minutes("batches of one", &single);
}

#[test]
fn a_flush_a_minute_is_held_to_the_target_from_the_first_minute_on() {
    check_minutes("one batch", &bursts(20, |_| 100_000));
    check_minutes("little more than the target", &bursts(20, |_| 1700));
    let uneven = |(number, (second, feed, points))| {
        (second + 3.0 + f64::from(number * 7 % 11) / 6.0, feed, points)
    };
    check_minutes("unpunctual", &(0..).zip(bursts(20, |_| 20_000)).map(uneven).collect());
    let batches =
        |minute| (0..100).map(move |batch| f64::from(minute) * 60.0 + f64::from(batch) / 50.0);
    let many = (0..20).flat_map(batches).map(|second| (second, "many", 512)).collect();
    check_minutes("a hundred batches", &many);
}

#[test]
fn a_falling_load_is_held_to_the_target() {
    check_minutes("slowly", &steady(0, 1200, |second| 3000 - 2 * second as usize));
    check_minutes("at once", &steady(0, 600, |second| if second < 210 { 1500 } else { 100 }));
    check_minutes("bursts", &bursts(10, |minute| 100_000 >> (minute / 2)));
}

#[test]
fn a_rising_load_is_held_to_the_target() {
    check_minutes("slowly", &steady(0, 1200, |second| 50 + 2 * second as usize));
    check_minutes("at once", &steady(0, 600, |second| if second < 210 { 100 } else { 5000 }));
    check_minutes("bursts", &bursts(10, |minute| 2000 << (minute / 2)));
    let sawtooth = |second: u32| if second < 840 { 100 + second as usize } else { 100 };
    check_minutes("and then falling", &steady(0, 1200, sawtooth));
}

/// Points a second, all above the targets.
const LOADS: [usize; 3] = [30, 60, 600];

#[test]
fn any_sixty_seconds_hold_the_target_whatever_the_load_becomes() {
    for points in LOADS {
        let step = |from: u32, factor: usize| {
            move |second: u32| points * if second >= from { factor } else { 1 }
        };
        let down = |from: u32| move |second: u32| points * if second >= from { 1 } else { 10 };
        for at in [30, 100, 750, 945] {
            check_any_minute("step up", &steady(0, 1200, step(at, 10)));
            check_any_minute("step down", &steady(0, 1200, down(at)));
        }
        check_any_minute("steady", &steady(0, 1200, |_| points));
        check_any_minute("halves", &steady(0, 1200, |second| points.max(8000 >> (second / 60))));
        let on_off = |second: u32| if (second / 10).is_multiple_of(2) { 2 * points } else { 0 };
        check_any_minute("on and off", &steady(0, 1200, on_off));
        let peaks =
            |second: u32| if (second / 30).is_multiple_of(2) { 40 * points } else { points };
        check_any_minute("peaks", &steady(0, 1200, peaks));
        let uneven = |second: u32| points + mix(u64::from(second)) as usize % (5 * points);
        check_any_minute("uneven", &steady(0, 1200, uneven));
        for period in [2, 5, 6, 10, 20, 30] {
            let flush = |second: u32| {
                if second.is_multiple_of(period) { points * period as usize } else { 0 }
            };
            let load = steady(0, 1200, flush).into_iter().filter(|(.., n)| *n > 0).collect();
            check_any_minute(&format!("a flush in {period} s"), &load);
        }
    }
}

#[test]
fn any_sixty_seconds_hold_the_target_when_bursts_come() {
    for points in LOADS {
        let burst = |second: u32| if second % 60 < 5 { 12 * points } else { 0 };
        check_any_minute("of five seconds", &steady(0, 1200, burst));
        check_any_minute("of one batch", &bursts(20, |_| 60 * points));
        let rise = |minute| 60 * points * if minute < 5 { 1 } else { 10 };
        check_any_minute("that grow", &bursts(20, rise));
        let fall = |minute: u32| (60 * points).max(200_000 >> minute);
        check_any_minute("that halve", &bursts(20, fall));
        let batches = |minute| {
            (0..(fall(minute) / 100))
                .map(move |batch| (f64::from(minute) * 60.0 + batch as f64 / 2000.0, "f", 100))
        };
        check_any_minute("that halve, of many batches", &(0..20).flat_map(batches).collect());
    }
}

#[test]
fn any_sixty_seconds_hold_the_target_of_feeds_with_different_flushes() {
    for points in LOADS {
        for (one, other) in [(1, 10), (1, 60), (10, 60), (5, 30), (60, 60)] {
            for level in [
                |_| 1,
                |second| if second < 810 { 1 } else { 10 },
                |second| if second < 810 { 10 } else { 1 },
            ] as [fn(u32) -> usize; 3]
            {
                let flush = |period: u32, name: &'static str| {
                    steady(0, 1200, |s| {
                        if s.is_multiple_of(period) {
                            level(s) * points * period as usize
                        } else {
                            0
                        }
                    })
                    .into_iter()
                    .filter(|(.., n)| *n > 0)
                    .map(move |(second, _, n)| (second + f64::from(period) / 100.0, name, n))
                };
                let mut load: Load = flush(one, "one").chain(flush(other, "other")).collect();
                load.sort_by(|one, other| one.0.total_cmp(&other.0));
                check_any_minute(&format!("{one} s and {other} s"), &load);
            }
        }
    }
}

#[test]
fn a_load_after_silence_is_held_to_the_target() {
    let silence = |load: Load| load.iter().map(|(s, feed, n)| (s + 900.0, *feed, *n)).collect();
    let both = |load: Load| [load.clone(), silence(load)].concat();
    check_minutes("steady", &both(steady(0, 300, |_| 500)));
    check_minutes("bursts", &both(bursts(5, |_| 20_000)));
}

#[test]
fn whatever_comes_no_57_seconds_keep_more_than_a_little_above_the_target() {
    for seed in 0..100 {
        let mut state = seed << 32;
        let mut random = |below: u64| {
            state += 1;
            mix(state) % below
        };
        let target = [0.3, 1.0, 17.5, 300.0, 1500.0][random(5) as usize];
        let mut sampler = Sampler::new(Sampling::PointsPerMinute(target));
        let (start, mut millis, mut kept) = (Instant::now(), 0, Vec::new());
        for _ in 0..500 {
            let pause = [10, 1000, 10_000, 120_000][random(4) as usize];
            millis += random(pause);
            let count = [2, 20, 2000][random(3) as usize];
            let feed = ["one", "two"][random(2) as usize];
            let points = groups(feed, (0..random(count)).map(|_| random(count * 5)));
            let decision = sampler.keep(&points, start + Duration::from_millis(millis));
            kept.push((millis, points.len() - decision.left_out()));
            let window = kept.iter().filter(|(then, _)| millis - then <= 57_000);
            let sum: usize = window.map(|(_, kept)| kept).sum();
            assert!(sum as f64 <= (1.04 * target).ceil(), "{sum} of {target} with seed {seed}");
        }
    }
}

#[test]
fn no_feed_takes_the_budget_of_another() {
    let mut load = steady(0, 1800, |_| 100);
    for minute in 0..30 {
        let second = f64::from(minute) * 60.0;
        load.extend([(second + 9.1, "one", 6000), (second + 9.2, "two", 3000)]);
        load.extend([(second + 50.0, "three", 3000), (second + 50.1, "three", 3000)]);
    }
    load.sort_by(|one, other| one.0.total_cmp(&other.0));
    check_minutes("feeds", &load);
    let kept = run(1500.0, &load);
    let kept_of = |name| {
        let settled = load.iter().zip(&kept).filter(|((second, ..), _)| *second >= 900.0);
        settled.filter(|((_, feed, _), _)| *feed == name).map(|(_, kept)| kept).sum::<usize>()
    };
    for (feed, offered) in [("steady", 6000.0), ("one", 6000.0), ("two", 3000.0), ("three", 6000.0)]
    {
        let kept = kept_of(feed);
        let fair = 15.0 * 1500.0 * offered / 21_000.0;
        assert!((0.9..1.1).contains(&(kept as f64 / fair)), "{feed}: {kept}, fair is {fair}");
    }
}

#[test]
fn a_target_is_held_for_a_few_flows_that_report_every_second() {
    let mut sampler = Sampler::new(Sampling::PointsPerMinute(1500.0));
    let start = Instant::now();
    for minute in 0..10 {
        let mut kept = 0;
        for second in 0..60 {
            let mut points = Points::new(Category::Network, "f");
            for number in 0..100 {
                flow(&mut points, number % 4, START_NS + i64::from(minute) * MINUTE_NS);
            }
            let now = start + MINUTE * minute + Duration::from_secs(second);
            kept += points.len() - sampler.keep(&points, now).left_out();
        }
        assert!((1350..=1650).contains(&kept), "minute {minute}: {kept}");
    }
}

#[test]
fn a_target_cuts_only_groups_that_are_larger_than_itself() {
    let keep = |points: &Points| {
        let mut sampler = Sampler::new(Sampling::PointsPerMinute(100.0));
        sampler.keep(points, Instant::now())
    };
    let decision = keep(&groups("f", (0..1000).map(|number| number % 20 + 1)));
    for group in 0..20 {
        let first = decision.keeps(group);
        assert!((0..50).all(|round| decision.keeps(round * 20 + group) == first));
    }
    assert_eq!(decision.left_out(), 900);
    assert!((900..=905).contains(&keep(&groups("f", [7; 1000])).left_out()));
}

#[test]
fn every_category_has_a_budget_of_its_own() {
    let mut sampler = Sampler::new(Sampling::PointsPerMinute(100.0));
    let now = Instant::now();
    assert!(sampler.keep(&groups("f", 1..=1000), now).left_out() >= 895);
    let mut logs = Points::new(Category::Logging, "f");
    (0..100).for_each(|number| flow(&mut logs, number, START_NS));
    assert_eq!(sampler.keep(&logs, now), Decision::All);
    assert!(sampler.rate(Category::Logging) >= 1.0);
    assert!(sampler.rate(Category::Network) < 0.2);
}
