//! `datakit-ebpf`: loads collectors as plugins and routes what they emit to DataKit, to a
//! terminal or to a file.
//!
//! | module | what comes in -> what goes out |
//! | --- | --- |
//! | `cli`, `config` | flags, environment, files -> a checked `Config` |
//! | `doctor` | a `Config` -> whether it would work here, for people |
//! | `capabilities` | all rights that we are given -> those that collecting needs |
//! | `supervise` | a crash -> another start |
//! | `run` | a `Config` -> the parts below, put together and taken apart |
//! | `plugin` | names -> running plugins -> points |
//! | `pipeline` | points -> tagged, batched, encoded, uploaded, accounted for |
//! | `output` | points -> a terminal or a file |
//! | `limits`, `traffic` | what the collector uses -> less of it, or its end |
//! | `telemetry` | the log, `/status` and `/metrics` |

use std::env;
use std::process::ExitCode;

use capabilities::Executes;
use telemetry::log::{say, say_error};

mod capabilities;
mod cli;
mod config;
mod doctor;
mod last_error;
mod limits;
mod output;
mod pidfile;
mod pipeline;
mod plugin;
mod run;
mod supervise;
mod telemetry;
mod traffic;

/// Of the whole process: plugins and C libraries allocate from it too, because it also replaces
/// `malloc`. It knows what is in use, and where it was allocated. Unit tests count allocations with
/// an allocator of their own.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn command() -> cli::Command {
    cli::parse(env::args_os(), env::vars_os(), &cli::default_plugin_dir())
}

/// The configuration as it stands now.
fn read_again() -> anyhow::Result<config::Config> {
    match command() {
        cli::Command::Run(config) => Ok(*config),
        cli::Command::Fail(sentence) => Err(anyhow::anyhow!(sentence)),
        _ => anyhow::bail!("the command line has changed"),
    }
}

fn collect(config: config::Config) -> anyhow::Result<ExitCode> {
    if supervise::is_wanted(&config) {
        capabilities::give_up_unneeded(&config, Executes::Us);
        return supervise::run();
    }
    let executes = if config.isolates() { Executes::Us } else { Executes::Nothing };
    capabilities::give_up_unneeded(&config, executes);
    supervise::follow_parent()?;
    run::run(config, read_again)?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match command() {
        cli::Command::Print(text) => {
            say(format_args!("{}", text.trim_end_matches('\n')));
            ExitCode::SUCCESS
        }
        cli::Command::Fail(text) => {
            say_error(format_args!("{text}"));
            ExitCode::FAILURE
        }
        cli::Command::Doctor(config) => doctor::examine(&config),
        cli::Command::Plugin(command) => plugin::command::carry_out(&command),
        cli::Command::Run(config) => match collect(*config) {
            Ok(code) => code,
            Err(error) => {
                say_error(format_args!("datakit-ebpf: {error:#}"));
                if error.is::<run::Panicked>() {
                    return ExitCode::from(supervise::PANICKED);
                }
                if error.is::<limits::OverLimit>() {
                    supervise::tell_parent(&error.to_string());
                    return ExitCode::from(supervise::OVER_LIMIT);
                }
                ExitCode::FAILURE
            }
        },
    }
}
