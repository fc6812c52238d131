//! The commands, one file for each.

mod asking;
pub mod demo;
pub mod explain;
pub mod get;
pub mod lag;
pub mod load;
mod logging;
pub mod overview;
pub mod publish;
mod published;
mod reached;
pub mod serve;
mod settings;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Config, Effective};
use crate::source::failure::PrepareError;
use crate::wire::record::RecordLimits;

/// Exit status where the usage or the configuration is wrong.
const WRONG_USAGE: u8 = 2;

/// Knows, for every user and every channel of a chat system, what has been read.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// The configuration file; without it readstates.toml is read where it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// One setting, such as --set nats.url=nats://127.0.0.1:4222; stronger than environment and file.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = config::parse_set)]
    set: Vec<(String, String)>,

    /// Prints every key with its value and where that came from, as a configuration file, and ends.
    #[arg(long, global = true)]
    print_config: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The service.
    Serve,
    /// Publishes events from standard input, as JSON, one a line.
    Publish,
    /// Asks what a user has read in some channels.
    Get(get::Arguments),
    /// Asks for every channel in which a user has a read state.
    Overview(overview::Arguments),
    /// Asks how the numbers of a user in a channel come about.
    Explain(explain::Arguments),
    /// Shows partitions, their owners and how far behind they are, over all instances.
    Lag(lag::Arguments),
    /// Asks at a fixed rate, and reports how long the answers took.
    Load(load::Arguments),
    /// The whole thing on this machine: nats-server, the service, a lively synthetic chat, and a screen that shows it.
    Demo(demo::Arguments),
}

/// Reads the command line and the configuration, and runs a command.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let loaded = Config::load_with_origins(&cli.set, cli.config.as_deref(), config::environment());
    let (config, effective) = match loaded {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(WRONG_USAGE);
        }
    };
    if cli.print_config {
        return ended(asking::print(&effective.to_string()));
    }
    let Some(command) = cli.command else {
        let missing = "a command is needed, see --help";
        Cli::command().error(ErrorKind::MissingSubcommand, missing).exit();
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime can't be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run_command(command, config, &effective));
    // Whatever still runs has nothing left to lose: rows are in the store or their records are replayed.
    runtime.shutdown_background();
    ended
}

async fn run_command(command: Command, config: Config, effective: &Effective) -> ExitCode {
    match command {
        Command::Serve => {
            logging::start(&config.log);
            // Why it failed is in the log.
            exit_status(&serve::run(config, serve::signals()).await)
        }
        Command::Publish => status(publish::run(&config, &RecordLimits::from(&config.limits)).await),
        Command::Get(arguments) => ended(get::run(&config, &arguments).await),
        Command::Overview(arguments) => ended(overview::run(&config, &arguments).await),
        Command::Explain(arguments) => ended(explain::run(&config, &arguments).await),
        Command::Lag(arguments) => ended(lag::run(&config, &arguments).await),
        Command::Load(arguments) => ended(load::run(&config, &arguments).await),
        Command::Demo(arguments) => status(demo::run(config, effective, arguments).await),
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Trying again may help, or something broke while it ran.
    #[error("{0}")]
    Broken(String),
    /// It can't work as it is configured.
    #[error("{0}")]
    Misconfigured(String),
}

impl From<PrepareError> for Failed {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Unreachable(why) => Failed::Broken(why),
            PrepareError::Misconfigured(why) => Failed::Misconfigured(why),
        }
    }
}

fn ended(result: Result<(), Failed>) -> ExitCode {
    status(result.map(|()| ExitCode::SUCCESS))
}

fn status(result: Result<ExitCode, Failed>) -> ExitCode {
    result.unwrap_or_else(|failed| {
        eprintln!("{failed}");
        exit_status(&Err(failed))
    })
}

fn exit_status(result: &Result<(), Failed>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Broken(_)) => ExitCode::FAILURE,
        Err(Failed::Misconfigured(_)) => ExitCode::from(WRONG_USAGE),
    }
}
