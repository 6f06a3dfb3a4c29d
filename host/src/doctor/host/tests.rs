//! Texts of odd kernels.

use super::*;

#[track_caller]
fn is_good(finding: &Finding, found: &str) {
    assert!(finding.advice.is_none() && finding.found.contains(found), "{finding:?}");
}

#[track_caller]
fn is_bad(finding: &Finding, advice: &str) {
    assert!(finding.advice.as_ref().is_some_and(|text| text.contains(advice)), "{finding:?}");
}

#[test]
fn releases_of_distributions_have_a_version() {
    assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
    assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
    assert_eq!(version("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
    assert_eq!(version("6.1+custom"), Some((6, 1)));
    assert_eq!(version("next"), None);
}

#[test]
fn a_kernel_before_iterators_is_told_so_and_an_unknown_one_is_not() {
    is_bad(&kernel("5.4.0-150-generic", "x86_64"), "5.8");
    is_good(&kernel("5.15.0", "aarch64"), "5.15.0, aarch64");
    is_good(&kernel("next", "x86_64"), "next");
}

#[test]
fn types_must_be_there_readable_and_types() {
    is_good(&btf(Ok([0x9f, 0xeb])), "vmlinux");
    is_bad(&btf(Ok([0x7f, b'E'])), "own kernel");
    is_bad(&btf(Err(ErrorKind::NotFound.into())), "CONFIG_DEBUG_INFO_BTF");
    is_bad(&btf(Err(ErrorKind::PermissionDenied.into())), "readable");
}

#[test]
fn only_the_confidential_lockdown_is_in_the_way() {
    is_good(&lockdown(Some("[none] integrity confidentiality")), "none");
    is_good(&lockdown(Some("none [integrity] confidentiality")), "integrity");
    is_bad(&lockdown(Some("none integrity [confidentiality]")), "lockdown=integrity");
    is_good(&lockdown(Some("odd")), "odd");
    is_good(&lockdown(None), "not known");
}

#[test]
fn the_cgroup_root_is_found_beside_version_1_and_a_part_of_it_is_none() {
    let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                  32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw shared:2 - cgroup2 none rw";
    is_good(&cgroup(Some(hybrid)), "/sys/fs/cgroup/unified");
    let part = "41 31 0:38 /kubepods /sys/fs/cgroup ro - cgroup2 none rw";
    is_bad(&cgroup(Some(part)), "mount -t cgroup2");
    is_bad(&cgroup(Some("")), "mount -t cgroup2");
    is_good(&cgroup(None), "not known");
}

#[test]
fn hidden_processes_are_noticed() {
    let line = |options: &str| format!("22 1 0:5 / /proc rw shared:5 - proc proc {options}");
    is_good(&processes(Some(&line("rw"))), "all");
    is_good(&processes(Some(&line("rw,hidepid=off"))), "all");
    is_bad(&processes(Some(&line("rw,gid=7,hidepid=2"))), "CAP_SYS_PTRACE");
    is_bad(&processes(Some(&line("rw,hidepid=invisible"))), "CAP_SYS_PTRACE");
}

#[test]
fn probes_may_lack_or_be_switched_off() {
    is_good(&probes(true, true, None), "both");
    is_good(&probes(true, true, Some("1")), "both");
    is_bad(&probes(true, true, Some("0")), "echo 1");
    is_bad(&probes(true, false, None), "CONFIG_UPROBE_EVENTS");
    is_bad(&probes(false, true, None), "CONFIG_KPROBE_EVENTS");
    let mounts = "31 23 0:12 / /sys/kernel/tracing rw - tracefs tracefs rw";
    is_good(&tracefs(Some(mounts)), "/sys/kernel/tracing");
    is_bad(&tracefs(Some("")), "mount -t tracefs");
}

#[test]
fn what_costs_time_is_said() {
    is_bad(&jit(Some("0")), "bpf_jit_enable=1");
    is_good(&jit(Some("2")), "on");
    is_good(&jit(None), "not known");
    is_bad(&statistics(Some("1")), "bpf_stats_enabled=0");
    is_good(&statistics(Some("0")), "off");
}

#[test]
fn locked_memory_matters_to_old_kernels_only() {
    is_bad(&locked_memory("5.10.0", Some(65536)), "LimitMEMLOCK");
    is_good(&locked_memory("5.10.0", None), "unlimited");
    is_good(&locked_memory("5.11.0", Some(65536)), "64 KiB");
}

#[test]
fn settings_for_other_users_are_shown_and_never_in_the_way() {
    for (value, shown) in [("0", "allowed"), ("1", "next boot"), ("2", "off"), ("7", "not known")] {
        is_good(&unprivileged(Some(value)), shown);
    }
    is_good(&paranoid(Some("4")), "4");
    is_good(&paranoid(None), "not known");
    is_good(&selinux(Some("1")), "ausearch");
    is_good(&selinux(None), "off");
}

#[test]
fn a_host_that_shows_nothing_is_examined_all_the_same() {
    let nowhere = tempfile::tempdir().unwrap();
    let findings = findings(nowhere.path());
    assert!(findings.iter().any(|finding| finding.what == "types (BTF)"), "{findings:?}");
    assert_eq!(findings.len(), 13);
}
