//! `datakit-ebpf tls explain PID`: which TLS library a process uses, and whether what goes through it
//! is seen. In: a process. Out: text for people. It looks at files as the collector does and attaches
//! nothing, so it says what a collector with httpflow-tls can see, not what one does.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};
use plugin_support::uprobe::{Code, Target};

use super::library::{Inside, Library, marked, unseen};

/// Libraries of one process that are looked into.
const MOST_LIBRARIES: usize = 512;

const USAGE: &str = "write `datakit-ebpf tls explain PID`";

/// Answers the words of a command line.
pub(crate) fn explain(words: &[&str]) -> Result<String> {
    let ["tls", "explain", pid] = words else { bail!(USAGE) };
    let Ok(pid) = pid.parse::<u32>() else { bail!("{pid} is no process id: {USAGE}") };
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    let name = name.with_context(|| format!("look at process {pid}"))?;
    let Ok(program) = Target::executable(pid) else {
        bail!("look at what process {pid} runs: it runs nothing, or it takes root to see it");
    };
    let mut report = Report { text: String::new(), seen: 0, unseen: 0 };
    match Inside::of(&program) {
        Inside::Nothing => {}
        Inside::Library(library) => report.library(library, &program),
        Inside::Unseen(why) => report.unseen(program.name(), &why),
    }
    let mapped = Target::all_mapped(pid, MOST_LIBRARIES, |path| path != program.name())
        .context("look at what it has mapped, which takes root")?;
    for file in &mapped {
        report.mapped(file);
    }
    let outcome = match (report.seen, report.unseen) {
        (0, 0) => {
            "it has no TLS library that is known here; if it uses TLS, what goes through it is not seen"
        }
        (0, _) => "what goes through TLS is not seen",
        (_, 0) => "HTTP through TLS is seen where httpflow-tls is reported",
        _ => {
            "some of what goes through TLS is seen where httpflow-tls is reported, and some is not"
        }
    };
    let kernel = kernel_tls(pid);
    let (name, program, text) = (name.trim_end(), program.name(), report.text);
    Ok(format!(
        "{name} (pid {pid}): {outcome}\n  {program}: is what it runs\n{text}  kernel TLS: {kernel}"
    ))
}

struct Report {
    text: String,
    seen: usize,
    unseen: usize,
}

impl Report {
    fn library(&mut self, library: Library, file: &Target) {
        match library.spots(file) {
            Ok(spots) => {
                self.seen += 1;
                let (name, places) = (library.name(), spots.len());
                self.line(file.name(), format_args!("{name}, seen at {places} places of its code"));
            }
            Err(error) => {
                let why = format!("{}, not seen: {error:#}", library.name());
                self.unseen += 1;
                self.line(file.name(), format_args!("{why}"));
            }
        }
    }

    fn mapped(&mut self, file: &Target) {
        if let Some(library) = Library::of_file(file.name()) {
            return self.library(library, file);
        }
        if let Some(why) = unseen(file.name()) {
            return self.unseen(file.name(), why);
        }
        // What is no ELF file has no library inside.
        if let Ok(Some(why)) = Code::of(file).and_then(|code| marked(&code)) {
            self.unseen(file.name(), why);
        }
    }

    fn unseen(&mut self, file: &str, why: &str) {
        self.unseen += 1;
        self.line(file, format_args!("not seen: {why}"));
    }

    fn line(&mut self, file: &str, what: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        writeln!(self.text, "  {file}: {what}").ok();
    }
}

/// What the kernel says of TLS of its own, in the network namespace of a process.
fn kernel_tls(pid: u32) -> String {
    let Ok(counters) = fs::read_to_string(format!("/proc/{pid}/net/tls_stat")) else {
        return "this kernel has none loaded".to_owned();
    };
    match open_kernel_sessions(&counters) {
        0 => "not in use in its network namespace".to_owned(),
        open => format!(
            "{open} directions of connections in its network namespace use it: what SSL_sendfile sends is \
             counted and not read, all else is seen as without it"
        ),
    }
}

fn open_kernel_sessions(counters: &str) -> u64 {
    let is_open = |name: &str| name.starts_with("TlsCurr");
    let lines = counters.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let open = lines.filter(|(name, _)| is_open(name));
    open.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::{explain, open_kernel_sessions};

    #[test]
    fn a_process_without_tls_is_explained() {
        let pid = std::process::id().to_string();
        let text = explain(&["tls", "explain", &pid]).unwrap();
        assert!(text.contains(&format!("(pid {pid})")), "{text}");
        assert!(text.contains("kernel TLS: "), "{text}");
    }

    #[test]
    fn what_is_no_process_is_a_sentence() {
        for words in [&["tls"][..], &["tls", "explain", "x"], &["tls", "explain", "1", "2"]] {
            assert!(format!("{:#}", explain(words).unwrap_err()).contains("PID"), "{words:?}");
        }
        let error = format!("{:#}", explain(&["tls", "explain", "4194305"]).unwrap_err());
        assert!(error.contains("process 4194305"), "{error}");
    }

    #[test]
    fn open_sessions_of_the_kernel_are_added_up() {
        let counters = "TlsCurrTxSw                     \t2\nTlsCurrRxDevice\t1\nTlsTxSw\t90\n";
        assert_eq!(open_kernel_sessions(counters), 3);
    }
}
