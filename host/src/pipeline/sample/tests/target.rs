//! A number of points per minute is kept, however the load changes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;

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
fn a_load_below_the_target_is_kept_whole() {
    for load in [steady(0, 600, |_| 24), steady(0, 600, |second| second as usize % 40)] {
        let offered: usize = load.iter().map(|(_, _, points)| points).sum();
        let kept: usize = run(1500.0, &load).iter().sum();
        assert_eq!(kept, offered);
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
