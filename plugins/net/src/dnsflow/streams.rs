//! Messages out of TCP connections. In: packets, in the order in which their sockets saw them.
//! Out: messages. What it has not seen from the start it takes to begin with a message, as almost
//! every packet does; a stream in which that turns out wrong is left alone from then on.

use std::collections::HashMap;

use plugin_proto::dns::{TcpMessages, TcpStep};
use plugin_proto::piece::Piece;

use crate::dnsflow::decode::{End, Packet, Way};

/// Directions of connections that are read at a time. Each may keep the beginning of a message.
const MAX_STREAMS: usize = 8192;

/// A connection that is idle for longer is forgotten; if it is used again, it is a new one.
const IDLE_NS: u64 = 120_000_000_000;

/// The directions of all connections.
#[derive(Debug)]
pub(crate) struct Streams {
    open: HashMap<(u64, Way), Stream>,
    most: usize,
}

#[derive(Debug)]
struct Stream {
    messages: TcpMessages,
    /// Position of the last piece; its lower half is a sequence number.
    position: u64,
    seen_ns: u64,
    is_lost: bool,
}

/// What became of a packet's bytes, apart from messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fed {
    /// The stream cannot be read any more.
    pub(crate) lost: bool,
    /// There was no room for another stream.
    pub(crate) refused: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: HashMap::new(), most: MAX_STREAMS }
    }
}

impl Streams {
    /// Calls `read` for each message that ends in this packet; it says whether it was one.
    pub(crate) fn feed(
        &mut self,
        packet: &Packet<'_>,
        mut read: impl FnMut(&[u8]) -> bool,
    ) -> Fed {
        let mut fed = Fed::default();
        if packet.len > 0 {
            let key = (packet.socket, packet.way);
            if self.open.len() >= self.most && !self.open.contains_key(&key) {
                fed.refused = true;
            } else {
                let stream = self.open.entry(key).or_insert_with(|| Stream::new(packet));
                fed.lost = stream.feed(packet, &mut read);
            }
        }
        match packet.end {
            End::Nothing => {}
            End::OneWay => self.forget(packet.socket, &[packet.way]),
            End::BothWays => self.forget(packet.socket, &[Way::Sent, Way::Received]),
        }
        fed
    }

    /// Makes room: not every connection is seen to end.
    pub(crate) fn forget_idle(&mut self, now_ns: u64) {
        self.open.retain(|_, stream| stream.seen_ns + IDLE_NS > now_ns);
    }

    fn forget(&mut self, socket: u64, ways: &[Way]) {
        for way in ways {
            self.open.remove(&(socket, *way));
        }
    }
}

impl Stream {
    fn new(packet: &Packet<'_>) -> Self {
        // Far enough from zero for a piece that is older than the first one.
        let position = 1 << 32 | u64::from(packet.sequence);
        let messages = TcpMessages::new(position);
        Self { messages, position, seen_ns: packet.time_ns, is_lost: false }
    }

    /// Whether this is where it was lost.
    fn feed(&mut self, packet: &Packet<'_>, read: &mut impl FnMut(&[u8]) -> bool) -> bool {
        self.seen_ns = packet.time_ns;
        if self.is_lost {
            return false;
        }
        let ahead = packet.sequence.wrapping_sub(self.position as u32) as i32;
        let position = self.position.saturating_add_signed(ahead.into());
        self.position = self.position.max(position);
        let piece = Piece {
            position,
            bytes: packet.bytes,
            len: packet.len.into(),
            time: packet.time_ns,
        };
        let mut is_lost = false;
        self.messages.feed(&piece, |step| match step {
            TcpStep::Message { bytes, .. } if !is_lost => is_lost = !read(bytes),
            TcpStep::Message { .. } => {}
            TcpStep::Lost => is_lost = true,
        });
        self.is_lost = is_lost;
        is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::{Fed, IDLE_NS, Streams};
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
            lost |= fed.lost;
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
    fn after_a_gap_or_nonsense_a_stream_is_left_alone() {
        let gap = [packet(100, b"\0\x01a"), packet(110, b"\0\x01b"), packet(113, b"\0\x01c")];
        assert_eq!(messages(&mut Streams::default(), &gap), (vec!["a".into()], true));
        let nonsense = [packet(100, b"\0\x03bad"), packet(105, b"\0\x01b")];
        assert_eq!(messages(&mut Streams::default(), &nonsense), (vec!["bad".into()], true));
    }

    #[test]
    fn streams_end_with_their_connection_or_when_idle() {
        for (end, left) in [(End::Nothing, 1), (End::OneWay, 0), (End::BothWays, 0)] {
            let mut streams = Streams::default();
            let last = Packet { end, ..packet(100, b"\0\x01a") };
            messages(&mut streams, &[last]);
            assert_eq!(streams.open.len(), left, "{end:?}");
            streams.forget_idle(1000 + IDLE_NS - 1);
            assert_eq!(streams.open.len(), left, "{end:?}");
            streams.forget_idle(1000 + IDLE_NS);
            assert_eq!(streams.open.len(), 0, "{end:?}");
        }
    }

    #[test]
    fn one_stream_too_many_is_refused() {
        let mut streams = Streams { most: 1, ..Streams::default() };
        messages(&mut streams, &[packet(100, b"\0\x01a")]);
        let other = Packet { socket: 8, ..packet(100, b"\0\x01a") };
        assert_eq!(streams.feed(&other, |_| true), Fed { lost: false, refused: true });
    }
}
