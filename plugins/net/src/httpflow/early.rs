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

    /// As [`Early::give_up`], of all whose latest piece is older than that.
    pub(super) fn expire(&mut self, before: u64) -> usize {
        let is_old = |_: &u64, pieces: &mut Vec<Waiting>| {
            pieces.last().is_none_or(|latest| latest.time_ns < before)
        };
        self.waiting.extract_if(is_old).map(|(_, pieces)| pieces.len()).sum()
    }

    /// How many wait for a request that has not come, and will not any more.
    pub(super) fn give_up(&mut self, cookie: u64) -> usize {
        self.waiting.remove(&cookie).map_or(0, |pieces| pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{Early, MOST_CONNECTIONS, MOST_PIECES};
    use crate::decode::tests::closed;
    use crate::httpflow::decode::{Kind, Part, ends};
    use bpf::net::abi;

    fn piece(cookie: u64, is_request: bool, bytes: &[u8]) -> Part<'_> {
        let abi::tcp_delta { tuple, .. } = closed();
        let owner = crate::decode::Owner { pid: 1, comm: [0; 16] };
        let (way, family) = (abi::HTTP_OUTGOING as u8, abi::FAMILY_IPV4 as u8);
        let ends = ends(&tuple, family, way, owner);
        let (len, kind) = (bytes.len() as u32, Kind::Bytes);
        Part { ends, cookie, kind, is_request, time_ns: 1, seq: 1, len, bytes }
    }

    #[test]
    fn what_came_early_comes_back_after_its_request() {
        let mut early = Early::default();
        for bytes in [b"a", b"b"] {
            assert!(early.keep(&piece(1, false, bytes)));
        }
        let mut back = Vec::new();
        early.take(&piece(2, true, b"x"), |part| back.push(part.bytes.to_vec()));
        assert!(back.is_empty());
        early.take(&piece(1, true, b"x"), |part| back.push(part.bytes.to_vec()));
        assert_eq!(back, [b"a", b"b"]);
        assert_eq!(early.give_up(1), 0);
    }

    #[test]
    fn there_is_room_for_a_few() {
        let mut early = Early::default();
        let kept = |early: &mut Early, cookie| early.keep(&piece(cookie, false, b"x"));
        let count = (0..=MOST_PIECES).filter(|_| kept(&mut early, 0)).count();
        assert_eq!(count, MOST_PIECES);
        let count = (0..=MOST_CONNECTIONS as u64).filter(|n| kept(&mut early, 1 + n)).count();
        assert_eq!(count, MOST_CONNECTIONS - 1);
        assert_eq!(early.give_up(0), MOST_PIECES);
        assert_eq!(early.expire(1), 0);
        assert_eq!(early.expire(2), MOST_CONNECTIONS - 1);
        assert!(kept(&mut early, 0));
    }
}
