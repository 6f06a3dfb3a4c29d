//! What tests of TLS share: a certificate, programs that speak it, and servers and clients of several libraries that all post the
//! same requests. In: a namespace. Out: processes, and what they asked for.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::collector::Collector;
use crate::hosts::Netns;
use crate::process::{Process, run};
use crate::{program, wait, workspace};

/// A folder with a key and a certificate for a host called `test`.
pub fn certificate() -> TempDir {
    let folder = tempfile::Builder::new().prefix("tls").tempdir().expect("a folder");
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder.path());
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=test", "-addext", "subjectAltName=DNS:test"]);
    run(openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]));
    folder
}

/// Builds `same.go`, with these flags of `go build`.
pub fn build_go(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let mut go = Command::new("go");
    go.env("GOPROXY", "off").env("GOFLAGS", "").env("GO111MODULE", "off");
    let cache = workspace().join("target/go");
    go.env("GOCACHE", cache.join("cache")).env("GOPATH", cache);
    run(go.arg("build").args(flags).arg("-o").arg(&path).arg(program("same.go")));
    path
}

/// Waits until the collector watches a file with TLS in it.
#[track_caller]
pub fn wait_until_watched(collector: &Collector, file: &Path) {
    let start = format!("{} (", file.display());
    wait::until(&format!("{} is watched", file.display()), || {
        let entry = collector.plugin("ebpf-net").unwrap_or_default();
        let probes = entry["probes"].as_array().cloned().unwrap_or_default();
        let is_it = |probe: &serde_json::Value| {
            let name = probe["name"].as_str().unwrap_or_default();
            name.starts_with(&start) && probe["status"] == "attached"
        };
        if probes.iter().any(is_it) { Ok(()) } else { Err(entry.to_string()) }
    });
}

/// A server, and the process of it that answers.
pub struct Server {
    /// The one that was started.
    process: Process,
    has_worker: bool,
}

impl Server {
    /// The process that answers.
    pub fn pid(&self) -> u32 {
        if self.has_worker {
            self.process.children().first().copied().expect("it has a worker")
        } else {
            self.process.pid()
        }
    }

    /// Starts a command that prints `ready` when it serves.
    pub fn start(netns: &Netns, command: &mut Command) -> Self {
        let mut process = netns.spawn(command);
        assert_eq!(process.line(), "ready", "{command:?}");
        Self { process, has_worker: false }
    }

    /// Starts an nginx that answers everything with 200, in clear or through TLS.
    pub fn nginx(netns: &Netns, folder: &Path, port: u16, listen: &str) -> Self {
        let path = folder.join(format!("nginx-{port}.conf"));
        fs::write(&path, nginx(folder, port, listen)).expect("a new file");
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder).arg("-c").arg(&path).arg("-e").arg("error.log");
        let process = netns.spawn(&mut nginx);
        netns.wait_for_port("tcp", port);
        wait::until_true(
            "nginx has its worker",
            || process.children().len() == 1,
            || format!("children {:?}", process.children()),
        );
        Self { process, has_worker: true }
    }
}

fn nginx(folder: &Path, port: u16, listen: &str) -> String {
    let folder = folder.display();
    let tls = if listen.contains("ssl") {
        format!("ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;")
    } else {
        String::new()
    };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
        .concat();
    format!(
        "user root; daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid;
events {{ worker_connections 64; }}
http {{
  {temporary} access_log off; default_type text/plain;
  server {{ listen {port} {listen}; {tls} location / {{ return 200 answer; }} }}
}}
"
    )
}

/// A curl that posts to these paths, on one connection.
pub fn curl(flags: &[&str], scheme: &str, to: SocketAddr, paths: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    // Without a body: nginx refuses to go on over HTTP/2 behind one that nobody has read.
    curl.args(["--silent", "--show-error", "--insecure", "--request", "POST"]).args(flags);
    curl.args(["--write-out", "%{http_code} "]);
    for path in paths {
        curl.args(["--output", "/dev/null"]).arg(format!("{scheme}://{to}{path}"));
    }
    curl
}

/// A wget that does.
pub fn wget(to: SocketAddr, paths: &[&str]) -> Command {
    let mut wget = Command::new("wget");
    wget.args(["--quiet", "--no-check-certificate", "--post-data=question", "-O", "/dev/null"]);
    wget.args(paths.iter().map(|path| format!("https://{to}{path}")));
    wget
}
