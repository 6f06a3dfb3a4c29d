//! Telling DataKit why something does not work: its "last error", shown where the operator looks.
//! Apart from the upload of points, which must not wait for it.

use flume::Receiver;
use serde_json::json;
use tokio::time::sleep;
use tracing::{error, warn};

use crate::pipeline::encode::Request;
use crate::pipeline::upload::{Client, LONGEST_BACKOFF};

const TARGET: &str = "/v1/lasterror";

/// How often one report is tried; DataKit may start later than we do.
const TRIES: usize = 20;

/// Posts reports until nobody makes any more.
pub(crate) async fn run(client: Client, reports: Receiver<String>) {
    while let Ok(text) = reports.recv_async().await {
        match request(&text) {
            Ok(request) => post(&client, &request).await,
            Err(error) => error!(%error, text, "last error cannot be encoded"),
        }
    }
}

async fn post(client: &Client, request: &Request) {
    for _ in 0..TRIES {
        if client.post(request).await.is_ok() {
            return;
        }
        sleep(LONGEST_BACKOFF).await;
    }
    warn!("DataKit does not take the report of a failure");
}

fn request(text: &str) -> serde_json::Result<Request> {
    let report = json!({ "input": "ebpf", "source": "", "err_content": text });
    let body = serde_json::to_vec(&report)?.into();
    Ok(Request { target: TARGET.into(), content_type: None, is_gzip: false, body, points: 0 })
}
