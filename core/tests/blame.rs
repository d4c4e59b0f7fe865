//! Blame against what BLOOM's engineers saw in their stack dumps: the odd one out is the culprit.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test says what is wrong by panicking"
)]

use rebloom_core::blame::{Suspect, blame};
use rebloom_core::by_rank::ByRank;
use rebloom_core::flight::{Channel, Counter, Page};
use rebloom_core::id::{Generation, Rank};
use rebloom_core::layout::{Coordinates, Layout};
use std::collections::BTreeSet;

const GENERATION: Generation = Generation(3);

struct Gang {
    layout: Layout,
    pages: ByRank<Page>,
}

impl Gang {
    /// Every rank has done ten operations in every channel and is inside none.
    fn new(tensor: u32, pipeline: u32, data: u32) -> Self {
        let layout = Layout {
            tensor,
            pipeline,
            data,
        };
        let counters = [Counter {
            entered: 10,
            done: 10,
        }; 8];
        let page = Page {
            generation: GENERATION,
            counters,
            ..Page::default()
        };
        Self {
            layout,
            pages: layout.ranks().map(|rank| (rank, page.clone())).collect(),
        }
    }

    fn set(&mut self, rank: Rank, channel: Channel, entered: u64, done: u64) {
        let at = Channel::ALL.iter().position(|c| *c == channel).unwrap();
        self.pages.get_mut(rank).unwrap().counters[at] = Counter { entered, done };
    }

    fn waits(&mut self, rank: Rank, channel: Channel) {
        self.set(rank, channel, 11, 10);
    }

    fn at(&self, tensor: u32, stage: u32, data: u32) -> Rank {
        self.layout.rank(Coordinates {
            tensor,
            stage,
            data,
        })
    }

    fn blamed(&self) -> Vec<Suspect> {
        blame(self.layout, GENERATION, &self.pages, &BTreeSet::new())
    }
}

fn named(rank: Rank, channel: Channel) -> Vec<Suspect> {
    vec![Suspect {
        rank,
        channel: Some(channel),
    }]
}

/// 2022-04-30: four ranks in a pipeline broadcast, one in the data loader, its three tensor
/// partners in the broadcast of keys, four in an all-reduce, four in a receive.
#[test]
fn one_rank_in_the_data_loader_among_sixteen() {
    let mut gang = Gang::new(4, 2, 2);
    let culprit = gang.at(1, 0, 1);
    for tensor in 0..4 {
        let (first, loader) = (gang.at(tensor, 0, 0), gang.at(tensor, 0, 1));
        let (last, receiver) = (gang.at(tensor, 1, 0), gang.at(tensor, 1, 1));
        gang.waits(first, Channel::World);
        gang.waits(last, Channel::Data);
        gang.waits(receiver, Channel::ForwardIn);
        if loader != culprit {
            gang.waits(loader, Channel::Tensor);
        }
    }
    assert_eq!(gang.blamed(), named(culprit, Channel::Tensor));
}

/// 2022-05-18: on one node eight ranks in a broadcast; on another four in a send and four in a
/// broadcast; on a third eight in an all-reduce; on the last four in an all-reduce, three in the
/// broadcast of keys, and one waiting for a data-loader worker that held a lock.
#[test]
fn one_rank_with_an_inherited_lock_among_many() {
    let mut gang = Gang::new(4, 3, 4);
    let culprit = gang.at(2, 1, 2);
    for rank in gang.layout.ranks() {
        let at = gang.layout.coordinates(rank);
        match (at.stage, at.data) {
            (1, 2) if rank != culprit => gang.waits(rank, Channel::Tensor),
            (1, 2) => {}
            (0, 2) => gang.waits(rank, Channel::ForwardOut),
            (2, 2) => gang.waits(rank, Channel::ForwardIn),
            (0, 3) => gang.waits(rank, Channel::World),
            _ => gang.waits(rank, Channel::Data),
        }
    }
    assert_eq!(gang.blamed(), named(culprit, Channel::Tensor));
}

#[test]
fn a_chain_of_waiting_stages_ends_at_the_one_that_computes() {
    let mut gang = Gang::new(1, 4, 1);
    for stage in [0, 1] {
        let rank = gang.at(0, stage, 0);
        gang.waits(rank, Channel::BackwardIn);
    }
    let last = gang.at(0, 3, 0);
    gang.waits(last, Channel::ForwardIn);
    assert_eq!(
        gang.blamed(),
        [Suspect {
            rank: Rank(2),
            channel: Some(Channel::ForwardIn)
        }]
    );
}

#[test]
fn a_rank_stopped_inside_an_operation_that_others_have_left_is_named() {
    let mut gang = Gang::new(2, 1, 2);
    // Rank 3 entered the tensor group's operation with rank 2, which left it and goes on waiting.
    gang.set(Rank(3), Channel::Tensor, 11, 10);
    gang.set(Rank(2), Channel::Tensor, 12, 11);
    gang.waits(Rank(0), Channel::Data);
    gang.waits(Rank(1), Channel::Data);
    assert_eq!(gang.blamed(), named(Rank(3), Channel::Tensor).as_slice());
}

#[test]
fn when_all_have_arrived_nobody_is_named() {
    let mut gang = Gang::new(2, 2, 2);
    gang.layout
        .ranks()
        .for_each(|rank| gang.waits(rank, Channel::World));
    assert_eq!(gang.blamed().len(), 8, "all of them are suspects");
}

#[test]
fn a_process_that_does_not_run_at_all_is_named_even_among_its_equals() {
    let mut gang = Gang::new(2, 2, 2);
    gang.layout
        .ranks()
        .for_each(|rank| gang.waits(rank, Channel::World));
    let still = BTreeSet::from([Rank(5)]);
    let found = blame(gang.layout, GENERATION, &gang.pages, &still);
    assert_eq!(found, named(Rank(5), Channel::World));
}

#[test]
fn two_that_did_not_arrive_are_two_suspects() {
    let mut gang = Gang::new(4, 1, 1);
    gang.waits(Rank(0), Channel::Tensor);
    gang.waits(Rank(1), Channel::Tensor);
    let ranks: Vec<_> = gang
        .blamed()
        .into_iter()
        .map(|suspect| suspect.rank)
        .collect();
    assert_eq!(ranks, [Rank(2), Rank(3)]);
}

#[test]
fn a_rank_of_an_older_generation_or_without_a_page_has_not_arrived() {
    for gone in [false, true] {
        let mut gang = Gang::new(2, 1, 2);
        gang.layout
            .ranks()
            .for_each(|rank| gang.waits(rank, Channel::World));
        if gone {
            gang.pages.remove(Rank(2));
        } else {
            gang.pages.get_mut(Rank(2)).unwrap().generation = Generation(2);
        }
        assert_eq!(gang.blamed(), named(Rank(2), Channel::World));
    }
}

#[test]
fn the_only_one_that_is_busy_is_named_before_anybody_waits_for_it() {
    let mut gang = Gang::new(1, 1, 1);
    assert_eq!(
        gang.blamed(),
        [Suspect {
            rank: Rank(0),
            channel: None
        }]
    );
    gang.waits(Rank(0), Channel::World);
    assert_eq!(gang.blamed(), []);
}

#[test]
fn the_size_of_bloom_is_no_obstacle() {
    let mut gang = Gang::new(4, 12, 8);
    let culprit = Rank(217);
    let others: Vec<_> = gang
        .layout
        .ranks()
        .filter(|rank| *rank != culprit)
        .collect();
    others
        .into_iter()
        .for_each(|rank| gang.waits(rank, Channel::World));
    assert_eq!(gang.blamed(), named(culprit, Channel::World));
    gang.waits(culprit, Channel::World);
    assert_eq!(gang.blamed().len(), 384);
}

/// Groups form one after the other, tensor, data, pipeline; one rank is still busy with the generation before.
#[test]
fn a_rank_that_does_not_come_to_form_its_groups_is_named() {
    let mut gang = Gang::new(2, 2, 2);
    let culprit = gang.at(1, 0, 1);
    for rank in gang.layout.ranks() {
        for channel in Channel::ALL {
            gang.set(rank, channel, 0, 0);
        }
        let at = gang.layout.coordinates(rank);
        let passed: &[Channel] = match (at.stage, at.data) {
            (0, 0) => &[Channel::Tensor, Channel::Data],
            (0, _) => &[Channel::Tensor],
            _ => &[Channel::Tensor, Channel::Data, Channel::World],
        };
        if rank != culprit {
            for channel in passed {
                gang.set(rank, *channel, 1, 1);
            }
            gang.set(rank, passed[passed.len() - 1], 1, 0);
        }
    }
    assert_eq!(gang.blamed(), named(culprit, Channel::Tensor));
}

#[test]
fn the_channel_is_the_one_in_which_most_of_the_closest_wait() {
    // One waits in its tensor group for the culprit alone, and two in a data group each for it alone.
    let mut gang = Gang::new(2, 1, 3);
    let culprit = gang.at(0, 0, 0);
    let beside = gang.at(1, 0, 0);
    gang.waits(beside, Channel::Tensor);
    for data in [1, 2] {
        let like = gang.at(0, 0, data);
        gang.waits(like, Channel::Data);
    }
    assert_eq!(gang.blamed(), named(culprit, Channel::Data));
}
