//! `rebloom-light-worker`: a rank without a model, where an agent is to start hundreds of them.

use clap::{Parser, Subcommand};
use rebloom_rank::StartError;
use rebloom_rank::arguments::{NodeArgs, RankArgs};
use rebloom_tests::light::Light;
use std::time::Duration;

/// How often its pulse goes: hundreds of them share a core or two.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
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
    /// Waits for its agent to say on standard input whose rank it becomes.
    Standby(NodeArgs),
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    rebloom_runtime::telemetry::start(false)?;
    let options = match (command.other, command.rank, command.node) {
        (Some(Other::Standby(node)), ..) => node.take_up()?,
        (None, Some(rank), Some(node)) => Some(rank.on(node)),
        (None, ..) => anyhow::bail!("nothing to do"),
    };
    let Some(mut options) = options else {
        return Ok(());
    };
    options.look = LOOK;
    let exit: fn(i32) -> ! = |code| std::process::exit(code);
    rebloom_rank::run(&options, exit, |place| {
        Ok::<_, StartError>(Light::new(place, &options.socket))
    })?;
    Ok(())
}
