//! Log lines to a file that rotates, or to standard error; and standard error itself to a file,
//! so that what a panic prints is found later.

use std::fmt::Arguments;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};
use rustix::stdio::dup2_stderr;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

const ROTATE_AT_BYTES: usize = 32 * 1000 * 1000;
const ROTATED_FILES: usize = 5;

/// The way to change the level later.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sends log lines of level `filter` and above to `path`, or to standard error.
pub(crate) fn start(path: Option<&Path>, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).context("set the log level")?;
    let (filter, handle) = reload::Layer::new(filter);
    let writer = match path {
        None => BoxMakeWriter::new(io::stderr),
        Some(path) => BoxMakeWriter::new(Mutex::new(rotating(path)?)),
    };
    // A full disk must not turn into a panic of whoever had something to say.
    let lines = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    FILTER.set(handle).ok();
    Ok(())
}

/// Changes from which level on lines are written.
pub(crate) fn set_level(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).context("set the log level")?;
    FILTER.get().context("no log was started")?.reload(filter).context("set the log level")
}

fn rotating(path: &Path) -> Result<FileRotate<AppendCount>> {
    create_folder_of(path)?;
    // The crate panics where it cannot open the file, so that is tried here first.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open the log file {}", path.display()))?;
    Ok(FileRotate::new(
        path,
        AppendCount::new(ROTATED_FILES),
        ContentLimit::BytesSurpassed(ROTATE_AT_BYTES),
        Compression::None,
        None,
    ))
}

/// Appends to `path` from now on what is written to standard error.
pub(crate) fn redirect_stderr(path: &Path) -> Result<()> {
    let attempt = || format!("redirect standard error to {}", path.display());
    create_folder_of(path)?;
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(attempt)?;
    write!(
        file,
        "\n========= {} =========\n",
        humantime::format_rfc3339_seconds(SystemTime::now())
    )
    .with_context(attempt)?;
    dup2_stderr(&file).with_context(attempt)
}

/// A line on standard output. Unlike `println!`, it does not end us when nobody reads on.
pub(crate) fn say(line: Arguments<'_>) {
    writeln!(io::stdout(), "{line}").ok();
}

/// A line on standard error, likewise.
pub(crate) fn say_error(line: Arguments<'_>) {
    writeln!(io::stderr(), "{line}").ok();
}

pub(crate) fn create_folder_of(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::create_dir_all(folder)
            .with_context(|| format!("make the folder {}", folder.display())),
        _ => Ok(()),
    }
}
