//! Where gangs go.

use crate::world::*;
use rebloom_core::engine::{Ask, RunState};
use rebloom_core::layout::Layout;
use rebloom_core::order::Stop;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn bloom_fills_whole_nodes_and_keeps_pipeline_neighbours_together() {
    let mut world = World::new(&[8; 52]);
    world.obedient = false;
    world.submit(spec("bloom", 4, 12, 8));
    let ranks = world.view(&run_id("bloom")).ranks;
    let layout = Layout {
        tensor: 4,
        pipeline: 12,
        data: 8,
    };
    let mut used: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for rank in &ranks {
        let seat = &rank.seating;
        assert!(
            used.entry(seat.node.clone()).or_default().insert(seat.slot),
            "one rank a slot"
        );
        let first = layout.tensor_group(seat.rank)[0];
        assert_eq!(
            ranks[first.0 as usize].seating.node, seat.node,
            "TP stays inside a node"
        );
    }
    assert_eq!(used.len(), 48, "four nodes stay free as spares");
    let node_of = |rank: rebloom_core::id::Rank| ranks[rank.0 as usize].seating.node.clone();
    let stages: BTreeSet<_> = layout
        .pipeline_group(rebloom_core::id::Rank(0))
        .into_iter()
        .map(node_of)
        .collect();
    assert_eq!(stages.len(), 6, "12 stages of one copy, two a node");
}

#[test]
fn as_few_nodes_as_possible_and_none_that_is_held_back() {
    let mut world = World::new(&[2, 8, 2, 4]);
    let run = run_id("bloom");
    world.submit(spec("bloom", 2, 2, 2));
    let nodes: BTreeSet<_> = (0..8).map(|rank| world.node_of(&run, rank)).collect();
    assert_eq!(nodes, BTreeSet::from([node("n1")]));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    });
    world.ask(Ask::Cordon { node: node("n1") });
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    let nodes: BTreeSet<_> = (0..8).map(|rank| world.node_of(&run, rank)).collect();
    assert_eq!(nodes, BTreeSet::from([node("n0"), node("n2"), node("n3")]));
}

#[test]
fn two_runs_never_share_a_slot_and_the_older_one_is_served_first() {
    let (mut world, first) = World::running(&[2, 2, 2], spec("first", 2, 1, 2));
    world.submit(spec("large", 2, 1, 3));
    world.submit(spec("small", 2, 1, 1));
    let (large, small) = (run_id("large"), run_id("small"));
    assert_eq!(
        world.state(&small),
        RunState::Pending,
        "it must not starve the older one (L3)"
    );
    world.ask(Ask::Stop {
        run: first,
        how: Stop::Now,
    });
    assert_eq!(world.state(&large), RunState::Running);
    assert_eq!(world.state(&small), RunState::Pending);
    world.ask(Ask::Stop {
        run: large,
        how: Stop::Now,
    });
    assert_eq!(world.state(&small), RunState::Running);
}

#[test]
fn a_run_that_fits_nowhere_for_now_lets_others_pass() {
    let mut world = World::new(&[2, 2]);
    let large = run_id("large");
    world.submit(spec("large", 2, 1, 2));
    world.ask(Ask::Stop {
        run: large.clone(),
        how: Stop::Now,
    });
    world.destroy(&node("n1"));
    world.pass(millis(4000));
    world.ask(Ask::Resume {
        run: large.clone(),
        layout: None,
    });
    world.submit(spec("small", 2, 1, 1));
    assert_eq!(world.state(&large), RunState::Pending);
    assert_eq!(world.state(&run_id("small")), RunState::Running);
}
