//! Stack groups: ranks that stand at the same place, and the odd one out among them.
//!
//! In a hang almost every rank waits in some collective for the one that did not come; that one stands
//! somewhere else. So a rank outside every collective is the culprit, and where there is none, the
//! smallest group is suspect, if it is the smallest by itself. Both hangs that BLOOM's chronicle records
//! with their stacks were solved so, by people. Never follows who waits for whom: [`crate::blame`] does.

use crate::flight::{Channel, Page, Phase};
use crate::id::Rank;
use std::collections::BTreeMap;

/// Words in the name of a frame that say it waits for other ranks.
const TOGETHER: [&str; 11] = [
    "all_reduce",
    "allreduce",
    "all_gather",
    "allgather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "barrier",
    "send",
    "recv",
    "nccl",
];

/// Ranks that stand at the same place. A rank is named however the evidence names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackGroup<Who> {
    /// Who they are.
    pub ranks: Vec<Who>,
    /// Where: the innermost frame that tells.
    pub frame: String,
}

impl<Who> StackGroup<Who> {
    /// Whether they wait for other ranks there.
    pub fn waits_for_others(&self) -> bool {
        let frame = self.frame.to_lowercase();
        TOGETHER.iter().any(|word| frame.contains(word))
    }
}

/// The ranks that stand out, in the order of the evidence; exactly one is a sharp answer.
pub fn odd_ones_out<Who: Clone>(groups: &[StackGroup<Who>]) -> Vec<Who> {
    let busy: Vec<&StackGroup<Who>> = groups
        .iter()
        .filter(|group| !group.waits_for_others())
        .collect();
    if !busy.is_empty() {
        return busy
            .into_iter()
            .flat_map(|group| group.ranks.clone())
            .collect();
    }
    let fewest = groups.iter().map(|group| group.ranks.len()).min();
    let mut smallest = groups
        .iter()
        .filter(|group| Some(group.ranks.len()) == fewest);
    match (smallest.next(), smallest.next()) {
        (Some(group), None) if groups.len() > 1 => group.ranks.clone(),
        (Some(_), _) | (None, _) => Vec::new(),
    }
}

/// Stack groups as the flight pages show them: by phase, and by the channel in which a rank waits.
pub fn of_pages<'a>(pages: impl IntoIterator<Item = (Rank, &'a Page)>) -> Vec<StackGroup<Rank>> {
    let mut places: BTreeMap<(Phase, Option<Channel>), Vec<Rank>> = BTreeMap::new();
    for (rank, page) in pages {
        places
            .entry((page.phase, page.waits_in()))
            .or_default()
            .push(rank);
    }
    let group = |((phase, channel), ranks): ((Phase, Option<Channel>), _)| StackGroup {
        ranks,
        frame: match channel {
            Some(channel) => format!("{phase}: {}", frame(channel)),
            None => format!("{phase}: by itself"),
        },
    };
    places.into_iter().map(group).collect()
}

/// What a rank does in a channel, as a stack would name it.
const fn frame(channel: Channel) -> &'static str {
    match channel {
        Channel::Tensor => "all_reduce in the tensor group",
        Channel::Data => "all_reduce in the data group",
        Channel::Embedding => "all_reduce in the embedding group",
        Channel::World => "barrier of the whole gang",
        Channel::ForwardIn => "recv of activations",
        Channel::ForwardOut => "send of activations",
        Channel::BackwardIn => "recv of gradients",
        Channel::BackwardOut => "send of gradients",
    }
}
