//! The TP x PP x DP shape of a gang, and who is whose neighbour in it.
//!
//! Rank order: tensor varies fastest, then data, then pipeline (as Megatron-DeepSpeed), so
//! `rank = tensor_index + T * (data_index + D * stage)`.

use crate::flight::Channel;
use crate::id::Rank;
use serde::{Deserialize, Serialize};

/// Sizes of the three kinds of parallelism; each is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Ranks that share each layer (TP); they never leave one node.
    pub tensor: u32,
    /// Stages, each holding some of the layers (PP).
    pub pipeline: u32,
    /// Copies of the model, each fed other samples (DP).
    pub data: u32,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tensor, pipeline, data) = (self.tensor, self.pipeline, self.data);
        write!(f, "TP {tensor} x PP {pipeline} x DP {data}")
    }
}

/// Where a rank stands in its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coordinates {
    /// Index in its tensor group, `0 .. tensor`.
    pub tensor: u32,
    /// Pipeline stage, `0 .. pipeline`; stage 0 holds the embedding.
    pub stage: u32,
    /// Index in its data group, `0 .. data`.
    pub data: u32,
}

impl Layout {
    /// Number of ranks of the gang.
    pub const fn world(self) -> u32 {
        self.tensor * self.pipeline * self.data
    }

    /// Number of its tensor groups.
    pub const fn groups(self) -> u64 {
        self.pipeline as u64 * self.data as u64
    }

    /// Every rank, in order.
    pub fn ranks(self) -> impl Iterator<Item = Rank> {
        (0..self.world()).map(Rank)
    }

    /// Where `rank` stands.
    pub const fn coordinates(self, rank: Rank) -> Coordinates {
        Coordinates {
            tensor: rank.0 % self.tensor,
            data: rank.0 / self.tensor % self.data,
            stage: rank.0 / (self.tensor * self.data),
        }
    }

    /// The rank that stands at `at`.
    pub const fn rank(self, at: Coordinates) -> Rank {
        Rank(at.tensor + self.tensor * (at.data + self.data * at.stage))
    }

    /// Ranks that share `rank`'s layers, itself included, in TP order.
    pub fn tensor_group(self, rank: Rank) -> Vec<Rank> {
        let at = self.coordinates(rank);
        (0..self.tensor)
            .map(|tensor| self.rank(Coordinates { tensor, ..at }))
            .collect()
    }

    /// Ranks that hold the same parameters as `rank`, itself included, in DP order.
    pub fn data_group(self, rank: Rank) -> Vec<Rank> {
        let at = self.coordinates(rank);
        (0..self.data)
            .map(|data| self.rank(Coordinates { data, ..at }))
            .collect()
    }

    /// The stages of the model copy through `rank`, itself included, first stage first.
    pub fn pipeline_group(self, rank: Rank) -> Vec<Rank> {
        let at = self.coordinates(rank);
        (0..self.pipeline)
            .map(|stage| self.rank(Coordinates { stage, ..at }))
            .collect()
    }

    /// First and last stage of `rank`'s pipeline, which share the tied embedding. Empty where `rank`
    /// is neither, or where there is one stage only.
    pub fn embedding_group(self, rank: Rank) -> Vec<Rank> {
        let stages = self.pipeline_group(rank);
        match (stages.first(), stages.last()) {
            (Some(&first), Some(&last)) if first != last && (rank == first || rank == last) => {
                vec![first, last]
            }
            _ => Vec::new(),
        }
    }

    /// Whom `rank` may be waiting for in `channel`, and the channel in which that peer shows up
    /// there. A collective shows up in the same channel on every member; the two ends of a
    /// pipeline edge show up in opposite ones.
    pub fn peers(self, rank: Rank, channel: Channel) -> Vec<(Rank, Channel)> {
        let others = |group: Vec<Rank>| {
            group
                .into_iter()
                .filter(|&other| other != rank)
                .map(|other| (other, channel))
                .collect()
        };
        let stage = |offset: i64, channel| {
            let at = self.coordinates(rank);
            let stage = i64::from(at.stage) + offset;
            match u32::try_from(stage) {
                Ok(stage) if stage < self.pipeline => {
                    vec![(self.rank(Coordinates { stage, ..at }), channel)]
                }
                Ok(_) | Err(_) => Vec::new(),
            }
        };
        match channel {
            Channel::Tensor => others(self.tensor_group(rank)),
            Channel::Data => others(self.data_group(rank)),
            Channel::Embedding => others(self.embedding_group(rank)),
            Channel::World => others(self.ranks().collect()),
            Channel::ForwardIn => stage(-1, Channel::ForwardOut),
            Channel::ForwardOut => stage(1, Channel::ForwardIn),
            Channel::BackwardIn => stage(1, Channel::BackwardOut),
            Channel::BackwardOut => stage(-1, Channel::BackwardIn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bloom_ranks_go_tensor_then_data_then_pipeline() {
        let bloom = Layout {
            tensor: 4,
            pipeline: 12,
            data: 8,
        };
        assert_eq!(bloom.world(), 384);
        assert_eq!(
            bloom.coordinates(Rank(0)),
            Coordinates {
                tensor: 0,
                stage: 0,
                data: 0
            }
        );
        assert_eq!(
            bloom.coordinates(Rank(5)),
            Coordinates {
                tensor: 1,
                stage: 0,
                data: 1
            }
        );
        assert_eq!(
            bloom.coordinates(Rank(383)),
            Coordinates {
                tensor: 3,
                stage: 11,
                data: 7
            }
        );
        assert!(
            bloom
                .ranks()
                .all(|rank| bloom.rank(bloom.coordinates(rank)) == rank)
        );
        assert_eq!(bloom.tensor_group(Rank(6)), [4, 5, 6, 7].map(Rank));
        assert_eq!(bloom.embedding_group(Rank(3)), [Rank(3), Rank(355)]);
        assert_eq!(bloom.embedding_group(Rank(40)), []);
    }

    #[test]
    fn both_ends_of_a_pipeline_edge_name_each_other() {
        let layout = Layout {
            tensor: 2,
            pipeline: 3,
            data: 2,
        };
        for rank in layout.ranks() {
            for channel in Channel::ALL {
                for (peer, theirs) in layout.peers(rank, channel) {
                    assert!(layout.peers(peer, theirs).contains(&(rank, channel)));
                }
            }
        }
    }
}
