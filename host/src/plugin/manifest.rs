//! What a plugin's file says of itself, found in its bytes without running it.

use anyhow::{Context as _, Result};
use plugin_api::loading::MARK;

/// The lines that `export_plugin!` puts into a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The version of the plugin interface that it was built against.
    pub(crate) api: u32,
    /// `debug` or `release`.
    pub(crate) profile: String,
}

/// Finds the manifest in a library.
pub(crate) fn read(file: &[u8]) -> Result<Manifest> {
    let text =
        text_in(file).context("it has no manifest; export the plugin with export_plugin!")?;
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned());
        found.with_context(|| format!("its manifest says nothing of its {key}"))
    };
    let api = value("api")?;
    Ok(Manifest {
        name: value("name")?,
        version: value("version")?,
        api: api.parse().with_context(|| format!("its manifest has a strange api: {api}"))?,
        profile: value("profile")?,
    })
}

fn text_in(file: &[u8]) -> Option<&str> {
    let start = file.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let rest = &file[start..];
    let end = rest.iter().position(|byte| *byte == 0)?;
    str::from_utf8(&rest[..end]).ok()
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
        let text = "api=1\nname=some-plugin\nversion=1.2.3\nprofile=release\ntarget=x86_64\n";
        let expected = Manifest {
            name: "some-plugin".into(),
            version: "1.2.3".into(),
            api: 1,
            profile: "release".into(),
        };
        assert_eq!(read(&file(text)).unwrap(), expected);
    }

    #[test]
    fn a_file_without_one_or_with_half_of_one_is_an_error() {
        assert!(read(b"nothing").unwrap_err().to_string().contains("export_plugin!"));
        let half = read(&file("api=1\nname=x\n")).unwrap_err();
        assert!(half.to_string().contains("version"), "{half}");
        assert!(read(&file("api=one\nname=x\nversion=1\nprofile=debug\n")).is_err());
    }
}
