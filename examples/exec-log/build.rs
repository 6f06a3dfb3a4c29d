use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/exec.bpf.c");
    let compiled = Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
        // Where Debian and Ubuntu have the headers that depend on the machine.
        .arg(format!("-I/usr/include/{}-linux-gnu", env::consts::ARCH))
        .args(["-c", "src/exec.bpf.c", "-o"])
        .arg(env::var("OUT_DIR").expect("cargo sets OUT_DIR") + "/exec.bpf.o")
        .status()
        .expect("clang is installed");
    assert!(compiled.success(), "clang has refused src/exec.bpf.c");
}
