//! Placement by itself: near things together, whole or not at all, nothing on what is held back.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod seats;
mod slots;

use proptest::prelude::*;
use rebloom_core::engine::Placement;
use rebloom_core::id::{NodeId, Rank, RunId, Slot};
use rebloom_core::layout::Layout;
use rebloom_core::placement::{Floor, Slots, Standing, Waiting, Want};
use rebloom_core::report::{FABRIC, NodeFacts, RACK};
use rebloom_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const READY: Standing = Standing {
    allowed: true,
    usable: true,
    suspect: false,
};
const CORDONED: Standing = Standing {
    allowed: false,
    usable: false,
    suspect: false,
};

fn node(at: usize) -> NodeId {
    NodeId::new(&format!("n{at:03}")).unwrap()
}

fn run(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn facts(at: usize, slots: u32, gpu: &str, fabric: usize, rack: usize) -> NodeFacts {
    NodeFacts {
        node: node(at),
        slots,
        gpus: vec![gpu.to_owned(); slots as usize],
        store_address: String::new(),
        host: String::new(),
        cores: 1,
        memory: 1,
        nccl: None,
        labels: [
            (RACK.to_owned(), format!("r{rack}")),
            (FABRIC.to_owned(), format!("f{fabric}")),
        ]
        .into(),
    }
}

/// Nodes of eight slots in racks of this many, racks in fabrics of this many.
fn floor(nodes: usize, rack: usize, fabric: usize) -> Floor {
    let mut floor = Floor::default();
    for at in 0..nodes {
        let (rack, fabric) = (at / rack, at / rack / fabric);
        floor.set(&facts(at, 8, "A100", fabric, rack), READY);
    }
    floor
}

fn hold(floor: &mut Floor, name: &str, held: &[(usize, u32)]) {
    let nodes: Vec<_> = held.iter().map(|(at, slots)| (node(*at), *slots)).collect();
    let slots = nodes
        .iter()
        .map(|(node, slots)| (node, Slots::first(*slots)));
    floor.hold(&run(name), slots.collect());
}

/// Makes a placement the run's own.
fn take(floor: &mut Floor, name: &str, placement: &Arc<Placement>) {
    floor.seat(&run(name), placement, BTreeMap::new());
}

fn place(
    floor: &Floor,
    name: &str,
    layout: Layout,
    current: Option<&Arc<Placement>>,
) -> Option<Arc<Placement>> {
    floor.place(&Want {
        run: &run(name),
        layout,
        current,
        without: &BTreeSet::new(),
        blamed: &BTreeMap::new(),
    })
}

const fn layout(tensor: u32, pipeline: u32, data: u32) -> Layout {
    Layout {
        tensor,
        pipeline,
        data,
    }
}

fn used(placement: &Placement) -> Vec<NodeId> {
    placement.nodes.iter().cloned().collect()
}

fn nodes(range: impl IntoIterator<Item = usize>) -> Vec<NodeId> {
    range.into_iter().map(node).collect()
}

#[test]
fn a_gang_that_fits_a_rack_stays_in_it_and_takes_the_fullest_that_holds_it() {
    let mut floor = floor(12, 4, 3);
    // Rack 0 has three free nodes, rack 1 two, rack 2 four.
    hold(&mut floor, "a", &[(0, 8)]);
    hold(&mut floor, "b", &[(4, 8), (5, 8)]);
    let placed = |pipeline| used(&place(&floor, "new", layout(8, pipeline, 1), None).unwrap());
    assert_eq!(placed(2), nodes([6, 7]));
    assert_eq!(placed(3), nodes([1, 2, 3]));
    assert_eq!(placed(4), nodes([8, 9, 10, 11]));
}

#[test]
fn a_small_gang_fills_up_a_node_that_is_in_use() {
    let mut floor = floor(4, 4, 1);
    hold(&mut floor, "a", &[(1, 4)]);
    hold(&mut floor, "b", &[(2, 2)]);
    let placed = |tensor| used(&place(&floor, "new", layout(tensor, 1, 1), None).unwrap());
    assert_eq!(placed(4), nodes([1]), "its four slots are just right");
    assert_eq!(placed(6), nodes([2]));
    assert_eq!(placed(8), nodes([0]));
}

#[test]
fn copies_of_the_model_stay_whole_in_a_rack_and_go_across_racks() {
    // Five nodes a rack, two stages a node: a copy of six stages takes three nodes.
    let floor = floor(20, 5, 2);
    let shape = layout(4, 6, 4);
    let placement = place(&floor, "bloom", shape, None).unwrap();
    let rack = |rank: Rank| {
        let node = placement.seat(rank).unwrap().node;
        node.as_str()[1..].parse::<usize>().unwrap() / 5
    };
    let copies = (0..4).map(|data| {
        let first = Rank(4 * data);
        let stages = shape.pipeline_group(first).into_iter();
        stages.map(rack).collect::<BTreeSet<_>>()
    });
    let copies: Vec<_> = copies.collect();
    assert!(copies.iter().all(|racks| racks.len() == 1), "{copies:?}");
    let racks: BTreeSet<_> = copies.into_iter().flatten().collect();
    assert_eq!(racks.len(), 4, "one copy a rack: two do not fit");
}

#[test]
fn a_gang_stays_in_one_fabric_where_one_holds_it() {
    let mut floor = floor(16, 4, 2);
    hold(&mut floor, "a", &[(0, 8), (5, 8), (6, 8)]);
    // Fabric 0 has five free nodes, fabric 1 eight.
    let placed = |pipeline| used(&place(&floor, "new", layout(8, pipeline, 1), None).unwrap());
    assert_eq!(placed(5), nodes([1, 2, 3, 4, 7]));
    let other = placed(6);
    assert_eq!(other.len(), 6);
    assert!(
        other.iter().all(|node| nodes(8..16).contains(node)),
        "{other:?}"
    );
    assert_eq!(placed(13).len(), 13);
}

#[test]
fn what_is_lost_goes_beside_the_rest_of_its_gang() {
    let mut floor = floor(16, 4, 2);
    let before = place(&floor, "bloom", layout(4, 6, 1), None).unwrap();
    assert_eq!(used(&before), nodes([0, 1, 2]));
    take(&mut floor, "bloom", &before);
    floor.set(&facts(1, 8, "A100", 0, 0), CORDONED);
    let after = place(&floor, "bloom", layout(4, 6, 1), Some(&before)).unwrap();
    assert_eq!(used(&after), nodes([0, 2, 3]), "the same rack");
    let moved = before.seats().zip(after.seats()).filter(|(a, b)| a != b);
    assert_eq!(moved.count(), 8, "only what was on the lost node");
    hold(&mut floor, "other", &[(3, 8)]);
    let after = place(&floor, "bloom", layout(4, 6, 1), Some(&before)).unwrap();
    assert_eq!(used(&after), nodes([0, 2, 4]), "the same fabric");
}

#[test]
fn one_gang_runs_on_one_kind_of_gpu() {
    let mut floor = Floor::default();
    for at in 0..4 {
        let gpu = if at < 2 { "A100" } else { "H100" };
        floor.set(&facts(at, 8, gpu, 0, 0), READY);
    }
    assert!(place(&floor, "new", layout(8, 3, 1), None).is_none());
    assert!(!floor.fits_usable(8, 3) && floor.fits_usable(8, 2));
    let placement = place(&floor, "new", layout(8, 2, 1), None).unwrap();
    assert_eq!(used(&placement), nodes([0, 1]));
    take(&mut floor, "new", &placement);
    floor.set(&facts(0, 8, "A100", 0, 0), CORDONED);
    assert!(
        place(&floor, "new", layout(8, 2, 1), Some(&placement)).is_none(),
        "an H100 does not stand in for an A100"
    );
}

/// Where so many groups of eight go, without these nodes, when others were at fault so often.
fn placed(
    floor: &Floor,
    groups: u32,
    without: &[usize],
    blamed: &BTreeMap<NodeId, u32>,
) -> Option<Vec<NodeId>> {
    let want = Want {
        run: &run("new"),
        layout: layout(8, groups, 1),
        current: None,
        without: &without.iter().copied().map(node).collect(),
        blamed,
    };
    floor.place(&want).map(|placement| used(&placement))
}

#[test]
fn nodes_that_were_at_fault_are_taken_last() {
    let floor = floor(4, 4, 1);
    let blamed = BTreeMap::from([(node(0), 2), (node(1), 1)]);
    let placed = |pipeline| placed(&floor, pipeline, &[2], &blamed);
    assert_eq!(placed(1), Some(nodes([3])));
    assert_eq!(placed(2), Some(nodes([1, 3])));
    assert_eq!(placed(3), Some(nodes([0, 1, 3])));
    assert_eq!(placed(4), None);
}

#[test]
fn a_suspect_has_one_fault_more() {
    let mut floor = floor(4, 4, 1);
    for at in [1, 3] {
        let standing = Standing {
            suspect: true,
            ..READY
        };
        assert!(floor.stand(&node(at), standing));
    }
    let blamed = BTreeMap::from([(node(0), 2), (node(1), 2)]);
    let placed = |pipeline| placed(&floor, pipeline, &[], &blamed);
    assert_eq!(placed(1), Some(nodes([2])));
    assert_eq!(placed(2), Some(nodes([2, 3])));
    assert_eq!(placed(3), Some(nodes([0, 2, 3])));
    assert_eq!(placed(4), Some(nodes([0, 1, 2, 3])));
}

#[test]
fn who_waited_too_long_comes_first_then_priority_then_damage_then_age() {
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let waiting = |name, priority, damaged, since, submitted| Waiting {
        run: run(name),
        priority,
        damaged,
        since: at(since),
        submitted: at(submitted),
    };
    let mut queue = [
        waiting("young", 0, false, 95, 95),
        waiting("old", 0, false, 90, 90),
        waiting("damaged", 0, true, 99, 50),
        waiting("urgent", 5, false, 99, 99),
        waiting("starved", -9, false, 10, 10),
    ];
    Waiting::sort(&mut queue, at(100), Duration::from_secs(60));
    let names: Vec<_> = queue.iter().map(|run| run.run.as_str()).collect();
    assert_eq!(names, ["starved", "urgent", "damaged", "old", "young"]);
}

#[derive(Debug, Clone)]
struct Spot {
    slots: u32,
    kind: usize,
    rack: usize,
    ready: bool,
    /// Slots that another run has, by number.
    taken: Vec<u32>,
}

fn spot() -> impl Strategy<Value = Spot> {
    let taken = prop::collection::vec(0..8u32, 0..6);
    let ready = prop::bool::weighted(0.8);
    (1..9u32, 0..2usize, 0..4usize, ready, taken).prop_map(|(slots, kind, rack, ready, taken)| {
        Spot {
            slots,
            kind,
            rack,
            ready,
            taken,
        }
    })
}

fn stand(spots: &[Spot]) -> Floor {
    let mut floor = Floor::default();
    for (at, spot) in spots.iter().enumerate() {
        let gpu = ["A100", "H100"][spot.kind];
        let standing = if spot.ready { READY } else { CORDONED };
        floor.set(
            &facts(at, spot.slots, gpu, spot.rack / 2, spot.rack),
            standing,
        );
    }
    let names: Vec<_> = (0..spots.len()).map(node).collect();
    let taken = names
        .iter()
        .zip(spots)
        .filter(|(_, spot)| !spot.taken.is_empty());
    let taken = taken.map(|(node, spot)| (node, spot.taken.iter().copied().map(Slot).collect()));
    floor.hold(&run("other"), taken.collect());
    floor
}

fn free(spot: &Spot) -> u32 {
    let all = 0..spot.slots;
    let free = all.filter(|slot| spot.ready && !spot.taken.contains(slot));
    u32::try_from(free.count()).unwrap()
}

/// S2, S3 and S4 of one placement.
fn sound(spots: &[Spot], shape: Layout, placement: &Placement) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    let ranks = placement.seats().map(|seat| seat.rank);
    prop_assert!(ranks.eq(shape.ranks()), "S4: every rank has a seat");
    for seat in placement.seats() {
        let spot = &spots[seat.node.as_str()[1..].parse::<usize>().unwrap()];
        prop_assert!(spot.ready, "S3: {} is held back", seat.node);
        prop_assert!(seat.slot.0 < spot.slots, "there is no such slot");
        prop_assert!(!spot.taken.contains(&seat.slot.0), "S2: another run has it");
        prop_assert!(
            seen.insert((seat.node.clone(), seat.slot)),
            "S2: given twice"
        );
        kinds.insert(spot.kind);
        let first = shape.tensor_group(seat.rank)[0];
        let beside = placement.seat(first).unwrap().node;
        prop_assert_eq!(beside, seat.node, "a tensor group left its node");
    }
    prop_assert_eq!(kinds.len(), 1, "one kind of GPU");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A gang is placed soundly, or there truly is no room for it.
    #[test]
    fn what_is_placed_is_sound_and_what_fits_is_placed(
        spots in prop::collection::vec(spot(), 1..14),
        (tensor, pipeline, data) in (1..5u32, 1..4u32, 1..4u32),
    ) {
        let shape = layout(tensor, pipeline, data);
        let floor = stand(&spots);
        let room = |kind| -> u32 {
            let of_kind = spots.iter().filter(|spot| spot.kind == kind);
            of_kind.map(|spot| free(spot) / tensor).sum()
        };
        let fits = (0..2).any(|kind| room(kind) >= pipeline * data);
        let placement = place(&floor, "new", shape, None);
        prop_assert_eq!(placement.is_some(), fits);
        if let Some(placement) = placement {
            sound(&spots, shape, &placement)?;
        }
    }

    /// After nodes are lost and others take room, what can be kept is kept, and the rest is sound.
    #[test]
    fn what_is_placed_again_keeps_what_it_can(
        mut spots in prop::collection::vec(spot(), 2..14),
        (tensor, pipeline, data) in (1..5u32, 1..4u32, 1..4u32),
        lost in prop::collection::vec(0..14usize, 1..4),
    ) {
        let shape = layout(tensor, pipeline, data);
        let mut floor = stand(&spots);
        let Some(before) = place(&floor, "new", shape, None) else { return Ok(()) };
        take(&mut floor, "new", &before);
        for at in lost {
            if let Some(spot) = spots.get_mut(at) {
                spot.ready = false;
                let gpu = ["A100", "H100"][spot.kind];
                floor.set(&facts(at, spot.slots, gpu, spot.rack / 2, spot.rack), CORDONED);
            }
        }
        let Some(after) = place(&floor, "new", shape, Some(&before)) else { return Ok(()) };
        sound(&spots, shape, &after)?;
        for (was, is) in before.seats().zip(after.seats()) {
            let spot = &spots[was.node.as_str()[1..].parse::<usize>().unwrap()];
            if spot.ready {
                prop_assert_eq!(was, is, "a seat that could stay has moved");
            }
        }
    }

    /// However runs come and go, the index says what a count from scratch says.
    #[test]
    fn the_index_is_what_it_is_derived_from(
        spots in prop::collection::vec(spot(), 1..10),
        moves in prop::collection::vec((0..4usize, 0..10usize, 0..9u32, any::<bool>()), 0..40),
    ) {
        let mut floor = stand(&spots);
        let mut spots = spots;
        let mut held: BTreeMap<usize, (usize, u32)> = BTreeMap::new();
        for (who, at, slots, ready) in moves {
            if at >= spots.len() {
                floor.hold(&run(&format!("r{who}")), BTreeMap::new());
                held.remove(&who);
            } else if slots == 0 {
                spots[at].ready = ready;
                let standing = if ready { READY } else { CORDONED };
                floor.stand(&node(at), standing);
            } else {
                hold(&mut floor, &format!("r{who}"), &[(at, slots)]);
                held.insert(who, (at, slots));
            }
        }
        let (mut usable, mut unheld) = (0, 0);
        for (at, spot) in spots.iter().enumerate().filter(|(_, spot)| spot.ready) {
            usable += u64::from(spot.slots);
            let below = held.values().filter(|(on, _)| *on == at).map(|(_, slots)| *slots).max();
            let is_free = |slot: &u32| {
                !spot.taken.contains(slot) && below.is_none_or(|below| *slot >= below)
            };
            unheld += (0..spot.slots).filter(is_free).count() as u64;
        }
        prop_assert_eq!(floor.room(), (usable, unheld));
    }
}
