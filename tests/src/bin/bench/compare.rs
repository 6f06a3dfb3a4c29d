//! The same load without a collector and with one, in turn. In: how many rounds, or how long. Out: for each load and each set of
//! parts, how much was done in a second, round by round.

use std::time::{Duration, Instant};

use crate::loads::{BULK, FILES, HTTPS, Load, NGINX, REDIS, SHORT, Servers, UDP_ASK, UDP_STREAM};
use crate::results::{Comparison, Losses};
use crate::subject::{HTTP, NETFLOW, Parts, Reports, Subject, TLS};

/// How long each load runs: many short rounds say more than a few long ones, as the machine's speed differs from second to second.
const LENGTH: Duration = Duration::from_secs(1);

/// Loads, and the collectors that they are run with.
const ROWS: [(&Load, &[Parts]); 8] = [
    (&NGINX, &[NETFLOW, HTTP, TLS]),
    (&HTTPS, &[TLS]),
    (&REDIS, &[HTTP]),
    (&BULK, &[HTTP]),
    (&SHORT, &[HTTP]),
    (&UDP_STREAM, &[HTTP]),
    (&UDP_ASK, &[HTTP]),
    (&FILES, &[HTTP]),
];

pub(crate) fn compare(
    servers: &Servers,
    rounds: usize,
    at_most: Duration,
    only: &str,
    losses: &mut Losses,
) -> Vec<Comparison> {
    let rows: Vec<_> =
        ROWS.into_iter().filter(|(load, _)| only.is_empty() || only == load.key).collect();
    let mut comparisons: Vec<Comparison> = rows
        .iter()
        .flat_map(|(load, variants)| variants.iter().map(|parts| Comparison::new(load, *parts)))
        .collect();
    let start = Instant::now();
    for round in 0..rounds {
        let round_began = Instant::now();
        for (load, variants) in &rows {
            let done = one_round(servers, load, variants, round % 2 == 1, losses);
            let without = done[0];
            for (parts, with) in variants.iter().zip(&done[1..]) {
                let this = |row: &&mut Comparison| row.key == load.key && row.parts == parts.name;
                let row = comparisons.iter_mut().find(this).expect("there is a row for each");
                row.off.push(without);
                row.on.push(*with);
                eprintln!(
                    "round {} of {rounds}: {}, {}: {without:.0} per s ({}) without, {with:.0} with: {:.3}",
                    round + 1,
                    load.name,
                    parts.name,
                    load.unit,
                    with / without
                );
            }
        }
        if start.elapsed() + round_began.elapsed() > at_most {
            break;
        }
    }
    comparisons
}

/// What was done in a second without a collector, and with each. Rounds have opposite orders in turn, so that a machine that becomes
/// slower or faster meanwhile does so for all of them.
fn one_round(
    servers: &Servers,
    load: &Load,
    variants: &[Parts],
    is_backwards: bool,
    losses: &mut Losses,
) -> Vec<f64> {
    let mut order: Vec<Option<Parts>> = vec![None];
    order.extend(variants.iter().copied().map(Some));
    let mut run = |parts: &Option<Parts>| {
        let Some(parts) = parts else { return (load.run)(servers, LENGTH).per_second() };
        let subject = Subject::start(*parts, Reports::Seldom);
        let done = (load.run)(servers, LENGTH);
        losses.add(&format!("{}, {}", load.key, parts.name), subject.finish().losses);
        done.per_second()
    };
    if !is_backwards {
        return order.iter().map(run).collect();
    }
    let mut done: Vec<f64> = order.iter().rev().map(&mut run).collect();
    done.reverse();
    done
}
