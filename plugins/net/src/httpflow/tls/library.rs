//! TLS libraries: how they are told, and where programs go in them. Comes in: a file that a process
//! runs or has mapped. Goes out: what is in it, or why it cannot be seen. It attaches nothing.

use std::path::Path;

use anyhow::{Result, ensure};
use plugin_support::uprobe::{self, Code, Kept, Place, Spot, Symbol, Target};

use crate::probes::{
    GO_CLOSE, GO_HANDSHAKE, GO_READ, GO_RETURN, GO_WRITE, TLS_END, TLS_FREE, TLS_HANDSHAKE,
    TLS_READ, TLS_READ_EX, TLS_RETURN, TLS_SENDFILE, TLS_WRITE, TLS_WRITE_EX,
};

/// A function, and the program at its begin.
type Function = (&'static str, &'static str);

/// The first two of each must be there.
const OPENSSL: &[Function] = &[
    ("SSL_read", TLS_READ),
    ("SSL_write", TLS_WRITE),
    ("SSL_read_ex", TLS_READ_EX),
    ("SSL_write_ex", TLS_WRITE_EX),
    ("SSL_do_handshake", TLS_HANDSHAKE),
    ("SSL_sendfile", TLS_SENDFILE),
    ("SSL_free", TLS_FREE),
];

const GNUTLS: &[Function] = &[
    ("gnutls_record_recv", TLS_READ),
    ("gnutls_record_send", TLS_WRITE),
    ("gnutls_handshake", TLS_HANDSHAKE),
    ("gnutls_deinit", TLS_FREE),
];

const GO: &[Function] = &[
    ("crypto/tls.(*Conn).Read", GO_READ),
    ("crypto/tls.(*Conn).Write", GO_WRITE),
    ("crypto/tls.(*Conn).clientHandshake", GO_HANDSHAKE),
    ("crypto/tls.(*Conn).serverHandshake", GO_HANDSHAKE),
    ("crypto/tls.(*Conn).Close", GO_CLOSE),
];

/// What text in a program says which library is in it that cannot be seen.
const MARKS: &[(&str, &str)] = &[
    ("/rustls-", "it has rustls inside, whose functions cannot be told in a program"),
    ("ssl/ssl_lib.cc", "it has BoringSSL inside, without symbols that name its functions"),
    ("ssl/ssl_lib.c", "it has OpenSSL inside, without symbols that name its functions"),
];

/// A library whose functions are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Library {
    /// OpenSSL since 1.0, `LibreSSL` and `BoringSSL`.
    OpenSsl,
    GnuTls,
    /// Go's crypto/tls.
    Go,
}

impl Library {
    /// As operators know it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "OpenSSL",
            Self::GnuTls => "GnuTLS",
            Self::Go => "Go's crypto/tls",
        }
    }

    fn functions(self) -> &'static [Function] {
        match self {
            Self::OpenSsl => OPENSSL,
            Self::GnuTls => GNUTLS,
            Self::Go => GO,
        }
    }

    /// The function that stands for all of them.
    pub(super) fn function(self) -> &'static str {
        self.functions()[0].0
    }

    /// By the name of a library's file; `None` if it is not one of these.
    pub(super) fn of_file(path: &str) -> Option<Self> {
        let name = file_name(path)?;
        // Python wheels and the like bring their own, as libssl-a1b2c3.so.1.1.
        let is = |library: &str| {
            let rest = name.strip_prefix(library);
            rest.is_some_and(|rest| {
                rest.starts_with(".so") || (rest.starts_with('-') && rest.contains(".so"))
            })
        };
        if is("libssl") {
            return Some(Self::OpenSsl);
        }
        is("libgnutls").then_some(Self::GnuTls)
    }

    /// Where programs go in a file that has it.
    pub(super) fn spots(self, target: &Target) -> Result<Vec<Spot>> {
        let functions = self.functions();
        let names: Vec<&str> = functions.iter().map(|(name, _)| *name).collect();
        let code = Code::of(target)?;
        let symbols = match self {
            Self::Go => code.go_functions(&names)?.unwrap_or_else(|| vec![None; names.len()]),
            Self::OpenSsl | Self::GnuTls => code.symbols(&names)?,
        };
        for (name, symbol) in names.iter().zip(&symbols).take(2) {
            ensure!(symbol.is_some(), "it has no function {name}");
        }
        // First what ends a call, so that none begins that seems to last.
        let (mut ends, mut begins) = (Vec::new(), Vec::new());
        for ((_, program), symbol) in functions.iter().zip(symbols) {
            let Some(symbol) = symbol else { continue };
            let has_end = ![TLS_FREE, GO_HANDSHAKE, GO_CLOSE].contains(program);
            if self == Self::Go {
                begins.push(Spot::new(program, beginning(&code, symbol, Kept::OfGo, false).offset));
                if has_end {
                    // Go moves stacks, and may not find an address on one that the kernel has put there.
                    let returns = code.returns(symbol)?.into_iter();
                    ends.extend(returns.map(|at| Spot::new(GO_RETURN, at)));
                }
                continue;
            }
            let is_long = [TLS_READ_EX, TLS_WRITE_EX].contains(program);
            let kept = if is_long { Kept::FourArguments } else { Kept::TwoArguments };
            let cheap_ends =
                if has_end && uprobe::has_cookies() { code.ends(symbol) } else { None };
            // The kernel finds the address to return to where the stack has not grown yet.
            let may_be_deep = uprobe::has_cookies() && (cheap_ends.is_some() || !has_end);
            let begin = beginning(&code, symbol, kept, may_be_deep);
            match cheap_ends {
                Some(places) => ends.extend(places.into_iter().map(|place| at(TLS_END, place))),
                None if has_end => ends.push(Spot::new(TLS_RETURN, begin.offset)),
                None => {}
            }
            begins.push(at(program, begin));
        }
        ends.extend(begins);
        Ok(ends)
    }
}

/// The cheapest place at the beginning of a function, or just its beginning.
fn beginning(code: &Code<'_>, symbol: Symbol, kept: Kept, may_be_deep: bool) -> Place {
    code.beginning(symbol, kept)
        .filter(|place| may_be_deep || place.depth == 0)
        .unwrap_or(Place { offset: symbol.offset, depth: 0 })
}

fn at(program: &'static str, place: Place) -> Spot {
    let cookie = (place.depth > 0).then_some(place.depth);
    Spot { program, offset: place.offset, cookie }
}

/// What a program has inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inside {
    /// No TLS, or only that of libraries that it maps.
    Nothing,
    Library(Library),
    /// One that cannot be seen, and why.
    Unseen(String),
}

impl Inside {
    /// Looks into a program.
    pub(super) fn of(target: &Target) -> Self {
        match look_into(target) {
            Ok(inside) => inside,
            // What is no program that we can read is none with a library inside.
            Err(error) => {
                log::debug!(file = target.name(), error:% = format!("{error:#}"); "a program is not understood");
                Self::Nothing
            }
        }
    }
}

fn look_into(target: &Target) -> Result<Inside> {
    let code = Code::of(target)?;
    let found = code.symbols(&[OPENSSL[0].0, OPENSSL[1].0]).unwrap_or_default();
    if !found.is_empty() && found.iter().all(Option::is_some) {
        return Ok(Inside::Library(Library::OpenSsl));
    }
    match code.go_functions(&[GO[0].0]) {
        Ok(Some(found)) if found[0].is_some() => return Ok(Inside::Library(Library::Go)),
        // Which libraries a program of Go has inside, its table of functions says.
        Ok(Some(_)) => return Ok(Inside::Nothing),
        Ok(None) => {}
        Err(error) => return Ok(Inside::Unseen(format!("{error:#}"))),
    }
    let found = marked(&code)?;
    Ok(found.map_or(Inside::Nothing, |why| Inside::Unseen(why.to_owned())))
}

/// Why the library cannot be seen that text in this file tells of.
pub(super) fn marked(code: &Code<'_>) -> Result<Option<&'static str>> {
    let marks: Vec<&str> = MARKS.iter().map(|(mark, _)| *mark).collect();
    let mentioned = code.mentions(&marks)?;
    let found = MARKS.iter().zip(mentioned).find(|(_, is_mentioned)| *is_mentioned);
    Ok(found.map(|((_, why), _)| *why))
}

/// Why a process cannot be seen that has this file mapped; `None` if the file says nothing of that.
pub(super) fn unseen(path: &str) -> Option<&'static str> {
    let name = file_name(path)?;
    if name == "libjvm.so" {
        return Some("Java has TLS of its own, which it compiles while it runs");
    }
    let is_nss = name.starts_with("libssl3.so") || name.starts_with("libnss3.so");
    is_nss.then_some("it uses NSS, whose functions are those of all its files and pipes too")
}

fn file_name(path: &str) -> Option<&str> {
    // What the kernel adds when the file was replaced since.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    Path::new(path).file_name()?.to_str()
}

/// Where to look for libraries in a root that nobody has mapped yet.
pub(super) fn usual_paths() -> impl Iterator<Item = String> {
    let machine = std::env::consts::ARCH;
    let folders =
        ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/lib", "/lib64"]
            .map(str::to_owned)
            .into_iter()
            .chain(["/usr/lib", "/lib"].map(|folder| format!("{folder}/{machine}-linux-gnu")));
    let files = [
        "libssl.so.3",
        "libssl.so.1.1",
        "libssl.so.1.0.2",
        "libssl.so.1.0.0",
        "libssl.so.10",
        "libgnutls.so.30",
        "libgnutls.so.28",
    ];
    folders.flat_map(move |folder| files.map(|file| format!("{folder}/{file}")))
}

#[cfg(test)]
mod tests {
    use super::{Library, unseen, usual_paths};

    #[test]
    fn tls_libraries_are_told_by_their_names() {
        for path in [
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
            "/lib/libssl.so.1.1 (deleted)",
            "/app/numpy.libs/libssl-1e6df745.so.1.1",
        ] {
            assert_eq!(Library::of_file(path), Some(Library::OpenSsl), "{path}");
        }
        assert_eq!(Library::of_file("/usr/lib/libgnutls.so.30.34.3"), Some(Library::GnuTls));
        // The last one is of NSS, which has other functions.
        for path in ["/usr/lib/libcrypto.so.3", "/usr/lib/libgnutlsxx.so.30", "/usr/lib/libssl3.so"]
        {
            assert_eq!(Library::of_file(path), None, "{path}");
        }
        assert!(usual_paths().all(|path| Library::of_file(&path).is_some()));
    }

    #[test]
    fn what_cannot_be_seen_is_told_by_what_is_mapped() {
        let java = unseen("/usr/lib/jvm/java-17/lib/server/libjvm.so").unwrap();
        assert!(java.contains("Java"), "{java}");
        assert!(unseen("/usr/lib/libnss3.so").unwrap().contains("NSS"));
        assert_eq!(unseen("/usr/lib/libnss_files.so.2"), None);
    }
}
