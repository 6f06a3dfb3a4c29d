//! Records to [`Event`]s. Pure: no maps, no clock, no `/proc`.

use std::fmt::{self, Display};

use bpf::bash::abi;
use zerocopy::FromBytes;

use crate::bash::flavour::Flavour;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The process has become a shell.
    Started(Moment),
    /// Where it is when it is given the line that follows.
    Context(Moment, Context),
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

/// Where a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Its parent, as the host's own pid namespace numbers it.
    pub(crate) ppid: u32,
    /// Who logged in, as the host's own user namespace numbers users.
    pub(crate) login_uid: Option<u32>,
    /// Its terminal, as files below `/dev` are called: `pts/0`.
    pub(crate) tty: Option<String>,
    /// Its working directory, as seen from its own root.
    pub(crate) cwd: Option<Vec<u8>>,
}

/// A part of a line; most lines have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the record's flags")]
pub(crate) struct Part<'a> {
    pub(crate) flavour: Flavour,
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
    UnknownFlavour(u32),
}

impl Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { record, need, have } => {
                write!(formatter, "{record} has {have} bytes of {need}")
            }
            Self::UnknownKind(kind) => write!(formatter, "no record has kind {kind}"),
            Self::UnknownFlavour(bits) => write!(formatter, "no shell has flavour {bits}"),
        }
    }
}

/// A record of any kind.
pub(crate) fn decode(bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    let (event, _) = read::<abi::event>("event", bytes)?;
    let abi::event { kind, pid, uid, flavour, time_ns } = event;
    let moment = Moment { pid, uid, time_ns };
    match kind {
        abi::RECORD_EXEC => Ok(Event::Started(moment)),
        abi::RECORD_CONTEXT => Ok(Event::Context(moment, context(bytes)?)),
        abi::RECORD_LINE => {
            let flavour = Flavour::of_bit(flavour).ok_or(DecodeError::UnknownFlavour(flavour))?;
            Ok(Event::Line(moment, part(flavour, bytes)?))
        }
        abi::RECORD_COMMAND_END => Ok(Event::CommandEnded(moment)),
        unknown => Err(DecodeError::UnknownKind(unknown)),
    }
}

fn part(flavour: Flavour, bytes: &[u8]) -> Result<Part<'_>, DecodeError> {
    let (abi::line_part { event: _, flags, offset, size, padding: _ }, rest) =
        read("line_part", bytes)?;
    let text = rest.get(..size as usize).ok_or(DecodeError::Truncated {
        record: "text of line_part",
        need: size as usize,
        have: rest.len(),
    })?;
    let has = |flag: abi::line_flags| flags & flag != 0;
    Ok(Part {
        flavour,
        text,
        offset,
        starts: has(abi::LINE_STARTS),
        ends: has(abi::LINE_ENDS),
        in_command: has(abi::LINE_IN_COMMAND),
        begins_command: has(abi::LINE_BEGINS_COMMAND),
        is_cut: has(abi::LINE_IS_CUT),
    })
}

fn context(bytes: &[u8]) -> Result<Context, DecodeError> {
    const NOBODY: u32 = u32::MAX;
    let (abi::context { event: _, ppid, login_uid, tty, has_cwd, cwd_size }, rest) =
        read("context", bytes)?;
    let names = rest.get(..cwd_size as usize).ok_or(DecodeError::Truncated {
        record: "working directory of context",
        need: cwd_size as usize,
        have: rest.len(),
    })?;
    Ok(Context {
        ppid,
        login_uid: (login_uid != NOBODY).then_some(login_uid),
        tty: terminal(&tty.map(|byte| byte as u8)),
        cwd: (has_cwd != 0).then(|| path(names)),
    })
}

/// The kernel calls `/dev/pts/7` pts7.
fn terminal(name: &[u8]) -> Option<String> {
    let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
    let name = String::from_utf8_lossy(name);
    Some(match name.strip_prefix("pts") {
        Some(number) => format!("pts/{number}"),
        None => name.into_owned(),
    })
}

/// Names from the last to the first, with a NUL behind each, as a path.
fn path(names: &[u8]) -> Vec<u8> {
    let names: Vec<_> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.into_iter().rev().flat_map(|name| [b"/", name].concat()).collect()
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
    use super::{Context, DecodeError, Event, Moment, Part, decode};
    use crate::bash::flavour::Flavour;
    use bpf::bash::abi;
    use zerocopy::IntoBytes as _;

    fn event(kind: u32) -> abi::event {
        abi::event { kind, pid: 4321, uid: 1000, flavour: abi::FLAVOUR_ZSH, time_ns: 17 }
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
            flavour: Flavour::Zsh,
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

    fn context(tty: &str, cwd: Option<&[u8]>) -> Vec<u8> {
        let mut name = [0; 32];
        name.iter_mut().zip(tty.bytes()).for_each(|(to, from)| *to = from as i8);
        let names = cwd.unwrap_or_default();
        let context = abi::context {
            event: event(abi::RECORD_CONTEXT),
            ppid: 4320,
            login_uid: 1000,
            tty: name,
            has_cwd: cwd.is_some().into(),
            cwd_size: names.len() as u32,
        };
        [context.as_bytes(), names].concat()
    }

    #[test]
    fn where_a_process_is_is_put_as_people_do() {
        let read = |bytes: &[u8]| match decode(bytes) {
            Ok(Event::Context(_, context)) => context,
            other => panic!("{other:?}"),
        };
        let expected = Context {
            ppid: 4320,
            login_uid: Some(1000),
            tty: Some("pts/12".into()),
            cwd: Some(b"/srv/x\ny".to_vec()),
        };
        assert_eq!(read(&context("pts12", Some(b"x\ny\0srv\0"))), expected);
        let bare = read(&context("", Some(b"")));
        assert_eq!((bare.tty, bare.cwd.as_deref()), (None, Some(&b"/"[..])));
        let console = read(&context("tty1", None));
        assert_eq!((console.tty.as_deref(), console.cwd), (Some("tty1"), None));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = context("pts0", Some(b"home\0"));
        for len in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..len]), Err(DecodeError::Truncated { .. })), "{len}");
        }
        let bytes = line();
        let whole = size_of::<abi::line_part>() + 5;
        for len in 0..whole {
            assert!(matches!(decode(&bytes[..len]), Err(DecodeError::Truncated { .. })), "{len}");
        }
        assert!(decode(&bytes[..whole]).is_ok());
    }

    #[test]
    fn a_kind_or_flavour_from_nowhere_is_an_error() {
        assert_eq!(decode(event(9).as_bytes()), Err(DecodeError::UnknownKind(9)));
        let mut line = line();
        line[12] = 64;
        assert_eq!(decode(&line), Err(DecodeError::UnknownFlavour(64)));
    }
}
