//! Worlds from many seeds, worlds that once found something, and worlds with a bug put in.

use rebloom_core::engine::Rung;
use rebloom_sim::{
    Failure, Options, Planted, Verdict, World, simulate, simulate_hard, simulate_snapping,
    simulate_wide,
};
use std::collections::BTreeSet;
use std::ops::Range;

/// Asserts that these worlds are sound; which rungs of the ladder they came to.
fn all_sound(
    simulate: fn(u64) -> Result<Verdict, Failure>,
    seeds: impl IntoIterator<Item = u64>,
) -> BTreeSet<Rung> {
    let (mut failures, mut rungs) = (Vec::new(), BTreeSet::new());
    for seed in seeds {
        match simulate(seed) {
            Ok(verdict) => rungs.extend(verdict.rungs),
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    rungs
}

/// Asserts that hard worlds are sound, and that no rung is one that they never come to.
fn all_sound_on_every_rung(seeds: Range<u64>) {
    let rungs = all_sound(simulate_hard, seeds);
    assert!(rungs.iter().eq(&Rung::ALL), "only {rungs:?} were taken");
}

#[test]
fn plain_worlds_are_sound() {
    all_sound(simulate, 0..40);
}

// In quarters, so that the test runner plays them side by side.
#[test]
fn the_first_fifty_hard_worlds_are_sound() {
    all_sound_on_every_rung(0..50);
}

#[test]
fn the_second_fifty_hard_worlds_are_sound() {
    all_sound_on_every_rung(50..100);
}

#[test]
fn the_third_fifty_hard_worlds_are_sound() {
    all_sound_on_every_rung(100..150);
}

#[test]
fn the_fourth_fifty_hard_worlds_are_sound() {
    all_sound_on_every_rung(150..200);
}

/// Generations that began from memory, and those for which a rank read from another node.
fn recalls(seeds: Range<u64>) -> [u64; 2] {
    let worlds = seeds.map(|seed| simulate_snapping(seed).unwrap_or_else(|it| panic!("{it}")));
    worlds.fold([0; 2], |[all, far], verdict| {
        let [more, farther] = verdict.recalls;
        [all + more, far + farther]
    })
}

#[test]
fn hard_worlds_with_snapshots_are_sound_and_resume_from_memory_and_from_replicas() {
    let [memory, replicas] = recalls(0..40);
    assert!(memory > 25, "only {memory} generations began from memory");
    assert!(replicas > 5, "only {replicas} of {memory} from replicas");
}

#[test]
fn the_first_wide_worlds_are_sound() {
    all_sound(simulate_wide, 0..30);
}

/// What is drawn for wide worlds is drawn from nothing that the others are made of.
#[test]
fn a_wide_world_leaves_the_hard_one_of_its_seed_as_it_is() {
    let (mut priorities, mut kinds) = (BTreeSet::new(), 0);
    for seed in 0..40 {
        let (hard, wide) = (Options::hard(seed), Options::wide(seed));
        assert!(hard.runs.iter().all(|run| run.priority == 0));
        assert_eq!(hard.runs.len(), wide.runs.len());
        assert_eq!(hard.nodes, wide.nodes[..hard.nodes.len()]);
        priorities.extend(wide.runs.iter().map(|run| run.priority));
        kinds += usize::from(wide.nodes.len() > hard.nodes.len());
    }
    assert_eq!(priorities.len(), 4, "{priorities:?}");
    assert!((5..35).contains(&kinds), "{kinds}");
}

/// The controller dies after each of the first records of a world, then lives on as the world has it.
#[test]
fn a_controller_that_dies_between_any_two_writes_goes_on() {
    for records in 1..60 {
        let options = Options::draw(19).dies_after(records);
        let outcome = World::new(options, false).run();
        assert!(outcome.is_ok(), "after {records}: {}", outcome.unwrap_err());
    }
}

/// Each run comes upon samples that have its loss run away, and must end in the state of one that was told to skip these,
/// and nothing else, from the start.
#[test]
fn spikes_cost_their_samples_once_and_nothing_else() {
    for seed in 0..30 {
        for options in [Options::draw(seed), Options::hard(seed)] {
            let outcome = World::new(options.spiking(), false).run();
            assert!(outcome.is_ok(), "{seed}: {}", outcome.unwrap_err());
        }
    }
}

/// Seeds that once found something, and what it was.
const FOUND: [(u64, &str); 21] = [
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
    (
        558,
        "the one rank that had formed was the odd one out where the other hung from the start",
    ),
    (1026, "the same"),
];

/// The same of hard worlds.
const FOUND_HARD: [(u64, &str); 19] = [
    (
        212,
        "an agent that had slept through its fence started the generation it was sent before",
    ),
    (
        301,
        "a node that was lost was told again at every event while its run waited for another",
    ),
    (
        336,
        "a hang was judged by the first pages after a cut, while the gang was moving again",
    ),
    (
        385,
        "a node in quarantine for an hour made more beats than a world was thought to have",
    ),
    (
        839,
        "a new controller judged a hang before it could see whose pulse stood still",
    ),
    (
        5969,
        "ranks that could not be started had fenced what was there, and nobody took it so",
    ),
    (
        446,
        "a rank hung from the start, and its agent died before it wrote down that there was one",
    ),
    (
        9008,
        "a run that an admin let go on waited behind an older, broken one, and was thought to starve",
    ),
    (
        20043,
        "a node was sent a generation that the journal lost, lost its power as well, and the number was given again",
    ),
    (
        100510,
        "a life that had doubted placed nothing, and the next one gave the number again",
    ),
    (
        102823,
        "a rank hung while its node could not be reached, and by what it had shown before it seemed to have moved on",
    ),
    (
        646,
        "a controller in doubt told a node again to start what a newer generation had replaced",
    ),
    (
        561,
        "what evaluations gave was lost with the power, and nobody said it again",
    ),
    (600, "the same"),
    (1235, "the same"),
    (
        634,
        "a run whose only checkpoint was damaged stopped until somebody repaired the storage, and was thought to fail for ever",
    ),
    (
        850,
        "what an agent said again of a rank that was overdue once was held against it when it moved again",
    ),
    (1040, "the same where its recoveries were spent first"),
    (1046, "the same"),
];

#[test]
fn worlds_that_once_were_not_sound_are() {
    all_sound(simulate, FOUND.map(|(seed, _)| seed));
    all_sound(simulate_hard, FOUND_HARD.map(|(seed, _)| seed));
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

/// Asserts that worlds with this bug in them break `rule`; what else comes of it may show first.
fn assert_breaks(bug: Planted, rule: &str, seeds: Range<u64>) {
    let mut others = Vec::new();
    for seed in seeds {
        let mut world = World::new(Options::draw(seed).plant(bug), false);
        let Err(failure) = world.run() else { continue };
        if failure.violation.starts_with(rule) {
            return;
        }
        others.push(format!("seed {seed}: {}", failure.violation));
    }
    panic!("{rule} held in every world; found {others:#?}");
}

#[test]
fn a_fence_that_is_ignored_is_caught() {
    assert_breaks(Planted::FenceIgnored, "S1", 0..60);
}

#[test]
fn a_shard_that_is_not_verified_is_caught() {
    assert_breaks(Planted::ShardUnverified, "S6", 0..60);
}

#[test]
fn a_worker_that_counts_from_the_death_of_its_agent_is_caught() {
    assert_breaks(Planted::LeaseForgotten, "S1", 0..200);
}

#[test]
fn samples_that_are_repeated_are_caught() {
    assert_breaks(Planted::SamplesRepeated, "T1", 0..60);
}

#[test]
fn one_sample_too_many_that_is_skipped_is_caught() {
    assert_breaks(Planted::SkipTooMuch, "T1", 0..60);
}
