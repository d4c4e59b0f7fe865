//! `rebloom-worker`: one rank of a run. An agent starts it; nobody else needs to.

use clap::{Args, Parser, Subcommand};
use rebloom_core::id::{Rank, RunId};
use rebloom_core::member::Config;
use rebloom_worker::driver::{self, Options};
use rebloom_worker::solo;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// One rank of a run, started by the agent of its node.
#[derive(Debug, Parser)]
#[command(
    name = "rebloom-worker",
    version,
    args_conflicts_with_subcommands = true
)]
struct Command {
    #[command(flatten)]
    rank: Option<RankArgs>,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Debug, Args)]
struct RankArgs {
    /// Whose rank it is.
    #[arg(long, value_parser = RunId::new)]
    run: RunId,
    /// Which rank.
    #[arg(long)]
    rank: u32,
    /// Its device on the node.
    #[arg(long)]
    slot: u32,
    /// The agent's unix socket.
    #[arg(long)]
    socket: PathBuf,
    /// Its flight page, made by the agent.
    #[arg(long)]
    flight: PathBuf,
    /// Milliseconds without an agent after which it leaves.
    #[arg(long)]
    orphan_after_ms: u64,
    /// Host address or network interface of its groups.
    #[arg(long)]
    interface: String,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Trains without controller and agents, and prints tokens per second.
    #[command(hide = true)]
    Solo {
        /// The run spec, as JSON.
        #[arg(long)]
        spec: PathBuf,
        /// Which rank.
        #[arg(long)]
        rank: u32,
        /// A directory that all ranks share; empty or absent at the start.
        #[arg(long)]
        store: PathBuf,
        /// Steps, if fewer than the spec's.
        #[arg(long)]
        steps: Option<u64>,
        /// Host address or network interface of its groups.
        #[arg(long, default_value = "127.0.0.1")]
        interface: String,
    },
    /// Saves again and again as the only rank, and prints what that takes.
    #[command(hide = true)]
    Save {
        /// The run spec, as JSON.
        #[arg(long)]
        spec: PathBuf,
        /// A directory that is empty or absent at the start.
        #[arg(long)]
        store: PathBuf,
        /// How often.
        #[arg(long, default_value_t = 5)]
        rounds: u64,
    },
}

/// Something inside went wrong (`EX_SOFTWARE`).
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    let command = Command::parse();
    if let Err(error) = rebloom_runtime::telemetry::start(false) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match work(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(INTERNAL)
        }
    }
}

fn work(command: Command) -> anyhow::Result<()> {
    match (command.other, command.rank) {
        (
            Some(Other::Solo {
                spec,
                rank,
                store,
                steps,
                interface,
            }),
            _,
        ) => solo::run(&spec, Rank(rank), &store, steps, &interface),
        (
            Some(Other::Save {
                spec,
                store,
                rounds,
            }),
            _,
        ) => solo::save::run(&solo::read(&spec)?, &store, rounds, "127.0.0.1"),
        (None, Some(rank)) => {
            tracing::info!(run = %rank.run, rank = rank.rank, slot = rank.slot, "starts");
            let member = Config {
                run: rank.run,
                rank: Rank(rank.rank),
                pid: std::process::id(),
                orphan_after: Duration::from_millis(rank.orphan_after_ms),
            };
            let (socket, flight, interface) = (rank.socket, rank.flight, rank.interface);
            Ok(driver::run(Options {
                member,
                socket,
                flight,
                interface,
            })?)
        }
        (None, None) => anyhow::bail!("nothing to do"),
    }
}
