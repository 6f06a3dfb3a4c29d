//! Pieces of a response that are there before the request they answer: the two ends of a socket run on two CPUs, and the one
//! that hears the response may be the faster. In: such pieces. Out: the same, when the request has come. A few, and not for long.

use std::collections::HashMap;

use super::decode::{Kind, Part};

/// Connections of which some wait; far more than CPUs that can be in each other's way.
const MOST_CONNECTIONS: usize = 64;
/// Pieces of one that wait.
const MOST_PIECES: usize = 16;

#[derive(Debug)]
struct Waiting {
    time_ns: u64,
    seq: u32,
    len: u32,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: HashMap<u64, Vec<Waiting>>,
}

impl Early {
    /// Keeps a piece; false if there is no room.
    pub(super) fn keep(&mut self, part: &Part<'_>) -> bool {
        if self.waiting.len() >= MOST_CONNECTIONS && !self.waiting.contains_key(&part.cookie) {
            return false;
        }
        let pieces = self.waiting.entry(part.cookie).or_default();
        if pieces.len() >= MOST_PIECES {
            return false;
        }
        let Part { time_ns, seq, len, .. } = *part;
        pieces.push(Waiting { time_ns, seq, len, bytes: part.bytes.to_vec() });
        true
    }

    /// Gives back what has waited for this request, in the order in which it came.
    pub(super) fn take(&mut self, request: &Part<'_>, mut each: impl FnMut(&Part<'_>)) {
        let Some(pieces) = self.waiting.remove(&request.cookie) else { return };
        for Waiting { time_ns, seq, len, bytes } in pieces {
            each(&Part {
                ends: request.ends,
                cookie: request.cookie,
                kind: Kind::Bytes,
                is_request: false,
                time_ns,
                seq,
                len,
                bytes: &bytes,
            });
        }
    }

    /// How many wait for a request that has not come, and will not any more.
    pub(super) fn give_up(&mut self, cookie: u64) -> usize {
        self.waiting.remove(&cookie).map_or(0, |pieces| pieces.len())
    }
}
