//! `docs/writing-a-plugin.md`, followed to the letter. In: the blocks of its first part. Out: files and commands, done in an empty
//! folder outside the repository; the points of the plugin come out on the console. And `examples/` holds the same.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use system_tests::plugins::{externals, target_folder};
use system_tests::{wait, workspace};

/// Where the document says that the checkout is.
const CHECKOUT: &str = "/path/to/datakit-ebpf";

/// The first part ends here.
const REFERENCE: &str = "\n# Reference\n";

/// The name of a process that only this test starts.
const COMMAND: &str = "hello-exec-log";

/// What the document says to do.
enum Step {
    /// A block below a line such as `` `src/lib.rs`: ``.
    Write { file: String, text: String },
    /// A block of `sh`.
    Run(String),
}

/// The steps, in their order. Blocks in another language that name no file show something.
fn steps() -> Vec<Step> {
    let path = workspace().join("docs/writing-a-plugin.md");
    let document = fs::read_to_string(&path).expect("the document is there");
    let (guide, _) = document.split_once(REFERENCE).expect("the reference follows the guide");
    let mut parts = guide.split("```");
    let mut steps = Vec::new();
    while let (Some(prose), Some(block)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').expect("a block has lines");
        let lead = prose.trim_end().lines().last().unwrap_or_default();
        let file = lead.strip_prefix('`').and_then(|lead| lead.strip_suffix("`:"));
        match (file, language) {
            (Some(file), _) => steps.push(Step::Write { file: file.into(), text: text.into() }),
            (None, "sh") => steps.push(Step::Run(text.into())),
            (None, _) => {}
        }
    }
    steps
}

/// The steps as a shell script. `sudo` is left out, since the tests run as root.
fn script() -> String {
    let mut script = String::from("set -eu\nsudo() { \"$@\"; }\n");
    for step in steps() {
        match step {
            Step::Write { file, text } => {
                assert!(!text.contains("END OF FILE"), "{file}");
                let lines = ["cat >", &file, " <<'END OF FILE'\n", &text, "END OF FILE\n"];
                script += &lines.concat();
            }
            Step::Run(commands) => script += &commands,
        }
    }
    let externals = externals().to_str().expect("the path is text").to_owned();
    let checkout = workspace().to_str().expect("the path is text").to_owned();
    script.replace(&format!("{CHECKOUT}/dist/externals"), &externals).replace(CHECKOUT, &checkout)
}

/// The running script and all that it has started; ended when dropped.
struct Followed(Child);

impl Drop for Followed {
    fn drop(&mut self) {
        // Already gone is what we want.
        killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL).ok();
        self.0.wait().ok();
    }
}

#[test]
fn who_follows_the_document_sees_points() {
    let folder = tempfile::Builder::new().prefix("empty").tempdir().expect("a folder");
    let said = tempfile::tempdir().expect("a folder");
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| said.path().join(name));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script()).current_dir(folder.path()).process_group(0);
    shell.stdin(Stdio::null()).stdout(File::create(&stdout).expect("a new file"));
    shell.stderr(File::create(&stderr).expect("a new file"));
    // Dependencies are those of this repository, and may have been built before.
    shell.env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
    shell.env("CARGO_BUILD_BUILD_DIR", target_folder().join("fixtures"));
    let mut shell = Followed(shell.spawn().expect("there is a shell"));

    // A shell under a name that only this test has.
    let program = said.path().join(COMMAND);
    symlink("/bin/sh", &program).expect("a new link");
    let read = |path: &Path| fs::read_to_string(path).expect("text");
    let point = format!(",command={COMMAND},");
    wait::within(wait::patience() * 10, "a point is on the console", || {
        let status = shell.0.try_wait().expect("it is our child");
        assert_eq!(status, None, "it ended:\n{}{}", read(&stdout), read(&stderr));
        let started = Command::new(&program).args(["-c", ":"]).status().expect("it can be started");
        assert!(started.success(), "{started}");
        let seen = read(&stdout);
        let found = seen.lines().any(|line| line.starts_with("exec,") && line.contains(&point));
        if found { Ok(()) } else { Err(format!("{seen}{}", read(&stderr))) }
    });
    let seen = read(&stdout);
    for line in shown_by_check() {
        assert!(seen.lines().any(|seen| seen.trim_end() == line), "{line}\nin:\n{seen}");
    }
}

/// What the document says that `plugin check` prints.
fn shown_by_check() -> Vec<String> {
    let path = workspace().join("docs/writing-a-plugin.md");
    let document = fs::read_to_string(&path).expect("the document is there");
    let (_, rest) = document.split_once("```console\n").expect("an output is shown");
    let (block, _) = rest.split_once("```").expect("a block ends");
    block.lines().map(str::to_owned).collect()
}

/// All that is in the example but what cargo writes.
fn files_of(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the example is there") {
        let entry = entry.expect("a folder can be listed");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match name.as_str() {
            "Cargo.lock" | "target" => {}
            _ if entry.path().is_dir() => files_of(&entry.path(), &format!("{name}/"), found),
            _ => found.push(name),
        }
    }
}

#[test]
fn the_example_is_what_the_document_makes() {
    let example = workspace().join("examples/exec-log");
    let mut files = Vec::new();
    for step in steps() {
        if let Step::Write { file, text } = step {
            let kept = fs::read_to_string(example.join(&file)).unwrap_or_default();
            assert_eq!(kept.replace("\"../../", &format!("\"{CHECKOUT}/")), text, "{file}");
            files.push(file);
        }
    }
    files.sort();
    let mut kept = Vec::new();
    files_of(&example, "", &mut kept);
    kept.sort();
    assert_eq!(kept, files, "what is in examples/exec-log");
}

#[test]
fn the_example_is_short() {
    for step in steps() {
        if let Step::Write { file, text } = step {
            let lines = text.lines().count();
            assert!(lines < 80, "{file} has {lines} lines");
        }
    }
}
