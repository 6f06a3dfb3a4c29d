//! What must hold of the source itself. In: the files of the repository. Out: the lines that break a rule that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use system_tests::workspace;

/// All text files below a folder, except what is built or not ours.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", "dist", ".git"].contains(&name.as_str()) {
                files_below(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// `file:line: text` of each line below a folder that contains any of the words.
/// Unit tests are left out if `code_only`.
fn lines_with(folder: &Path, words: &[&str], code_only: bool) -> Vec<String> {
    let mut files = Vec::new();
    files_below(folder, &mut files);
    let is_of_tests = |file: &PathBuf| {
        let path = file.strip_prefix(folder).expect("it is below the folder");
        path.iter().any(|part| part == "tests" || part == "tests.rs")
    };
    files.retain(|file| !(code_only && is_of_tests(file)));
    assert!(!files.is_empty(), "{} has files", folder.display());
    let mut found = Vec::new();
    for file in files {
        // Bytes that are not text hold none of the words.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let lines = text
            .lines()
            .zip(1..)
            .take_while(|(line, _)| !(code_only && line.ends_with("mod tests {")));
        for (line, number) in lines {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn the_host_names_no_plugin_and_no_measurement() {
    let words = [
        "ebpf-net",
        "ebpf_net",
        "ebpf-bash",
        "ebpf_bash",
        "ebpf-conntrack",
        "ebpf_conntrack",
        "ebpf-trace",
        "ebpf_trace",
        "bpf-netlog",
        "bpf_netlog",
        "netflow",
        "httpflow",
        "dnsflow",
        "dketrace",
        "bpf_net_l4",
        "bpf_net_l7",
    ];
    // Unit tests may pass what operators write; the code must not know it.
    let found = lines_with(&workspace().join("host/src"), &words, true);
    assert!(
        found.is_empty(),
        "a third party's plugin must work the same way:\n{}",
        found.join("\n")
    );
}

/// The crates that the root lists in `members`.
fn members() -> Vec<String> {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("the root manifest");
    let (_, list) = manifest.split_once("members = [").expect("the workspace has members");
    let (list, _) = list.split_once(']').expect("the list ends");
    let names = list.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let members = members();
    assert!(members.len() > 3, "{members:?}");
    for member in members {
        let path = workspace().join(&member).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{member}: {e}"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", path.display());
    }
}

#[test]
fn nothing_refers_to_a_folder_outside_the_repository_or_to_a_registry_host() {
    // Put together here, so that this file does not contain them.
    let words = [
        concat!("work/", "shared"),
        concat!(" sha", "red/"),
        concat!("`sha", "red/"),
        concat!("\"sha", "red/"),
        concat!("(sha", "red/"),
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("deb.", "debian.org"),
        concat!("pypi.", "org"),
        concat!("proxy.", "golang.org"),
        concat!("sparse", "+http"),
        concat!("replace-", "with"),
    ];
    let found = lines_with(&workspace(), &words, false);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
