//! Results as tables. In: results. Out: Markdown that can be read as plain text as well.

use std::fmt::Write as _;

use crate::results::{Cost, Results, Spread, machine, ms};

/// All tables, with a sentence before each.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = format!("{}, rounds: {}.\n", machine(), results.rounds);
    if !results.comparisons.is_empty() {
        comparisons(&mut text, results);
    }
    if !results.costs.is_empty() {
        costs(&mut text, results);
    }
    more(&mut text, results);
    losses(&mut text, results);
    text
}

fn comparisons(text: &mut String, results: &Results) {
    text.push_str("\n### Throughput with the collector, without it = 1\n\n");
    let rows = results.comparisons.iter().map(|row| {
        let Spread { median, least, most } = row.ratio();
        let per_second = |values: &[f64]| Spread::of(values.iter().copied()).median;
        vec![
            row.load.to_owned(),
            row.parts.to_owned(),
            format!("{median:.3}"),
            format!("{least:.3} to {most:.3}"),
            row.unit.to_owned(),
            format!("{:.0}", per_second(&row.off)),
            format!("{:.0}", per_second(&row.on)),
        ]
    });
    let head = ["load", "parts", "median", "least to most", "unit", "a second, off", "on"];
    table(text, &head, rows);
}

fn costs(text: &mut String, results: &Results) {
    text.push_str("\n### What one request, connection or datagram takes\n\n");
    let nothing = results.nothing_ns();
    writeln!(
        text,
        "BPF ns with `kernel.bpf_stats_enabled=1`, whose own cost is included: `nothing`, a program that looks at no packet, \
         shows {:.0} ns a run ({:.0} to {:.0}). CPU is that of the collector's own threads.\n",
        nothing.median, nothing.least, nothing.most
    )
    .expect("a string takes everything");
    let rows = results.costs.iter().map(|cost| {
        let (ns, runs, cpu) = (cost.ns(), cost.runs(), cost.cpu_us_per_1000());
        vec![
            cost.load.to_owned(),
            cost.parts.to_owned(),
            cost.unit.to_owned(),
            spread(ns),
            format!("{:.2}", runs.median),
            format!("{:.0}", (ns.median - runs.median * nothing.median).max(0.0)),
            spread(cpu),
            format!("{:.1}", cost.resident_mib().median),
        ]
    });
    let head = [
        "load",
        "parts",
        "per",
        "BPF ns",
        "BPF runs",
        "ns less `nothing`'s",
        "CPU µs per 1,000",
        "MiB resident",
    ];
    table(text, &head, rows);
    text.push_str("\nBy program:\n\n");
    table(
        text,
        &["load", "parts", "program", "runs", "ns per run", "ns"],
        results.costs.iter().flat_map(programs),
    );
}

/// Those that matter: what is below a hundredth of the sum is left out.
fn programs(cost: &Cost) -> Vec<Vec<String>> {
    let sum = cost.ns().median;
    let programs =
        cost.programs().into_iter().filter(|program| program.runs * program.ns_each > sum / 100.0);
    let row = |program: crate::results::ProgramCost| {
        vec![
            cost.load.to_owned(),
            cost.parts.to_owned(),
            format!("`{}`", program.name),
            format!("{:.3}", program.runs),
            format!("{:.0}", program.ns_each),
            format!("{:.0}", program.runs * program.ns_each),
        ]
    };
    programs.map(row).collect()
}

fn more(text: &mut String, results: &Results) {
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
    if let Some(file_use) = results.file_use {
        row(
            "BPF runs while `fio` reads and writes for as long as nothing was done before",
            format!(
                "{} for {} blocks; {} without",
                file_use.runs, file_use.blocks, file_use.idle_runs
            ),
        );
        row(
            "CPU of the collector meanwhile",
            format!("{:.1} ms; {:.1} ms without", ms(file_use.cpu_ns), ms(file_use.idle_cpu_ns)),
        );
    }
    if let Some(encoding) = results.encoding {
        row(
            "points like netflow's per second of one core: enriched, encoded, compressed",
            format!("{:.0}", encoding.encoded_per_core),
        );
        row("the same, with their uploading", format!("{:.0}", encoding.uploaded_per_core));
    }
    if let Some(starts) = &results.starts {
        let shown = |values: &[f64]| format!("{} ms", spread(Spread::of(values.iter().copied())));
        row("start of the process until its plugin runs", shown(&starts.running_ms));
        row(
            "until the first point has arrived, with a report every second",
            shown(&starts.first_point_ms),
        );
    }
    if let Some(sockets) = results.sockets {
        row(
            "busy sockets",
            format!(
                "{}: {:.1} MiB resident ({:.1} before), {:.0} ms of CPU per report ({:.1} before)",
                sockets.ends,
                sockets.resident_kib as f64 / 1024.0,
                sockets.before_kib as f64 / 1024.0,
                ms(sockets.cpu_ns_per_report),
                ms(sockets.cpu_ns_per_report_before)
            ),
        );
    }
    if !rows.is_empty() {
        text.push_str("\n### Other figures\n\n");
        table(text, &["what", "how much"], rows);
    }
}

fn losses(text: &mut String, results: &Results) {
    text.push_str("\n### What was lost\n\n");
    for cost in &results.costs {
        if let Some((done, reported)) = cost.reported() {
            let _infallible = writeln!(
                text,
                "- {}, {}: {done} exchanges done, {reported} reported by their servers' ends.",
                cost.load, cost.parts
            );
        }
    }
    if results.losses.0.is_empty() {
        text.push_str("- No counter of lost, refused or dropped things rose in any run.\n");
    }
    for (run, counters) in &results.losses.0 {
        for (counter, count) in counters {
            let _infallible = writeln!(text, "- {run}: `{counter}` {count}");
        }
    }
}

fn spread(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    format!("{median:.0} ({least:.0} to {most:.0})")
}

/// A table whose columns stand below each other.
fn table<const N: usize>(
    text: &mut String,
    head: &[&str; N],
    rows: impl IntoIterator<Item = Vec<String>>,
) {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].chars().count(), 3]).max().unwrap_or_default()
        })
        .collect();
    let mut line = |cells: &[String]| {
        for (cell, width) in cells.iter().zip(&widths) {
            let _infallible = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
    };
    line(&head.map(str::to_owned));
    line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    for row in &rows {
        line(row);
    }
}
