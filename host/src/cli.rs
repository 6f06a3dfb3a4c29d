//! The command line.
//!
//! In: arguments and environment, as the caller found them. Out: a [`Command`] to carry out. It
//! prints nothing, ends nothing and looks at nothing but its arguments and the file of
//! `--config`. clap knows the commands, their help and their completion; the flags of `run` are
//! read by [`config::flags`], which says why.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{
    Arg, ArgAction, ArgMatches,
    builder::{PossibleValuesParser, TypedValueParser as _},
    value_parser,
};
use clap_complete::Shell;

use crate::config::{
    self, Config, Purpose, flags,
    options::{Kind, Options},
};
use crate::plugin::command::PluginCommand;

const NAME: &str = "datakit-ebpf";
const TRUST_ANY: &str = "trust-any-plugin";
const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Collect.
    Run(Box<Config>),
    /// Say whether collecting would work here.
    Doctor(Box<Config>),
    /// Look at plugins.
    Plugin(PluginCommand),
    /// Print this to standard output and exit with 0.
    Print(String),
    /// Print this sentence to standard error and exit with 1.
    Fail(String),
}

/// Where plugins are unless an option says otherwise: `ebpf-plugins` beside the executable.
pub(crate) fn default_plugin_dir() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    executable.parent().unwrap_or(Path::new("")).join("ebpf-plugins")
}

/// Reads the command line. `args` begins with the name of the program.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    default_plugin_dir: &Path,
) -> Command {
    command(args, environment, default_plugin_dir)
        .unwrap_or_else(|error| Command::Fail(format!("{error:#}")))
}

fn command(
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    default_plugin_dir: &Path,
) -> Result<Command> {
    let options = Options::load()?;
    let words = args
        .into_iter()
        .skip(1)
        .map(|word| {
            word.into_string().map_err(|word| anyhow!("\"{}\" is not UTF-8", word.display()))
        })
        .collect::<Result<Vec<String>>>()?;
    let Some((command, words)) = words.split_first() else {
        return Ok(Command::Print(app(&options).render_help().to_string()));
    };
    let purpose = match command.as_str() {
        "run" => Purpose::Run,
        "doctor" => Purpose::Examine,
        word if is_ours(&options, word) => {
            return other_command(&options, command, words, default_plugin_dir);
        }
        _ => return question(command, words, default_plugin_dir),
    };
    let flags = flags::read(&options, words, "")?;
    if flags.help {
        let of = std::slice::from_ref(command);
        return other_command(&options, "help", of, default_plugin_dir);
    }
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let environment = environment.into_iter().map(|(name, text)| (lossy(name), lossy(text)));
    let config = config::load(&options, flags.layer, environment, default_plugin_dir, purpose)?;
    let config = Box::new(config);
    Ok(match purpose {
        Purpose::Run => Command::Run(config),
        Purpose::Examine => Command::Doctor(config),
    })
}

/// Whether a first word is a command of the host's own, or a flag.
fn is_ours(options: &Options, word: &str) -> bool {
    word.starts_with('-') || word == "help" || app(options).find_subcommand(word).is_some()
}

/// What a plugin may answer. It may have flags of its own; those that say where plugins are, are ours.
fn question(command: &str, words: &[String], default_plugin_dir: &Path) -> Result<Command> {
    let (mut asked, mut folder) = (vec![command.to_owned()], default_plugin_dir.to_owned());
    let (mut trusts_any, mut rest) = (false, words.iter());
    while let Some(word) = rest.next() {
        match word.strip_prefix("--").map(|flag| flag.split_once('=').unwrap_or((flag, ""))) {
            Some((TRUST_ANY, "")) => trusts_any = true,
            Some(("plugin-dir", "")) => {
                folder = rest.next().context("--plugin-dir needs a folder")?.into();
            }
            Some(("plugin-dir", path)) => folder = path.into(),
            _ => asked.push(word.clone()),
        }
    }
    Ok(Command::Plugin(PluginCommand::Ask { words: asked, folder, trusts_any }))
}

/// Everything but `run`.
fn other_command(
    options: &Options,
    command: &str,
    words: &[String],
    default_plugin_dir: &Path,
) -> Result<Command> {
    let arguments = [NAME, command].into_iter().chain(words.iter().map(String::as_str));
    let matches = match app(options).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() && command == "completion" => {
            bail!("completion takes exactly one of {}", SHELLS.join(", "));
        }
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let sentence = text.lines().next().unwrap_or_default();
            bail!("{}", sentence.strip_prefix("error: ").unwrap_or(sentence));
        }
        Err(help) => return Ok(Command::Print(help.to_string())),
    };
    match matches.subcommand() {
        Some(("completion", matches)) => {
            let shell = matches.get_one::<Shell>("shell").context("completion of no shell")?;
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut app(options), NAME, &mut script);
            Ok(Command::Print(String::from_utf8(script)?))
        }
        Some(("plugin", matches)) => Ok(plugin_command(matches, default_plugin_dir)),
        _ => Ok(Command::Print(version())),
    }
}

fn plugin_command(matches: &ArgMatches, default_plugin_dir: &Path) -> Command {
    let trusts_any = matches.get_flag(TRUST_ANY);
    if matches.subcommand_name() == Some("host") {
        return Command::Plugin(PluginCommand::Host);
    }
    let path = |matches: &ArgMatches, name| matches.get_one::<PathBuf>(name).cloned();
    Command::Plugin(match matches.subcommand() {
        Some((verb, matches)) if verb != "list" => {
            let file = path(matches, "file").unwrap_or_default();
            match verb {
                "inspect" => PluginCommand::Inspect { file, trusts_any },
                "check" => PluginCommand::Check { file, trusts_any },
                _ => PluginCommand::Try { file, trusts_any },
            }
        }
        other => {
            let folder = other.and_then(|(_, matches)| path(matches, "plugin-dir"));
            let folder = folder.unwrap_or_else(|| default_plugin_dir.to_owned());
            PluginCommand::List { folder, trusts_any }
        }
    })
}

/// One line, as DataKit's collector prints it.
fn version() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let os = std::env::consts::OS;
    let version = env!("CARGO_PKG_VERSION");
    let built = option_env!("DATAKIT_EBPF_BUILD_DATE").unwrap_or("unknown");
    format!("{NAME} version {version} {os}/{arch} {built}\n")
}

fn app(options: &Options) -> clap::Command {
    let run = clap::Command::new("run")
        .about("Collect, until told to stop")
        .args(options.flags().map(arg));
    let doctor = clap::Command::new("doctor")
        .about("Say whether these plugins would work on this host, and if not, what to do")
        .args(options.flags().map(arg));
    let shells = PossibleValuesParser::new(SHELLS).try_map(|shell| shell.parse::<Shell>());
    let shell = Arg::new("shell").required(true).value_parser(shells);
    let path = |name: &'static str| Arg::new(name).value_parser(value_parser!(PathBuf));
    let verb = |name: &'static str, about: &'static str| {
        let file = path("file").value_name("FILE").required(true);
        clap::Command::new(name).about(about).arg(file)
    };
    let trust = Arg::new(TRUST_ANY).long(TRUST_ANY).action(ArgAction::SetTrue).global(true);
    let plugin = clap::Command::new("plugin")
        .about("Look at plugins")
        .arg(trust.help("Take files that others than root may have written"))
        .subcommand_required(true)
        .subcommand(
            clap::Command::new("list")
                .about("List the plugins that are installed")
                .arg(path("plugin-dir").long("plugin-dir").value_name("DIR")),
        )
        .subcommand(verb("inspect", "Show what a file says of itself, without running it"))
        .subcommand(verb("check", "Load, start and stop a plugin in a process of its own"))
        .subcommand(verb("try", "What check runs in that process").hide(true))
        .subcommand(
            clap::Command::new("host")
                .about("The process of an isolated plugin; started by run")
                .arg(Arg::new("name"))
                .hide(true),
        );
    clap::Command::new(NAME)
        .about("Collects what this host says on its network, and hands it to DataKit")
        .subcommand(run)
        .subcommand(doctor)
        .subcommand(clap::Command::new("version").about("Print the version"))
        .subcommand(clap::Command::new("completion").about("Print a completion script").arg(shell))
        .subcommand(plugin)
        .after_help(
            "Plugins may have commands of their own: `datakit-ebpf plugin inspect FILE` shows them.",
        )
}

/// A flag of `run` as help and completion show it.
fn arg(entry: &config::options::Entry) -> Arg {
    let effect = if entry.effective { "" } else { " (no effect yet)" };
    let arg = Arg::new(entry.name.clone())
        .long(entry.name.clone())
        .visible_aliases(entry.aliases.clone())
        .help(format!("{}{effect}", entry.help))
        .help_heading(entry.group.clone());
    match (entry.kind, &entry.default) {
        (Kind::Switch, _) => arg.action(ArgAction::SetTrue),
        (_, None) => arg.value_name(entry.value.clone()),
        (_, Some(text)) => arg.value_name(entry.value.clone()).default_value(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Output, Sampling};

    const LAUNCH: &str = include_str!("../../tests/data/config/launch.args");
    const LAUNCH_SETTINGS: &str = include_str!("../../tests/data/config/launch.settings.toml");

    fn parse_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Command {
        parse(words.into_iter().map(OsString::from), [], Path::new("/plugins"))
    }

    fn printed(words: &[&str]) -> String {
        match parse_words([NAME].iter().chain(words).copied()) {
            Command::Print(text) => text,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn failure(words: &[&str]) -> String {
        match parse_words([NAME].iter().chain(words).copied()) {
            Command::Fail(sentence) => sentence,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn running(words: &[&str]) -> Config {
        match parse_words([NAME, "run"].iter().chain(words).copied()) {
            Command::Run(config) => *config,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn doctor_reads_what_run_reads_and_needs_no_plugin() {
        let Command::Doctor(config) = parse_words([NAME, "doctor"]) else { panic!("no doctor") };
        assert!(config.enabled.is_empty());
        let words = [NAME, "doctor", "--enabled", "a", "--service", "shop"];
        let Command::Doctor(config) = parse_words(words) else { panic!("no doctor") };
        assert_eq!((config.enabled, config.service), (vec!["a".to_owned()], "shop".to_owned()));
        assert!(failure(&["doctor", "--res-mem", "4XB"]).contains("is not a size"));
        assert!(printed(&["doctor", "--help"]).contains("--enabled"));
    }

    #[test]
    fn what_datakit_passes_is_understood_without_any_environment() {
        let Command::Run(config) = parse_words(LAUNCH.lines()) else { panic!("does not run") };
        assert_eq!(config.enabled.len(), 5);
        assert_eq!(config.output, Output::Datakit);
        assert_eq!(config.api_server, "http://10.0.0.1:9529");
        assert_eq!(config.trace_server, "http://10.0.0.2:9529");
        assert_eq!(config.hostname.as_deref(), Some("web-1"));
        assert_eq!(config.interval, Duration::from_secs(90));
        assert_eq!(config.status_listen.as_deref(), Some("127.0.0.1:6061"));
        assert_eq!(config.limits.cpu_cores, Some(2.0));
        assert_eq!(config.limits.mem_bytes, Some(4 << 30));
        assert_eq!(config.limits.net_bytes_per_s, Some(100 << 20));
        assert_eq!(config.sampling, Sampling::Rate(0.5));
        let tags = config.tags.iter().map(|(key, value)| format!("{key}={value}"));
        assert_eq!(tags.collect::<Vec<_>>().join(";"), LAUNCH.lines().last().unwrap());
        assert_eq!(config.collector, LAUNCH_SETTINGS.parse().unwrap());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn no_command_is_a_call_for_help() {
        assert_eq!(printed(&[]), printed(&["--help"]));
        assert_eq!(printed(&["-h"]), printed(&["help"]));
        for command in ["run", "doctor", "version", "completion", "help"] {
            assert!(printed(&[]).contains(&format!("\n  {command} ")), "{command}");
        }
    }

    #[test]
    fn help_of_run_lists_every_flag() {
        let help = printed(&["help", "run"]);
        for entry in Options::load().unwrap().flags() {
            let flag = format!("--{}", entry.name);
            assert!(help.split_whitespace().any(|word| word == flag), "{flag}");
        }
        assert_eq!(help, printed(&["run", "--interval", "90s", "--help"]));
    }

    #[test]
    fn the_version_is_one_line_of_five_words() {
        let text = printed(&["version"]);
        assert!(text.starts_with("datakit-ebpf version ") && text.ends_with('\n'), "{text}");
        assert_eq!(text.split_whitespace().count(), 5, "{text}");
        assert!(!text.contains("x86_64") && text.contains('/'), "{text}");
    }

    #[test]
    fn completion_takes_exactly_one_of_four_shells() {
        for shell in SHELLS {
            assert!(printed(&["completion", shell]).contains("interval"), "{shell}");
        }
        for shells in [&[][..], &["elvish"], &["bash", "zsh"]] {
            assert_eq!(
                failure(&[&["completion"], shells].concat()),
                "completion takes exactly one of bash, zsh, fish, powershell"
            );
        }
    }

    #[test]
    fn an_unknown_command_fails_with_one_sentence() {
        let sentence = failure(&["--collect"]);
        assert!(sentence.contains("collect") && !sentence.contains('\n'), "{sentence}");
        failure(&["--interval", "90s"]);
    }

    #[test]
    fn what_is_no_command_is_a_question_to_a_plugin() {
        let words = [NAME, "some", "explain", "--plugin-dir", "/p", "7", "--trust-any-plugin"];
        let Command::Plugin(PluginCommand::Ask { words, folder, trusts_any }) = parse_words(words)
        else {
            panic!("no question")
        };
        assert_eq!(words, ["some", "explain", "7"]);
        assert_eq!((folder.as_path(), trusts_any), (Path::new("/p"), true));
        assert!(failure(&["some", "--plugin-dir"]).contains("needs a folder"));
    }

    #[test]
    fn a_bad_value_fails_with_one_sentence_that_says_what_is_allowed() {
        assert_eq!(
            failure(&["run", "--enabled", "a", "--res-mem", "4XB"]),
            "--res-mem: \"4XB\" is not a size; write a number and a unit such as 512MiB or 4GB"
        );
        assert_eq!(
            failure(&["run", "--enabled", "a", "--ipv6_disabled=maybe"]),
            "--ipv6_disabled: \"maybe\" is not a switch; write true or false"
        );
        assert!(failure(&["run"]).starts_with("no plugin is enabled;"));
    }

    #[test]
    fn an_unknown_flag_with_a_value_leaves_the_rest_alone() {
        let config = running(&["--enabled", "a", "--foo", "bar", "--interval", "90s"]);
        assert_eq!(config.interval, Duration::from_secs(90));
        assert_eq!(config.warnings.len(), 2);
        assert!(config.warnings[0].starts_with("unknown flag --foo is ignored;"));
    }

    #[test]
    fn the_file_that_config_names_lies_below_the_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ebpf.conf");
        std::fs::write(&path, "enabled = ['a']\nservice = 'file'\nhostname = 'file'").unwrap();
        let config = running(&["--config", path.to_str().unwrap(), "--service", "flag"]);
        assert_eq!((config.service.as_str(), config.hostname.as_deref()), ("flag", Some("file")));
        assert!(failure(&["run", "--config", "/nowhere"]).starts_with("--config: read /nowhere: "));
    }
}
