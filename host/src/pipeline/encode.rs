//! Batches to HTTP requests for DataKit: at most 256 points each, as protobuf, compressed if that
//! pays. A request waits and is repeated as it was made here.

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use plugin_api::Category;
use prost::Message as _;

use crate::pipeline::wire::{Batch, PbPoints};

/// DataKit compares this string as a whole.
pub(crate) const CONTENT_TYPE: &str = "application/protobuf; proto=com.guance.Point";

/// Points in one request at most; what DataKit's own collectors send.
const POINTS_PER_REQUEST: usize = 256;

/// Larger bodies are compressed; smaller ones fit into a packet as they are.
const COMPRESSED_ABOVE_BYTES: usize = 1024;

/// A request as it will go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) target: String,
    /// Value of the header `Content-Type`, if there is one.
    pub(crate) content_type: Option<&'static str>,
    /// Whether the body is compressed, as the header `Content-Encoding` says.
    pub(crate) is_gzip: bool,
    pub(crate) body: Bytes,
    pub(crate) points: usize,
}

pub(crate) fn encode(batch: Batch, gzip: bool) -> impl Iterator<Item = Request> {
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
        let plain = PbPoints { points }.encode_to_vec();
        let compressed = if gzip { compress(&plain) } else { None };
        let is_gzip = compressed.is_some();
        Some(Request {
            target: target.clone(),
            content_type: Some(CONTENT_TYPE),
            is_gzip,
            body: compressed.unwrap_or(plain).into(),
            points: count,
        })
    })
}

impl Request {
    /// The same request for a receiver that does not know gzip.
    pub(crate) fn decompressed(&self) -> io::Result<Self> {
        let mut body = Vec::new();
        GzDecoder::new(&*self.body).read_to_end(&mut body)?;
        Ok(Self { is_gzip: false, body: body.into(), ..self.clone() })
    }
}

/// Nothing if it is better left as it is.
fn compress(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() <= COMPRESSED_ABOVE_BYTES {
        return None;
    }
    let room = Vec::with_capacity(body.len() / 4);
    let mut encoder = GzEncoder::new(room, Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().filter(|compressed| compressed.len() < body.len())
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
    use super::{compress, encode, target};
    use crate::pipeline::wire::tests::batch;
    use crate::pipeline::wire::{Batch, PbPoints};
    use plugin_api::Category;
    use prost::Message as _;

    fn requests(points: usize) -> Vec<usize> {
        let one = batch().points.remove(0);
        let batch = Batch { points: vec![one; points], ..batch() };
        encode(batch, false).map(|request| request.points).collect()
    }

    #[test]
    fn a_request_carries_at_most_256_points_and_never_none() {
        assert!(requests(0).is_empty());
        assert_eq!(requests(256), [256]);
        assert_eq!(requests(257), [256, 1]);
    }

    #[test]
    fn a_body_decodes_to_the_points_that_went_in() {
        let request = encode(batch(), true).next().unwrap();
        assert!(!request.is_gzip);
        assert_eq!(PbPoints::decode(request.body).unwrap().points, batch().points);
    }

    fn large() -> Batch {
        let one = batch().points.remove(0);
        Batch { points: vec![one; 256], ..batch() }
    }

    #[test]
    fn a_large_body_is_compressed_and_comes_back() {
        let plain = encode(large(), false).next().unwrap();
        let request = encode(large(), true).next().unwrap();
        assert!(!plain.is_gzip && request.is_gzip);
        assert!(request.body.len() < plain.body.len() / 4);
        assert_eq!(request.decompressed().unwrap(), plain);
    }

    #[test]
    fn a_body_that_would_not_get_smaller_is_left_as_it_is() {
        assert_eq!(compress(&[0; 1024]), None);
        assert!(compress(&[0; 1025]).is_some());
        let (mut state, mut random) = (1_u32, Vec::new());
        for _ in 0..10_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.push((state >> 24) as u8);
        }
        assert_eq!(compress(&random), None);
    }

    #[test]
    fn each_category_has_its_endpoint_and_the_feed_is_escaped() {
        assert_eq!(target(Category::Network, "a-b/flow"), "/v1/write/network?input=a-b%2Fflow");
        assert_eq!(target(Category::Logging, "a b"), "/v1/write/logging?input=a%20b");
        assert_eq!(target(Category::Tracing, "t"), "/v1/bpftracing?input=t");
    }
}
