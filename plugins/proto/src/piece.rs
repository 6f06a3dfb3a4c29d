//! One direction of a connection as it is captured: pieces, each known from its beginning only up
//! to some length. In: pieces in the order in which they were seen. Out: the bytes not seen
//! before, and how many are missing between them. It does not reorder: what comes late is lost.

/// Bytes that were sent together, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Where its first byte is in its direction's stream. Any origin will do, as long as it is the
    /// same for all pieces of a direction.
    pub position: u64,
    /// What was captured of it: its beginning.
    pub bytes: &'a [u8],
    /// How long it was. Never less than what was captured; a smaller number is taken as that.
    pub len: u64,
    /// When it was seen, in nanoseconds of the caller's clock.
    pub time: u64,
}

impl<'a> Piece<'a> {
    /// A piece of which every byte was captured.
    pub fn whole(position: u64, bytes: &'a [u8], time: u64) -> Self {
        Self { position, bytes, len: bytes.len() as u64, time }
    }

    /// The position after its last byte.
    pub fn end(&self) -> u64 {
        self.position.saturating_add(self.len.max(self.bytes.len() as u64))
    }
}

/// How far a direction has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    next: u64,
}

/// What a piece adds to what was seen before it, in the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News<'a> {
    /// Bytes between the last piece and this one that nobody captured.
    pub missing_before: u64,
    /// Bytes not seen before.
    pub bytes: &'a [u8],
    /// Bytes of the piece that were not captured.
    pub missing_after: u64,
}

impl Cursor {
    /// Starts reading at this position; what lies before it is old.
    pub fn at(position: u64) -> Self {
        Self { next: position }
    }

    /// The position of the next byte that is new.
    pub fn position(self) -> u64 {
        self.next
    }

    /// Moves behind the piece. `None` if all of it was seen before: a retransmission.
    pub fn advance<'a>(&mut self, piece: &Piece<'a>) -> Option<News<'a>> {
        let end = piece.end();
        if end <= self.next {
            return None;
        }
        let missing_before = piece.position.saturating_sub(self.next);
        let old = self.next.saturating_sub(piece.position).min(piece.bytes.len() as u64);
        let bytes = &piece.bytes[old as usize..];
        // Where the new bytes start: behind what was captured if only the rest of it is new.
        let start = piece.position.max(self.next);
        self.next = end;
        Some(News {
            missing_before,
            bytes,
            missing_after: (end - start).saturating_sub(bytes.len() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it is what a cursor returns")]
    fn news(missing_before: u64, bytes: &[u8], missing_after: u64) -> Option<News<'_>> {
        Some(News { missing_before, bytes, missing_after })
    }

    #[test]
    fn pieces_in_a_row_are_all_new() {
        let mut cursor = Cursor::at(100);
        assert_eq!(cursor.advance(&Piece::whole(100, b"abc", 0)), news(0, b"abc", 0));
        assert_eq!(cursor.advance(&Piece::whole(103, b"de", 0)), news(0, b"de", 0));
        assert_eq!(cursor.position(), 105);
    }

    #[test]
    fn what_was_not_captured_is_counted_where_it_is_missing() {
        let mut cursor = Cursor::at(0);
        let cut = Piece { position: 0, bytes: b"abc", len: 10, time: 0 };
        assert_eq!(cursor.advance(&cut), news(0, b"abc", 7));
        assert_eq!(cursor.advance(&Piece::whole(14, b"x", 0)), news(4, b"x", 0));
    }

    #[test]
    fn a_retransmission_adds_only_what_it_has_beyond_the_first() {
        let mut cursor = Cursor::at(0);
        cursor.advance(&Piece::whole(0, b"abcd", 0));
        assert_eq!(cursor.advance(&Piece::whole(0, b"abcd", 0)), None);
        assert_eq!(cursor.advance(&Piece::whole(2, b"cdef", 0)), news(0, b"ef", 0));
    }

    #[test]
    fn a_longer_retransmission_whose_news_were_not_captured_adds_missing_bytes() {
        let mut cursor = Cursor::at(0);
        cursor.advance(&Piece::whole(0, b"abcd", 0));
        let cut = Piece { position: 0, bytes: b"ab", len: 10, time: 0 };
        assert_eq!(cursor.advance(&cut), news(0, b"", 6));
        assert_eq!(cursor.position(), 10);
    }

    #[test]
    fn positions_at_the_end_of_the_number_line_do_no_harm() {
        let mut cursor = Cursor::at(0);
        let far = Piece { position: u64::MAX - 1, bytes: b"abc", len: u64::MAX, time: 0 };
        assert!(cursor.advance(&far).is_some());
        assert_eq!(cursor.advance(&far), None);
    }
}
