//! Compiles `progs/<plugin>/<plugin>.bpf.c` into an object and turns `abi/<plugin>.h` into Rust.
//! The only place of the project that runs clang.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

/// Plugins with BPF programs; the names of their files follow from it.
const PLUGINS: &[&str] = &["net", "bash", "conntrack"];

fn main() {
    for folder in ["abi", "lib", "progs", "vmlinux"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=LLVM_STRIP");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for plugin in PLUGINS {
        let source = format!("progs/{plugin}/{plugin}.bpf.c");
        compile(&source, &[], &out.join(format!("{plugin}.bpf.o")));
        bind(&format!("abi/{plugin}.h"), &out.join(format!("{plugin}.rs")));
    }
    // For kernels that lack what the others are made of.
    compile("progs/net/net_early.bpf.c", &[], &out.join("net_early.bpf.o"));
    compile("progs/bash/bash.bpf.c", &["-DEARLY"], &out.join("bash_early.bpf.o"));
}

fn compile(source: &str, defines: &[&str], object: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    // v3 has atomic exchange and 32-bit jumps, which kernels have had since 5.12.
    run(Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11"])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .arg(format!("-D__TARGET_ARCH_{}", registers()))
        .args(defines)
        .args(["-I.", "-Ivmlinux", "-c", source, "-o"])
        .arg(object));
    // Drops the debug sections and keeps BTF, which the loader needs.
    let strip = env::var("LLVM_STRIP").unwrap_or_else(|_| "llvm-strip".into());
    run(Command::new(strip).arg("-g").arg(object));
}

/// Whose registers uprobes see, in libbpf's words.
fn registers() -> &'static str {
    match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "x86",
        Ok("aarch64") => "arm64",
        other => panic!("no BPF programs for {other:?}: x86_64 and aarch64 are known"),
    }
}

fn bind(header: &str, rust: &Path) {
    // Padding that nobody named is where the two sides could differ unnoticed.
    run(Command::new(env::var("CLANG").unwrap_or_else(|_| "clang".into())).args([
        "-fsyntax-only",
        "-Wpadded",
        "-Werror",
        "-I.",
        header,
    ]));
    let bindings = bindgen::Builder::default()
        .header(header)
        .clang_arg("-I.")
        .allowlist_file(".*abi/.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .use_core()
        .parse_callbacks(Box::new(Bytes))
        .generate()
        .unwrap_or_else(|error| panic!("bindings for {header}: {error}"));
    fs::write(rust, bindings.to_string())
        .unwrap_or_else(|error| panic!("write {}: {error}", rust.display()));
}

/// Lets records be read from bytes without unsafe code; refuses padding on the Rust side too.
#[derive(Debug)]
struct Bytes;

impl ParseCallbacks for Bytes {
    fn add_derives(&self, _info: &DeriveInfo<'_>) -> Vec<String> {
        ["FromBytes", "IntoBytes", "Immutable", "KnownLayout"]
            .map(|name| format!("zerocopy::{name}"))
            .to_vec()
    }
}

fn run(command: &mut Command) {
    let shown = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{shown}: {status}"),
        Err(error) => panic!("{shown}: {error}; `make build` installs what is missing"),
    }
}
