//! Batches to HTTP requests for DataKit: at most 256 points each, as protobuf.

use bytes::Bytes;
use plugin_api::Category;
use prost::Message as _;

use crate::pipeline::wire::{Batch, PbPoints};

/// DataKit compares this string as a whole.
pub(crate) const CONTENT_TYPE: &str = "application/protobuf; proto=com.guance.Point";

/// Points in one request at most; what DataKit's own collectors send.
const POINTS_PER_REQUEST: usize = 256;

/// A request as it will go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) target: String,
    /// Value of the header `Content-Type`, if there is one.
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Bytes,
    pub(crate) points: usize,
}

pub(crate) fn encode(batch: Batch) -> impl Iterator<Item = Request> {
    let Batch { category, feed, points } = batch;
    let target = target(category, feed);
    let mut rest = points;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let later = rest.split_off(rest.len().min(POINTS_PER_REQUEST));
        let points = std::mem::replace(&mut rest, later);
        let count = points.len();
        let body = PbPoints { points }.encode_to_vec();
        Some(Request {
            target: target.clone(),
            content_type: Some(CONTENT_TYPE),
            body: body.into(),
            points: count,
        })
    })
}

fn target(category: Category, feed: &str) -> String {
    let path = match category {
        Category::Network => "/v1/write/network",
        Category::Logging => "/v1/write/logging",
        Category::Tracing => "/v1/bpftracing",
    };
    let mut target = format!("{path}?input=");
    for byte in feed.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Two hexadecimal digits, as RFC 3986 has it.
            target.extend(['%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    target
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or('0').to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::{encode, target};
    use crate::pipeline::wire::tests::batch;
    use crate::pipeline::wire::{Batch, PbPoints};
    use plugin_api::Category;
    use prost::Message as _;

    fn requests(points: usize) -> Vec<usize> {
        let one = batch().points.remove(0);
        let batch = Batch { points: vec![one; points], ..batch() };
        encode(batch).map(|request| request.points).collect()
    }

    #[test]
    fn a_request_carries_at_most_256_points_and_never_none() {
        assert!(requests(0).is_empty());
        assert_eq!(requests(256), [256]);
        assert_eq!(requests(257), [256, 1]);
    }

    #[test]
    fn a_body_decodes_to_the_points_that_went_in() {
        let request = encode(batch()).next().unwrap();
        assert_eq!(PbPoints::decode(request.body).unwrap().points, batch().points);
    }

    #[test]
    fn each_category_has_its_endpoint_and_the_feed_is_escaped() {
        assert_eq!(target(Category::Network, "a-b/flow"), "/v1/write/network?input=a-b%2Fflow");
        assert_eq!(target(Category::Logging, "a b"), "/v1/write/logging?input=a%20b");
        assert_eq!(target(Category::Tracing, "t"), "/v1/bpftracing?input=t");
    }
}
