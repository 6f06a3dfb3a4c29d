//! Shells that people get to in other ways than by a terminal of their own. In: commands typed through script, tmux and ssh, by root
//! and by two ordinary users. Out: each command once, of the right user and process.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use system_tests::ports::free_address;
use system_tests::process;
use system_tests::receiver::Receiver;
use system_tests::shell::Shell;
use system_tests::typed::{expect, expect_and_exit, start};
use system_tests::wait;

const USERS: [(&str, u32); 3] = [("root", 0), ("anna", 54_321), ("ben", 54_322)];

/// A folder with homes for the users, and an `/etc/passwd` that has them.
struct Homes {
    folder: tempfile::TempDir,
}

impl Homes {
    #[track_caller]
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("homes").tempdir().expect("a folder");
        // Everybody may write there, as they do in /tmp.
        let open = |path: &Path| {
            fs::set_permissions(path, Permissions::from_mode(0o777)).expect("it is ours");
        };
        open(folder.path());
        let mut passwd = vec!["sshd:*:54323:54323::/run/sshd:/usr/sbin/nologin\n".to_owned()];
        for (name, uid) in USERS {
            let home = folder.path().join(name);
            fs::create_dir(&home).expect("a new folder");
            let profile = "PS1='[ready]' PS2='[more]' PROMPT_COMMAND= HISTFILE=\n";
            fs::write(home.join(".bash_profile"), profile).expect("a new file");
            passwd.push(format!("{name}:*:{uid}:{uid}::{}:/bin/bash\n", home.display()));
        }
        fs::write(folder.path().join("passwd"), passwd.concat()).expect("a new file");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of a shell's that becomes another one where these users exist.
    fn among_them(&self, command: &str) -> String {
        let passwd = self.path("passwd").display().to_string();
        format!("exec unshare --mount sh -c 'mount --bind {passwd} /etc/passwd && exec {command}'")
    }

    /// The same with a bash of a user's.
    fn bash_of(&self, uid: u32) -> String {
        let user = format!("--reuid {uid} --regid {uid} --clear-groups");
        self.among_them(&format!("setpriv {user} bash --norc"))
    }
}

#[track_caller]
fn each_command_is_seen_once(receiver: &Receiver, homes: &Homes, user: &str, mut shell: Shell) {
    let (pid, asked) = shell.ask_pid(homes.folder.path());
    assert_ne!(pid, shell.pid(), "it is a process of its own");
    let commands = [": first", ": <<X\né\nX", ""];
    for command in commands {
        shell.enter(command);
    }
    expect_and_exit(receiver, shell, pid, user, &[&[asked.as_str()], &commands[..]].concat());
}

#[test]
fn through_script() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let homes = Homes::new();
    for (user, uid) in USERS {
        let shell = Shell::start(["script", "-qec", &homes.bash_of(uid), "/dev/null"]);
        each_command_is_seen_once(&receiver, &homes, user, shell);
    }
    collector.stop();
}

/// A tmux without a client; ended when dropped.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn run(&self, args: &[&str]) -> String {
        process::run(Command::new("tmux").args(["-S", &self.socket, "-f", "/dev/null"]).args(args))
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let kill = ["-S", &self.socket, "kill-server"];
        Command::new("tmux").args(kill).stderr(Stdio::null()).status().ok();
    }
}

#[test]
fn through_tmux() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let homes = Homes::new();
    let tmux = Tmux { socket: homes.path("tmux").display().to_string() };
    for (user, uid) in USERS {
        tmux.run(&["new-session", "-d", "-s", user, &homes.bash_of(uid)]);
        let shown = |what: &str| tmux.run(&["display-message", "-p", "-t", user, what]);
        let pid = shown("#{pane_pid}").trim().parse().expect("pids are numbers");
        let runs_bash = || shown("#{pane_current_command}").trim() == "bash";
        wait::until_true("its bash runs", runs_bash, || shown("#{pane_current_command}"));
        let has_prompt = || !tmux.run(&["capture-pane", "-p", "-t", user]).trim().is_empty();
        wait::until_true("it has a prompt", has_prompt, || shown("#{history_size}"));
        let commands = [": in tmux".to_owned(), format!(": 'é\n{user}'"), String::new()];
        for command in &commands {
            for line in command.split('\n') {
                if !line.is_empty() {
                    tmux.run(&["send-keys", "-t", user, "-l", line]);
                }
                tmux.run(&["send-keys", "-t", user, "Enter"]);
            }
        }
        expect(&receiver, pid, user, &commands.each_ref().map(String::as_str));
    }
    collector.stop();
}

/// An ssh server of the test's own; ended when dropped.
struct Sshd {
    server: Child,
    port: u16,
    key: PathBuf,
}

impl Sshd {
    #[track_caller]
    fn start(homes: &Homes) -> Self {
        let [host_key, key, config] = ["host_key", "key", "sshd_config"].map(|n| homes.path(n));
        for file in [&host_key, &key] {
            let options = ["-q", "-t", "ed25519", "-N", "", "-f"];
            process::run(Command::new("ssh-keygen").args(options).arg(file));
        }
        let port = free_address().port();
        let lines = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}.pub\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPrintMotd no\n\
             PrintLastLog no\nPasswordAuthentication no\nAcceptEnv LC_ALL\n",
            host_key.display(),
            key.display()
        );
        fs::File::create_new(&config)
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .expect("a new file");
        // It looks for a folder below /run, which only its service makes.
        let serve = format!(
            "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f {}",
            config.display()
        );
        let serve = homes.among_them(&format!("sh -c \"{serve}\""));
        let mut command = Command::new("sh");
        command.args(["-c", &serve]).stdin(Stdio::null()).process_group(0);
        let server = command.spawn().expect("a shell is installed");
        Self { server, port, key }
    }

    #[track_caller]
    fn login(&self, user: &str) -> Shell {
        let (key, port) = (self.key.display().to_string(), self.port.to_string());
        let at = format!("{user}@127.0.0.1");
        wait::until("it listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())
        });
        Shell::start([
            "ssh",
            "-tt",
            "-F",
            "none",
            "-i",
            &key,
            "-p",
            &port,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "SendEnv=LC_ALL",
            &at,
        ])
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Already gone is what we want.
        killpg(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGKILL).ok();
        self.server.wait().ok();
    }
}

#[test]
fn through_ssh() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let homes = Homes::new();
    let sshd = Sshd::start(&homes);
    for (user, _) in USERS {
        let shell = sshd.login(user);
        each_command_is_seen_once(&receiver, &homes, user, shell);
    }
    collector.stop();
}
