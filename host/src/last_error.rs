//! Telling DataKit why something does not work: its "last error", shown where the operator looks.

use std::sync::Arc;

use serde_json::json;
use tracing::error;

use crate::pipeline::encode::Request;
use crate::pipeline::ledger::Account;
use crate::pipeline::queue::{Entry, Queue};

const TARGET: &str = "/v1/lasterror";

/// Puts a report into the upload queue; it carries no points.
pub(crate) fn report(queue: &Queue, text: &str) {
    let body = json!({ "input": "ebpf", "source": "", "err_content": text });
    match serde_json::to_vec(&body) {
        Ok(body) => {
            let request =
                Request { target: TARGET.into(), content_type: None, body: body.into(), points: 0 };
            queue.push(Entry::new(request, Arc::<Account>::default()));
        }
        Err(error) => error!(%error, text, "last error cannot be encoded"),
    }
}
