//! Interactive shells on terminals of their own. In: lines to type. Out: the shell's pid, and the certainty that it has taken
//! each line: it asks for the next one.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::{process, program};

/// A shell that somebody types into; hung up when dropped.
pub struct Shell {
    terminal: Child,
    keyboard: ChildStdin,
    screen: BufReader<ChildStdout>,
    pid: u32,
}

impl Shell {
    /// Starts what becomes, without a fork, a shell that shows `PS1` and `PS2`; waits for its prompt.
    #[track_caller]
    pub fn start<S: AsRef<str>>(command: impl IntoIterator<Item = S>) -> Self {
        let mut python = Command::new("/usr/bin/python3");
        python.arg(program("terminal.py"));
        python.args(command.into_iter().map(|word| word.as_ref().to_owned()));
        // Not a word of the test's own settings. Multi-byte text needs a locale that knows it.
        python.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        python.env("PS1", "[ready]").env("PS2", "[more]").env("TERM", "xterm").env("HISTFILE", "");
        python.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut terminal = python.spawn().expect("python is installed");
        let keyboard = terminal.stdin.take().expect("it is a pipe");
        let screen = BufReader::new(terminal.stdout.take().expect("it is a pipe"));
        let mut shell = Self { terminal, keyboard, screen, pid: 0 };
        let pid = shell.answer();
        shell.pid = pid.parse().unwrap_or_else(|_| panic!("{python:?}: {pid}"));
        shell
    }

    /// The bash of this host, as whoever runs the tests.
    #[track_caller]
    pub fn bash() -> Self {
        Self::start(["/bin/bash", "--norc"])
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Types a command line by line, and waits for the prompt behind each.
    #[track_caller]
    pub fn enter(&mut self, command: &str) {
        for line in command.split('\n') {
            self.press(&format!("{line}\n"));
        }
    }

    /// Pastes text, as terminals do it where the shell asks them to, and presses Enter.
    #[track_caller]
    pub fn paste(&mut self, text: &str) {
        self.press(&format!("\x1b[200~{text}\x1b[201~\n"));
    }

    /// Presses keys, after which there must be a prompt.
    #[track_caller]
    pub fn press(&mut self, keys: &str) {
        assert_eq!(self.send(keys), "ready", "after {keys:?}");
    }

    /// Types `exit`, and waits for the end.
    #[track_caller]
    pub fn exit(mut self) {
        assert_eq!(self.send("exit\n"), "ended");
        self.terminal.wait().expect("a child can be waited for");
    }

    /// Types all lines without a wait for the prompts between them.
    #[track_caller]
    pub fn type_ahead(&mut self, lines: &[String]) {
        let keys = lines.join("\n") + "\n";
        assert_eq!(self.send_for(&keys, lines.len()), "ready", "after {} lines", lines.len());
    }

    /// The shell's own pid, where it is not what was started here; costs a command, which is returned too.
    #[track_caller]
    pub fn ask_pid(&mut self, folder: &Path) -> (u32, String) {
        let file = folder.join(format!("pid-{}", self.pid));
        let command = format!("echo $$ >{}", file.display());
        self.enter(&command);
        let pid = fs::read_to_string(file).expect("the shell may write there");
        (pid.trim().parse().expect("pids are numbers"), command)
    }

    /// Presses Ctrl-D, which ends it.
    #[track_caller]
    pub fn end_of_input(mut self) {
        assert_eq!(self.send("\x04"), "ended");
        self.terminal.wait().expect("a child can be waited for");
    }

    fn send(&mut self, keys: &str) -> String {
        self.send_for(keys, 1)
    }

    fn send_for(&mut self, keys: &str, prompts: usize) -> String {
        writeln!(self.keyboard, "{}", json!([keys, prompts])).expect("the terminal is there");
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.screen.read_line(&mut line).expect("the terminal writes text");
        line.trim_end().to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Already gone is what we want.
        killpg(Pid::from_raw(self.terminal.id().cast_signed()), Signal::SIGKILL).ok();
        self.terminal.wait().ok();
    }
}

/// A root folder of a container: a copy of this host's bash with its libraries, and users of its own.
pub struct Root {
    folder: TempDir,
}

impl Root {
    /// `users` are pairs of a name and an id.
    #[track_caller]
    pub fn new(users: &[(&str, u32)]) -> Self {
        let root =
            Self { folder: tempfile::Builder::new().prefix("root").tempdir().expect("a folder") };
        // Everybody may come in.
        process::run(Command::new("chmod").arg("755").arg(root.path()));
        root.copy("/bin/bash");
        let libraries = process::run(Command::new("ldd").arg("/bin/bash"));
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            root.copy(library);
        }
        let lines = users.iter().map(|(name, id)| format!("{name}:x:{id}:{id}::/:/bin/bash\n"));
        fs::create_dir_all(root.path().join("etc")).expect("a new folder");
        fs::write(root.path().join("etc/passwd"), lines.collect::<String>()).expect("a new file");
        root
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it, as this host names it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// A shell in it.
    #[track_caller]
    pub fn shell(&self, uid: u32) -> Shell {
        let root = self.path().display().to_string();
        Shell::start(["chroot", &format!("--userspec={uid}:{uid}"), &root, "/bin/bash", "--norc"])
    }

    fn copy(&self, path: &str) {
        let to = self.file(path);
        fs::create_dir_all(to.parent().expect("a file is in a folder")).expect("a new folder");
        fs::copy(path, to).unwrap_or_else(|error| panic!("copy {path}: {error}"));
    }
}
