//! Requests to DataKit, one after the other: kept alive, bounded in time, tried again when that
//! may help. A request whose answer was lost is sent again, so points may arrive twice, never
//! not at all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::pipeline::encode::Request;
use crate::pipeline::ledger::DropReason;
use crate::pipeline::queue::{Entry, Queue};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// What the caller does next with a request that failed.
#[derive(Debug)]
enum UploadError {
    /// Try the same bytes again later.
    Retry(anyhow::Error),
    /// The server will never take these bytes.
    Drop(StatusCode),
}

pub(crate) struct Uploader {
    client: Client,
    server: String,
    queue: Arc<Queue>,
    /// Becomes true when the process is about to end.
    ending: watch::Receiver<bool>,
}

impl Uploader {
    /// `server` is a base URL without a slash at its end.
    pub(crate) fn new(
        server: &str,
        queue: Arc<Queue>,
        ending: watch::Receiver<bool>,
    ) -> Result<Self> {
        // Fails only if it was done before.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut client = Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("datakit-ebpf/", env!("CARGO_PKG_VERSION")));
        if !server.starts_with("https://") {
            // Plain HTTP must not depend on certificates being installed.
            client = client.tls_certs_only([]);
        }
        let client = client.build().context("set up the HTTP client")?;
        Ok(Self { client, server: server.to_owned(), queue, ending })
    }

    /// Uploads until the queue is closed and empty. What it holds when it is cancelled is entered
    /// as lost in the shutdown.
    pub(crate) async fn run(self) {
        while let Some(entry) = self.queue.pop().await {
            self.deliver(entry).await;
        }
    }

    async fn deliver(&self, entry: Entry) {
        let Self { server, .. } = self;
        let points = entry.request.points;
        let mut ending = self.ending.clone();
        let mut backoff = FIRST_BACKOFF;
        let mut failures = 0_u32;
        loop {
            match self.post(&entry.request).await {
                Ok(()) => {
                    if failures > 0 {
                        info!(failures, server, "the receiver is back");
                    }
                    return entry.uploaded();
                }
                Err(UploadError::Drop(status)) => {
                    let target = &entry.request.target;
                    warn!(%status, points, target, "points dropped: the receiver refuses them");
                    return entry.dropped(DropReason::Rejected);
                }
                Err(UploadError::Retry(error)) => {
                    // Said once per outage.
                    if failures == 0 {
                        let error = format!("{error:#}");
                        warn!(error, server, "upload failed, trying again until it works");
                    }
                    failures += 1;
                }
            }
            if *ending.borrow() {
                sleep(FIRST_BACKOFF).await;
            } else {
                // The end is no time for patience; a lost sender means the end.
                let ends = tokio::time::timeout(backoff, ending.wait_for(|ending| *ending));
                backoff = if ends.await.is_ok() { FIRST_BACKOFF } else { backoff * 2 };
                backoff = backoff.min(LONGEST_BACKOFF);
            }
        }
    }

    async fn post(&self, request: &Request) -> Result<(), UploadError> {
        let Request { target, content_type, body, points: _ } = request;
        let mut post = self.client.post(format!("{}{target}", self.server)).body(body.clone());
        if let Some(content_type) = content_type {
            post = post.header(CONTENT_TYPE, *content_type);
        }
        let answer = post.send().await.map_err(retry)?;
        let status = answer.status();
        // The body is read so that the connection can be used again.
        let text = answer.text().await.map_err(retry)?;
        match status {
            // DataKit answers 200; something in between may say it in another way.
            _ if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(UploadError::Retry(anyhow!("{status}: {text}")))
            }
            _ if status.is_server_error() => Err(UploadError::Retry(anyhow!("{status}: {text}"))),
            _ => Err(UploadError::Drop(status)),
        }
    }
}

fn retry(error: reqwest::Error) -> UploadError {
    // The URL is in the log line already.
    UploadError::Retry(error.without_url().into())
}
