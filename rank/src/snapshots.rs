//! The node's memory as a rank uses it: it writes its own shard there, and has its agent bring what another
//! node keeps.

use crate::fence::Fence;
use crate::link;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::id::{Generation, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::snapshot::{Piece, Recall};
use rebloom_proto::wire::BringSnapshotRequest;
use rebloom_proto::wire::snapshots_client::SnapshotsClient;
use rebloom_runtime::snapshots::Memory;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use tonic::transport::Channel;

/// The memory of this node's agent, for one run.
#[derive(Debug, Clone)]
pub struct Snapshots {
    memory: Memory,
    run: RunId,
    runtime: Handle,
    client: SnapshotsClient<Channel>,
    fence: Arc<Fence>,
}

impl Snapshots {
    /// What lies in `root`, behind the agent's socket. `runtime` is driven by a thread of its own.
    pub(crate) fn new(
        root: &Path,
        run: RunId,
        runtime: Handle,
        socket: &Path,
        fence: Arc<Fence>,
    ) -> Self {
        let inside = runtime.enter();
        let client = SnapshotsClient::new(link::channel(socket));
        drop(inside);
        Self {
            memory: Memory::at(root),
            run,
            runtime,
            client,
            fence,
        }
    }

    /// The directory for a shard of so many bytes, as that of a checkpoint.
    ///
    /// # Errors
    /// Where there is no room, or it cannot be made.
    pub fn prepare(&self, id: CheckpointId, bytes: u64) -> Result<PathBuf, String> {
        let place = self.memory.prepare(&self.run, id, bytes);
        place.map_err(|error| error.to_string())
    }

    /// Says that a shard was written there.
    ///
    /// # Errors
    /// Where that cannot be written down.
    pub fn keep(
        &self,
        checkpoint: CheckpointId,
        (layout, samples): (Layout, u64),
        shard: Shard,
    ) -> Result<Piece, String> {
        let piece = Piece {
            checkpoint,
            layout,
            samples,
            shard,
        };
        let kept = self.memory.keep(&self.run, &piece);
        kept.map_err(|error| error.to_string())?;
        Ok(piece)
    }

    /// The directory in which the shard lies, once it does; the agent brings what another node keeps. Its
    /// hash is still to be checked. None where the generation is over before.
    ///
    /// # Errors
    /// Where nobody has it any more.
    pub fn recall(
        &self,
        generation: Generation,
        recall: &Recall,
    ) -> Result<Option<PathBuf>, Unsound> {
        let Recall { piece, from } = recall;
        let directory = self.memory.directory(&self.run, piece.checkpoint);
        if self.memory.holds(&self.run, piece) {
            return Ok(Some(directory));
        }
        let file = piece.shard.file.clone();
        let Some(from) = from else {
            return Err(Unsound::Missing { file });
        };
        let request = BringSnapshotRequest {
            run: self.run.as_str().to_owned(),
            piece: Some(piece.clone().into()),
            from: Some(from.clone().into()),
        };
        let mut client = self.client.clone();
        let brought = self.runtime.block_on(async {
            tokio::select! {
                brought = client.bring(request) => Some(brought),
                () = self.fence.over(generation) => None,
            }
        });
        match brought {
            None => Ok(None),
            Some(Ok(_)) => Ok(Some(directory)),
            Some(Err(status)) => Err(Unsound::Unreadable {
                file,
                error: format!("{} does not send it: {}", from.node, status.message()),
            }),
        }
    }
}
