//! Parts of lines to commands. Two verbs, `observe` and `end`, and a third for processes that are
//! gone. No clock and no I/O; bounded, and what finds no room is counted.

use std::collections::HashMap;
use std::mem;

use crate::bash::flavour::Flavour;
use crate::decode::{Context, Moment, Part};

/// Bytes of a command; what is longer is cut.
pub(crate) const LONGEST: usize = 256 * 1024;

/// Shells that are in the middle of a command, and bytes that all of those have together.
const MOST_OPEN: usize = 4096;
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// A command as it was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// Who entered its last line, and when.
    pub(crate) moment: Moment,
    /// Its lines, without the line break at the end.
    pub(crate) text: Vec<u8>,
    /// A piece of it is missing.
    pub(crate) is_cut: bool,
    pub(crate) flavour: Flavour,
    /// Where its last line was entered, if that was asked for.
    pub(crate) context: Option<Context>,
}

/// Commands that are not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    open: HashMap<u32, Open>,
    bytes: usize,
    /// Those of lines that come next.
    contexts: HashMap<u32, Context>,
    refused: u64,
    contexts_refused: u64,
}

#[derive(Debug)]
struct Open {
    command: Command,
    /// Where the line that is being read begins; `None` between two lines.
    line: Option<usize>,
}

impl Commands {
    /// Takes a part of a line; whatever is complete by it goes to `done`.
    pub(crate) fn observe(&mut self, moment: Moment, part: &Part<'_>, done: &mut Vec<Command>) {
        let continues = part.in_command && !part.begins_command;
        if part.starts && !continues {
            // Given up with Ctrl-C, or its end was lost.
            self.close(moment.pid, done);
        }
        let flavour = part.flavour;
        let context = part.starts.then(|| self.contexts.remove(&moment.pid)).flatten();
        if part.starts && part.ends && !part.in_command {
            let text = without_break(flavour, part.text).to_vec();
            let is_cut = part.is_cut;
            done.push(Command { moment, text, is_cut, flavour, context }.plain());
            return;
        }
        if part.starts && !self.open.contains_key(&moment.pid) {
            if self.open.len() == MOST_OPEN {
                self.refused += 1;
                return;
            }
            let command =
                Command { moment, text: Vec::new(), is_cut: false, flavour, context: None };
            self.open.insert(moment.pid, Open { command, line: None });
        } else if part.starts {
            self.append(moment.pid, b"\n");
        }
        let Some(open) = self.open.get_mut(&moment.pid) else { return };
        if part.starts {
            // The end of the line before was lost.
            open.command.is_cut |= open.line.is_some();
            open.line = Some(open.command.text.len());
            open.command.context = context;
        }
        open.command.moment = moment;
        let Some(line) = open.line else { return };
        if line + part.offset as usize == open.command.text.len() {
            self.append(moment.pid, part.text);
        } else {
            open.command.is_cut = true;
        }
        let Some(open) = self.open.get_mut(&moment.pid) else { return };
        open.command.is_cut |= part.is_cut;
        if part.ends {
            open.line = None;
            let text = &mut open.command.text;
            let kept = line + without_break(flavour, &text[line..]).len();
            self.bytes -= text.len() - kept;
            text.truncate(kept);
            if !part.in_command {
                self.close(moment.pid, done);
            }
        }
    }

    /// Takes note of where the next line of a process is entered.
    pub(crate) fn observe_context(&mut self, pid: u32, context: Context) {
        if self.contexts.len() < MOST_OPEN || self.contexts.contains_key(&pid) {
            self.contexts.insert(pid, context);
        } else {
            self.contexts_refused += 1;
        }
    }

    /// The lines of a process are complete.
    pub(crate) fn end(&mut self, moment: Moment, done: &mut Vec<Command>) {
        self.close(moment.pid, done);
    }

    /// Whatever processes that are gone did not complete is all that there will be.
    pub(crate) fn end_where(&mut self, is_gone: impl Fn(u32) -> bool, done: &mut Vec<Command>) {
        let gone: Vec<u32> = self.open.keys().copied().filter(|pid| is_gone(*pid)).collect();
        for pid in gone {
            self.close(pid, done);
        }
        self.contexts.retain(|pid, _| !is_gone(*pid));
    }

    /// Lines that found no room since the last call.
    pub(crate) fn take_refused(&mut self) -> u64 {
        mem::take(&mut self.refused)
    }

    /// Contexts that found no room since the last call.
    pub(crate) fn take_contexts_refused(&mut self) -> u64 {
        mem::take(&mut self.contexts_refused)
    }

    fn append(&mut self, pid: u32, text: &[u8]) {
        let Some(Open { command, .. }) = self.open.get_mut(&pid) else { return };
        let room = (LONGEST - command.text.len()).min(MOST_BYTES - self.bytes);
        let fits = &text[..text.len().min(room)];
        command.text.extend_from_slice(fits);
        command.is_cut |= fits.len() < text.len();
        self.bytes += fits.len();
    }

    fn close(&mut self, pid: u32, done: &mut Vec<Command>) {
        if let Some(Open { mut command, line }) = self.open.remove(&pid) {
            self.bytes -= command.text.len();
            command.is_cut |= line.is_some();
            done.push(command.plain());
        }
    }
}

impl Command {
    /// Its text as it was typed.
    fn plain(mut self) -> Self {
        self.flavour.plain(&mut self.text);
        self
    }
}

/// A line without the line break at its end.
fn without_break(flavour: Flavour, line: &[u8]) -> &[u8] {
    let plain = line.strip_suffix(b"\n").filter(|_| flavour.keeps_line_break());
    plain.unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::{Command, Commands, LONGEST, MOST_OPEN};
    use crate::bash::flavour::Flavour;
    use crate::decode::{Context, Moment, Part};

    const HERE: Moment = Moment { pid: 7, uid: 1000, time_ns: 1 };

    /// A whole line by itself, from which each test takes or to which it adds something.
    fn line(text: &str) -> Part<'_> {
        Part {
            flavour: Flavour::Bash,
            text: text.as_bytes(),
            offset: 0,
            starts: true,
            ends: true,
            in_command: false,
            begins_command: false,
            is_cut: false,
        }
    }

    fn first(text: &str) -> Part<'_> {
        Part { in_command: true, begins_command: true, ..line(text) }
    }

    fn next(text: &str) -> Part<'_> {
        Part { in_command: true, ..line(text) }
    }

    fn texts(done: &[Command]) -> Vec<(&str, bool)> {
        done.iter().map(|c| (std::str::from_utf8(&c.text).unwrap(), c.is_cut)).collect()
    }

    #[test]
    fn a_line_by_itself_is_a_command() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        commands.observe(HERE, &line("ls"), &mut done);
        commands.observe(HERE, &line(""), &mut done);
        assert_eq!(texts(&done), [("ls", false), ("", false)]);
    }

    #[test]
    fn lines_are_joined_until_the_command_ends() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        let other = Moment { pid: 8, ..HERE };
        commands.observe(HERE, &first("cat <<X"), &mut done);
        commands.observe(other, &first("pwd"), &mut done);
        commands.observe(HERE, &next(""), &mut done);
        commands.end(other, &mut done);
        let last = Moment { time_ns: 9, ..HERE };
        commands.observe(last, &next("X"), &mut done);
        commands.end(last, &mut done);
        commands.end(last, &mut done);
        assert_eq!(texts(&done), [("pwd", false), ("cat <<X\n\nX", false)]);
        assert_eq!(done[1].moment, last);
        assert_eq!(commands.bytes, 0);
    }

    #[test]
    fn a_command_that_is_given_up_is_told_when_the_next_one_begins() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        commands.observe(HERE, &first("echo '"), &mut done);
        commands.observe(HERE, &first("ls"), &mut done);
        commands.end(HERE, &mut done);
        assert_eq!(texts(&done), [("echo '", false), ("ls", false)]);
    }

    #[test]
    fn a_command_of_a_shell_that_is_gone_is_told() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        commands.observe(HERE, &first("echo '"), &mut done);
        commands.end_where(|pid| pid != HERE.pid, &mut done);
        assert_eq!(texts(&done), []);
        commands.end_where(|pid| pid == HERE.pid, &mut done);
        assert_eq!(texts(&done), [("echo '", false)]);
    }

    #[test]
    fn parts_of_a_line_are_put_together() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        commands.observe(HERE, &Part { ends: false, ..line("ec") }, &mut done);
        commands.observe(HERE, &Part { starts: false, offset: 2, ..line("ho") }, &mut done);
        assert_eq!(texts(&done), [("echo", false)]);
    }

    #[test]
    fn line_breaks_that_a_shell_keeps_are_between_lines_only() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        let zsh = |part| Part { flavour: Flavour::Zsh, ..part };
        commands.observe(HERE, &zsh(line("ls\n")), &mut done);
        commands.observe(HERE, &zsh(line("\n")), &mut done);
        commands.observe(HERE, &zsh(first("for x\n")), &mut done);
        commands.observe(HERE, &zsh(Part { ends: false, ..next("d") }), &mut done);
        commands.observe(HERE, &zsh(Part { starts: false, offset: 1, ..next("o\n") }), &mut done);
        commands.end(HERE, &mut done);
        commands.observe(HERE, &line("bash\n"), &mut done);
        let expected = [("ls", false), ("", false), ("for x\ndo", false), ("bash\n", false)];
        assert_eq!(texts(&done), expected);
        assert_eq!(commands.bytes, 0);
    }

    #[test]
    fn a_command_is_where_its_last_line_is() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        let at = |ppid| Context { ppid, login_uid: None, tty: None, cwd: None };
        commands.observe_context(7, at(1));
        commands.observe(HERE, &line("ls"), &mut done);
        commands.observe(HERE, &line("lost"), &mut done);
        commands.observe_context(7, at(2));
        commands.observe(HERE, &first("for x"), &mut done);
        commands.observe_context(7, at(3));
        commands.observe(HERE, &next("do"), &mut done);
        commands.end(HERE, &mut done);
        let contexts: Vec<_> = done.iter().map(|c| c.context.as_ref().map(|c| c.ppid)).collect();
        assert_eq!(contexts, [Some(1), None, Some(3)]);
        for pid in 0..=MOST_OPEN as u32 {
            commands.observe_context(pid, at(4));
        }
        assert_eq!(commands.take_contexts_refused(), 1);
        commands.end_where(|_| true, &mut done);
        assert!(commands.contexts.is_empty());
    }

    #[test]
    fn a_lost_part_is_marked() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        // The middle, the end, the beginning, and what the kernel side says itself.
        commands.observe(HERE, &Part { ends: false, ..line("a") }, &mut done);
        commands.observe(HERE, &Part { starts: false, offset: 2, ..line("c") }, &mut done);
        commands.observe(HERE, &Part { ends: false, ..line("d") }, &mut done);
        commands.observe(HERE, &Part { starts: false, offset: 2, ..line("e") }, &mut done);
        commands.observe(HERE, &Part { ends: false, ..first("f") }, &mut done);
        commands.observe(HERE, &next("g"), &mut done);
        commands.end(HERE, &mut done);
        commands.observe(HERE, &Part { starts: false, offset: 9, ..line("lost") }, &mut done);
        commands.observe(HERE, &Part { is_cut: true, ..line("h") }, &mut done);
        assert_eq!(texts(&done), [("a", true), ("d", true), ("f\ng", true), ("h", true)]);
    }

    #[test]
    fn a_command_that_is_too_long_is_cut_and_marked() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        let long = "x".repeat(LONGEST - 1);
        commands.observe(HERE, &first(&long), &mut done);
        commands.observe(HERE, &next("yz"), &mut done);
        commands.end(HERE, &mut done);
        assert_eq!(done[0].text.len(), LONGEST);
        assert!(done[0].is_cut && done[0].text.ends_with(b"x\n"));
        assert_eq!(commands.bytes, 0);
    }

    #[test]
    fn shells_beyond_the_cap_are_counted_and_their_single_lines_told() {
        let (mut commands, mut done) = (Commands::default(), Vec::new());
        for pid in 0..=MOST_OPEN as u32 {
            commands.observe(Moment { pid, ..HERE }, &first("("), &mut done);
        }
        assert_eq!(commands.take_refused(), 1);
        let beyond = Moment { pid: MOST_OPEN as u32 + 1, ..HERE };
        commands.observe(beyond, &line("ls"), &mut done);
        assert_eq!(texts(&done), [("ls", false)]);
    }
}
