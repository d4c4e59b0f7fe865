//! Blame: from all flight pages of a gang, which rank did not arrive.
//!
//! A rank that waits in a channel for the `n`-th time waits for those peers that have not entered
//! it `n` times; where all have, for those that are still in the same operation. Following these
//! edges ends at the ranks that wait for nobody else: the odd ones out. One of them is a sharp
//! answer; several are suspects, and nobody is named. A process whose pulse has stopped is
//! proof enough by itself: stopped inside an operation, its page looks like that of its partners.

use crate::by_rank::ByRank;
use crate::flight::{Channel, Page};
use crate::id::{Generation, Rank};
use crate::layout::Layout;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// A rank that may hold the gang up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// Which rank.
    pub rank: Rank,
    /// The channel in which its closest waiters wait for it; none where nobody waits yet.
    pub channel: Option<Channel>,
}

/// The ranks that may hold the gang up, in order; exactly one means that it is that one.
///
/// A rank without a page, or with a page of another generation, has not arrived anywhere. `still`
/// are the ranks whose process did not run at all between two readings of their pages.
pub fn blame(
    layout: Layout,
    generation: Generation,
    pages: &ByRank<Page>,
    still: &BTreeSet<Rank>,
) -> Vec<Suspect> {
    let graph = Graph::read(layout, generation, pages);
    let found: Vec<Rank> = if !still.is_empty() {
        still.iter().copied().collect()
    } else if graph.waiters.is_empty() {
        // Nobody waits for anybody: whoever is in no operation at all is the one that is busy.
        layout
            .ranks()
            .filter(|rank| !graph.inside.contains(rank))
            .collect()
    } else {
        graph.ends()
    };
    found
        .into_iter()
        .map(|rank| Suspect {
            rank,
            channel: graph.channel(rank),
        })
        .collect()
}

#[derive(Default)]
struct Graph {
    /// Whom a rank waits for.
    awaits: BTreeMap<Rank, BTreeSet<Rank>>,
    /// Who waits for a rank, and in which channel.
    waiters: BTreeMap<Rank, Vec<(Rank, Channel)>>,
    /// Ranks that are inside some operation.
    inside: BTreeSet<Rank>,
}

impl Graph {
    fn read(layout: Layout, generation: Generation, pages: &ByRank<Page>) -> Self {
        let page = |rank: Rank| pages.get(rank).filter(|page| page.generation == generation);
        let mut graph = Self::default();
        for rank in layout.ranks() {
            let Some((mine, channel)) = page(rank).and_then(|p| Some((p, p.waits_in()?))) else {
                continue;
            };
            graph.inside.insert(rank);
            let turn = mine.counter(channel).entered;
            let theirs = layout
                .peers(rank, channel)
                .into_iter()
                .map(|(peer, channel)| {
                    (
                        peer,
                        page(peer)
                            .map(|page| page.counter(channel))
                            .unwrap_or_default(),
                    )
                });
            let theirs: Vec<_> = theirs.collect();
            let late = theirs.iter().filter(|(_, counter)| counter.entered < turn);
            let late: BTreeSet<_> = late.map(|(peer, _)| *peer).collect();
            let stuck = theirs.iter().filter(|(_, counter)| counter.done < turn);
            let awaits = if late.is_empty() {
                // All of them are in it. A ring ties them together as well as all pairs would.
                let stuck: BTreeSet<_> = stuck.map(|(peer, _)| *peer).collect();
                let next = stuck.range(rank..).next().or_else(|| stuck.first());
                next.copied().into_iter().collect()
            } else {
                late
            };
            for peer in &awaits {
                graph
                    .waiters
                    .entry(*peer)
                    .or_default()
                    .push((rank, channel));
            }
            graph.awaits.insert(rank, awaits);
        }
        graph
    }

    /// Ranks that are waited for, and wait only for ranks that wait for them in turn.
    fn ends(&self) -> Vec<Rank> {
        let knots = self.knots();
        let knot = |rank: &Rank| knots.get(rank);
        let leaves = |(rank, awaits): (&Rank, &BTreeSet<Rank>)| {
            awaits
                .iter()
                .any(|peer| knot(peer) != knot(rank))
                .then(|| knot(rank))
                .flatten()
        };
        let open: BTreeSet<_> = self.awaits.iter().filter_map(leaves).collect();
        let is_end = |rank: &&Rank| knot(rank).is_some_and(|knot| !open.contains(knot));
        self.waiters.keys().filter(is_end).copied().collect()
    }

    /// Ranks that wait for each other, in a circle or both ways, carry the same number (Kosaraju).
    fn knots(&self) -> BTreeMap<Rank, usize> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        let ranks: BTreeSet<_> = self
            .awaits
            .keys()
            .chain(self.waiters.keys())
            .copied()
            .collect();
        for &root in &ranks {
            let mut stack = vec![(root, false)];
            while let Some((rank, is_left)) = stack.pop() {
                if is_left {
                    order.push(rank);
                } else if seen.insert(rank) {
                    stack.push((rank, true));
                    let awaits = self.awaits.get(&rank).into_iter().flatten();
                    stack.extend(awaits.map(|peer| (*peer, false)));
                }
            }
        }
        let mut knots = BTreeMap::new();
        for (number, &root) in order.iter().rev().enumerate() {
            let mut stack = vec![root];
            while let Some(rank) = stack.pop() {
                if let Entry::Vacant(vacant) = knots.entry(rank) {
                    vacant.insert(number);
                    let waiters = self.waiters.get(&rank).into_iter().flatten();
                    stack.extend(waiters.map(|(waiter, _)| *waiter));
                }
            }
        }
        knots
    }

    /// The channel of those that wait for the fewest beside this rank: a whole gang waits for
    /// everybody who is late, the culprit's own group only for the culprit.
    fn channel(&self, rank: Rank) -> Option<Channel> {
        let waiters = self.waiters.get(&rank)?;
        let others = |waiter: &Rank| self.awaits.get(waiter).map_or(0, BTreeSet::len);
        let fewest = waiters.iter().map(|(waiter, _)| others(waiter)).min()?;
        let closest = waiters
            .iter()
            .filter(|(waiter, _)| others(waiter) == fewest);
        let mut votes: BTreeMap<Channel, usize> = BTreeMap::new();
        closest.for_each(|(_, channel)| *votes.entry(*channel).or_default() += 1);
        let most = votes.values().max().copied()?;
        votes
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(channel, _)| channel)
    }
}
