//! What the collector costs. In: `ROUNDS`, and `ONLY` for one part of it, both from the environment. Out: tables on the terminal, and
//! in a folder `performance.json`, `performance.svg` and `performance.md`; if everything was measured, the chart, the JSON and the tables
//! of docs/performance.md too.
//!
//! | module | what it does |
//! | --- | --- |
//! | `loads` | what a host can be busy with |
//! | `subject` | the collector, set up as wanted |
//! | `compare` | loads without and with it, in turn |
//! | `costs` | what its BPF programs and threads take |
//! | `capacity` | encoding, start, many connections |
//! | `results`, `tables`, `chart` | medians, JSON, Markdown, SVG |

mod capacity;
mod chart;
mod compare;
mod costs;
mod loads;
mod results;
mod subject;
mod tables;

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use loads::Servers;
use results::Results;

/// So many that the median of another sixteen is hardly ever beyond the least and the most of these.
const ROUNDS: usize = 16;

/// A start takes more than a second until the first point has come, and differs little.
const STARTS: usize = 5;

/// How long loads are compared if nobody says how often, so that all of it takes less than ten minutes on a slow machine too.
const COMPARISONS_AT_MOST: Duration = Duration::from_mins(6);

/// Where the tables stand in docs/performance.md.
const BEGIN: &str = "<!-- figures of `make bench`: begin -->\n";
const END: &str = "<!-- figures of `make bench`: end -->\n";
const CHART: &str = "![Throughput with the collector, without it = 1](performance.svg)";

fn main() -> ExitCode {
    let setting = |name: &str| env::var(name).unwrap_or_default();
    let only = setting("ONLY");
    let (rounds, at_most) = match setting("ROUNDS").as_str() {
        "" => (ROUNDS, COMPARISONS_AT_MOST),
        text => match text.parse() {
            Ok(rounds) if rounds > 0 => (rounds, Duration::MAX),
            _ => {
                eprintln!("ROUNDS is a number above 0, not {text}");
                return ExitCode::FAILURE;
            }
        },
    };
    let start = Instant::now();
    let results = measure(rounds, at_most, &only);
    if results.is_empty() {
        eprintln!("there is nothing called {only}; docs/performance.md has the names");
        return ExitCode::FAILURE;
    }
    let tables = tables::markdown(&results);
    println!("{tables}\n{:.0} s", start.elapsed().as_secs_f64());
    let folder = system_tests::plugins::target_folder().join("bench");
    fs::create_dir_all(&folder).expect("the folder can be made");
    write(&results, &folder);
    put(&folder.join("performance.md"), &tables);
    if only.is_empty() {
        let docs = system_tests::workspace().join("docs");
        write(&results, &docs);
        write_page(&docs.join("performance.md"), &tables);
    }
    ExitCode::SUCCESS
}

fn measure(rounds: usize, at_most: Duration, only: &str) -> Results {
    let wanted = |part: &str| only.is_empty() || only == part;
    let servers = Servers::default();
    servers.prepare();
    let mut results = Results { rounds, ..Results::default() };
    let mut losses = results::Losses::default();
    results.comparisons = compare::compare(&servers, rounds, at_most, only, &mut losses);
    if let Some(row) = results.comparisons.first() {
        results.rounds = row.off.len();
    }
    results.costs = costs::costs(&servers, rounds, only, &mut losses);
    results.file_use = (wanted("files") || only == "costs").then(|| costs::files(&servers));
    results.encoding = wanted("encoding").then(capacity::encoding);
    results.starts = wanted("start").then(|| capacity::starts(rounds.min(STARTS)));
    results.sockets = wanted("sockets").then(capacity::sockets);
    results.losses = losses;
    results
}

fn write(results: &Results, folder: &Path) {
    let json = serde_json::to_string_pretty(&results.json()).expect("numbers and text are JSON");
    put(&folder.join("performance.json"), &(json + "\n"));
    if !results.comparisons.is_empty() {
        let caption = format!("{}, rounds: {}", results::machine(), results.rounds);
        put(&folder.join("performance.svg"), &chart::svg(&results.comparisons, &caption));
    }
}

/// Puts the chart and the tables between the marks.
fn write_page(path: &Path, tables: &str) {
    let page = fs::read_to_string(path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page has a mark");
    let (_, after) = rest.split_once(END).expect("the page has a second mark");
    put(path, &format!("{before}{BEGIN}\n{CHART}\n\n{tables}\n{END}{after}"));
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("written: {}", path.display());
}
