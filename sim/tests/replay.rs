//! Short replays: the histories can be read, the model lands near what was published, the engine beats it.

use rebloom_sim::replay::Replay;
use rebloom_sim::replay::report::Report;
use rebloom_sim::replay::scenario::{BUILT_IN, Scenario};

fn replay(name: &str) -> Replay {
    let (_, text) = BUILT_IN
        .iter()
        .find(|(known, _)| *known == name)
        .expect("it is built in");
    Replay::new(text, None).expect("it reads")
}

/// A week of eight nodes on which something breaks about once a day.
const SHORT: &str = r#"
name = "short"
title = "eight nodes and a spare, a week"
days = 7.0

[cluster]
nodes = 9
gpus_per_node = 8
ranks_per_node = 2

[layout]
tensor = 2
pipeline = 2
data = 4

[work]
step_seconds = 60.0
eval_every_steps = 500
eval_seconds = 300.0

[then]
save_every_steps = 60
save_stall_seconds = 30.0

[[cause]]
name = "process"
kind = "process"
count = 4
[[cause]]
name = "gpu"
kind = "gpu"
count = 1
[[cause]]
name = "node"
kind = "node"
count = 1
[[cause]]
name = "hang"
kind = "hang"
count = 1
[[cause]]
name = "hang at evaluation"
kind = "eval-hang"
count = 1
[[cause]]
name = "disk full"
kind = "storage"
count = 1
[[cause]]
name = "new code"
kind = "planned"
count = 1
[[event]]
name = "power cut"
kind = "site"
day = 5.0
hours = 0.5
"#;

#[test]
fn every_history_can_be_read() {
    for (name, text) in BUILT_IN {
        let scenario = Scenario::parse(text).unwrap();
        assert_eq!(scenario.name, name);
        Replay::new(text, None).unwrap();
    }
}

#[test]
fn a_short_history_is_survived_without_a_human_and_better_than_then() {
    let pairs = Replay::new(SHORT, None).unwrap().play(4);
    for pair in &pairs {
        let (ours, then) = (&pair.rebloom, &pair.then);
        assert!(ours.humans == 0, "{ours:?}");
        assert!(ours.incidents >= 8, "{ours:?}");
        assert!(ours.ettr > then.ettr, "{ours:?} {then:?}");
        let wall: f64 = ours.by_phase.values().sum();
        assert!(
            (wall - 7.0 * 86_400.0).abs() < 1.0,
            "every second is booked: {wall}"
        );
        // The engine's ledger and the work that was really kept tell the same story, but for the
        // stalls of the saves, which the ledger counts as productive.
        assert!((ours.ettr - ours.work).abs() < 0.01, "{ours:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_replay() {
    let replay = Replay::new(SHORT, None).unwrap();
    assert_eq!(replay.explain(3), replay.explain(3));
    assert_ne!(replay.explain(3), replay.explain(4));
}

#[test]
fn a_decision_is_told_with_its_reason() {
    let story = Replay::new(SHORT, None).unwrap().explain(0);
    for told in [
        "recovery begins with rung",
        "survivors keep their process",
        "is given up: its link broke",
        "caught up at step",
    ] {
        assert!(story.contains(told), "`{told}` is not in\n{story}");
    }
}

#[test]
fn the_model_of_blooms_history_lands_near_what_was_published() {
    let replay = replay("bloom");
    let report = Report::new(&replay.scenario, replay.play(2));
    assert!(report.is_calibrated(), "{}", report.text());
    assert!(report.ettr().mean > 0.98, "{}", report.text());
}

#[test]
fn a_scenario_that_makes_no_sense_is_refused_with_the_field() {
    let refused = |from: &str, to: &str| Replay::new(&SHORT.replace(from, to), None).unwrap_err();
    assert!(refused("nodes = 9", "nodes = 3").contains("no room"));
    assert!(refused("days = 7.0", "days = 0.0").contains("days"));
    assert!(refused("count = 4", "weight = 4.0").contains("[rate]"));
    assert!(refused("count = 4", "").contains("count, per_week, weight"));
    assert!(refused("kind = \"gpu\"", "kind = \"gremlin\"").contains("gremlin"));
}
