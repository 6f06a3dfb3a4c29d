//! Points for people: a table that refreshes in place on a terminal, lines when piped.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use plugin_api::Category;
use rustix::termios::tcgetwinsize;

use crate::output::table::{Row, RowKey, Table, is_conversation};
use crate::output::{Sink, line_protocol};
use crate::pipeline::wire::Batch;
use crate::telemetry::log::say;

/// Where the terminal does not tell its size.
const DEFAULT_SIZE: (usize, usize) = (24, 120);

const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) struct Console {
    is_terminal: bool,
    table: Table,
    /// Time stamp of the report that is being added to the table.
    report_ns: i64,
    has_news: bool,
}

impl Console {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        if is_terminal {
            say(format_args!("datakit-ebpf: waiting for traffic"));
        }
        Self { is_terminal, table: Table::default(), report_ns: 0, has_news: false }
    }

    fn draw(&mut self) -> io::Result<()> {
        let (height, width) = size();
        let now = Instant::now();
        let rows = self.table.sorted(now);
        let mut screen = String::from(CLEAR);
        let count = rows.len();
        push_line(
            &mut screen,
            width,
            &format!(
                "datakit-ebpf: {count} conversations in the last minute, busiest first; Ctrl-C ends"
            ),
        );
        push_line(&mut screen, width, &header());
        // One line stays free for the cursor.
        for (key, row) in rows.into_iter().take(height.saturating_sub(3)) {
            push_line(&mut screen, width, &line(key, row));
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(screen.as_bytes())?;
        stdout.flush()
    }
}

impl Sink for Console {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut text = String::new();
        for point in &batch.points {
            let is_network = batch.category == Category::Network;
            let is_row = is_network && is_conversation(point);
            if is_row && self.is_terminal {
                if point.time_ns != self.report_ns {
                    self.report_ns = point.time_ns;
                    self.table.age();
                }
                self.table.add(point, Instant::now());
                self.has_news = true;
            } else if is_row {
                let mut one = Table::default();
                one.add(point, Instant::now());
                for (key, row) in one.sorted(Instant::now()) {
                    text.extend(line(key, row).chars().map(printable));
                    text.push('\n');
                }
            } else if !is_network || !self.is_terminal {
                let mut line = String::new();
                line_protocol::write(&mut line, point);
                text.extend(line.chars().map(printable));
                text.push('\n');
            }
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn tick(&mut self) -> io::Result<()> {
        if self.is_terminal && std::mem::take(&mut self.has_news) {
            self.draw()?;
        }
        Ok(())
    }
}

fn header() -> String {
    format!(
        "{:<16} {:>8} {:<5} {:<24}    {:<24} {:>10} {:>10} {:>8} {:>7} {:>7}",
        "PROCESS",
        "PID",
        "PROTO",
        "LOCAL",
        "REMOTE",
        "SENT",
        "RECEIVED",
        "RTT",
        "OPENED",
        "RETRANS"
    )
}

fn line(key: &RowKey, row: &Row) -> String {
    let RowKey { process, pid, transport, is_incoming, local, remote } = key;
    let arrow = if *is_incoming { "<-" } else { "->" };
    let (sent, received) = (bytes(row.sent), bytes(row.received));
    let rtt = match row.rtt_us {
        0 => "-".into(),
        us @ 1..1000 => format!("{us} µs"),
        us => format!("{:.1} ms", us as f64 / 1000.0),
    };
    format!(
        "{process:<16} {pid:>8} {transport:<5} {local:<24} {arrow} {remote:<24} {sent:>10} {received:>10} {rtt:>8} {:>7} {:>7}",
        row.opened, row.retransmits
    )
}

/// A count of bytes with three digits and a binary unit.
pub(crate) fn bytes(count: i64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
    loop {
        let unit = units.next().unwrap_or("PiB");
        if value < 1000.0 || units.peek().is_none() {
            let digits = usize::from(!(unit == "B" || value >= 100.0));
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
}

/// Names come from outside, so what would steer the terminal is replaced.
fn printable(character: char) -> char {
    if character.is_control() { '?' } else { character }
}

/// Cuts at the terminal's edge: a wrapped line would push the table off the screen.
fn push_line(screen: &mut String, width: usize, line: &str) {
    screen.extend(line.chars().take(width).map(printable));
    screen.write_str("\r\n").unwrap_or_default();
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        }
        _ => DEFAULT_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, push_line};

    #[test]
    fn byte_counts_are_short() {
        let shown = [0, 999, 1000, 1024 * 1024, 52_428_800, 3 << 40].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 KiB", "1.0 MiB", "50.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn a_process_name_cannot_steer_the_terminal() {
        let mut screen = String::new();
        push_line(&mut screen, 5, "a\x1b[2Jbcd");
        assert_eq!(screen, "a?[2J\r\n");
    }
}
