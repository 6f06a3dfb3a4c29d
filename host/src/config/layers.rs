//! What was written, where it was written, and which of it counts.
//!
//! In: one [`Layer`] per source, as the readers of flags, environment and files make them. Out:
//! [`Layers`], which answers what an option was given. Values stay text here; what a text means
//! and whether it is allowed is for [`resolve`](super::resolve) to say.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use anyhow::{Result, anyhow};

use super::{
    options::{Entry, Options},
    units,
};

/// The words that one source wrote for one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// One item for a text or a switch, any number for a list.
    pub(crate) items: Vec<String>,
    /// Where, as its author would say: `--interval`, `interval in /etc/ebpf.conf`.
    pub(crate) origin: String,
}

/// Why a text does not do: reads on after the text itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// What the text is not: `a size`.
    pub(crate) is_not: &'static str,
    /// What to write instead: `a number and a unit such as 512MiB`.
    pub(crate) write: &'static str,
}

impl Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is not {}; write {}", self.is_not, self.write)
    }
}

impl Given {
    /// The text of an option that is no list.
    pub(crate) fn text(&self) -> &str {
        self.items.last().map_or("", |item| item.trim())
    }

    /// What the text means to `parse`, or one sentence on why it means nothing.
    pub(crate) fn parse<T>(&self, parse: fn(&str) -> Result<T, Unfit>) -> Result<T> {
        let text = self.text();
        parse(text).map_err(|unfit| anyhow!("{}: \"{text}\" {unfit}", self.origin))
    }

    /// The items of a list: trimmed, none empty, none twice.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for item in self.items.iter().map(|item| item.trim()) {
            if !item.is_empty() && !names.iter().any(|name| name == item) {
                names.push(item.to_owned());
            }
        }
        names
    }
}

/// What one source says.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    values: BTreeMap<String, Given>,
    /// What its author should know although it is no error.
    pub(crate) warnings: Vec<String>,
}

impl Layer {
    /// Takes note of what was written: a list grows, anything else is replaced.
    pub(crate) fn add(&mut self, entry: &Entry, items: Vec<String>, origin: String) {
        if !entry.counts(&items) {
            return;
        }
        match self.values.get_mut(&entry.name) {
            Some(given) if entry.kind.is_list() => given.items.extend(items),
            _ => {
                self.values.insert(entry.name.clone(), Given { items, origin });
            }
        }
    }

    /// What it says about an option, if anything.
    pub(crate) fn get(&self, name: &str) -> Option<&Given> {
        self.values.get(name)
    }
}

/// All that was written, and the defaults below it.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// The table that the layers were made from.
    pub(crate) options: &'a Options,
    written: Vec<Layer>,
    defaults: Layer,
}

impl<'a> Layers<'a> {
    /// Stacks the layers, the one that wins first. `below_datakit` chooses the defaults that
    /// DataKit's launcher would have added to its file.
    pub(crate) fn new(
        options: &'a Options,
        written: Vec<Layer>,
        below_datakit: bool,
    ) -> Result<Self> {
        let mut defaults = Layer::default();
        for entry in options.iter() {
            let launcher = entry.datakit_default.as_ref().filter(|_| below_datakit);
            if let Some(text) = launcher.or(entry.default.as_ref()) {
                let origin = format!("default of {}", entry.name);
                defaults.add(entry, entry.kind.items(text)?, origin);
            }
        }
        Ok(Self { options, written, defaults })
    }

    /// What somebody wrote for an option; defaults do not count.
    pub(crate) fn written(&self, name: &str) -> Option<&Given> {
        debug_assert!(self.options.named(name).is_some(), "{name} is not in the table");
        self.written.iter().find_map(|layer| layer.get(name))
    }

    /// What an option was given, be it by default.
    pub(crate) fn find(&self, name: &str) -> Option<&Given> {
        self.written(name).or_else(|| self.defaults.get(name))
    }

    /// What every layer says about an option, the one that wins last.
    pub(crate) fn all<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s Given> {
        std::iter::once(&self.defaults)
            .chain(self.written.iter().rev())
            .filter_map(move |layer| layer.get(name))
    }

    /// The text of an option, if it has any.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.find(name).map(|given| given.text().to_owned()).filter(|text| !text.is_empty())
    }

    /// Whether a switch is on.
    pub(crate) fn switch(&self, name: &str) -> Result<bool> {
        self.find(name).map_or(Ok(false), |given| given.parse(units::switch))
    }

    /// The items of a list: trimmed, none empty, none twice.
    pub(crate) fn names(&self, name: &str) -> Vec<String> {
        self.find(name).map(Given::names).unwrap_or_default()
    }

    /// Takes the warnings of all layers, the weakest layer's last.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        self.written.iter_mut().flat_map(|layer| layer.warnings.drain(..)).collect()
    }
}
