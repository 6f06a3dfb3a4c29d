//! The table of options: every name an option goes by and what it takes.
//!
//! In: `conf/options.toml`, embedded at build time. Out: [`Options`], from which flags,
//! environment, files, help and completion are made. It holds no values, and what a value means
//! is not decided here.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The table as shipped; its head explains every column.
const TABLE: &str = include_str!("../../../conf/options.toml");

/// All options, in the order in which help lists them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    launcher_keys: Vec<String>,
    #[serde(rename = "option")]
    entries: Vec<Entry>,
}

/// One option.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent columns of the table")]
pub(crate) struct Entry {
    /// What the code and the command line call it.
    pub(crate) name: String,
    /// Further names of the flag.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    #[serde(default = "yes")]
    flag: bool,
    /// What it takes.
    pub(crate) kind: Kind,
    /// Its heading in help.
    pub(crate) group: String,
    /// What help calls its value.
    #[serde(default)]
    pub(crate) value: String,
    /// A value that is right and is not the default.
    pub(crate) example: String,
    /// Environment variables; the first that says something counts.
    #[serde(default)]
    pub(crate) env: Vec<String>,
    datakit: Option<String>,
    #[serde(default)]
    toml: Vec<String>,
    /// Used when nothing is written.
    pub(crate) default: Option<String>,
    /// Used instead of `default` below DataKit's own file.
    pub(crate) datakit_default: Option<String>,
    #[serde(default)]
    keep_empty: bool,
    /// The only items that mean something in a list; empty: any do.
    #[serde(default)]
    pub(crate) values: Vec<String>,
    /// The key under which plugins are handed the value as it stands.
    pub(crate) setting: Option<String>,
    /// Whether what it asks for exists.
    #[serde(default = "yes")]
    pub(crate) effective: bool,
    #[serde(default)]
    routine: bool,
    /// One line of help.
    pub(crate) help: String,
}

/// What an option takes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Any text; the last one written counts.
    Text,
    /// True or false; bare on the command line.
    Switch,
    /// Comma-separated texts; on the command line every occurrence adds.
    List,
    /// A list of `k=v`, in which `;` separates too.
    Pairs,
}

impl Options {
    /// Reads the embedded table; fails only if the build embedded a broken one.
    pub(crate) fn load() -> Result<Self> {
        toml::from_str(TABLE).context("read the built-in table of options")
    }

    /// All options, in the order in which help lists them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The option that the code calls `name`.
    pub(crate) fn named(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The option of the flag `--spelling`, where `_` and `-` are the same.
    pub(crate) fn by_flag(&self, spelling: &str) -> Option<&Entry> {
        let name = spelling.replace('_', "-");
        self.flags().find(|entry| entry.name == name || entry.aliases.contains(&name))
    }

    /// The option of a key below `[[inputs.ebpf]]`.
    pub(crate) fn by_datakit_key(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.datakit.as_deref() == Some(key))
    }

    /// The option of a path in the collector's own file.
    pub(crate) fn by_path(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.toml.iter().any(|known| known == path))
    }

    /// Whether the collector's own file has paths below `section`.
    pub(crate) fn has_section(&self, section: &str) -> bool {
        self.entries
            .iter()
            .flat_map(|entry| &entry.toml)
            .filter_map(|path| path.strip_prefix(section))
            .any(|rest| rest.starts_with('.'))
    }

    /// Whether a key below `[[inputs.ebpf]]` only tells DataKit how to launch the collector.
    pub(crate) fn is_launcher_key(&self, key: &str) -> bool {
        self.launcher_keys.iter().any(|known| known == key)
    }

    /// The options that have a flag.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.flag)
    }
}

impl Entry {
    /// Whether `items` say something, rather than being as good as not written.
    pub(crate) fn counts<S: AsRef<str>>(&self, items: &[S]) -> bool {
        self.keep_empty
            || self.kind == Kind::Switch
            || items.iter().any(|item| !item.as_ref().trim().is_empty())
    }

    /// Its paths in the collector's own file.
    #[cfg(test)]
    pub(crate) fn paths(&self) -> &[String] {
        &self.toml
    }

    /// Whether setting it deserves the warning that it has no effect yet.
    pub(crate) fn is_without_effect(&self) -> bool {
        !self.effective && !self.routine
    }
}

impl Kind {
    /// Whether it takes any number of items.
    pub(crate) fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Pairs)
    }

    /// What a TOML file should have in its place.
    pub(crate) fn in_toml(self) -> &'static str {
        match self {
            Self::Text => "a text; write \"...\"",
            Self::Switch => "a switch; write true or false",
            Self::List => "a list; write [\"a\", \"b\"]",
            Self::Pairs => "a list of tags; write [\"k=v\"]",
        }
    }

    /// The items that one written text stands for.
    pub(crate) fn items(self, text: &str) -> Result<Vec<String>> {
        match self {
            Self::Text | Self::Switch => Ok(vec![text.to_owned()]),
            Self::List => comma_separated(text),
            Self::Pairs => {
                let items = comma_separated(text)?;
                Ok(items.iter().flat_map(|item| item.split(';')).map(str::to_owned).collect())
            }
        }
    }
}

/// Splits at commas; quotes protect them.
fn comma_separated(text: &str) -> Result<Vec<String>> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut items = Vec::new();
    for record in reader.records() {
        items.extend(record?.iter().map(str::to_owned));
    }
    Ok(items)
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_options_share_a_name() {
        let options = Options::load().unwrap();
        let mut seen = BTreeSet::new();
        for entry in options.iter() {
            let flags = std::iter::once(&entry.name).chain(&entry.aliases);
            let names = flags
                .map(|name| format!("--{name}"))
                .chain(entry.env.iter().cloned())
                .chain(entry.datakit.iter().map(|key| format!("ebpf.conf {key}")))
                .chain(entry.toml.iter().map(|path| format!("toml {path}")))
                .chain(entry.setting.iter().map(|key| format!("setting {key}")));
            for name in names {
                assert!(seen.insert(name.clone()), "{name} occurs twice");
            }
        }
    }

    #[test]
    fn every_option_that_takes_a_value_names_it() {
        for entry in Options::load().unwrap().iter() {
            assert_eq!(entry.value.is_empty(), entry.kind == Kind::Switch, "{}", entry.name);
        }
    }

    #[test]
    fn an_underscore_in_a_flag_is_a_hyphen() {
        let options = Options::load().unwrap();
        for spelling in ["ephemeral_port", "ephemeral-port"] {
            assert_eq!(options.by_flag(spelling).unwrap().name, "ephemeral-port");
        }
    }

    #[test]
    fn quotes_protect_a_comma() {
        assert_eq!(Kind::List.items(r#"a,"b,c""#).unwrap(), ["a", "b,c"]);
        assert!(Kind::List.items("").unwrap().is_empty());
    }

    #[test]
    fn pairs_are_split_at_semicolons_too() {
        assert_eq!(Kind::Pairs.items("a=1;b=2,c=3").unwrap(), ["a=1", "b=2", "c=3"]);
    }
}
