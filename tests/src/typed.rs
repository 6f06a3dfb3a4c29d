//! Commands that were typed, as they arrive. In: a receiver, and the shells that were typed into. Out: the points of a shell, and the
//! assertion that they are all of its commands.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::collector::Collector;
use crate::receiver::Receiver;
use crate::shell::Shell;
use crate::wire::{PbValue, Point};
use crate::{process, wait};

/// A collector of typed commands alone.
pub fn start(receiver: &Receiver) -> Collector {
    Collector::setup(receiver).enabled("ebpf-bash").start()
}

/// The same with settings of the plugin's.
pub fn start_with(receiver: &Receiver, settings: &str) -> Collector {
    let config = format!("[plugins.ebpf-bash]\n{settings}\n");
    Collector::setup(receiver).enabled("ebpf-bash").config(&config).start()
}

/// A field that is text.
#[track_caller]
pub fn text<'a>(point: &'a Point, key: &str) -> &'a str {
    match point.fields.get(key) {
        Some(PbValue::S(text)) => text,
        other => panic!("`{key}` is {other:?} in {point:?}"),
    }
}

/// The points of a shell, in the order of their times.
pub fn points_of(receiver: &Receiver, pid: u32) -> Vec<Point> {
    let pid = pid.to_string();
    let mut points = receiver.points();
    points.retain(|point| point.name == "bash" && text(point, "pid") == pid);
    points.sort_by_key(|point| point.time);
    points
}

/// Waits until a shell's commands are these, all of this user; returns their points.
#[track_caller]
pub fn expect(receiver: &Receiver, pid: u32, user: &str, commands: &[&str]) -> Vec<Point> {
    wait::until("all commands have arrived", || {
        let points = points_of(receiver, pid);
        if points.len() < commands.len() { Err(format!("{points:?}")) } else { Ok(()) }
    });
    let points = points_of(receiver, pid);
    let seen: Vec<_> = points.iter().map(|point| text(point, "cmd")).collect();
    assert_eq!(seen, commands);
    for point in &points {
        assert_eq!(text(point, "user"), user, "{point:?}");
    }
    points
}

/// The same of a shell that is then told to exit: as long as it is there, it can be told who it is.
#[track_caller]
pub fn expect_and_exit(
    receiver: &Receiver,
    shell: Shell,
    pid: u32,
    user: &str,
    commands: &[&str],
) -> Vec<Point> {
    expect(receiver, pid, user, commands);
    shell.exit();
    expect(receiver, pid, user, &[commands, &["exit"]].concat())
}

/// Whether a file is watched; `None` if it is not known.
pub fn is_watched(collector: &Collector, file: &Path) -> Option<bool> {
    let entry = collector.plugin("ebpf-bash").expect("it is enabled");
    let inode = format!("inode {})", fs::metadata(file).expect("it exists").ino());
    let probes = entry["probes"].as_array().expect("a list");
    let mut probes = probes.iter();
    let probe = probes.find(|probe| probe["name"].as_str().is_some_and(|n| n.ends_with(&inode)))?;
    Some(probe["status"] == "attached")
}

/// Numbers that look like chance and are the same in every run.
pub struct Chance(u64);

impl Chance {
    /// Other numbers for each seed, which is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// Text that shells neither expands nor completes, without a quote.
    fn text(&mut self, len: usize) -> String {
        let alphabet: Vec<char> =
            "abcXYZ019 ,.;:|&<>()[]{}*?~#$`\"\\-_=+éßñ中文\u{1f980}".chars().collect();
        (0..len).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    /// A command that does nothing: of a line or several, sometimes very long.
    pub fn command(&mut self, number: usize) -> String {
        let len = if self.below(200) == 0 { 5_000 } else { self.below(120) };
        let text = self.text(len);
        match self.below(4) {
            0 => format!(": {number} '{text}\n{}'", self.text(20)),
            1 => format!(": {number} <<'END'\n{text}\n\n{}\nEND", self.text(30)),
            _ => format!(": {number} '{text}'"),
        }
    }
}

/// Waits until a program that runs is watched.
#[track_caller]
pub fn wait_for_file(collector: &Collector, file: &str) {
    let file = fs::canonicalize(file).expect("it is installed");
    let holds = || is_watched(collector, &file) == Some(true);
    wait::until_true("it is watched", holds, || collector.status().to_string());
}

/// A program that reads lines through a library of this name, and knows how to `exit`.
#[track_caller]
pub fn linked(folder: &Path, name: &str, library: &str) -> PathBuf {
    let file = |name: &str| folder.join(name).display().to_string();
    fs::write(
        file("readline.c"),
        "#include <stdio.h>\n#include <string.h>\nchar *readline(const char *prompt)\n{\n\
         \tstatic char line[256];\n\tfputs(prompt, stdout);\n\tfflush(stdout);\n\
         \tif (!fgets(line, sizeof(line), stdin))\n\t\treturn 0;\n\
         \tline[strcspn(line, \"\\n\")] = 0;\n\treturn line;\n}\n",
    )
    .expect("a new file");
    fs::write(
        file("shell.c"),
        "#include <string.h>\nchar *readline(const char *);\nint main(void)\n{\n\tchar *line;\n\
         \twhile ((line = readline(\"[ready]\")) && strcmp(line, \"exit\"))\n\t\t;\n\treturn 0;\n}\n",
    )
    .expect("a new file");
    let gcc = |args: &[&str]| process::run(Command::new("gcc").arg("-O2").args(args));
    gcc(&["-shared", "-fPIC", "-o", &file(library), &file("readline.c")]);
    let search = format!("-Wl,-rpath,{}", folder.display());
    gcc(&["-o", &file(name), &file("shell.c"), &file(library), &search]);
    folder.join(name)
}
