//! From a plugin's name to its module. A library that does not fit is refused with one sentence
//! that says what to do. Libraries stay mapped: Rust has no sound way to unmap one.

use std::ffi::OsStr;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use abi_stable::library::{LibraryError, lib_header_from_path};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use plugin_api::API_VERSION;
use plugin_api::loading::Module_Ref;
use tracing::debug;

use crate::plugin::elf;

const PREFIX: &str = "lib";
const EXTENSION: &str = "so";

/// Opens the library of plugin `name` in `folder`.
pub(crate) fn open(folder: &Path, name: &str) -> Result<Module_Ref> {
    let path = path_of(folder, name)?;
    let shown = path.display();
    ensure!(
        path.is_file(),
        "plugin {name} is not installed: there is no file {shown}; {}",
        describe(folder)
    );
    let file = fs::read(&path).with_context(|| format!("read {shown}"))?;
    elf::check(&file).with_context(|| format!("{shown} is not a plugin for this host"))?;
    let opened = catch_unwind(|| lib_header_from_path(&path)?.init_root_module::<Module_Ref>());
    let module = match opened {
        Ok(Ok(module)) => module,
        Ok(Err(error)) => return Err(explain(&error, &path)),
        Err(_) => bail!("{shown} panicked while it was opened; rebuild it"),
    };
    let version = module.api_version();
    ensure!(
        version == API_VERSION,
        "{shown} was built for version {version} of the plugin interface and this host has \
         version {API_VERSION}; rebuild the plugin against this host's plugin-api"
    );
    let own = module.name().as_str();
    ensure!(
        own == name,
        "{shown} says that it is plugin {own}, not {name}; name the file {}",
        file_name(own)
    );
    Ok(module)
}

/// The names of the plugins whose files are in `folder`, sorted.
pub(crate) fn installed(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("look for plugins in {}", folder.display()))?;
    let mut names: Vec<_> = entries.filter_map(|entry| name_of(&entry.ok()?.path())).collect();
    names.sort();
    Ok(names)
}

/// A name becomes part of a path, so it must be one.
fn path_of(folder: &Path, name: &str) -> Result<PathBuf> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    ensure!(
        name.chars().all(is_plain),
        "{name:?} is not a plugin's name; names have letters, digits and hyphens"
    );
    Ok(folder.join(file_name(name)))
}

fn file_name(name: &str) -> String {
    format!("{PREFIX}{}.{EXTENSION}", name.replace('-', "_"))
}

fn name_of(path: &Path) -> Option<String> {
    let is_library = path.extension() == Some(OsStr::new(EXTENSION));
    let stem = path.file_stem()?.to_str()?.strip_prefix(PREFIX)?;
    is_library.then(|| stem.replace('_', "-"))
}

fn describe(folder: &Path) -> String {
    match installed(folder) {
        Ok(names) if names.is_empty() => "no plugin is installed there".into(),
        Ok(names) => format!("installed are: {}", names.join(", ")),
        Err(error) => format!("{error:#}"),
    }
}

fn explain(error: &LibraryError, path: &Path) -> anyhow::Error {
    let shown = path.display();
    debug!(%error, "library refused");
    match error {
        LibraryError::OpenError { err, .. } => {
            anyhow!("{shown} cannot be opened as a shared library: {err}")
        }
        LibraryError::GetSymbolError { .. } => {
            anyhow!("{shown} is a shared library but exports no plugin; use export_plugin!")
        }
        LibraryError::RootModule { err, .. } => anyhow!("{shown} could not make its module: {err}"),
        LibraryError::AbiInstability(_)
        | LibraryError::InvalidAbiHeader(_)
        | LibraryError::IncompatibleVersionNumber { .. }
        | LibraryError::ParseVersionError(_)
        | LibraryError::InvalidCAbi { .. } => anyhow!(
            "{shown} was built against another layout of the plugin interface (this host has \
             version {API_VERSION}); rebuild the plugin against this host's plugin-api, with the \
             same version of abi_stable"
        ),
        LibraryError::Many(_) => anyhow!("{shown} cannot be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{installed, open};
    use std::fs;

    fn refusal(folder: &std::path::Path, name: &str) -> String {
        format!("{:#}", open(folder, name).err().unwrap())
    }

    #[test]
    fn a_plugin_that_is_not_there_is_named_with_those_that_are() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libother_one.so"), "").unwrap();
        let refusal = refusal(folder.path(), "some-plugin");
        assert!(refusal.contains("libsome_plugin.so"), "{refusal}");
        assert!(refusal.contains("installed are: other-one"), "{refusal}");
        assert_eq!(installed(folder.path()).unwrap(), ["other-one"]);
    }

    #[test]
    fn a_text_file_is_not_a_plugin() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libtext.so"), "not a library").unwrap();
        let refusal = refusal(folder.path(), "text");
        assert!(refusal.contains("is not a plugin for this host"), "{refusal}");
    }

    #[test]
    fn a_name_cannot_leave_the_plugin_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refusal(folder.path(), "../../tmp/x").contains("is not a plugin's name"));
    }
}
