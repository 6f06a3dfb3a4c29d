//! The same load without a collector and with one, in turn. In: how many rounds, or how long. Out: for each load and each set of
//! parts, how much was done in a second, round by round.

use std::time::{Duration, Instant};

use crate::loads::{
    BULK, Done, FILES, HTTPS, Load, NGINX, REDIS, SHORT, Servers, UDP_ASK, UDP_STREAM,
};
use crate::results::{Comparison, Losses};
use crate::subject::{HTTP, NETFLOW, Parts, Reports, Subject, TLS};

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
            let done = one_round(servers, load, variants, losses);
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

/// What was done in a second without a collector, and with each. All run once in order and once backwards, so that a machine that
/// becomes slower or faster meanwhile does so for all of them.
fn one_round(servers: &Servers, load: &Load, variants: &[Parts], losses: &mut Losses) -> Vec<f64> {
    let mut order: Vec<Option<Parts>> = vec![None];
    order.extend(variants.iter().copied().map(Some));
    let mut run = |parts: &Option<Parts>| {
        let Some(parts) = parts else { return (load.run)(servers) };
        let subject = Subject::start(*parts, Reports::Seldom);
        let done = (load.run)(servers);
        losses.add(&format!("{}, {}", load.key, parts.name), subject.finish().losses);
        done
    };
    let there: Vec<Done> = order.iter().map(&mut run).collect();
    let mut back: Vec<Done> = order.iter().rev().map(&mut run).collect();
    back.reverse();
    there.into_iter().zip(back).map(|(one, other)| one.and(other).per_second()).collect()
}
