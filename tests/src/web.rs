//! A web server that says what it answered. In: a namespace. Out: nginx on port 80, and with HTTP/2 in clear on port 81; its log
//! is the truth.
//!
//! | path | answer |
//! | --- | --- |
//! | `/hello` | 200, six bytes |
//! | `/none`, `/error`, `/cached` | 204, 500, 304 |
//! | `/upload` | 204, after the whole body was read |
//! | `/big` | [`BIG`] bytes through `sendfile` |
//! | anything else | 404 |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::flows::{Flows, Side};
use crate::hosts::Netns;
use crate::process::Process;
use crate::wait;

/// The length of the file served as `/big`.
pub const BIG: u64 = 20_000_000;

/// How often each method, path and status was answered.
pub type Answers = BTreeMap<(String, String, i64), i64>;

/// A master and one worker; both end when this is dropped.
pub struct Web {
    master: Process,
    log: PathBuf,
    /// Removed after the processes that write to it.
    folder: TempDir,
}

impl Web {
    /// Starts it and waits until it serves.
    pub fn start(netns: &Netns) -> Self {
        let folder = tempfile::Builder::new().prefix("web").tempdir().expect("a folder");
        let path = folder.path().to_str().expect("temporary paths are text");
        let big = fs::File::create(folder.path().join("big")).expect("a new file");
        big.set_len(BIG).expect("a sparse file takes no room");
        let config = folder.path().join("nginx.conf");
        fs::write(&config, configuration(path)).expect("a new file");

        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&config).arg("-e").arg("error.log");
        let master = netns.spawn(&mut nginx);
        netns.wait_for_port("tcp", 80);
        netns.wait_for_port("tcp", 81);
        wait::until_true(
            "nginx has its worker",
            || master.children().len() == 1,
            || format!("children {:?}", master.children()),
        );
        Self { master, log: folder.path().join("access.log"), folder }
    }

    /// Has it serve `text` as `/name`, or no longer.
    pub fn put(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("a new file");
    }

    /// See [`Web::put`].
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("it was there");
    }

    /// The process that answers.
    pub fn worker(&self) -> u32 {
        self.master.children().first().copied().expect("the worker runs as long as the master")
    }

    /// Has it finish what it does, and end. What it has logged: of an answer, that is a moment after
    /// the client has it.
    #[track_caller]
    pub fn finish(self) -> Answers {
        kill(Pid::from_raw(self.master.pid().cast_signed()), Signal::SIGQUIT).expect("it runs");
        self.master.succeed();
        logged(&self.log)
    }

    /// What it has logged so far.
    pub fn answers(&self) -> Answers {
        logged(&self.log)
    }
}

fn logged(log: &Path) -> Answers {
    let log = fs::read_to_string(log).expect("nginx has a log");
    let mut answers = Answers::new();
    for line in log.lines() {
        let [method, path, status, sent] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("nginx logged: {line}")
        };
        // The client was gone: nobody was answered.
        if sent == "0" {
            continue;
        }
        let status = status.parse().expect("a status is a number");
        *answers.entry((method.to_owned(), path.to_owned(), status)).or_default() += 1;
    }
    answers
}

/// What points say was answered, on one side.
pub fn answers(points: &Flows, side: Side) -> Answers {
    let mut answers = Answers::new();
    for point in points.with("direction", side.direction()).points() {
        let text = |name| point.text(name).unwrap_or_else(|| panic!("no {name}: {point:?}"));
        let int = |name| point.int(name).unwrap_or_else(|| panic!("no {name}: {point:?}"));
        let key = (text("method").to_owned(), text("path").to_owned(), int("status_code"));
        *answers.entry(key).or_default() += int("count");
    }
    answers
}

fn configuration(folder: &str) -> String {
    format!(
        "user root;
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  sendfile on;
  log_format short '$request_method $uri $status $bytes_sent';
  access_log {folder}/access.log short;
  default_type text/plain;
  client_max_body_size 1g;
  keepalive_requests 10000000;
  server {{
    listen 80;
    listen [::]:80;
    listen 81 http2;
    root {folder};
    location = /hello {{ return 200 \"hello\\n\"; }}
    location = /none {{ return 204; }}
    location = /cached {{ return 304; }}
    location = /error {{ return 500; }}
    location = /upload {{ proxy_pass http://unix:{folder}/sink; proxy_http_version 1.1; }}
  }}
  server {{
    listen unix:{folder}/sink;
    access_log off;
    location / {{ return 204; }}
  }}
}}
"
    )
}
