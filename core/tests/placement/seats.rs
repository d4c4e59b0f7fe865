//! Which seats a gang keeps, which node it prefers, and what the floor says of itself.

use super::{CORDONED, READY, facts, floor, hold, layout, node, nodes, place, run, take, used};
use rebloom_core::engine::{Placement, Seating};
use rebloom_core::id::{Rank, Slot};
use rebloom_core::placement::{Floor, Slots, Standing, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Ranks one after the other on these slots.
fn placement(seats: &[(usize, u32)]) -> Arc<Placement> {
    let seats = (0..).map(Rank).zip(seats);
    let seats = seats.map(|(rank, (at, slot))| Seating {
        rank,
        node: node(*at),
        slot: Slot(*slot),
    });
    Arc::new(Placement::new(&Vec::from_iter(seats), node(0)))
}

#[test]
fn what_moves_goes_to_a_node_that_is_kept_before_one_with_more_room_that_it_left() {
    let mut floor = floor(3, 4, 1);
    let before = placement(&[(0, 0), (0, 1), (2, 0), (2, 1)]);
    // An older gang of the run may still be on the second node.
    let left = node(1);
    let more = BTreeMap::from([(&left, Slots::first(2))]);
    floor.seat(&run("bloom"), &before, more);
    floor.stand(&node(2), CORDONED);
    let after = place(&floor, "bloom", layout(2, 2, 1), Some(&before)).unwrap();
    assert_eq!(used(&after), nodes([0]));
    let kept = after.seats().zip(before.seats()).take(2);
    assert!(kept.into_iter().all(|(a, b)| a == b), "what can stay stays");
}

/// Where so many groups of two go, in one rack of nodes with so many free slots, without any that is blamed.
fn filled(free: &[u32], groups: u32, blamed: &[usize]) -> Vec<usize> {
    let mut floor = Floor::default();
    for (at, slots) in free.iter().enumerate() {
        floor.set(&facts(at, *slots, "A100", 0, 0), READY);
    }
    let want = Want {
        run: &run("new"),
        layout: layout(2, groups, 1),
        current: None,
        without: &BTreeSet::new(),
        blamed: &blamed.iter().map(|at| (node(*at), 1)).collect(),
    };
    let placed = used(&floor.place(&want).unwrap());
    let is_used = |at: &usize| placed.contains(&node(*at));
    (0..free.len()).filter(is_used).collect()
}

#[test]
fn the_emptiest_nodes_are_filled_and_the_rest_goes_where_it_fits_best() {
    let free = [2, 8, 4, 8, 6];
    for (groups, expected) in [
        (1, vec![0]),
        (2, vec![2]),
        (3, vec![4]),
        (4, vec![1]),
        (5, vec![0, 1]),
        (6, vec![1, 2]),
        (10, vec![1, 2, 3]),
        (14, vec![0, 1, 2, 3, 4]),
    ] {
        assert_eq!(filled(&free, groups, &[]), expected, "{groups} groups");
    }
}

#[test]
fn what_a_node_that_is_passed_over_would_have_held_goes_to_smaller_ones() {
    assert_eq!(filled(&[8, 4, 4], 4, &[0]), [1, 2]);
    assert_eq!(filled(&[8, 4, 4], 3, &[0]), [1, 2]);
    assert_eq!(
        filled(&[8, 4, 1, 4], 5, &[0]),
        [0, 1],
        "it is needed after all"
    );
}

#[test]
fn what_is_held_beside_the_seats_is_given_back_with_them_and_without_them() {
    let mut floor = floor(3, 4, 1);
    let empty = |floor: &Floor| [0, 1, 2].map(|at| floor.is_empty(&node(at)));
    let (before, after) = (placement(&[(0, 0), (0, 1)]), placement(&[(2, 0), (2, 1)]));
    // An older gang of the run may still be on the second node.
    let left = node(1);
    let more = BTreeMap::from([(&left, Slots::first(4))]);
    floor.seat(&run("bloom"), &before, more);
    assert_eq!(empty(&floor), [false, false, true]);
    floor.seat(&run("bloom"), &before, BTreeMap::new());
    assert_eq!(empty(&floor), [false, true, true]);
    floor.seat(&run("bloom"), &after, BTreeMap::new());
    assert_eq!(empty(&floor), [true, true, false]);
}

#[test]
fn what_can_stay_is_not_even_looked_at() {
    let mut floor = floor(3, 4, 1);
    let before = placement(&[(1, 0), (1, 1)]);
    take(&mut floor, "bloom", &before);
    let after = place(&floor, "bloom", layout(2, 1, 1), Some(&before)).unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    // Another shape is placed anew, on what it holds first.
    let larger = place(&floor, "bloom", layout(2, 1, 2), None).unwrap();
    assert_eq!(used(&larger), nodes([1]));
}

#[test]
fn a_floor_counts_by_kind_what_can_be_used_and_what_is_allowed() {
    let mut floor = Floor::default();
    let kinds = [("A100", 8, READY), ("A100", 4, READY), ("H100", 8, READY)];
    for (at, (gpu, slots, standing)) in kinds.into_iter().enumerate() {
        floor.set(&facts(at, slots, gpu, 0, 0), standing);
    }
    let (large, small) = (floor.nodes_like(&node(0)), floor.nodes_like(&node(1)));
    assert_eq!(large, (1, 1), "half as many slots do not replace it");
    assert_eq!(small, (2, 2), "twice as many do");
    assert_eq!(floor.nodes_like(&node(9)), (0, 0), "nobody knows it");
    assert_eq!(floor.allowed(), (12, 8), "all of one kind, and the largest");
    assert_eq!(floor.room(), (20, 20));
    hold(&mut floor, "a", &[(0, 2)]);
    assert_eq!(floor.nodes_like(&node(1)), (2, 1));
    assert!(!floor.is_empty(&node(0)) && floor.is_empty(&node(1)));
    assert_eq!(floor.on(&node(0)), [run("a")]);
    assert_eq!(floor.free(&node(0), &run("a")).len(), 8);
    assert_eq!(floor.free(&node(0), &run("b")).len(), 6);
    assert_eq!(floor.room(), (20, 18));
    // A node that is away for now is allowed, and cannot be used.
    let away = Standing {
        allowed: true,
        usable: false,
        suspect: false,
    };
    assert!(floor.stand(&node(1), away));
    assert!(!floor.stand(&node(9), away));
    assert_eq!(floor.nodes_like(&node(0)), (1, 0));
    assert!(!floor.fits_usable(4, 3) && floor.fits_usable(4, 2));
    assert!(floor.fits_allowed(4, 3) && !floor.fits_allowed(4, 4));
    assert_eq!(floor.allowed(), (12, 8));
    floor.stand(&node(1), CORDONED);
    assert_eq!(floor.allowed(), (8, 8));
    // A node that comes back with fewer slots has those alone.
    floor.set(&facts(0, 4, "A100", 0, 0), READY);
    assert_eq!(floor.free(&node(0), &run("b")).len(), 2);
    assert_eq!(floor.room(), (12, 10));
}
