//! Requests to DataKit, one after the other: kept alive, bounded in time, tried again when that
//! may help. A request whose answer was lost is sent again, so points may arrive twice, never
//! not at all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::pipeline::backlog::Backlog;
use crate::pipeline::encode::Request;
use crate::pipeline::entry::Entry;
use crate::pipeline::ledger::DropReason;
use crate::traffic::Traffic;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// The head of a request without its target, about.
const REQUEST_HEAD: usize = 200;

/// The status line of an answer, about.
const STATUS_LINE: usize = 17;

/// How often a request may be answered with an error of the server before another one is tried:
/// if that one goes through, the fault lies with the first.
const SUSPICIOUS_ANSWERS: u32 = 5;

/// How many requests are passed over in search of that other one.
const LOOK_AHEAD: usize = 64;

/// What the caller does next with a request that failed.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The server cannot be reached, or says that it is busy: try the same bytes again later.
    Away(anyhow::Error),
    /// The server failed on these bytes: try again, but perhaps it is they.
    Failing(anyhow::Error),
    /// The server will never take these bytes.
    Refused(StatusCode),
}

/// A way to one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    traffic: Arc<Traffic>,
}

impl Client {
    /// `server` is a base URL without a slash at its end. All that passes is counted in `traffic`.
    pub(crate) fn new(server: &str, traffic: Arc<Traffic>) -> Result<Self> {
        // Fails only if it was done before.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("datakit-ebpf/", env!("CARGO_PKG_VERSION")));
        if !server.starts_with("https://") {
            // Plain HTTP must not depend on certificates being installed.
            client = client.tls_certs_only([]);
        }
        let http = client.build().context("set up the HTTP client")?;
        Ok(Self { http, server: server.to_owned(), traffic })
    }

    pub(crate) async fn post(&self, request: &Request) -> Result<(), UploadError> {
        let Request { target, content_type, is_gzip, body, points: _ } = request;
        let mut post = self.http.post(format!("{}{target}", self.server)).body(body.clone());
        if let Some(content_type) = content_type {
            post = post.header(CONTENT_TYPE, *content_type);
        }
        if *is_gzip {
            post = post.header(CONTENT_ENCODING, "gzip");
        }
        // The URL is in the log line already.
        let away = |error: reqwest::Error| UploadError::Away(error.without_url().into());
        let answer = post.send().await;
        // Nothing was sent where nobody listens.
        if !answer.as_ref().is_err_and(reqwest::Error::is_connect) {
            self.traffic.count_sent(size_of(request));
        }
        let answer = answer.map_err(away)?;
        self.traffic.count_received(size_of_head(&answer));
        let status = answer.status();
        // The body is read so that the connection can be used again.
        let text = answer.text().await.map_err(away)?;
        self.traffic.count_received(text.len());
        match status {
            // DataKit answers 200; something in between may say it in another way.
            _ if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE => {
                Err(UploadError::Away(anyhow!("{status}: {text}")))
            }
            _ if status.is_redirection() => {
                Err(UploadError::Away(anyhow!("{status}: this is not DataKit's address")))
            }
            _ if status.is_server_error() => Err(UploadError::Failing(anyhow!("{status}: {text}"))),
            _ => Err(UploadError::Refused(status)),
        }
    }
}

/// What it takes on the wire, about.
fn size_of(request: &Request) -> usize {
    REQUEST_HEAD + request.target.len() + request.body.len()
}

fn size_of_head(answer: &Response) -> usize {
    // ": " and a line's end.
    let lines = answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    STATUS_LINE + lines.sum::<usize>() + 2
}

/// Empties the backlog into a server.
pub(crate) struct Uploader {
    client: Client,
    backlog: Arc<Backlog>,
    /// Becomes true when the process is about to end.
    ending: watch::Receiver<bool>,
    /// Whether it was said that the server does not know gzip.
    told_of_gzip: bool,
    /// Where the server fails although it takes other things.
    failing_target: Option<String>,
}

impl Uploader {
    pub(crate) fn new(
        client: Client,
        backlog: Arc<Backlog>,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Self { client, backlog, ending, told_of_gzip: false, failing_target: None }
    }

    /// Uploads until the backlog is closed and empty. What it holds in memory when it is cancelled
    /// is entered as lost in the shutdown.
    pub(crate) async fn run(mut self) {
        while let Some(entry) = self.backlog.pop().await {
            let bytes = size_of(&entry.request) as u64;
            self.deliver(entry).await;
            self.rest_after(bytes).await;
        }
    }

    /// Waits if uploads are held back, except at the end. What waits meanwhile is in the backlog.
    async fn rest_after(&mut self, bytes: u64) {
        if let Some(pause) = self.client.traffic.pause_after(bytes) {
            timeout(pause, self.ending.wait_for(|ending| *ending)).await.ok();
        }
    }

    async fn deliver(&mut self, mut entry: Entry) {
        let server = self.client.server.clone();
        let mut backoff = FIRST_BACKOFF;
        let (mut failures, mut suspicion) = (0_u32, 0);
        loop {
            let error = match self.client.post(&entry.request).await {
                Ok(()) => {
                    if self.failing_target.as_ref() == Some(&entry.request.target) {
                        self.failing_target = None;
                    }
                    if failures > 0 {
                        info!(failures, server, "the receiver is back");
                    }
                    return entry.uploaded();
                }
                Err(UploadError::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE))
                    if self.can_do_without_gzip(&mut entry.request) =>
                {
                    continue;
                }
                Err(UploadError::Refused(status)) => return refuse(entry, &status.to_string()),
                Err(UploadError::Away(error)) => error,
                Err(UploadError::Failing(error)) => {
                    suspicion += 1;
                    let is_known = self.failing_target.as_ref() == Some(&entry.request.target);
                    if is_known || suspicion % SUSPICIOUS_ANSWERS == 0 {
                        entry.keep_in_memory();
                        if self.another_one_works(&entry.request.target).await {
                            self.failing_target = Some(entry.request.target.clone());
                            return refuse(entry, &error.to_string());
                        }
                    }
                    error
                }
            };
            // Said once per outage.
            if failures == 0 {
                let error = format!("{error:#}");
                warn!(error, server, "upload failed, trying again until it works");
            }
            failures += 1;
            backoff = self.wait(backoff).await;
        }
    }

    /// Takes the compression off a request, if it has one.
    fn can_do_without_gzip(&mut self, request: &mut Request) -> bool {
        let Some(plain) = request.is_gzip.then(|| request.decompressed().ok()).flatten() else {
            return false;
        };
        if !self.told_of_gzip {
            self.told_of_gzip = true;
            let server = &self.client.server;
            warn!(server, "the receiver does not take gzip, sending again without; --gzip=false");
        }
        *request = plain;
        true
    }

    /// Whether the server takes something else than a request to `target`, on which it fails. What
    /// goes elsewhere tells more; on disk only the next request can be had.
    async fn another_one_works(&self, target: &str) -> bool {
        let mut passed_over = Vec::new();
        let mut candidate = None;
        while let Some(next) = self.backlog.try_pop() {
            let tells_enough = next.is_on_disk() || next.request.target != target;
            if tells_enough || passed_over.len() == LOOK_AHEAD {
                candidate = Some(next);
                break;
            }
            passed_over.push(next);
        }
        let candidate = candidate.or_else(|| passed_over.pop());
        let works = match candidate {
            Some(candidate) => self.works(candidate).await,
            None => false,
        };
        for entry in passed_over.into_iter().rev() {
            self.backlog.put_back(entry);
        }
        works
    }

    async fn works(&self, entry: Entry) -> bool {
        match self.client.post(&entry.request).await {
            Ok(()) => entry.uploaded(),
            Err(UploadError::Refused(status)) => refuse(entry, &status.to_string()),
            Err(UploadError::Away(_) | UploadError::Failing(_)) => {
                self.backlog.put_back(entry);
                return false;
            }
        }
        true
    }

    /// Waits, less patiently at the end, and returns how long to wait the next time.
    async fn wait(&mut self, backoff: Duration) -> Duration {
        if *self.ending.borrow() {
            sleep(FIRST_BACKOFF).await;
            return FIRST_BACKOFF;
        }
        let ends = timeout(backoff, self.ending.wait_for(|ending| *ending)).await.is_ok();
        if ends { FIRST_BACKOFF } else { (backoff * 2).min(LONGEST_BACKOFF) }
    }
}

fn refuse(entry: Entry, answer: &str) {
    let Request { target, points, .. } = &entry.request;
    warn!(answer, points, target, "points dropped: the receiver does not take them");
    entry.dropped(DropReason::Rejected);
}
