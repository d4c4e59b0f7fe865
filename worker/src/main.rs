//! `rebloom-worker`: one rank of a run. An agent starts it; nobody else needs to.

use clap::{Parser, Subcommand};
use rebloom_core::id::Rank;
use rebloom_rank::arguments::{NodeArgs, RankArgs};
use rebloom_worker::shim::cuda::Choice;
use rebloom_worker::{solo, tools, work};
use std::path::PathBuf;
use std::process::ExitCode;

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
    #[command(flatten)]
    node: Option<NodeArgs>,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Waits, warm, for its agent to say on standard input whose rank it becomes.
    #[command(hide = true)]
    Standby(NodeArgs),
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
        /// Where to compute: cpu, cuda (the GPU of the rank's number) or cuda:N.
        #[arg(long, default_value = "cpu")]
        device: Choice,
        #[command(flatten)]
        reduce: solo::Reduce,
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
        /// Where to compute: cpu, cuda or cuda:N.
        #[arg(long, default_value = "cpu")]
        device: Choice,
    },
    /// Makes a Hugging Face folder of a checkpoint or of another such folder.
    #[command(hide = true)]
    Convert(tools::Convert),
    /// Goes on after a prompt.
    #[command(hide = true)]
    Generate(tools::Generate),
    /// Scores held-out text.
    #[command(hide = true)]
    Evaluate(tools::Evaluate),
    /// Writes what a model expects after each of some tokens.
    #[command(hide = true)]
    Logits(tools::Logits),
}

/// Something inside went wrong (`EX_SOFTWARE`).
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    let command = Command::parse();
    if let Err(error) = rebloom_runtime::telemetry::start(false) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match carry_out(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(INTERNAL)
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<()> {
    match (command.other, command.rank, command.node) {
        (Some(Other::Standby(node)), ..) => {
            // Loads what ranks of this node need; which GPU it will be is not known yet.
            let choice: Choice = node.device().parse().map_err(anyhow::Error::msg)?;
            choice.load()?;
            rebloom_worker::setup()?;
            let Some(options) = node.take_up()? else {
                return Ok(());
            };
            Ok(work::run(&options)?)
        }
        (
            Some(Other::Solo {
                spec,
                rank,
                store,
                steps,
                interface,
                device,
                reduce,
            }),
            ..,
        ) => {
            let at = (&*interface, device);
            solo::run(&spec, Rank(rank), &store, steps, at, reduce)
        }
        (
            Some(Other::Save {
                spec,
                store,
                rounds,
                device,
            }),
            ..,
        ) => solo::save::run(&solo::read(&spec)?, &store, rounds, ("127.0.0.1", device)),
        (Some(Other::Convert(how)), ..) => tools::convert(&how),
        (Some(Other::Generate(how)), ..) => tools::generate(&how),
        (Some(Other::Evaluate(how)), ..) => tools::evaluate(&how),
        (Some(Other::Logits(how)), ..) => tools::logits(&how),
        (None, Some(rank), Some(node)) => Ok(work::run(&rank.on(node))?),
        (None, ..) => anyhow::bail!("nothing to do"),
    }
}
