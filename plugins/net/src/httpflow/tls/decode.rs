//! Records to [`Record`]s. Pure: no maps, no clock, no `/proc`.

use bpf::net::abi;
use plugin_proto::piece::Piece;

use crate::decode::{DecodeError, Endpoint, Owner, endpoints, read};

/// A session of a TLS library: its address in a process, and when it was first seen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) pid: u32,
    pub(super) address: u64,
}

/// Where bytes went, as the process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

impl Way {
    pub(super) fn other(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }
}

/// The socket below a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    pub(super) netns: u32,
    /// The way of requests, if it is known who opened the connection.
    pub(super) asks: Option<Way>,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What<'a> {
    Moved(Way, Piece<'a>),
    /// It was freed.
    Ended,
}

/// A `tls_piece`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) session: Session,
    pub(super) born_ns: u64,
    pub(super) time_ns: u64,
    pub(super) owner: Owner,
    /// `None` as long as the kernel side knows of none.
    pub(super) socket: Option<Socket>,
    pub(super) what: What<'a>,
}

pub(super) fn record(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let abi::tls_piece {
        tuple,
        owner: abi::owner { pid, comm },
        family,
        way,
        role,
        padding: _,
        session,
        born_ns,
        cookie,
        position,
        size,
        time_ns,
        captured,
        padding2: _,
    } = read("tls_piece", bytes)?;
    let captured = captured as usize;
    let text = &bytes[size_of::<abi::tls_piece>()..];
    let Some(text) = text.get(..captured) else {
        return Err(DecodeError::Truncated {
            record: "tls_piece's bytes",
            need: captured,
            have: text.len(),
        });
    };
    let piece = Piece { position, bytes: text, len: size, time: time_ns };
    let what = match u32::from(way) {
        abi::TLS_IN => What::Moved(Way::In, piece),
        abi::TLS_OUT => What::Moved(Way::Out, piece),
        _ => What::Ended,
    };
    let socket = (cookie != 0).then(|| {
        let (local, remote) = endpoints(&tuple, family);
        let asks = match u32::from(role) {
            abi::ROLE_CONNECTOR => Some(Way::Out),
            abi::ROLE_ACCEPTOR => Some(Way::In),
            _ => None,
        };
        Socket { local, remote, netns: tuple.netns, asks }
    });
    let session = Session { pid, address: session };
    Ok(Record { session, born_ns, time_ns, owner: Owner { pid, comm }, socket, what })
}

/// The process of a `tls_start`.
pub(super) fn start(bytes: &[u8]) -> Result<u32, DecodeError> {
    let abi::tls_start { pid, padding: _ } = read("tls_start", bytes)?;
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::{Way, What, record};
    use bpf::net::abi;
    use plugin_proto::piece::Piece;
    use zerocopy::IntoBytes as _;

    fn bytes() -> Vec<u8> {
        let piece = abi::tls_piece {
            way: abi::TLS_OUT as u8,
            session: 7,
            position: 100,
            size: 900,
            time_ns: 5,
            captured: 3,
            ..Default::default()
        };
        [piece.as_bytes(), b"GETxxxxx"].concat()
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = bytes();
        let whole = size_of::<abi::tls_piece>() + 3;
        for len in 0..whole {
            assert!(record(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(record(&bytes[..whole]).is_ok());
    }

    #[test]
    fn a_piece_comes_out_with_what_was_captured_of_it() {
        let bytes = bytes();
        let record = record(&bytes).unwrap();
        let piece = Piece { position: 100, bytes: b"GET", len: 900, time: 5 };
        assert_eq!(record.what, What::Moved(Way::Out, piece));
        assert_eq!(record.socket, None);
    }
}
