//! From a plugin's name to its module. A library that does not fit is refused with one sentence
//! that says what to do, as far as possible before any of its code runs. Libraries stay mapped:
//! Rust has no sound way to unmap one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use abi_stable::library::{LibraryError, lib_header_from_path};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use plugin_api::loading::AnyModule;
use plugin_api::{API_VERSION, OLDEST_API_VERSION};
use rustix::fs::OFlags;
use rustix::process::geteuid;
use tracing::{debug, warn};

use crate::capabilities;
use crate::config::Config;
use crate::plugin::elf;
use crate::plugin::manifest::{self, Manifest};

const PREFIX: &str = "lib";
const EXTENSION: &str = "so";

/// Permission bits that let others than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// No plugin comes near it; a file that does is not read into memory.
const MOST_BYTES: u64 = 1 << 30;

/// The files of the libraries that are mapped, open for as long. The dynamic linker knows a
/// library by its path, and a path through a descriptor must not come to mean another file.
static MAPPED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A plugin's file, checked but not run.
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    /// What is loaded is what was checked: the same open file.
    file: File,
    pub(crate) manifest: Manifest,
}

/// Opens the library of plugin `name` in `folder`.
pub(crate) fn open(folder: &Path, name: &str, trusts_any_file: bool) -> Result<AnyModule> {
    let candidate = find(folder, name, trusts_any_file)?;
    if candidate.is_slow() {
        warn!(plugin = name, "plugin was built without optimisation; build it with --release");
    }
    let lacking =
        capabilities::lacking(capabilities::set_of(&candidate.manifest.capabilities, &[]));
    if !lacking.is_empty() {
        let lacking = capabilities::names(lacking).join(", ");
        let advice = "restart the collector with the plugin enabled, or use --keep-capabilities";
        warn!(plugin = name, lacking, advice, "plugin has fewer capabilities than it needs");
    }
    candidate.load()
}

/// The names of the plugins that are to run: if none is named, all that are installed.
pub(crate) fn enabled(config: &Config) -> Result<Vec<String>> {
    if config.enabled.is_empty() {
        return installed(&config.plugin_dir);
    }
    Ok(config.enabled.clone())
}

/// Finds the library of plugin `name` in `folder`, and checks it without running it.
pub(crate) fn find(folder: &Path, name: &str, trusts_any_file: bool) -> Result<Candidate> {
    let path = path_of(folder, name)?;
    let shown = path.display();
    ensure!(
        path.exists(),
        "plugin {name} is not installed: there is no file {shown}; {}",
        describe(folder)
    );
    let candidate = Candidate::check(&path, trusts_any_file)?;
    candidate.check_name(name)?;
    Ok(candidate)
}

/// The names of the plugins whose files are in `folder`, sorted.
pub(crate) fn installed(folder: &Path) -> Result<Vec<String>> {
    Ok(libraries(folder)?.into_iter().map(|(name, _)| name).collect())
}

/// The files in `folder` that are named as plugins are, with these names, sorted.
pub(crate) fn libraries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("look for plugins in {}", folder.display()))?;
    let named = |path: PathBuf| Some((name_of(&path)?, path));
    let mut found: Vec<_> = entries.filter_map(|entry| named(entry.ok()?.path())).collect();
    found.sort();
    Ok(found)
}

/// Where the library of plugin `name` is. A name becomes part of a path, so it must be one.
fn path_of(folder: &Path, name: &str) -> Result<PathBuf> {
    ensure!(
        is_name(name),
        "{name:?} is not a plugin's name; names have letters, digits and hyphens"
    );
    Ok(folder.join(file_name(name)))
}

/// Whether a plugin may be called that.
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    name.chars().all(is_plain)
}

impl Candidate {
    /// Reads `path` and checks all that can be checked without running it.
    pub(crate) fn check(path: &Path, trusts_any_file: bool) -> Result<Self> {
        let shown = path.display();
        // Whatever else it may be, opening and reading it must not wait.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
            .open(path)
            .with_context(|| format!("open {shown}"))?;
        let facts = file.metadata().with_context(|| format!("look at {shown}"))?;
        ensure!(facts.is_file(), "{shown} is not a regular file, so it is not a plugin");
        ensure!(facts.len() <= MOST_BYTES, "{shown} is larger than any plugin");
        if !trusts_any_file {
            check_owner(&file).with_context(|| format!("{shown} is not trusted"))?;
        }
        let mut bytes = Vec::new();
        // It may still grow.
        let mut limited = Read::by_ref(&mut file).take(MOST_BYTES);
        limited.read_to_end(&mut bytes).with_context(|| format!("read {shown}"))?;
        let fits = || format!("{shown} is not a plugin for this host");
        elf::check(&bytes).with_context(fits)?;
        let manifest = manifest::read(&bytes).with_context(fits)?;
        let api = manifest.api;
        ensure!(
            api >= OLDEST_API_VERSION,
            "{shown} was built for version {api} of the plugin interface and this host takes \
             {OLDEST_API_VERSION} to {API_VERSION}; rebuild the plugin against this host's \
             plugin-api"
        );
        ensure!(
            api <= API_VERSION,
            "{shown} was built for version {api} of the plugin interface and this host takes \
             {OLDEST_API_VERSION} to {API_VERSION}; install a newer datakit-ebpf"
        );
        Ok(Self { path: path.to_owned(), file, manifest })
    }

    /// Checks that it is plugin `name`, as its file's name says.
    pub(crate) fn check_name(&self, name: &str) -> Result<()> {
        let own = &self.manifest.name;
        ensure!(
            own == name,
            "{} says that it is plugin {own}, not {name}; name the file {}",
            self.path.display(),
            file_name(own)
        );
        Ok(())
    }

    /// Whether it was built without optimisation, and this host was not.
    pub(crate) fn is_slow(&self) -> bool {
        self.manifest.profile == "debug" && !cfg!(debug_assertions)
    }

    /// Loads it and asks for its module.
    pub(crate) fn load(self) -> Result<AnyModule> {
        let shown = self.path.display();
        let checked = keep_open(self.file)?;
        let opened =
            catch_unwind(|| AnyModule::of(lib_header_from_path(&checked)?, self.manifest.api));
        match opened {
            Ok(Ok(module)) => Ok(module),
            Ok(Err(error)) => Err(explain(&error, &self.path)),
            Err(_) => bail!("{shown} panicked while it was opened; rebuild it"),
        }
    }
}

/// A path to the file that stays right. A plugin that is started again is mapped already: one
/// descriptor of each file is enough.
fn keep_open(file: File) -> Result<PathBuf> {
    let identity = |file: &File| file.metadata().map(|facts| (facts.dev(), facts.ino()));
    let wanted = identity(&file)?;
    let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = mapped.iter().position(|file| identity(file).is_ok_and(|found| found == wanted));
    let index = known.unwrap_or(mapped.len());
    if known.is_none() {
        mapped.push(file);
    }
    Ok(PathBuf::from(format!("/proc/self/fd/{}", mapped[index].as_raw_fd())))
}

/// A plugin runs with all our rights, so nobody with fewer may have written it.
fn check_owner(file: &File) -> Result<()> {
    let facts = file.metadata()?;
    let us = geteuid().as_raw();
    ensure!(
        facts.uid() == 0 || facts.uid() == us,
        "its owner is user {}; it must be root (--trust-any-plugin takes it all the same)",
        facts.uid()
    );
    ensure!(
        facts.mode() & WRITABLE_BY_OTHERS == 0,
        "others than its owner may write it; chmod go-w it (--trust-any-plugin takes it all the \
         same)"
    );
    Ok(())
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
    use super::{Candidate, installed, open};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn refusal(folder: &Path, name: &str) -> String {
        format!("{:#}", open(folder, name, false).err().unwrap())
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
    fn a_file_that_others_may_write_is_not_trusted_unless_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libtext.so");
        fs::write(&path, "not a library").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let refusal = refusal(folder.path(), "text");
        assert!(refusal.contains("is not trusted: others than its owner"), "{refusal}");
        let error = Candidate::check(&path, true).err().unwrap();
        assert!(format!("{error:#}").contains("not a 64-bit ELF file"), "{error:#}");
    }

    #[test]
    fn a_name_cannot_leave_the_plugin_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refusal(folder.path(), "../../tmp/x").contains("is not a plugin's name"));
    }
}
