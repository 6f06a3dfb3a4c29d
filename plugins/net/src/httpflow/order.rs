//! The pieces of one direction in the order of their stream. In: pieces as packets arrive, some of
//! them before the one that they follow. Out: the same, those held until then. It puts nothing
//! together, and a piece that comes twice goes out twice.

use std::collections::BTreeMap;

use plugin_proto::piece::Piece;

/// Pieces that one direction holds; as many as a lost packet in a window of some MiB makes wait.
const MOST_PIECES: usize = 1024;
/// Bytes that all directions hold.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// What is missing for so long, in nanoseconds, does not come any more.
const PATIENCE_NS: u64 = 3_000_000_000;

/// What all directions hold together.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: usize,
}

/// A piece that waits.
#[derive(Debug)]
pub(super) struct Held {
    position: u64,
    bytes: Vec<u8>,
    len: u64,
    time: u64,
}

impl Held {
    pub(super) fn piece(&self) -> Piece<'_> {
        let Self { position, bytes, len, time } = self;
        Piece { position: *position, bytes, len: *len, time: *time }
    }
}

#[derive(Debug, Default)]
pub(super) struct Order {
    /// Where the next piece begins; `None` before the first one.
    next: Option<u64>,
    held: BTreeMap<u64, Held>,
    /// When the first of them was put there.
    since: u64,
}

impl Order {
    /// Keeps a piece that is ahead of what is missing, if there is room. False: it is to go out.
    pub(super) fn hold(&mut self, piece: &Piece<'_>, room: &mut Room) -> bool {
        let is_ahead = self.next.is_some_and(|next| piece.position > next);
        if !is_ahead
            || self.held.len() >= MOST_PIECES
            || room.bytes + piece.bytes.len() > MOST_BYTES
            || (!self.held.is_empty() && piece.time.saturating_sub(self.since) > PATIENCE_NS)
        {
            return false;
        }
        if self.held.is_empty() {
            self.since = piece.time;
        }
        let Piece { position, bytes, len, time } = *piece;
        room.bytes += bytes.len();
        let held = Held { position, bytes: bytes.to_vec(), len, time };
        // Sent again meanwhile: the one that knows more stays.
        if let Some(other) = self.held.insert(position, held) {
            room.bytes -= other.bytes.len();
            if other.len > len {
                room.bytes -= bytes.len();
                room.bytes += other.bytes.len();
                self.held.insert(position, other);
            }
        }
        true
    }

    /// Whether what waits is to go out before this piece, though something is missing.
    pub(super) fn gives_up_before(&self, piece: &Piece<'_>) -> bool {
        let is_ahead = self.next.is_some_and(|next| piece.position > next);
        is_ahead && !self.held.is_empty()
    }

    /// A piece went out.
    pub(super) fn passed(&mut self, piece: &Piece<'_>) {
        self.next = Some(self.next.map_or(piece.end(), |next| next.max(piece.end())));
    }

    /// The next one of those that waited, if nothing is missing before it.
    pub(super) fn due(&mut self, room: &mut Room) -> Option<Held> {
        let first = self.held.first_entry()?;
        if self.next.is_some_and(|next| *first.key() > next) {
            return None;
        }
        Some(taken(first.remove(), room))
    }

    /// The next one of them, whatever is missing.
    pub(super) fn give_up(&mut self, room: &mut Room) -> Option<Held> {
        self.held.pop_first().map(|(_, held)| taken(held, room))
    }
}

fn taken(held: Held, room: &mut Room) -> Held {
    room.bytes -= held.bytes.len();
    held
}

#[cfg(test)]
mod tests {
    use super::{MOST_BYTES, MOST_PIECES, Order, PATIENCE_NS, Room};
    use plugin_proto::piece::Piece;

    /// What goes out, by position, when these come in; and what waits after that.
    fn order(pieces: &[Piece<'_>]) -> (Vec<u64>, usize) {
        let (mut order, mut room, mut out) = (Order::default(), Room::default(), Vec::new());
        for piece in pieces {
            if order.hold(piece, &mut room) {
                continue;
            }
            if order.gives_up_before(piece) {
                while let Some(held) = order.give_up(&mut room) {
                    out.push(held.position);
                    order.passed(&held.piece());
                }
            }
            out.push(piece.position);
            order.passed(piece);
            while let Some(held) = order.due(&mut room) {
                out.push(held.position);
                order.passed(&held.piece());
            }
        }
        let waiting = order.held.len();
        let bytes: usize = order.held.values().map(|held| held.bytes.len()).sum();
        assert_eq!(room.bytes, bytes);
        (out, waiting)
    }

    fn at(position: u64) -> Piece<'static> {
        Piece::whole(position, &[0; 10], 0)
    }

    #[test]
    fn what_comes_early_waits_for_what_is_missing() {
        assert_eq!(order(&[at(0), at(20), at(30), at(10)]), (vec![0, 10, 20, 30], 0));
        assert_eq!(order(&[at(0), at(20), at(20), at(40), at(10)]), (vec![0, 10, 20], 1));
    }

    #[test]
    fn the_first_piece_and_old_ones_go_out_at_once() {
        assert_eq!(order(&[at(50), at(0), at(50), at(60)]), (vec![50, 0, 50, 60], 0));
    }

    #[test]
    fn what_never_comes_is_not_waited_for_long() {
        let late = Piece::whole(40, &[0; 10], PATIENCE_NS + 1);
        assert_eq!(order(&[at(0), at(20), late]), (vec![0, 20, 40], 0));
    }

    #[test]
    fn no_more_is_held_than_there_is_room_for() {
        let mut pieces: Vec<_> = (0..MOST_PIECES as u64 + 2).map(|each| at(each * 20)).collect();
        let (out, waiting) = order(&pieces);
        assert_eq!((out.len(), waiting), (pieces.len(), 0));
        let large = vec![0; MOST_BYTES / 2 + 1];
        pieces = vec![
            at(0),
            Piece::whole(20, &large, 0),
            Piece::whole(30 + MOST_BYTES as u64, &large, 0),
        ];
        let (out, waiting) = order(&pieces);
        assert_eq!((out.len(), waiting), (3, 0));
    }
}
