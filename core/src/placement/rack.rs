//! Nodes by how many of their slots are free: what a rack, and a whole kind of nodes, has to offer.

use std::collections::{BTreeMap, BTreeSet};

/// Number of a node, given in the order in which they were first seen.
pub(super) type Spot = u32;

/// The usable nodes of one rack, by free slots.
#[derive(Debug, Default)]
pub(super) struct Rack {
    pub(super) fabric: u32,
    by_free: BTreeMap<u32, BTreeSet<Spot>>,
    /// Free slots of all of them.
    pub(super) free: u32,
}

impl Rack {
    pub(super) fn new(fabric: u32) -> Self {
        Self {
            fabric,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, spot: Spot, free: u32) {
        self.by_free.entry(free).or_default().insert(spot);
        self.free += free;
    }

    pub(super) fn remove(&mut self, spot: Spot, free: u32) {
        if let Some(spots) = self.by_free.get_mut(&free)
            && spots.remove(&spot)
        {
            self.free -= free;
            if spots.is_empty() {
                self.by_free.remove(&free);
            }
        }
    }

    /// Groups of `tensor` ranks that it has room for.
    pub(super) fn groups(&self, tensor: u32) -> u32 {
        let groups = |(free, spots): (&u32, &BTreeSet<Spot>)| {
            free / tensor * u32::try_from(spots.len()).unwrap_or(u32::MAX)
        };
        self.by_free.iter().map(groups).sum()
    }

    /// Takes nodes until `wanted` groups have room: the emptiest first, and for what is left the node
    /// that it fills best. Calls `take` with each node and its groups, which says how many it took.
    pub(super) fn fill(
        &self,
        tensor: u32,
        mut wanted: u32,
        mut take: impl FnMut(Spot, u32) -> u32,
    ) -> u32 {
        let begin = wanted;
        for (free, spots) in self.by_free.iter().rev() {
            let groups = free / tensor;
            if groups == 0 || groups >= wanted {
                break;
            }
            for spot in spots {
                if groups >= wanted {
                    break;
                }
                wanted -= take(*spot, groups);
            }
        }
        // The rest fits on one node; the fullest that still holds it.
        for (free, spots) in &self.by_free {
            let groups = free / tensor;
            if groups < wanted {
                continue;
            }
            for spot in spots {
                if wanted == 0 {
                    break;
                }
                wanted -= take(*spot, groups.min(wanted));
            }
        }
        // Nodes that were passed over may leave a rest for smaller ones.
        for (free, spots) in self.by_free.iter().rev() {
            let groups = free / tensor;
            if wanted == 0 || groups == 0 {
                break;
            }
            for spot in spots {
                if wanted == 0 {
                    break;
                }
                wanted -= take(*spot, groups.min(wanted));
            }
        }
        begin - wanted
    }
}

/// How many nodes there are of each size.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizes(BTreeMap<u32, u32>);

impl Sizes {
    pub(super) fn add(&mut self, slots: u32) {
        *self.0.entry(slots).or_default() += 1;
    }

    pub(super) fn remove(&mut self, slots: u32) {
        if let Some(count) = self.0.get_mut(&slots) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&slots);
            }
        }
    }

    /// Groups of `tensor` ranks that all of them together have room for.
    pub(super) fn groups(&self, tensor: u32) -> u64 {
        let groups = |(slots, count): (&u32, &u32)| u64::from(slots / tensor) * u64::from(*count);
        self.0.iter().map(groups).sum()
    }

    pub(super) fn slots(&self) -> u64 {
        self.groups(1)
    }

    /// Nodes of at least so many slots.
    pub(super) fn nodes(&self, slots: u32) -> u32 {
        self.0.range(slots..).map(|(_, count)| count).sum()
    }

    pub(super) fn largest(&self) -> u32 {
        self.0.keys().next_back().copied().unwrap_or_default()
    }
}
