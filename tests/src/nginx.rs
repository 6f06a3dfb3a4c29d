//! An nginx of the test's own: generated configuration in a temporary folder, in a namespace, never the system's service.
//! In: a namespace. Out: a server on port 80, in both families, of one big file through `sendfile`; on port 81 the same, but each
//! head in a packet of its own; if wanted also through TLS, on port 443. `sendfile` and `tcp_nopush` are as Debian's package has them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::hosts::Netns;
use crate::process::{Process, run};
use crate::wait;

/// The length of the file served as `/big`.
pub const BIG: u64 = 50_000_000;

/// A master and one worker; both end when this is dropped.
pub struct Nginx {
    master: Process,
    /// Removed after the processes that write to it.
    _folder: TempDir,
}

impl Nginx {
    /// Starts it and waits until it serves.
    pub fn start(netns: &Netns) -> Self {
        Self::serve(netns, false)
    }

    /// The same on port 443 too, through TLS, with a certificate for nobody in particular.
    pub fn start_with_tls(netns: &Netns) -> Self {
        Self::serve(netns, true)
    }

    fn serve(netns: &Netns, with_tls: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("nginx").tempdir().expect("a folder");
        let path = folder.path().to_str().expect("temporary paths are text");
        let big = fs::File::create(folder.path().join("big")).expect("a new file");
        big.set_len(BIG).expect("a sparse file takes no room");
        let config = folder.path().join("nginx.conf");
        let tls = if with_tls { tls(folder.path()) } else { String::new() };
        fs::write(&config, configuration(path, &tls)).expect("a new file");

        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&config).arg("-e").arg("error.log");
        let master = netns.spawn(&mut nginx);
        netns.wait_for_port("tcp", 80);
        wait::until_true(
            "nginx has its worker",
            || master.children().len() == 1,
            || format!("children {:?}", master.children()),
        );
        Self { master, _folder: folder }
    }

    /// The process that accepts and answers; the master only listens.
    pub fn worker(&self) -> u32 {
        self.master.children().first().copied().expect("the worker runs as long as the master")
    }
}

/// What curl says of one fetch of `/big`.
pub struct Fetched {
    /// Its process.
    pub pid: u32,
    /// Bytes that it read, headers included.
    pub read: i64,
    /// Bytes that it wrote.
    pub written: i64,
}

/// Fetches `/big` with curl.
#[track_caller]
pub fn fetch_big(from: &Netns, address: SocketAddr) -> Fetched {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{size_download} %{size_header} %{size_request}"]);
    let (pid, counts) = from.run(curl.arg(format!("http://{address}/big")));
    let counts: Vec<i64> = counts.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [body, headers, request] = counts[..] else { panic!("{counts:?}") };
    assert_eq!(body, BIG.cast_signed());
    Fetched { pid, read: body + headers, written: request }
}

/// The lines of a server with TLS, whose certificate is made for it.
fn tls(folder: &Path) -> String {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"]);
    openssl.args(["-days", "2", "-subj", "/CN=test", "-keyout", "key.pem", "-out", "cert.pem"]);
    run(&mut openssl);
    let folder = folder.display();
    format!(
        "    listen 443 ssl;
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
"
    )
}

fn configuration(folder: &str, tls: &str) -> String {
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
  tcp_nopush on;
  access_log off;
  default_type text/plain;
  server {{
    listen 80;
    listen [::]:80;
{tls}    root {folder};
  }}
  server {{
    listen 81;
    tcp_nopush off;
    root {folder};
  }}
}}
"
    )
}
