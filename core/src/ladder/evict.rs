//! Over-eviction: which ranks leave their nodes together where blame is not sharp.
//!
//! A fault inside one device of a parallel group shows on every rank of that group alike. So where the
//! suspects share a group, all of it moves: it costs some healthy nodes for a while, and the run goes on
//! before anybody knows which one it was. Suspects that share no group are no evidence at all.

use crate::id::Rank;
use crate::layout::Layout;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind of parallel group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Ranks that share each layer.
    Tensor,
    /// The stages of one copy of the model.
    Pipeline,
    /// Ranks that hold the same parameters.
    Data,
}

impl Group {
    /// The name people know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor group",
            Self::Pipeline => "pipeline group",
            Self::Data => "data group",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The smallest group that holds every suspect, and its ranks. None where there are not at least two of
/// them, where they share no group, or where that group is the whole gang.
pub fn shared(layout: Layout, suspects: &[Rank]) -> Option<(Group, Vec<Rank>)> {
    let (&first, others) = suspects
        .split_first()
        .filter(|(_, rest)| !rest.is_empty())?;
    let groups = [
        (Group::Tensor, layout.tensor_group(first)),
        (Group::Pipeline, layout.pipeline_group(first)),
        (Group::Data, layout.data_group(first)),
    ];
    let holds = |(_, ranks): &(Group, Vec<Rank>)| {
        others.iter().all(|other| ranks.contains(other)) && ranks.len() < layout.world() as usize
    };
    let mut shared: Vec<_> = groups.into_iter().filter(holds).collect();
    shared.sort_by_key(|(group, ranks)| (ranks.len(), *group));
    shared.into_iter().next()
}
