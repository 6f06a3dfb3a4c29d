//! The configuration file, in either of its two layouts.
//!
//! In: the file that `--config` names. Out: a [`File`] of [`Layer`]s. A document with
//! `[[inputs.ebpf]]` is DataKit's `ebpf.conf`, written for a launcher that may be newer than we
//! are: an unknown key there is a warning. Any other is the collector's own, where it is an
//! error. Tables of plugins pass through unread.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use toml::{Table, Value};

use super::{
    environment, flags,
    layers::Layer,
    options::{Entry, Kind, Options},
};

#[cfg(test)]
mod tests;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// The variables of `envs`.
    pub(crate) environment: Layer,
    /// The flags of `args`.
    pub(crate) args: Layer,
    /// Everything else.
    pub(crate) keys: Layer,
    /// Whether it is DataKit's, so that the defaults of DataKit's launcher apply.
    pub(crate) is_datakits: bool,
    /// `[plugins.<name>]`.
    pub(crate) plugins: BTreeMap<String, Table>,
}

/// Reads a file.
pub(crate) fn read(options: &Options, path: &Path) -> Result<File> {
    let path_text = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("--config: read {path_text}"))?;
    parse(options, &text, &path_text)
}

/// Reads the text of a file that messages call `path`.
pub(crate) fn parse(options: &Options, text: &str, path: &str) -> Result<File> {
    let document: Table = text.parse().map_err(|error| not_toml(&error, text, path))?;
    let place = format!(" in {path}");
    match document.get("inputs").and_then(|inputs| inputs.get("ebpf")) {
        Some(section) => datakits(options, &document, section, &place),
        None => ours(options, document, &place),
    }
}

/// `[[inputs.ebpf]]`.
fn datakits(options: &Options, document: &Table, section: &Value, place: &str) -> Result<File> {
    let mut file = File { is_datakits: true, ..File::default() };
    let sections = section.as_array().map_or(std::slice::from_ref(section), Vec::as_slice);
    let section = sections.first().and_then(Value::as_table);
    let section = section.ok_or_else(|| anyhow!("inputs.ebpf{place} is not a table"))?;
    let warnings = &mut file.keys.warnings;
    if sections.len() > 1 {
        warnings.push(format!("all but the first [[inputs.ebpf]]{place} are ignored"));
    }
    warnings.extend(
        document
            .keys()
            .filter(|key| *key != "inputs")
            .map(|key| format!("unknown key {key}{place} is ignored")),
    );
    for (key, value) in section {
        let origin = format!("{key}{place}");
        if key == "args" {
            let words = items(Kind::List, value, &origin)?;
            file.args = flags::read(options, &words, &format!(" in args{place}"))?.layer;
            if let Some(config) = file.args.get("config") {
                let origin = &config.origin;
                file.keys.warnings.push(format!("{origin} is ignored: a file names no other"));
            }
        } else if key == "envs" {
            file.environment = environment::read(
                options,
                variables(items(Kind::List, value, &origin)?),
                &format!(" in envs{place}"),
            )?;
        } else if let Some(entry) = options.by_datakit_key(key) {
            add(&mut file.keys, entry, value, origin)?;
        } else if !options.is_launcher_key(key) {
            file.keys.warnings.push(format!("unknown key {origin} is ignored"));
        }
    }
    Ok(file)
}

/// The collector's own layout.
fn ours(options: &Options, mut document: Table, place: &str) -> Result<File> {
    let mut file = File::default();
    for (name, table) in take_table(&mut document, "plugins", place)? {
        let Value::Table(table) = table else { bail!("plugins.{name}{place} is not a table") };
        file.plugins.insert(name, table);
    }
    walk(options, &document, "", place, &mut file.keys)?;
    Ok(file)
}

fn take_table(document: &mut Table, key: &str, place: &str) -> Result<Table> {
    match document.remove(key) {
        None => Ok(Table::new()),
        Some(Value::Table(table)) => Ok(table),
        Some(_) => bail!("{key}{place} is not a table"),
    }
}

/// Adds what `table` says, which stands at `prefix` of the document.
fn walk(
    options: &Options,
    table: &Table,
    prefix: &str,
    place: &str,
    layer: &mut Layer,
) -> Result<()> {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match (options.by_path(&path), value) {
            (Some(entry), _) => add(layer, entry, value, format!("{path}{place}"))?,
            (None, Value::Table(inner)) if options.has_section(&path) => {
                walk(options, inner, &format!("{path}."), place, layer)?;
            }
            _ => bail!("unknown key {path}{place}; conf/collector.toml shows all there are"),
        }
    }
    Ok(())
}

fn add(layer: &mut Layer, entry: &Entry, value: &Value, origin: String) -> Result<()> {
    layer.add(entry, items(entry.kind, value, &origin)?, origin);
    Ok(())
}

/// The items of a TOML value. Numbers and booleans are as good as the texts of them, a comma-
/// separated text as good as an array, and a table as good as an array of `k=v`.
fn items(kind: Kind, value: &Value, origin: &str) -> Result<Vec<String>> {
    let unfit = || anyhow!("{origin}: {value} is not {}", kind.in_toml());
    match value {
        Value::Array(values) if kind.is_list() => {
            let texts = values.iter().map(|value| scalar(value).ok_or_else(unfit));
            match kind {
                Kind::Pairs => {
                    let mut pairs = Vec::new();
                    for text in texts {
                        pairs.extend(kind.items(&text?)?);
                    }
                    Ok(pairs)
                }
                _ => texts.collect(),
            }
        }
        Value::Table(pairs) if kind == Kind::Pairs => pairs
            .iter()
            .map(|(key, value)| Ok(format!("{key}={}", scalar(value).ok_or_else(unfit)?)))
            .collect(),
        _ => kind.items(&scalar(value).ok_or_else(unfit)?),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Table(_) => None,
        other => Some(other.to_string()),
    }
}

fn variables(items: Vec<String>) -> impl Iterator<Item = (String, String)> {
    items.into_iter().filter_map(|item| {
        item.split_once('=').map(|(name, text)| (name.to_owned(), text.to_owned()))
    })
}

/// The error in one sentence; by itself it quotes the source over several lines.
fn not_toml(error: &toml::de::Error, text: &str, path: &str) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    anyhow!("{path}, line {line}: {}", error.message().trim().replace('\n', ", "))
}
