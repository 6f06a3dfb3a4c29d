//! Profiles of this process under `/debug/pprof/`, in the form that `go tool pprof` and speedscope
//! read. In: a request. Out: a gzip'ed profile, or a sentence. Costs nothing while nobody asks.

use std::fs;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

mod code;
mod cpu;
mod format;
mod heap;

use code::Name;
use format::{Builder, Kind};

const SECONDS: std::ops::RangeInclusive<u64> = 1..=120;
const DEFAULT_SECONDS: u64 = 30;

const INDEX: &str = "\
profiles of this collector, host and plugins, as `go tool pprof` and speedscope read them

/debug/pprof/profile?seconds=30  CPU time of all threads, 1 to 120 seconds
/debug/pprof/heap                memory in use
/debug/pprof/allocs              the same
/debug/pprof/threadcreate        the threads
/debug/pprof/goroutine           the threads
/debug/pprof/block               empty: not measured
/debug/pprof/mutex               empty: not measured
/debug/pprof/cmdline             the command line
/debug/pprof/symbol              nothing to look up: profiles have names
/debug/pprof/trace               404: there is none
";

/// At most one CPU profile at a time.
#[derive(Clone)]
struct Cpu(Arc<Semaphore>);

/// What a request may ask for.
#[derive(Deserialize)]
struct Wish {
    seconds: Option<String>,
    /// What DataKit's bug report says instead.
    duration: Option<String>,
}

/// The paths.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/debug/pprof", get(index))
        .route("/debug/pprof/", get(index))
        .route("/debug/pprof/profile", get(cpu))
        .route("/debug/pprof/cmdline", get(command_line))
        .route("/debug/pprof/symbol", get(symbol).post(symbol))
        .route("/debug/pprof/{profile}", get(other))
        .with_state(Cpu(Arc::new(Semaphore::new(1))))
}

async fn index() -> Response {
    text(StatusCode::OK, INDEX)
}

async fn cpu(State(Cpu(one)): State<Cpu>, Query(wish): Query<Wish>) -> Response {
    let seconds = match seconds(&wish) {
        Ok(seconds) => seconds,
        Err(sentence) => return text(StatusCode::BAD_REQUEST, sentence),
    };
    let Ok(permit) = one.try_acquire_owned() else {
        let sentence = "another CPU profile is being taken: ask again when it is done\n";
        return text(StatusCode::CONFLICT, sentence);
    };
    // Dropped with the request, which ends the profile of a client that has gone.
    let (_wants, wanted) = mpsc::channel();
    let recorded = spawn_blocking(move || {
        let profile = cpu::record(Duration::from_secs(seconds), &wanted);
        drop(permit);
        profile
    });
    profile("profile", recorded.await.context("take the profile").flatten())
}

async fn other(Path(name): Path<String>) -> Response {
    match name.as_str() {
        "goroutine" | "threadcreate" => profile(&name, threads(&name)),
        "heap" | "allocs" => {
            profile(&name, spawn_blocking(heap::take).await.context("take the profile").flatten())
        }
        "block" | "mutex" => profile(&name, nothing()),
        "trace" => text(StatusCode::NOT_FOUND, "no trace: this collector is not a Go program\n"),
        _ => text(StatusCode::NOT_FOUND, format!("no profile {name}: see /debug/pprof/\n")),
    }
}

async fn command_line() -> Response {
    text(StatusCode::OK, fs::read_to_string("/proc/self/cmdline").unwrap_or_default())
}

async fn symbol() -> Response {
    text(StatusCode::OK, "num_symbols: 0\n")
}

/// The threads, each as a stack of its name.
fn threads(kind: &str) -> anyhow::Result<Vec<u8>> {
    let kind = (kind, "count");
    let mut profile = Builder::new(&[kind], (kind, 1));
    for thread in fs::read_dir("/proc/self/task").context("list the threads")?.flatten() {
        if let Ok(name) = fs::read_to_string(thread.path().join("comm")) {
            let location = profile.location(0, 0, &Name::plain(name.trim_end()));
            profile.sample(vec![location], vec![1], &[]);
        }
    }
    profile.finish().context("write the profile")
}

/// What Go programs tell about waiting.
fn nothing() -> anyhow::Result<Vec<u8>> {
    const CONTENTIONS: Kind<'_> = ("contentions", "count");
    let mut profile = Builder::new(&[CONTENTIONS, ("delay", "nanoseconds")], (CONTENTIONS, 1));
    profile.comment("empty: this collector does not measure waiting");
    profile.finish().context("write the profile")
}

fn seconds(wish: &Wish) -> Result<u64, String> {
    let Some(written) = wish.seconds.as_ref().or(wish.duration.as_ref()) else {
        return Ok(DEFAULT_SECONDS);
    };
    let seconds = written.parse().ok().filter(|seconds| SECONDS.contains(seconds));
    let (least, most) = (SECONDS.start(), SECONDS.end());
    seconds.ok_or_else(|| format!("seconds={written:?}: say a number from {least} to {most}\n"))
}

fn profile(name: &str, profile: anyhow::Result<Vec<u8>>) -> Response {
    match profile {
        Ok(bytes) => {
            let file = format!("attachment; filename=\"{name}.pb.gz\"");
            let kind = "application/octet-stream".to_owned();
            ([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, file)], bytes).into_response()
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
    }
}

fn text(status: StatusCode, text: impl Into<String>) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
    (status, kind, text.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_bounded() {
        let ask = |text: &str| seconds(&Wish { seconds: Some(text.to_owned()), duration: None });
        assert_eq!(ask("1"), Ok(1));
        assert_eq!(ask("120"), Ok(120));
        for wrong in ["0", "121", "-1", "1.5", "a", ""] {
            let sentence = ask(wrong).expect_err(wrong);
            assert!(sentence.contains("from 1 to 120"), "{sentence}");
        }
        assert_eq!(seconds(&Wish { seconds: None, duration: None }), Ok(30));
        assert_eq!(seconds(&Wish { seconds: None, duration: Some("5".to_owned()) }), Ok(5));
    }
}
