//! `datakit-ebpf`: loads collectors as plugins and routes what they emit to DataKit, to a
//! terminal or to a file.
//!
//! | module | what comes in -> what goes out |
//! | --- | --- |
//! | `cli`, `config` | flags, environment, files -> a checked `Config` |
//! | `supervise` | a crash -> another start |
//! | `run` | a `Config` -> the parts below, put together and taken apart |
//! | `plugin` | names -> running plugins -> points |
//! | `pipeline` | points -> tagged, batched, encoded, uploaded, accounted for |
//! | `output` | points -> a terminal or a file |
//! | `telemetry` | the log, `/status` and `/metrics` |

use std::env;
use std::process::ExitCode;

use telemetry::log::{say, say_error};

mod cli;
mod config;
mod last_error;
mod output;
mod pidfile;
mod pipeline;
mod plugin;
mod run;
mod supervise;
mod telemetry;

/// Of the whole process: plugins and C libraries allocate from it too, because it also replaces
/// `malloc`. It knows what is in use, and where it was allocated. Unit tests count allocations with
/// an allocator of their own.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn collect(config: &config::Config) -> anyhow::Result<ExitCode> {
    if supervise::is_wanted(config) {
        return supervise::run();
    }
    supervise::follow_parent()?;
    run::run(config)?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match cli::parse(env::args_os(), env::vars_os(), &cli::default_plugin_dir()) {
        cli::Command::Print(text) => {
            say(format_args!("{}", text.trim_end_matches('\n')));
            ExitCode::SUCCESS
        }
        cli::Command::Fail(text) => {
            say_error(format_args!("{text}"));
            ExitCode::FAILURE
        }
        cli::Command::Plugin(command) => plugin::command::carry_out(&command),
        cli::Command::Run(config) => match collect(&config) {
            Ok(code) => code,
            Err(error) => {
                if config.log.is_some() {
                    tracing::error!("{error:#}");
                }
                say_error(format_args!("datakit-ebpf: {error:#}"));
                if error.is::<run::Panicked>() {
                    return ExitCode::from(supervise::PANICKED);
                }
                ExitCode::FAILURE
            }
        },
    }
}
