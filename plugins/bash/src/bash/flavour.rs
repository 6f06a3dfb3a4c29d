//! Kinds of shells: which files they are, which of their functions return what was typed, and how
//! that text is put. Knows names only.

use std::path::Path;

use bpf::bash::abi;
use serde::Deserialize;

use crate::probes::{READLINE_ENTRY, READLINE_RET, READLINE_RETURN, ZLE_ENTRY, ZLE_RET};

/// A kind of shell. All but bash are looked at on request only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Flavour {
    #[serde(skip)]
    Bash,
    Zsh,
    Python,
    Psql,
}

/// What a flavour reads lines with.
#[derive(Debug)]
pub(crate) struct Functions {
    /// Returns a line, in the executable or in a library.
    pub(crate) line: &'static str,
    /// Reads a whole command, by any number of calls of the former.
    pub(crate) command: Option<&'static str>,
    /// What the names of such libraries begin with. If several are mapped, the first is used.
    pub(crate) libraries: &'static [&'static str],
    pub(crate) entry: &'static str,
    pub(crate) end: &'static str,
    /// In place of `end`, where the end is not found.
    pub(crate) returned: Option<&'static str>,
}

impl Flavour {
    const ALL: [Self; 4] = [Self::Bash, Self::Zsh, Self::Python, Self::Psql];

    /// As in the settings and on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Python => "python",
            Self::Psql => "psql",
        }
    }

    /// As the BPF programs know it.
    pub(crate) fn bit(self) -> abi::flavour {
        match self {
            Self::Bash => abi::FLAVOUR_BASH,
            Self::Zsh => abi::FLAVOUR_ZSH,
            Self::Python => abi::FLAVOUR_PYTHON,
            Self::Psql => abi::FLAVOUR_PSQL,
        }
    }

    pub(crate) fn of_bit(bit: abi::flavour) -> Option<Self> {
        Self::ALL.into_iter().find(|flavour| flavour.bit() == bit)
    }

    /// What a file is by its name: bash and what builds of it are called (bash5, bash-5.2,
    /// bash-static), and likewise for the others. The BPF programs let more names pass.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        // What the kernel adds when the file was replaced since.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let file = file_name(path);
        Self::ALL.into_iter().find(|flavour| {
            let Some(version) = file.strip_prefix(flavour.name()) else { return false };
            let version = version.strip_prefix('-').unwrap_or(version);
            let is_number = version.starts_with(|c: char| c.is_ascii_digit());
            // python3-config and the like are scripts, which run as python itself.
            version.is_empty() || version == "static" || is_number
        })
    }

    pub(crate) fn functions(self) -> &'static Functions {
        const READLINE: Functions = Functions {
            line: "readline",
            command: None,
            libraries: &["libreadline.so", "libedit.so"],
            entry: READLINE_ENTRY,
            end: READLINE_RET,
            returned: Some(READLINE_RETURN),
        };
        match self {
            Self::Bash => &Functions {
                command: Some("parse_command"),
                libraries: &["libreadline.so"],
                ..READLINE
            },
            Self::Psql => &READLINE,
            // What both interactive prompt and `input()` call, whatever library edits the line.
            Self::Python => {
                &Functions { line: "PyOS_Readline", libraries: &["libpython"], ..READLINE }
            }
            Self::Zsh => &Functions {
                line: "zleentry",
                command: Some("parse_event"),
                libraries: &["libzsh"],
                entry: ZLE_ENTRY,
                end: ZLE_RET,
                returned: None,
            },
        }
    }

    /// Why a file without the function for lines, that maps no library with it, cannot be watched.
    pub(crate) fn explanation(self) -> String {
        let Functions { line, libraries, .. } = self.functions();
        let libraries = libraries.join(" or ");
        format!(
            "it has no function {line} and maps no {libraries} that has it: it was built without \
             line editing, or stripped of its symbols"
        )
    }

    /// Whether the text of a line has the line break with which it was entered.
    pub(crate) fn keeps_line_break(self) -> bool {
        matches!(self, Self::Zsh | Self::Python)
    }

    /// Text as it was typed, from what the shell's function returned.
    pub(crate) fn plain(self, text: &mut Vec<u8>) {
        if self == Self::Zsh {
            unmetafy(text);
        }
    }
}

pub(crate) fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// zsh has bytes of its own in strings: where one of those is meant itself, 0x83 is before it and
/// one of its bits is turned.
fn unmetafy(text: &mut Vec<u8>) {
    const META: u8 = 0x83;
    let mut is_meta = false;
    text.retain_mut(|byte| {
        if is_meta {
            *byte ^= 0x20;
            is_meta = false;
            return true;
        }
        is_meta = *byte == META;
        !is_meta
    });
}

#[cfg(test)]
mod tests {
    use super::Flavour;

    #[test]
    fn builds_of_bash_are_told_from_what_only_begins_like_it() {
        for path in ["/bin/bash", "/usr/bin/bash (deleted)", "bash5", "/x/bash-5.2", "bash-static"]
        {
            assert_eq!(Flavour::of_path(path), Some(Flavour::Bash), "{path}");
        }
        for path in
            ["/bin/sh", "/bash/sh", "/bin/bashtop", "/bin/bash-language-server", "rbash", ""]
        {
            assert_eq!(Flavour::of_path(path), None, "{path}");
        }
    }

    #[test]
    fn the_others_have_versions_too() {
        let flavours = ["zsh5", "python3.11", "/opt/python", "psql", "pythonw", "zshdb"];
        let expected =
            [Some(Flavour::Zsh), Some(Flavour::Python), Some(Flavour::Python), Some(Flavour::Psql)];
        assert_eq!(flavours.map(Flavour::of_path)[..4], expected);
        assert_eq!(flavours.map(Flavour::of_path)[4..], [None, None]);
    }

    #[test]
    fn zsh_marks_bytes_that_are_its_own() {
        let mut text = b"a\x83\xbfb\x83\x20c\x83".to_vec();
        Flavour::Bash.plain(&mut text);
        assert_eq!(text.len(), 8);
        Flavour::Zsh.plain(&mut text);
        assert_eq!(text, b"a\x9fb\0c");
    }
}
