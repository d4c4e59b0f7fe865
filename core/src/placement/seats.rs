//! Seats for one gang.

use super::floor::{Floor, Kind, Place};
use super::holding::{Holding, Seated, slots};
use super::rack::Spot;
use super::slots::Slots;
use crate::engine::{Placement, Seating};
use crate::id::{NodeId, Rank, RunId};
use crate::layout::{Coordinates, Layout};
use crate::order::Seat;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Racks that are looked at for the one that a gang fills best, before any that holds it will do.
const LOOKED_AT: usize = 64;

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// Which run; what it holds itself counts as free.
    pub run: &'a RunId,
    /// Shape of its gang.
    pub layout: Layout,
    /// Where it is now; seats that can be kept are kept.
    pub current: Option<&'a Arc<Placement>>,
    /// Nodes that it must not be placed on.
    pub without: &'a BTreeSet<NodeId>,
    /// Nodes that were at fault lately, and how often; others are taken first, as they are before suspects.
    pub blamed: &'a BTreeMap<NodeId, u32>,
}

/// A node on which the run holds something, or may.
struct Own {
    spot: Spot,
    /// Whether it may be placed on it.
    usable: bool,
    /// What is free on it for the run.
    free: Slots,
    /// Whether a group stays on it.
    stays: bool,
}

/// Groups that go to one node.
struct Chosen {
    spot: Spot,
    groups: u32,
    /// Which of the run's own nodes that is, if it is one.
    own: Option<usize>,
}

/// One attempt on one kind of nodes.
struct Attempt<'a> {
    floor: &'a Floor,
    kind: &'a Kind,
    want: &'a Want<'a>,
    /// Spots that it must not be placed on, in order.
    without: &'a [Spot],
    tensor: u32,
    /// Where it is now, if a gang of the same shape can stay there.
    seated: Option<&'a Seated>,
    /// The nodes of the gang in the order of their names, then others.
    own: Vec<Own>,
    chosen: Vec<Chosen>,
    taken: BTreeSet<Spot>,
    tried: BTreeSet<u32>,
    /// How many faults of a node are put up with.
    bears: u32,
    /// For how many groups there was room on nodes with more, by their faults.
    passed: BTreeMap<u32, u32>,
}

impl Floor {
    /// Places a gang, or says that it does not fit now.
    pub fn place(&self, want: &Want<'_>) -> Option<Arc<Placement>> {
        let holding = self.holding(want.run);
        let seated = holding.zip(want.current);
        let seated = seated.and_then(|(holding, current)| holding.seated(current));
        let first = seated.and_then(|seated| seated.spots.first());
        let kind = first.map(|spot| self.spots[*spot as usize].kind);
        let without = want.without.iter().filter_map(|node| self.known(node));
        let mut without: Vec<_> = without.collect();
        without.sort_unstable();
        let kinds = 0..u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        let mut kinds = kinds.filter(|of| kind.is_none_or(|kind| kind == *of));
        kinds.find_map(|kind| self.place_on(kind, want, &without, seated))
    }

    fn place_on(
        &self,
        number: u32,
        want: &Want<'_>,
        without: &[Spot],
        seated: Option<&Seated>,
    ) -> Option<Arc<Placement>> {
        let holding = self.holding(want.run);
        let mut own = Vec::with_capacity(holding.map_or(0, Holding::most_spots));
        own.extend(holding.into_iter().flat_map(Holding::spots).map(|spot| {
            let place = &self.spots[spot as usize];
            let usable = place.kind == number
                && place.standing.usable
                && without.binary_search(&spot).is_err();
            let free = usable.then(|| place.free_for_holder(want.run));
            Own {
                spot,
                usable,
                free: free.unwrap_or_default(),
                stays: false,
            }
        }));
        let world = want.layout.world() as usize;
        let mut attempt = Attempt {
            floor: self,
            kind: &self.kinds[number as usize],
            want,
            without,
            tensor: want.layout.tensor,
            seated: seated.filter(|seated| seated.placement.ranks() == world),
            own,
            chosen: Vec::new(),
            taken: BTreeSet::new(),
            tried: BTreeSet::new(),
            bears: 0,
            passed: BTreeMap::new(),
        };
        attempt.seat()
    }
}

impl Attempt<'_> {
    fn place(&self, spot: Spot) -> &Place {
        &self.floor.spots[spot as usize]
    }

    fn seat(&mut self) -> Option<Arc<Placement>> {
        let world = self.want.layout.world() as usize;
        let homeless = self.keep();
        let current = self.want.current;
        if let Some(current) = current.filter(|current| current.ranks() == world)
            && homeless.is_empty()
        {
            return Some(Arc::clone(current));
        }
        let wanted = u32::try_from(homeless.len()).ok()?;
        let own_free = self.own.iter().map(|own| own.free.len() / self.tensor);
        let own_free: u32 = own_free.sum();
        let anywhere = self.kind.free.groups(self.tensor) + u64::from(own_free);
        if u64::from(wanted) > anywhere || !self.choose(wanted) {
            return None;
        }
        let floor = self.floor;
        self.chosen.sort_by_cached_key(|chosen| {
            let place = &floor.spots[chosen.spot as usize];
            (place.rack, place.node.clone())
        });
        let tensor = self.tensor as usize;
        let places = self.chosen.iter().flat_map(|chosen| {
            let free = match chosen.own {
                Some(at) => &self.own[at].free,
                None => &self.place(chosen.spot).free,
            };
            let free: Vec<_> = free.iter().collect();
            let groups: Vec<_> = free.chunks_exact(tensor).map(<[_]>::to_vec).collect();
            let groups = groups.into_iter().take(chosen.groups as usize);
            groups.map(|slots| (self.place(chosen.spot).node.clone(), slots))
        });
        let mut new = Vec::with_capacity(homeless.len() * tensor);
        for (first, (node, slots)) in homeless.iter().zip(places) {
            let ranks = (first.0..).map(Rank).zip(slots);
            new.extend(ranks.map(|(rank, slot)| Seating {
                rank,
                node: node.clone(),
                slot,
            }));
        }
        let stays = current.filter(|current| current.ranks() == world);
        let placement = match stays {
            Some(current) if new.len() == homeless.len() * tensor => current.with(&new),
            None if new.len() == world => {
                new.sort_by_key(|seat| seat.rank);
                let store_node = new.first()?.node.clone();
                Placement::new(&new, store_node)
            }
            Some(_) | None => return None,
        };
        Some(Arc::new(placement))
    }

    /// Keeps the groups whose seats can be kept; says the first rank of each of the others.
    fn keep(&mut self) -> Vec<Rank> {
        let (layout, tensor) = (self.want.layout, self.tensor);
        let Some(seated) = self.seated else {
            return groups(layout).collect();
        };
        let mut homeless = Vec::new();
        for (own, (_, row)) in self.own.iter_mut().zip(seated.placement.rows()) {
            // (Most nodes keep all that is on them.)
            if is_whole(row, tensor) && own.keep(&slots(row)) {
                continue;
            }
            for group in row.chunk_by(|a, b| a.rank.0 / tensor == b.rank.0 / tensor) {
                if !is_whole(group, tensor) || !own.keep(&slots(group)) {
                    homeless.push(Rank(group[0].rank.0 / tensor * tensor));
                }
            }
        }
        homeless.sort_by_key(|first| {
            let Coordinates { stage, data, .. } = layout.coordinates(*first);
            (data, stage)
        });
        homeless.dedup();
        homeless
    }

    fn keeps_some(&self) -> bool {
        self.own.iter().any(|own| own.stays)
    }

    /// Chooses nodes for so many groups, the nearest to the rest of the gang.
    fn choose(&mut self, wanted: u32) -> bool {
        let stages = self.want.layout.pipeline;
        let is_new = !self.keeps_some();
        // Whole model copies in a rack, where that works out; then any way; then on bad nodes, the least
        // bad first.
        if is_new && self.tries(wanted, stages, 0) == 0 {
            return true;
        }
        let mut bears = Some(0);
        while let Some(faults) = bears {
            let mut homeless = self.tries(wanted, 1, faults);
            if homeless == 0 {
                return true;
            }
            // No fewer can do.
            bears = self.passed.iter().find_map(|(faults, groups)| {
                homeless = homeless.saturating_sub(*groups);
                (homeless == 0).then_some(*faults)
            });
        }
        false
    }

    /// Looks for room on nodes with no more faults than these; says for how many groups there was none.
    fn tries(&mut self, wanted: u32, unit: u32, bears: u32) -> u32 {
        self.chosen.clear();
        self.taken.clear();
        self.tried.clear();
        self.passed.clear();
        self.bears = bears;
        self.gather(wanted, unit)
    }

    /// Collects room; says for how many groups there was none.
    fn gather(&mut self, mut wanted: u32, unit: u32) -> u32 {
        let own = self.own.iter().enumerate().map(|(at, own)| {
            let groups = own.free.len() / self.tensor;
            (!own.stays, Reverse(groups), own.spot, at)
        });
        let mut own: Vec<_> = own.filter(|(_, groups, ..)| groups.0 > 0).collect();
        own.sort_by_cached_key(|(moves, groups, spot, _)| {
            let node = self.place(*spot).node.clone();
            (*moves, *groups, node)
        });
        for (_, Reverse(groups), spot, at) in own {
            wanted -= self.take(spot, groups.min(wanted), Some(at));
        }
        if wanted == 0 {
            return 0;
        }
        let near = self.near();
        for rack in &near {
            wanted -= self.fill(*rack, wanted, 1);
        }
        if wanted == 0 {
            return 0;
        }
        // Its own, then the fullest that holds it all; if none does, the emptiest first.
        let fabric_of = |rack: &u32| self.floor.racks[*rack as usize].fabric;
        let home = near.first().map(fabric_of);
        let (all, kind) = (u64::from(wanted) * u64::from(self.tensor), self.kind);
        let holding = kind.fabrics_by_free.range((all, 0)..);
        let others = kind.fabrics_by_free.range(..(all, 0)).rev();
        let others = holding.chain(others).map(|(_, fabric)| *fabric);
        let others = others.filter(|fabric| Some(*fabric) != home);
        for fabric in home.into_iter().chain(others) {
            while wanted > 0
                && let Some(rack) = self.best_rack(fabric, wanted)
            {
                wanted -= self.fill(rack, wanted, unit);
            }
            if wanted == 0 {
                break;
            }
        }
        wanted
    }

    /// Racks of nodes that the run has, those with most of them first.
    fn near(&self) -> Vec<u32> {
        let mut racks = BTreeMap::<u32, usize>::new();
        for own in self.own.iter().filter(|own| own.usable) {
            *racks.entry(self.place(own.spot).rack).or_default() += 1;
        }
        let mut racks: Vec<_> = racks.into_iter().collect();
        racks.sort_by_key(|(_, nodes)| Reverse(*nodes));
        racks.into_iter().map(|(rack, _)| rack).collect()
    }

    /// The fullest rack that holds so many groups, or else the emptiest.
    fn best_rack(&self, fabric: u32, wanted: u32) -> Option<u32> {
        let racks = &self.floor.fabrics[fabric as usize].racks_by_free;
        let groups = |rack: u32| self.floor.racks[rack as usize].groups(self.tensor);
        let untried = |(_, rack): &&(u32, u32)| !self.tried.contains(rack);
        let least = wanted.saturating_mul(self.tensor);
        let mut fitting = racks.range((least, 0)..).filter(untried).take(LOOKED_AT);
        let holds = fitting.find(|(_, rack)| groups(*rack) >= wanted);
        let most = || racks.iter().rev().find(untried);
        holds.or_else(most).map(|(_, rack)| *rack)
    }

    /// Takes room in a rack for at most so many groups, in whole units unless it is the last.
    fn fill(&mut self, rack: u32, wanted: u32, unit: u32) -> u32 {
        if !self.tried.insert(rack) {
            return 0;
        }
        let room = &self.floor.racks[rack as usize];
        if room.free < self.tensor {
            return 0;
        }
        let groups = room.groups(self.tensor).min(wanted);
        let groups = if groups < wanted {
            groups / unit * unit
        } else {
            groups
        };
        let tensor = self.tensor;
        room.fill(tensor, groups, |spot, groups| {
            if self.place(spot).is_held_by(self.want.run) {
                0
            } else {
                self.take(spot, groups, None)
            }
        })
    }

    fn take(&mut self, spot: Spot, groups: u32, own: Option<usize>) -> u32 {
        if groups == 0 || self.without.binary_search(&spot).is_ok() {
            return 0;
        }
        let place = self.place(spot);
        let faults = self.want.blamed.get(&place.node).copied();
        let faults = faults.unwrap_or_default() + u32::from(place.standing.suspect);
        if faults > self.bears {
            *self.passed.entry(faults).or_default() += groups;
            return 0;
        }
        if !self.taken.insert(spot) {
            return 0;
        }
        self.chosen.push(Chosen { spot, groups, own });
        groups
    }
}

impl Own {
    /// Keeps what is on it, if all of that is free for the run.
    fn keep(&mut self, slots: &Slots) -> bool {
        let keeps = self.free.holds(slots);
        if keeps {
            self.free.subtract(slots);
            self.stays = true;
        }
        keeps
    }
}

/// Whether these seats of one node are whole tensor groups.
fn is_whole(row: &[Seat], tensor: u32) -> bool {
    let mut groups = row.chunks(tensor as usize);
    groups.all(|group| {
        let first = group[0].rank.0;
        first % tensor == 0
            && group
                .last()
                .is_some_and(|last| last.rank.0 + 1 == first + tensor)
    })
}

/// First rank of each tensor group: one model copy after the other, stage after stage.
fn groups(layout: Layout) -> impl Iterator<Item = Rank> {
    (0..layout.data).flat_map(move |data| {
        (0..layout.pipeline).map(move |stage| {
            layout.rank(Coordinates {
                tensor: 0,
                stage,
                data,
            })
        })
    })
}
