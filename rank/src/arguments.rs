//! The command line of a rank's process, as an agent writes it.

use crate::driver::{LOOK, Options};
use clap::Args;
use rebloom_core::id::{Rank, RunId};
use rebloom_core::member::Config;
use rebloom_runtime::standby::Assignment;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Whose rank a process is.
#[derive(Debug, Args)]
pub struct RankArgs {
    /// Whose rank it is.
    #[arg(long, value_parser = RunId::new)]
    run: RunId,
    /// Which rank.
    #[arg(long)]
    rank: u32,
    /// Its device on the node.
    #[arg(long)]
    slot: u32,
    /// Its flight page, made by the agent.
    #[arg(long)]
    flight: PathBuf,
}

/// What every worker of a node is told.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The agent's unix socket.
    #[arg(long)]
    socket: PathBuf,
    /// Milliseconds without an agent after which it leaves.
    #[arg(long)]
    orphan_after_ms: u64,
    /// Host address or network interface of its groups.
    #[arg(long)]
    interface: String,
    /// Where ranks compute: cpu, or cuda for the GPU of their slot.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Where the agent keeps snapshots in memory; none are kept without.
    #[arg(long)]
    snapshots: Option<PathBuf>,
}

impl RankArgs {
    /// How the rank's process is to begin, on this node.
    pub fn on(self, node: NodeArgs) -> Options {
        let Self {
            run,
            rank,
            slot,
            flight,
        } = self;
        tracing::info!(%run, rank, slot, "starts");
        Options {
            member: Config {
                run,
                rank: Rank(rank),
                pid: std::process::id(),
                orphan_after: Duration::from_millis(node.orphan_after_ms),
            },
            socket: node.socket,
            flight,
            interface: node.interface,
            device: node.device,
            snapshots: node.snapshots,
            slot,
            look: LOOK,
        }
    }
}

impl NodeArgs {
    /// Where ranks of this node compute.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Waits until the agent says on standard input whose rank this process becomes; none where it never
    /// does.
    ///
    /// # Errors
    /// As [`Assignment::take_up`].
    pub fn take_up(self) -> io::Result<Option<Options>> {
        Ok(Assignment::take_up()?.map(|told| {
            let rank = RankArgs {
                run: told.run,
                rank: told.rank,
                slot: told.slot,
                flight: told.flight,
            };
            rank.on(self)
        }))
    }
}
