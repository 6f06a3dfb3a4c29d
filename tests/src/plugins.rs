//! Plugin libraries for a collector to load. In: the folder that `make build` leaves, and the fixtures of these tests. Out: a
//! plugin folder with the real net plugin and whatever a test adds.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tempfile::TempDir;

use crate::process::run;
use crate::workspace;

/// Where the collector and its plugins were built to.
#[track_caller]
pub fn externals() -> PathBuf {
    let folder = std::env::var_os("EXTERNALS_DIR")
        .map_or_else(|| workspace().join("dist/externals"), PathBuf::from);
    for file in ["datakit-ebpf", "ebpf-plugins/libebpf_net.so"] {
        let path = folder.join(file);
        assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    }
    folder
}

/// The user who owns nothing.
pub const NOBODY: u32 = 65534;

/// A copy of the collector and its plugins that every user may run.
pub struct Installation {
    folder: TempDir,
}

impl Installation {
    /// With the net plugin, and without any file capabilities.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "copying files is not a default")]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("externals").tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        fs::create_dir(folder.path().join("ebpf-plugins")).expect("a new folder");
        for file in ["datakit-ebpf", "ebpf-plugins/libebpf_net.so"] {
            fs::copy(externals().join(file), folder.path().join(file)).expect("a file to copy");
        }
        // Before Linux 5.11 maps are locked memory, which a service has from `LimitMEMLOCK=infinity`. Where root may not
        // raise the limit, which is inherited, it does not matter.
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok();
        Self { folder }
    }

    /// The collector.
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("datakit-ebpf")
    }

    /// Gives it file capabilities, as `setcap` takes them.
    #[track_caller]
    pub fn setcap(&self, capabilities: &str) {
        run(Command::new("setcap").arg(capabilities).arg(self.program()));
    }
}

/// A plugin folder of a test's own.
pub struct PluginFolder {
    folder: TempDir,
}

impl PluginFolder {
    /// A folder with the net plugin only.
    #[track_caller]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("plugins").tempdir().expect("a folder");
        let this = Self { folder };
        this.add("libebpf_net.so", &externals().join("ebpf-plugins/libebpf_net.so"));
        this
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Copies a library into it.
    #[track_caller]
    pub fn add(&self, name: &str, library: &Path) {
        let copied = fs::copy(library, self.path().join(name));
        copied.unwrap_or_else(|error| panic!("copy {}: {error}", library.display()));
    }

    /// Builds a fixture of these tests, as a third party builds a plugin, and adds it.
    #[track_caller]
    pub fn add_fixture(&self, name: &str) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let manifest = fixtures.join(name).join("Cargo.toml");
        assert!(manifest.is_file(), "the fixture {} is missing", manifest.display());
        let target = target_folder().join("fixtures");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--manifest-path"]).arg(&manifest);
        run(cargo.arg("--target-dir").arg(&target));
        let library = format!("lib{}.so", name.replace('-', "_"));
        self.add(&library, &target.join("debug").join(&library));
    }
}

impl Default for PluginFolder {
    fn default() -> Self {
        Self::new()
    }
}

/// The target folder that this binary was built into: `target/debug/deps/<test>`, or `target/debug/<program>`.
pub fn target_folder() -> PathBuf {
    let binary = std::env::current_exe().expect("a process has a binary");
    let mut above = binary.ancestors().skip(1).filter(|folder| !folder.ends_with("deps"));
    above.nth(1).expect("cargo nests its binaries").to_owned()
}
