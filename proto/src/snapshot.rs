//! Snapshots: pieces, peers and who reads what from whom.

use crate::check::{Malformed, maybe, node_id, part, run_id, same_names, text};
use crate::wire;
use rebloom_core::engine::SnapshotView;
use rebloom_core::id::RunId;
use rebloom_core::snapshot::{Peer, Piece, Recall, Tier};

same_names!(Tier <=> Tier { Storage, Memory, Replica });

impl From<Piece> for wire::SnapshotPiece {
    fn from(piece: Piece) -> Self {
        let Piece {
            checkpoint,
            layout,
            samples,
            shard,
        } = piece;
        Self {
            checkpoint: Some(checkpoint.into()),
            layout: Some(layout.into()),
            samples,
            shard: Some(shard.into()),
        }
    }
}

impl TryFrom<wire::SnapshotPiece> for Piece {
    type Error = Malformed;
    fn try_from(piece: wire::SnapshotPiece) -> Result<Self, Malformed> {
        Ok(Self {
            checkpoint: part(piece.checkpoint, "checkpoint")?,
            layout: part(piece.layout, "layout")?,
            samples: piece.samples,
            shard: part(piece.shard, "shard")?,
        })
    }
}

impl From<Peer> for wire::SnapshotPeer {
    fn from(Peer { node, address }: Peer) -> Self {
        Self {
            node: node.into(),
            address,
        }
    }
}

impl TryFrom<wire::SnapshotPeer> for Peer {
    type Error = Malformed;
    fn try_from(peer: wire::SnapshotPeer) -> Result<Self, Malformed> {
        Ok(Self {
            node: node_id(peer.node, "node")?,
            address: text(peer.address, "address")?,
        })
    }
}

impl From<Recall> for wire::SnapshotRecall {
    fn from(Recall { piece, from }: Recall) -> Self {
        Self {
            piece: Some(piece.into()),
            from: from.map(Into::into),
        }
    }
}

impl TryFrom<wire::SnapshotRecall> for Recall {
    type Error = Malformed;
    fn try_from(recall: wire::SnapshotRecall) -> Result<Self, Malformed> {
        Ok(Self {
            piece: part(recall.piece, "piece")?,
            from: maybe(recall.from, "from")?,
        })
    }
}

impl From<SnapshotView> for wire::SnapshotView {
    fn from(view: SnapshotView) -> Self {
        Self {
            newest: view.newest.map(Into::into),
            copies: view.copies,
            note: view.note,
        }
    }
}

impl TryFrom<wire::SnapshotView> for SnapshotView {
    type Error = Malformed;
    fn try_from(view: wire::SnapshotView) -> Result<Self, Malformed> {
        Ok(Self {
            newest: maybe(view.newest, "newest")?,
            copies: view.copies,
            note: text(view.note, "note")?,
        })
    }
}

/// A shard in the memory of a node, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of which run.
    pub run: RunId,
    /// What.
    pub piece: Piece,
}

impl Kept {
    /// What an agent asks another one for.
    ///
    /// # Errors
    /// What is missing or out of bounds.
    pub fn read(request: wire::ReadSnapshotRequest) -> Result<Self, Malformed> {
        Ok(Self {
            run: run_id(request.run, "run")?,
            piece: part(request.piece, "piece")?,
        })
    }

    /// What the head of a shard on its way says.
    ///
    /// # Errors
    /// What is missing or out of bounds.
    pub fn head(head: wire::snapshot_part::Head) -> Result<Self, Malformed> {
        Ok(Self {
            run: run_id(head.run, "head.run")?,
            piece: part(head.piece, "head.piece")?,
        })
    }

    /// What a worker asks its agent for, and who has it.
    ///
    /// # Errors
    /// What is missing or out of bounds.
    pub fn bring(request: wire::BringSnapshotRequest) -> Result<(Self, Peer), Malformed> {
        let kept = Self {
            run: run_id(request.run, "run")?,
            piece: part(request.piece, "piece")?,
        };
        Ok((kept, part(request.from, "from")?))
    }
}
