//! What a plugin's file says of itself before any of its code runs: a few lines of text among its
//! constants, behind a mark that a reader of the file can search for.

use crate::API_VERSION;
use crate::plugin::Plugin;

/// What stands before the text.
pub const MARK: &[u8] = b"\0datakit-ebpf-plugin\0";

/// Room for the mark and the text; a longer name or version is cut.
const SIZE: usize = 256;

/// A manifest, as it lies in the file: the mark, lines of `key=value`, and NULs.
pub type Manifest = [u8; SIZE];

/// The manifest of `P`; `export_plugin!` puts it into the library. `profile` is how the plugin was
/// compiled, and `target` is for which machine.
pub const fn manifest_of<P: Plugin>(profile: &str, target: &str) -> Manifest {
    let text = Writer::new().bytes(MARK).bytes(b"api=").number(API_VERSION);
    let text = text.bytes(b"\nname=").bytes(P::NAME.as_bytes());
    let text = text.bytes(b"\nversion=").bytes(P::VERSION.as_bytes());
    let text = text.bytes(b"\nprofile=").bytes(profile.as_bytes());
    let text = text.bytes(b"\ncapabilities=").bytes(P::CAPABILITIES.as_bytes());
    let text = text.bytes(b"\ncommands=").bytes(P::COMMANDS.as_bytes());
    text.bytes(b"\ntarget=").bytes(target.as_bytes()).bytes(b"\n").buffer
}

/// Writes at compile time.
struct Writer {
    buffer: Manifest,
    length: usize,
}

impl Writer {
    const fn new() -> Self {
        Self { buffer: [0; SIZE], length: 0 }
    }

    const fn bytes(mut self, bytes: &[u8]) -> Self {
        let mut index = 0;
        // The last byte stays NUL, which ends the text.
        while index < bytes.len() && self.length < SIZE - 1 {
            self.buffer[self.length] = bytes[index];
            self.length += 1;
            index += 1;
        }
        self
    }

    const fn number(self, number: u32) -> Self {
        let digit = [b'0' + (number % 10) as u8];
        if number >= 10 { self.number(number / 10).bytes(&digit) } else { self.bytes(&digit) }
    }
}
