//! What a plugin's file says of itself, found in its bytes without running it.

use anyhow::{Context as _, Result, anyhow, ensure};
use plugin_api::loading::MARK;

use crate::plugin::loader::is_name;

/// The lines that `export_plugin!` puts into a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The version of the plugin interface that it was built against.
    pub(crate) api: u32,
    /// `debug` or `release`.
    pub(crate) profile: String,
    /// What it needs beyond what every plugin has, as capabilities(7) names it without `CAP_`.
    pub(crate) capabilities: Vec<String>,
    /// What operators may ask it about.
    pub(crate) commands: Vec<String>,
}

/// Finds the manifest in a library.
pub(crate) fn read(file: &[u8]) -> Result<Manifest> {
    // The mark may also be among the constants of a program that looks for it.
    let (mut offset, mut first) = (0, None);
    while let Some(found) = file[offset..].windows(MARK.len()).position(|window| window == MARK) {
        offset += found + MARK.len();
        match parse(&file[offset..]) {
            Ok(manifest) => return Ok(manifest),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| anyhow!("it has no manifest; export it with export_plugin!")))
}

/// Reads the text that stands behind a mark.
fn parse(rest: &[u8]) -> Result<Manifest> {
    let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = str::from_utf8(text).context("its manifest is not text")?;
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned());
        let found = found.with_context(|| format!("its manifest says nothing of its {key}"))?;
        // People read it on a terminal.
        ensure!(!found.contains(char::is_control), "its manifest has a strange {key}: {found:?}");
        Ok(found)
    };
    let (api, name) = (value("api")?, value("name")?);
    ensure!(is_name(&name), "its manifest has a strange name: {name:?}");
    // Version 1 of the interface does not know of these.
    let words = |key| {
        let words = value(key).unwrap_or_default();
        words.split_ascii_whitespace().map(str::to_owned).collect()
    };
    Ok(Manifest {
        name,
        version: value("version")?,
        api: api.parse().with_context(|| format!("its manifest has a strange api: {api:?}"))?,
        profile: value("profile")?,
        capabilities: words("capabilities"),
        commands: words("commands"),
    })
}

#[cfg(test)]
mod tests {
    use super::{Manifest, read};
    use plugin_api::loading::MARK;

    fn file(text: &str) -> Vec<u8> {
        [b"code", MARK, text.as_bytes(), b"\0more code"].concat()
    }

    #[test]
    fn a_manifest_is_found_among_code() {
        let text = "api=1\nname=some-plugin\nversion=1.2.3\nprofile=release\n\
                    capabilities=SYS_ADMIN NET_BROADCAST\ncommands=some\ntarget=x86_64\n";
        let expected = Manifest {
            name: "some-plugin".into(),
            version: "1.2.3".into(),
            api: 1,
            profile: "release".into(),
            capabilities: vec!["SYS_ADMIN".into(), "NET_BROADCAST".into()],
            commands: vec!["some".into()],
        };
        assert_eq!(read(&file(text)).unwrap(), expected);
    }

    #[test]
    fn a_mark_that_is_no_manifest_is_passed_over() {
        let decoy = file("nothing of the kind");
        let real = file("api=2\nname=x\nversion=1\nprofile=debug\n");
        assert_eq!(read(&[decoy, real].concat()).unwrap().api, 2);
    }

    #[test]
    fn what_would_steer_a_terminal_is_refused() {
        let file = file("api=1\nname=x\nversion=\x1b[2J\nprofile=debug\n");
        assert!(read(&file).unwrap_err().to_string().contains("strange version"));
    }

    #[test]
    fn a_file_without_one_or_with_half_of_one_is_an_error() {
        assert!(read(b"nothing").unwrap_err().to_string().contains("export_plugin!"));
        let half = read(&file("api=1\nname=x\n")).unwrap_err();
        assert!(half.to_string().contains("version"), "{half}");
        assert!(read(&file("api=one\nname=x\nversion=1\nprofile=debug\n")).is_err());
    }
}
