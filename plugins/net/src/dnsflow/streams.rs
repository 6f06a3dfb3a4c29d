//! Messages out of TCP connections. In: packets, in the order in which their sockets saw them.
//! Out: messages.
//!
//! A connection that it has not seen from the start it takes to go on with a message, as almost
//! every packet does. Where that turns out wrong, or a piece does not come, the connection is lost:
//! it is left alone from then on, and its questions are not waited for.

use std::collections::HashMap;

use plugin_proto::dns::{TcpMessages, TcpStep};
use plugin_proto::piece::Piece;

use crate::dnsflow::decode::{End, Packet, Way};

/// Connections that are read at a time. Each may keep the beginning of a message each way.
const MAX_CONNECTIONS: usize = 4096;

/// Pieces of one direction that wait for one before them.
const MAX_HELD: usize = 32;

/// Bytes of all such pieces.
const MAX_HELD_BYTES: usize = 4 * 1024 * 1024;

/// How long they wait: less than a question does.
const PATIENCE_NS: u64 = 3_000_000_000;

/// A connection that is idle for longer is forgotten; if it is used again, it is a new one.
const IDLE_NS: u64 = 120_000_000_000;

/// All connections, by the number of their socket.
#[derive(Debug)]
pub(crate) struct Streams {
    open: HashMap<u64, Connection>,
    most: usize,
    held_bytes: usize,
}

#[derive(Debug, Default)]
struct Connection {
    sent: Option<Stream>,
    received: Option<Stream>,
    /// The directions that have ended.
    ended: Vec<Way>,
    seen_ns: u64,
    is_lost: bool,
}

#[derive(Debug)]
struct Stream {
    messages: TcpMessages,
    /// Where the next piece starts; the lower half is a sequence number.
    next: u64,
    /// Pieces that came too early, in no order.
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    position: u64,
    bytes: Vec<u8>,
    len: u64,
    time_ns: u64,
}

/// What became of a packet's bytes, apart from messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    Fine,
    /// The connection was lost with this packet.
    Lost,
    /// There was no room for another connection.
    Refused,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: HashMap::new(), most: MAX_CONNECTIONS, held_bytes: 0 }
    }
}

impl Streams {
    /// Calls `read` for each message that this packet completes; it says whether it was one.
    pub(crate) fn feed(&mut self, packet: &Packet<'_>, mut read: impl FnMut(&[u8]) -> bool) -> Fed {
        let Self { open, most, held_bytes } = self;
        if open.len() >= *most && !open.contains_key(&packet.socket) {
            // The end of what was refused needs no room.
            return if packet.len > 0 { Fed::Refused } else { Fed::Fine };
        }
        let connection = open.entry(packet.socket).or_default();
        connection.seen_ns = packet.time_ns;
        let mut fed = Fed::Fine;
        if packet.len > 0 && !connection.is_lost {
            let stream = connection.stream(packet);
            let before = stream.held_bytes();
            let mut goes_on = stream.feed(packet, &mut read);
            *held_bytes = (*held_bytes + stream.held_bytes()).saturating_sub(before);
            goes_on &= *held_bytes <= MAX_HELD_BYTES;
            if !goes_on {
                *held_bytes -= connection.lose();
                fed = Fed::Lost;
            }
        }
        if connection.ends(packet) {
            *held_bytes -= connection.lose();
            open.remove(&packet.socket);
        }
        fed
    }

    /// Gives up connections in which a piece is still missing, and tells their sockets; forgets
    /// those that are idle, because not every connection is seen to end.
    pub(crate) fn give_up(&mut self, now_ns: u64, mut lost: impl FnMut(u64)) {
        let Self { open, held_bytes, .. } = self;
        open.retain(|socket, connection| {
            if connection.waits_since().is_some_and(|since| since + PATIENCE_NS < now_ns) {
                *held_bytes -= connection.lose();
                lost(*socket);
            }
            let is_kept = connection.seen_ns + IDLE_NS > now_ns;
            if !is_kept {
                *held_bytes -= connection.lose();
            }
            is_kept
        });
    }
}

impl Connection {
    fn stream(&mut self, packet: &Packet<'_>) -> &mut Stream {
        let stream = match packet.way {
            Way::Sent => &mut self.sent,
            Way::Received => &mut self.received,
        };
        stream.get_or_insert_with(|| Stream::new(packet.sequence))
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.sent.iter().chain(&self.received)
    }

    /// Since when a missing piece is waited for.
    fn waits_since(&self) -> Option<u64> {
        self.streams().flat_map(|stream| &stream.held).map(|held| held.time_ns).min()
    }

    /// Gives room back; how much was held.
    fn lose(&mut self) -> usize {
        let held = self.streams().map(Stream::held_bytes).sum();
        (self.sent, self.received) = (None, None);
        self.is_lost = true;
        held
    }

    /// Whether nothing can follow this packet.
    fn ends(&mut self, packet: &Packet<'_>) -> bool {
        match packet.end {
            End::Nothing => {}
            End::BothWays => return true,
            End::OneWay if self.ended.contains(&packet.way) => {}
            End::OneWay => self.ended.push(packet.way),
        }
        self.ended.len() == 2
    }
}

impl Stream {
    fn new(sequence: u32) -> Self {
        // Far enough from zero for a piece that is older than the first one.
        let next = 1 << 32 | u64::from(sequence);
        Self { messages: TcpMessages::new(next), next, held: Vec::new() }
    }

    fn held_bytes(&self) -> usize {
        self.held.iter().map(|held| held.bytes.len()).sum()
    }

    /// Whether it can be read further.
    fn feed(&mut self, packet: &Packet<'_>, read: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let ahead = packet.sequence.wrapping_sub(self.next as u32) as i32;
        let position = self.next.saturating_add_signed(ahead.into());
        let (len, time_ns) = (u64::from(packet.len), packet.time_ns);
        if position > self.next {
            self.held.push(Held { position, bytes: packet.bytes.to_vec(), len, time_ns });
            return self.held.len() <= MAX_HELD;
        }
        let mut goes_on = self.pass(position, packet.bytes, len, time_ns, read);
        while let Some(at) = self.held.iter().position(|held| held.position <= self.next) {
            let Held { position, bytes, len, time_ns } = self.held.swap_remove(at);
            goes_on &= self.pass(position, &bytes, len, time_ns, read);
        }
        goes_on
    }

    fn pass(
        &mut self,
        position: u64,
        bytes: &[u8],
        len: u64,
        time: u64,
        read: &mut impl FnMut(&[u8]) -> bool,
    ) -> bool {
        let piece = Piece { position, bytes, len, time };
        self.next = self.next.max(piece.end());
        let mut goes_on = true;
        self.messages.feed(&piece, |step| {
            goes_on = goes_on
                && match step {
                    TcpStep::Message { bytes, .. } => read(bytes),
                    TcpStep::Lost => false,
                };
        });
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::{Fed, IDLE_NS, MAX_HELD, PATIENCE_NS, Streams};
    use crate::dnsflow::decode::{End, Packet, Way};
    use crate::dnsflow::tests::{CLIENT, SERVER};
    use crate::netflow::aggregate::Transport;

    fn packet(sequence: u32, bytes: &[u8]) -> Packet<'_> {
        Packet {
            socket: 7,
            local: CLIENT.parse().unwrap(),
            remote: SERVER.parse().unwrap(),
            netns: 1,
            transport: Transport::Tcp,
            way: Way::Sent,
            time_ns: 1000,
            bytes,
            len: bytes.len() as u32,
            sequence,
            end: End::Nothing,
        }
    }

    fn messages(streams: &mut Streams, packets: &[Packet<'_>]) -> (Vec<String>, bool) {
        let (mut messages, mut lost) = (Vec::new(), false);
        for packet in packets {
            let fed = streams.feed(packet, |bytes| {
                messages.push(String::from_utf8(bytes.to_vec()).unwrap());
                bytes != b"bad"
            });
            lost |= fed == Fed::Lost;
        }
        (messages, lost)
    }

    #[test]
    fn messages_are_found_however_they_are_cut_also_where_numbers_wrap() {
        let stream = b"\0\x05first\0\x06second\0\x01x";
        for at in 1..stream.len() {
            let (head, tail) = stream.split_at(at);
            let start = u32::MAX - 4;
            let packets = [packet(start, head), packet(start.wrapping_add(at as u32), tail)];
            let (found, lost) = messages(&mut Streams::default(), &packets);
            assert_eq!((found, lost), (vec!["first".into(), "second".into(), "x".into()], false));
        }
    }

    #[test]
    fn a_retransmission_is_read_once() {
        let first = packet(100, b"\0\x01a");
        let packets = [first.clone(), first, packet(103, b"\0\x01b")];
        assert_eq!(messages(&mut Streams::default(), &packets).0, ["a", "b"]);
    }

    #[test]
    fn pieces_that_come_too_early_wait_for_those_before_them() {
        let first = packet(100, b"\0\x01a");
        let rest = [packet(106, b"\0\x01c"), packet(103, b"\0\x01b"), packet(103, b"\0\x01b")];
        let mut streams = Streams::default();
        assert_eq!(messages(&mut streams, &[first]).0, ["a"]);
        assert_eq!(messages(&mut streams, &rest), (vec!["b".into(), "c".into()], false));
        assert_eq!(streams.held_bytes, 0);
    }

    #[test]
    fn after_a_piece_that_never_comes_a_connection_is_left_alone() {
        let gap = [packet(100, b"\0\x01a"), packet(110, b"\0\x01b")];
        let mut streams = Streams::default();
        messages(&mut streams, &gap);
        let mut lost = Vec::new();
        streams.give_up(1000 + PATIENCE_NS, |socket| lost.push(socket));
        assert!(lost.is_empty());
        streams.give_up(1001 + PATIENCE_NS, |socket| lost.push(socket));
        assert_eq!((lost, streams.held_bytes), (vec![7], 0));
        assert_eq!(messages(&mut streams, &[packet(103, b"\0\x01b")]), (vec![], false));
        // Or there are too many behind it.
        let mut streams = Streams::default();
        messages(&mut streams, &[packet(100, b"\0\x01a")]);
        let early: Vec<_> =
            (0..=MAX_HELD as u32).map(|n| packet(110 + 3 * n, b"\0\x01b")).collect();
        assert_eq!(messages(&mut streams, &early[..MAX_HELD]), (vec![], false));
        assert_eq!(messages(&mut streams, &early[MAX_HELD..]), (vec![], true));
        assert_eq!(streams.held_bytes, 0);
    }

    #[test]
    fn after_what_is_no_message_a_connection_is_left_alone() {
        let nonsense = [packet(100, b"\0\x03bad"), packet(105, b"\0\x01b")];
        assert_eq!(messages(&mut Streams::default(), &nonsense), (vec!["bad".into()], true));
    }

    #[test]
    fn connections_are_forgotten_at_their_end_or_when_idle() {
        let answer = |end| Packet { way: Way::Received, end, ..packet(500, b"\0\x01b") };
        for (end, left) in [(End::Nothing, 1), (End::OneWay, 0), (End::BothWays, 0)] {
            let mut streams = Streams::default();
            messages(&mut streams, &[Packet { end: End::OneWay, ..packet(100, b"\0\x01a") }]);
            assert_eq!(streams.open.len(), 1, "the other way is open");
            messages(&mut streams, &[answer(end)]);
            assert_eq!(streams.open.len(), left, "{end:?}");
            streams.give_up(1000 + IDLE_NS - 1, |_| panic!("nothing is missing"));
            assert_eq!(streams.open.len(), left, "{end:?}");
            streams.give_up(1000 + IDLE_NS, |_| panic!("nothing is missing"));
            assert_eq!(streams.open.len(), 0, "{end:?}");
        }
    }

    #[test]
    fn one_connection_too_many_is_refused() {
        let mut streams = Streams { most: 1, ..Streams::default() };
        messages(&mut streams, &[packet(100, b"\0\x01a")]);
        let other = Packet { socket: 8, ..packet(100, b"\0\x01a") };
        assert_eq!(streams.feed(&other, |_| true), Fed::Refused);
        assert_eq!(streams.feed(&packet(103, b"\0\x01b"), |_| true), Fed::Fine);
    }
}
