//! The flags of `run`.
//!
//! In: the words after `run`, or `args` of DataKit's file. Out: a [`Layer`]. They are read here
//! and not by clap because they are Go's flags, launched by DataKit versions that we do not know:
//! `_` and `-` are the same, a switch may be bare but never takes the next word, any other flag
//! always does, and a word that means nothing to us is a warning and must not stop the collector.

use anyhow::{Context as _, Result};

use super::{
    layers::Layer,
    options::{Kind, Options},
};

/// What the words said.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// The values given.
    pub(crate) layer: Layer,
    /// Whether help was asked for.
    pub(crate) help: bool,
}

/// Reads words; `place` is added to each flag to say where they stand, empty for our own argv.
pub(crate) fn read(options: &Options, words: &[String], place: &str) -> Result<Flags> {
    let mut flags = Flags::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => flags.help = true,
            "--" => {
                flags.layer.warnings.extend(words.by_ref().map(|word| stray(word, place)));
            }
            _ => {
                let (flag, value) = match word.split_once('=') {
                    Some((flag, value)) => (flag, Some(value)),
                    None => (word.as_str(), None),
                };
                if !flag.starts_with('-') || flag == "-" {
                    flags.layer.warnings.push(stray(word, place));
                    continue;
                }
                let Some(entry) = flag.strip_prefix("--").and_then(|name| options.by_flag(name))
                else {
                    flags.layer.warnings.push(format!(
                        "unknown flag {flag}{place} is ignored; `datakit-ebpf help run` lists all"
                    ));
                    continue;
                };
                let origin = format!("{flag}{place}");
                let value = match value {
                    Some(value) => value,
                    None if entry.kind == Kind::Switch => "true",
                    None => words.next().with_context(|| {
                        format!("{origin} needs a value, such as {}", entry.example)
                    })?,
                };
                flags.layer.add(entry, entry.kind.items(value)?, origin);
            }
        }
    }
    Ok(flags)
}

fn stray(word: &str, place: &str) -> String {
    format!("\"{word}\"{place} is ignored: no flag takes it (a switch does as --switch=false)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_ok(words: &[&str]) -> Flags {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        read(&Options::load().unwrap(), &words, "").unwrap()
    }

    fn items(flags: &Flags, name: &str) -> Vec<String> {
        flags.layer.get(name).map(|given| given.items.clone()).unwrap_or_default()
    }

    #[test]
    fn a_value_follows_the_flag_or_an_equals_sign() {
        for words in [&["--interval", "90s"][..], &["--interval=90s"]] {
            assert_eq!(items(&read_ok(words), "interval"), ["90s"]);
        }
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        assert_eq!(items(&read_ok(&["--ephemeral_port", "-1"]), "ephemeral-port"), ["-1"]);
        assert_eq!(items(&read_ok(&["--tags", "a=b=c"]), "tags"), ["a=b=c"]);
    }

    #[test]
    fn a_switch_does_not_take_the_next_word() {
        let flags = read_ok(&["--ipv6-disabled", "--netlog-log=false", "--service", "x"]);
        assert_eq!(items(&flags, "ipv6-disabled"), ["true"]);
        assert_eq!(items(&flags, "netlog-log"), ["false"]);
        assert_eq!(items(&flags, "service"), ["x"]);
    }

    #[test]
    fn a_list_grows_with_every_occurrence_and_a_text_is_replaced() {
        let flags = read_ok(&["--enabled", "a,b", "--enabled=c", "--log", "x", "--log", "y"]);
        assert_eq!(items(&flags, "enabled"), ["a", "b", "c"]);
        assert_eq!(items(&flags, "log"), ["y"]);
    }

    #[test]
    fn a_misspelt_flag_is_a_warning_and_the_rest_still_counts() {
        let flags = read_ok(&["--foo", "bar", "--interval", "90s", "-x", "--log-levle=warn"]);
        assert_eq!(items(&flags, "interval"), ["90s"]);
        let warned: Vec<_> =
            flags.layer.warnings.iter().map(|text| text.split(" is ignored").next()).collect();
        let expected =
            ["unknown flag --foo", "\"bar\"", "unknown flag -x", "unknown flag --log-levle"];
        assert_eq!(warned, expected.map(Some));
    }

    #[test]
    fn nothing_after_two_hyphens_is_a_flag() {
        let flags = read_ok(&["--service", "x", "--", "--service", "y"]);
        assert_eq!(items(&flags, "service"), ["x"]);
        assert_eq!(flags.layer.warnings.len(), 2);
    }

    #[test]
    fn a_flag_without_its_value_is_an_error_that_shows_one() {
        let words = ["--interval".to_owned()];
        let error = read(&Options::load().unwrap(), &words, "").unwrap_err();
        assert_eq!(error.to_string(), "--interval needs a value, such as 90s");
    }

    #[test]
    fn help_as_a_value_is_not_a_call_for_help() {
        assert!(!read_ok(&["--hostname", "--help"]).help);
        assert!(read_ok(&["--interval", "90s", "-h"]).help);
    }
}
