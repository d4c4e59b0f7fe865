//! What `rebloom chaos` takes.

use super::MOST_RANK;
use super::number::whole;
use clap::{Args, Subcommand};
use rebloom_core::id::{NodeId, RunId};

/// Whose ranks are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfRun {
    /// Of which run; may be left out where only one goes on
    #[arg(long, value_name = "NAME", value_parser = RunId::new)]
    pub(crate) run: Option<RunId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChaosCommand {
    /// kill -9 of ranks: the survivors re-form in place and the lost ones are started anew
    #[command(
        after_help = "Example:\n  rebloom chaos kill-rank        # a random one\n  rebloom chaos kill-rank 3 5\n  rebloom chaos kill-rank --run night-run"
    )]
    KillRank {
        /// Which; a random one if none is named
        #[arg(value_name = "RANK", value_parser = whole::<u32>(0, MOST_RANK))]
        ranks: Vec<u32>,
        #[command(flatten)]
        of: OfRun,
    },
    /// SIGSTOP a rank, so that it hangs: its phase deadline passes, it is blamed and replaced
    #[command(after_help = "Example:\n  rebloom chaos stop-rank 2")]
    StopRank {
        /// Which; a random one if none is named
        #[arg(value_name = "RANK", value_parser = whole::<u32>(0, MOST_RANK))]
        ranks: Vec<u32>,
        #[command(flatten)]
        of: OfRun,
    },
    /// kill -9 of an agent: its ranks train on, and it finds them again
    #[command(after_help = "Example:\n  rebloom chaos kill-agent node-2")]
    KillAgent {
        /// Which; a random one if none is named
        #[arg(value_parser = NodeId::new)]
        node: Option<NodeId>,
    },
    /// kill -9 of the controller: everything trains on, and it catches up
    #[command(after_help = "Example:\n  rebloom chaos kill-controller")]
    KillController,
    /// Flip one bit in a shard of the newest sealed checkpoint: it is never resumed from again
    #[command(
        after_help = "Example:\n  rebloom chaos corrupt-checkpoint && rebloom chaos kill-rank"
    )]
    CorruptCheckpoint {
        /// Whose shard; a random one if none is named
        #[arg(value_name = "RANK", value_parser = whole::<u32>(0, MOST_RANK))]
        rank: Option<u32>,
        #[command(flatten)]
        of: OfRun,
    },
}
