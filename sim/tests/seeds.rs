//! Worlds from many seeds, worlds that once found something, and worlds with a bug put in.

use rebloom_sim::{Options, Planted, World, simulate};
use std::ops::Range;

fn all_sound(seeds: impl Iterator<Item = u64>) {
    let failures: Vec<String> = seeds
        .filter_map(|seed| simulate(seed).err())
        .map(|failure| failure.to_string())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

// In quarters, so that the test runner plays them side by side.
#[test]
fn the_first_fifty_worlds_are_sound() {
    all_sound(0..50);
}

#[test]
fn the_second_fifty_worlds_are_sound() {
    all_sound(50..100);
}

#[test]
fn the_third_fifty_worlds_are_sound() {
    all_sound(100..150);
}

#[test]
fn the_fourth_fifty_worlds_are_sound() {
    all_sound(150..200);
}

/// Seeds that once found something, and what it was.
const FOUND: [(u64, &str); 19] = [
    (
        63,
        "a controller that lost power started a generation whose number was in use elsewhere",
    ),
    (114, "the same, with the node that ran it cut off"),
    (366, "the same, while every agent was joining again"),
    (645, "the same, twice in a row"),
    (
        644,
        "the number came back after the node that knew it was fenced by time",
    ),
    (
        2272,
        "the doubt after a power cut was forgotten when that controller was killed",
    ),
    (
        280,
        "a checkpoint that had been pruned was sealed again by a controller with an older journal",
    ),
    (
        407,
        "a run was completed though its last checkpoint was never sealed",
    ),
    (
        4791,
        "a rejected checkpoint at the last step counted as the seal of a later generation",
    ),
    (
        2658,
        "the failure of a rank was acknowledged, lost with the power, and never said again",
    ),
    (
        7160,
        "a node was owed a stop of generation 105, and after a placing only one of 89",
    ),
    (
        2891,
        "a rank stopped between the end of a collective and its return is not a second gang",
    ),
    (
        8196,
        "a link that is cut again and again still counts as dead from the first cut",
    ),
    (
        10519,
        "what a journal lost of the run's own budget is not held against the controller",
    ),
    (
        12719,
        "an adopted rank that had finished hung, and no life of its agent could say so",
    ),
    (
        3312,
        "an agent told of a generation that took slots given away since",
    ),
    (
        10019,
        "a rank that hung was judged by a process of that rank on a node that was cut off",
    ),
    (17385, "the same, with two nodes cut off"),
    (
        14880,
        "the kill of a rank that hung, owed since before a power cut, is not meant for its successor",
    ),
];

#[test]
fn worlds_that_once_were_not_sound_are() {
    all_sound(FOUND.iter().map(|(seed, _)| *seed));
}

#[test]
fn a_seed_means_one_world() {
    let trace = |seed| {
        simulate(seed)
            .map(|verdict| (verdict.trace, verdict.events))
            .ok()
    };
    for seed in [3, 17, 28] {
        assert!(trace(seed).is_some());
        assert_eq!(trace(seed), trace(seed), "seed {seed} replays");
    }
    assert_ne!(trace(3), trace(17));
}

/// The first violation in worlds with this bug in them.
fn found(bug: Planted, seeds: Range<u64>) -> String {
    let mut failures = seeds.filter_map(|seed| {
        World::new(Options::draw(seed).plant(bug), false)
            .run()
            .err()
    });
    failures
        .next()
        .map_or("nothing".to_owned(), |failure| failure.violation)
}

#[test]
fn a_fence_that_is_ignored_is_caught() {
    let violation = found(Planted::FenceIgnored, 0..60);
    assert!(violation.starts_with("S1"), "found {violation}");
}

#[test]
fn a_shard_that_is_not_verified_is_caught() {
    let violation = found(Planted::ShardUnverified, 0..60);
    assert!(violation.starts_with("S6"), "found {violation}");
}

#[test]
fn samples_that_are_repeated_are_caught() {
    let violation = found(Planted::SamplesRepeated, 0..60);
    assert!(violation.starts_with("T1"), "found {violation}");
}
