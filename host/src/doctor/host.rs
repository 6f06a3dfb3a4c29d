//! The kernel and what it lets be seen. Each check is a function of a text as the kernel writes
//! it, or of nothing when it could not be read, so that any kernel's can be tried here.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::system::uname;

use super::Finding;

/// A text of the kernel's, if it can be read.
type Text<'a> = Option<&'a str>;

const BTF: &str = "sys/kernel/btf/vmlinux";

/// What a BTF file begins with, read as bytes.
const BTF_MAGIC: [[u8; 2]; 2] = [[0x9f, 0xeb], [0xeb, 0x9f]];

/// The first kernel that does not count maps as locked memory.
const COUNTS_NO_MAPS: (u32, u32) = (5, 11);

/// Looks at everything below `root`, which is `/`.
pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path)).ok();
        text.map(|text| text.trim().to_owned())
    };
    let exists = |path: &str| root.join(path).exists();
    let name = uname();
    let release = name.release().to_string_lossy();
    let mounts = read("proc/self/mountinfo");
    let mounts = mounts.as_deref();
    vec![
        kernel(&release, &name.machine().to_string_lossy()),
        btf(beginning(&root.join(BTF))),
        lockdown(read("sys/kernel/security/lockdown").as_deref()),
        cgroup(mounts),
        processes(mounts),
        tracefs(mounts),
        probes(
            exists("sys/bus/event_source/devices/kprobe"),
            exists("sys/bus/event_source/devices/uprobe"),
            read("sys/kernel/debug/kprobes/enabled").as_deref(),
        ),
        jit(read("proc/sys/net/core/bpf_jit_enable").as_deref()),
        statistics(read("proc/sys/kernel/bpf_stats_enabled").as_deref()),
        unprivileged(read("proc/sys/kernel/unprivileged_bpf_disabled").as_deref()),
        paranoid(read("proc/sys/kernel/perf_event_paranoid").as_deref()),
        locked_memory(&release, getrlimit(Resource::Memlock).current),
        selinux(read("sys/fs/selinux/enforce").as_deref()),
    ]
}

fn beginning(path: &Path) -> io::Result<[u8; 2]> {
    let mut bytes = [0; 2];
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// `6.18.44-generic` is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str, machine: &str) -> Finding {
    let found = format!("{release}, {machine}");
    match version(release) {
        Some(version) if version < (5, 8) => Finding::bad(
            "kernel",
            found,
            "iterators and CAP_BPF came with Linux 5.8, so plugins may lack features or fail; \
             use a newer kernel",
        ),
        _ => Finding::good("kernel", found),
    }
}

fn btf(beginning: io::Result<[u8; 2]>) -> Finding {
    match beginning {
        Ok(bytes) if BTF_MAGIC.contains(&bytes) => Finding::good("types (BTF)", format!("/{BTF}")),
        Ok(_) => Finding::bad(
            "types (BTF)",
            format!("/{BTF} is no BTF"),
            "programs cannot learn the kernel's types; boot the distribution's own kernel",
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::bad(
            "types (BTF)",
            format!("there is no /{BTF}"),
            "programs cannot learn the kernel's types; boot a kernel that was built with \
             CONFIG_DEBUG_INFO_BTF=y, or in a container mount the host's /sys",
        ),
        Err(error) => Finding::bad(
            "types (BTF)",
            format!("/{BTF}: {error}"),
            "programs cannot learn the kernel's types; make the file readable to this user",
        ),
    }
}

/// `none [integrity] confidentiality`: the one in brackets counts.
fn lockdown(text: Text<'_>) -> Finding {
    let Some(text) = text else { return Finding::good("lockdown", "not known: no such file") };
    let mode = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match mode.map(|(mode, _)| mode) {
        Some("confidentiality") => Finding::bad(
            "lockdown",
            "confidentiality",
            "the kernel lets no program read its memory; boot with lockdown=integrity, or \
             without Secure Boot where that demands it",
        ),
        Some(mode) => Finding::good("lockdown", mode),
        None => Finding::good("lockdown", format!("not known: {text:?}")),
    }
}

/// Mount point and super block options of each mount of a type; see `proc_pid_mountinfo(5)`.
fn mounts_of<'a>(
    mountinfo: &'a str,
    kind: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    mountinfo.lines().filter_map(move |line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let (mut fields, mut facts) = (mount.split(' ').skip(3), filesystem.splitn(3, ' '));
        let (root, point) = (fields.next()?, fields.next()?);
        let (is_it, options) = (facts.next()? == kind, facts.nth(1).unwrap_or_default());
        is_it.then_some((root, point, options))
    })
}

fn cgroup(mounts: Text<'_>) -> Finding {
    const WHAT: &str = "cgroup v2 root";
    let Some(mounts) = mounts else { return Finding::good(WHAT, "not known: mounts unreadable") };
    let mut all = mounts_of(mounts, "cgroup2");
    let found = all.find(|(root, ..)| *root == "/");
    found.map_or_else(
        || {
            Finding::bad(
                WHAT,
                "not mounted",
                "programs cannot be attached to all sockets; mount it with: mount -t cgroup2 \
                 none /sys/fs/cgroup, or in a container use the host's cgroup namespace",
            )
        },
        |(_, point, _)| Finding::good(WHAT, point),
    )
}

fn processes(mounts: Text<'_>) -> Finding {
    const WHAT: &str = "processes";
    let Some(mounts) = mounts else { return Finding::good(WHAT, "not known: mounts unreadable") };
    let hides = mounts_of(mounts, "proc")
        .filter(|(_, point, _)| *point == "/proc")
        .flat_map(|(.., options)| options.split(','))
        .filter_map(|option| option.strip_prefix("hidepid="));
    // What was mounted last is on top.
    match hides.last() {
        None | Some("0" | "off") => Finding::good(WHAT, "/proc shows all"),
        Some(mode) => Finding::bad(
            WHAT,
            format!("/proc is mounted with hidepid={mode}"),
            "unless the collector has CAP_SYS_PTRACE or is in the group of gid=, long names of \
             others' processes stay cut",
        ),
    }
}

fn tracefs(mounts: Text<'_>) -> Finding {
    const WHAT: &str = "tracefs";
    let Some(mounts) = mounts else { return Finding::good(WHAT, "not known: mounts unreadable") };
    let found = mounts_of(mounts, "tracefs").next();
    found.map_or_else(
        || {
            Finding::bad(
                WHAT,
                "not mounted",
                "plugins cannot use classic tracepoints; mount it with: mount -t tracefs none \
                 /sys/kernel/tracing",
            )
        },
        |(_, point, _)| Finding::good(WHAT, point),
    )
}

fn probes(kernel: bool, user: bool, enabled: Text<'_>) -> Finding {
    const WHAT: &str = "kprobes, uprobes";
    if kernel && enabled == Some("0") {
        let advice = "plugins cannot use kprobes; echo 1 >/sys/kernel/debug/kprobes/enabled";
        return Finding::bad(WHAT, "kprobes are switched off", advice);
    }
    match (kernel, user) {
        (true, true) => Finding::good(WHAT, "both"),
        (true, false) => Finding::bad(
            WHAT,
            "kprobes only",
            "plugins cannot watch programs (bash, TLS libraries); use a kernel with \
             CONFIG_UPROBE_EVENTS=y",
        ),
        (false, _) => Finding::bad(
            WHAT,
            if user { "uprobes only" } else { "neither" },
            "plugins that watch kernel functions must find other ways; use a kernel with \
             CONFIG_KPROBE_EVENTS=y",
        ),
    }
}

fn jit(text: Text<'_>) -> Finding {
    match text {
        Some("0") => Finding::bad(
            "BPF compiler (JIT)",
            "off",
            "programs are interpreted, which costs several times as much; \
             sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::good("BPF compiler (JIT)", "on"),
        // Network namespaces other than the first do not show it.
        None => Finding::good("BPF compiler (JIT)", "not known: no such file"),
    }
}

fn statistics(text: Text<'_>) -> Finding {
    match text {
        Some("1") => Finding::bad(
            "BPF statistics",
            "on",
            "the kernel measures every run of every program, which costs some time; \
             sysctl -w kernel.bpf_stats_enabled=0",
        ),
        Some(_) => Finding::good("BPF statistics", "off"),
        None => Finding::good("BPF statistics", "not known: no such file"),
    }
}

/// Fine whatever it is: it says who else may load programs.
fn unprivileged(text: Text<'_>) -> Finding {
    Finding::good(
        "unprivileged BPF",
        match text {
            Some("0") => "allowed to all users",
            Some("1") => "off, until the next boot",
            Some("2") => "off",
            _ => "not known",
        },
    )
}

/// Fine whatever it is: `CAP_PERFMON` stands above it.
fn paranoid(text: Text<'_>) -> Finding {
    let level = text.unwrap_or("not known");
    Finding::good("perf_event_paranoid", format!("{level}; CAP_PERFMON stands above it"))
}

fn locked_memory(release: &str, limit: Option<u64>) -> Finding {
    const WHAT: &str = "locked memory";
    match (limit, version(release)) {
        (None, _) => Finding::good(WHAT, "unlimited"),
        (Some(bytes), Some(version)) if version < COUNTS_NO_MAPS => Finding::bad(
            WHAT,
            format!("at most {} KiB", bytes / 1024),
            "this kernel counts maps as locked memory, so they may not fit; raise it with \
             ulimit -l unlimited or LimitMEMLOCK=infinity, or give CAP_SYS_RESOURCE",
        ),
        (Some(bytes), _) => Finding::good(
            WHAT,
            format!("at most {} KiB, in which this kernel does not count maps", bytes / 1024),
        ),
    }
}

fn selinux(text: Text<'_>) -> Finding {
    Finding::good(
        "SELinux",
        match text {
            Some("1") => "enforces; `ausearch -m avc -c datakit-ebpf` shows what it denies",
            Some(_) => "only warns",
            None => "off",
        },
    )
}

#[cfg(test)]
mod tests;
