//! `datakit-ebpf plugin list|inspect|check`: what people ask about plugin files. Prints, and says
//! by the exit code whether all is well.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::plugin::isolated::child;
use crate::plugin::loader::{Candidate, libraries};
use crate::plugin::manifest::Manifest;
use crate::plugin::runner::sentence;
use crate::plugin::trial::{self, Trial};
use crate::telemetry::log::{say, say_error};

/// What is asked.
#[derive(Debug)]
pub(crate) enum PluginCommand {
    /// All files of a folder.
    List { folder: PathBuf, trusts_any: bool },
    /// One file, without running it.
    Inspect { file: PathBuf, trusts_any: bool },
    /// One file: load, start and stop it in a child.
    Check { file: PathBuf, trusts_any: bool },
    /// The child's part of a trial.
    Try { file: PathBuf, trusts_any: bool },
    /// The process of an isolated plugin.
    Host,
    /// What a plugin of the folder is to answer; the first word says which one.
    Ask { words: Vec<String>, folder: PathBuf, trusts_any: bool },
}

/// Does it, and says how it went.
pub(crate) fn carry_out(command: &PluginCommand) -> ExitCode {
    let outcome = match command {
        PluginCommand::List { folder, trusts_any } => list(folder, *trusts_any),
        PluginCommand::Inspect { file, trusts_any } => inspect(file, *trusts_any),
        PluginCommand::Check { file, trusts_any } => check(file, *trusts_any),
        PluginCommand::Host => child::run(),
        PluginCommand::Ask { words, folder, trusts_any } => ask(words, folder, *trusts_any),
        PluginCommand::Try { file, trusts_any } => trial::take_part(file, *trusts_any),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn list(folder: &Path, trusts_any: bool) -> Result<()> {
    for (name, path) in libraries(folder)? {
        let checked = Candidate::check(&path, trusts_any)
            .and_then(|candidate| candidate.check_name(&name).map(|()| candidate));
        // A file may have any name.
        let name = name.escape_debug().to_string();
        match checked {
            Ok(Candidate { manifest, .. }) => {
                let Manifest { version, api, .. } = manifest;
                say(format_args!("{name:<20} {version:<10} interface {api}"));
            }
            Err(error) => say(format_args!("{name:<20} {error:#}")),
        }
    }
    Ok(())
}

fn inspect(file: &Path, trusts_any: bool) -> Result<()> {
    let Candidate { manifest, .. } = Candidate::check(file, trusts_any)?;
    let Manifest { name, version, api, profile, capabilities, commands } = manifest;
    say(format_args!("name       {name}\nversion    {version}"));
    say(format_args!("interface  {api}\nprofile    {profile}"));
    if !capabilities.is_empty() {
        say(format_args!("needs      {}", capabilities.join(" ")));
    }
    if !commands.is_empty() {
        say(format_args!("answers    {}", commands.join(" ")));
    }
    Ok(())
}

/// Has the plugin answer whose commands the first word is one of. It runs in this process, which does
/// nothing else.
fn ask(words: &[String], folder: &Path, trusts_any: bool) -> Result<()> {
    let word = words.first().map_or("", String::as_str);
    // A folder that is not there has no plugins.
    for (name, path) in libraries(folder).unwrap_or_default() {
        let checked = Candidate::check(&path, trusts_any)
            .and_then(|candidate| candidate.check_name(&name).map(|()| candidate));
        let Ok(candidate) = checked else { continue };
        if candidate.manifest.commands.iter().any(|command| command == word) {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let answer = candidate.load()?.answer(&words).map_err(sentence)?;
            say(format_args!("{}", answer.trim_end()));
            return Ok(());
        }
    }
    bail!(
        "there is no command {word:?}, and no plugin in {} answers to it; `datakit-ebpf help` lists \
         the commands",
        folder.display()
    )
}

fn check(file: &Path, trusts_any: bool) -> Result<()> {
    // What need not run is said here, in one sentence.
    let shown = file.display();
    if Candidate::check(file, trusts_any)?.is_slow() {
        say_error(format_args!("{shown} was built without optimisation; build it with --release"));
    }
    let Trial { name, probes, said, problem } = trial::run(file, "", trusts_any)?;
    for line in said {
        say_error(format_args!("{line}"));
    }
    for probe in &probes {
        say(format_args!("{probe}"));
    }
    if let Some(problem) = problem {
        bail!("{shown} does not work on this host: {problem}");
    }
    say(format_args!("{name} starts and stops on this host"));
    Ok(())
}
