//! Records to [`Event`]s. Pure: no maps, no clock, no `/proc`.

use std::fmt::{self, Display};

use bpf::bash::abi;
use zerocopy::FromBytes;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The process has become a bash.
    Started(Moment),
    /// It was given a line, or a part of one.
    Line(Moment, Part<'a>),
    /// The lines that it was given are a whole command, which it runs now.
    CommandEnded(Moment),
}

/// Who and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The process, as the host's own pid namespace numbers it.
    pub(crate) pid: u32,
    /// Its real user, as the host's own user namespace numbers them.
    pub(crate) uid: u32,
    /// By the kernel's monotonic clock.
    pub(crate) time_ns: u64,
}

/// A part of a line; most lines have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the record's flags")]
pub(crate) struct Part<'a> {
    pub(crate) text: &'a [u8],
    /// Where in the line the text belongs.
    pub(crate) offset: u32,
    /// It is the first part, and the last one.
    pub(crate) starts: bool,
    pub(crate) ends: bool,
    /// The line belongs to a command whose end will be told, and is its first one.
    pub(crate) in_command: bool,
    pub(crate) begins_command: bool,
    /// The rest of the line was not read.
    pub(crate) is_cut: bool,
}

/// A record that is not one. The caller counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Truncated { record: &'static str, need: usize, have: usize },
    UnknownKind(u32),
}

impl Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { record, need, have } => {
                write!(formatter, "{record} has {have} bytes of {need}")
            }
            Self::UnknownKind(kind) => write!(formatter, "no record has kind {kind}"),
        }
    }
}

/// A record of any kind.
pub(crate) fn decode(bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    let (event, _) = read::<abi::event>("event", bytes)?;
    let abi::event { kind, pid, uid, padding: _, time_ns } = event;
    let moment = Moment { pid, uid, time_ns };
    match kind {
        abi::RECORD_EXEC => Ok(Event::Started(moment)),
        abi::RECORD_LINE => Ok(Event::Line(moment, part(bytes)?)),
        abi::RECORD_COMMAND_END => Ok(Event::CommandEnded(moment)),
        unknown => Err(DecodeError::UnknownKind(unknown)),
    }
}

fn part(bytes: &[u8]) -> Result<Part<'_>, DecodeError> {
    let (abi::line_part { event: _, flags, offset, size, padding: _ }, rest) =
        read("line_part", bytes)?;
    let text = rest.get(..size as usize).ok_or(DecodeError::Truncated {
        record: "text of line_part",
        need: size as usize,
        have: rest.len(),
    })?;
    let has = |flag: abi::line_flags| flags & flag != 0;
    Ok(Part {
        text,
        offset,
        starts: has(abi::LINE_STARTS),
        ends: has(abi::LINE_ENDS),
        in_command: has(abi::LINE_IN_COMMAND),
        begins_command: has(abi::LINE_BEGINS_COMMAND),
        is_cut: has(abi::LINE_IS_CUT),
    })
}

fn read<'a, T: FromBytes>(
    record: &'static str,
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), DecodeError> {
    T::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated {
        record,
        need: size_of::<T>(),
        have: bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, Event, Moment, Part, decode};
    use bpf::bash::abi;
    use zerocopy::IntoBytes as _;

    fn event(kind: u32) -> abi::event {
        abi::event { kind, pid: 4321, uid: 1000, padding: 0, time_ns: 17 }
    }

    /// `ls -l`, in one part, with the room behind it that the ring leaves.
    fn line() -> Vec<u8> {
        let part = abi::line_part {
            event: event(abi::RECORD_LINE),
            flags: abi::LINE_STARTS | abi::LINE_ENDS | abi::LINE_IN_COMMAND,
            offset: 0,
            size: 5,
            padding: 0,
        };
        [part.as_bytes(), b"ls -l", &[0xaa; 259]].concat()
    }

    #[test]
    fn every_kind_comes_out_as_it_went_in() {
        let moment = Moment { pid: 4321, uid: 1000, time_ns: 17 };
        assert_eq!(decode(event(abi::RECORD_EXEC).as_bytes()), Ok(Event::Started(moment)));
        let ended = event(abi::RECORD_COMMAND_END);
        assert_eq!(decode(ended.as_bytes()), Ok(Event::CommandEnded(moment)));
        let part = Part {
            text: b"ls -l",
            offset: 0,
            starts: true,
            ends: true,
            in_command: true,
            begins_command: false,
            is_cut: false,
        };
        assert_eq!(decode(&line()), Ok(Event::Line(moment, part)));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = line();
        let whole = size_of::<abi::line_part>() + 5;
        for len in 0..whole {
            assert!(matches!(decode(&bytes[..len]), Err(DecodeError::Truncated { .. })), "{len}");
        }
        assert!(decode(&bytes[..whole]).is_ok());
    }

    #[test]
    fn a_kind_from_nowhere_is_an_error() {
        assert_eq!(decode(event(9).as_bytes()), Err(DecodeError::UnknownKind(9)));
    }
}
