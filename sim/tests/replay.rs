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
        "is given up: the link broke",
        "caught up at step",
    ] {
        assert!(story.contains(told), "`{told}` is not in\n{story}");
    }
}

/// Plays so many seeds of a history and holds them to everything that docs/replay.md claims of it.
fn claims(name: &str, seeds: u64) {
    let replay = replay(name);
    let pairs = replay.play(seeds);
    for (seed, pair) in pairs.iter().enumerate() {
        let ours = &pair.rebloom;
        assert_eq!(ours.humans, 0, "{name}, seed {seed}: {ours:?}");
        let wall: f64 = ours.by_phase.values().sum();
        let days = replay.scenario.days;
        assert!((wall - days * 86_400.0).abs() < 1.0, "seed {seed}: {wall}");
        assert!(ours.ettr > pair.then.ettr, "{name}, seed {seed}: {ours:?}");
    }
    let report = Report::new(&replay.scenario, pairs);
    assert!(replay.scenario.goal.is_some(), "{name} has a goal");
    assert!(report.reaches_goal(), "{}", report.text());
    assert!(report.is_calibrated(), "{}", report.text());
}

#[test]
fn bloom_comes_to_what_it_claims() {
    claims("bloom", 5);
}

#[test]
fn the_fleet_comes_to_what_it_claims() {
    claims("fleet", 2);
}

/// `cargo test --release -p rebloom-sim --test replay -- --ignored`: minutes of a core.
#[test]
#[ignore = "a seed of llama3 takes half a minute of a core in release mode"]
fn every_history_comes_to_what_it_claims() {
    claims("bloom", 20);
    claims("fleet", 20);
    claims("llama3", 1);
}

/// The goals are those that the project set itself; a history does not lower its own.
#[test]
fn no_history_has_a_lower_goal_than_it_should() {
    for (name, goal) in [("bloom", 0.995), ("llama3", 0.985), ("fleet", 0.99)] {
        assert_eq!(replay(name).scenario.goal, Some(goal));
    }
}

/// BLOOM's own account (Luccioni et al. 2022): 1,082,990 GPU-hours, 433,196 kWh, 24.69 t. It counts more days than the
/// history has, so that the ledger's hours are held against the history and its kWh and grams by the hour against
/// the account.
#[test]
fn the_energy_of_blooms_replay_is_its_own_account_hour_by_hour() {
    let replay = replay("bloom");
    let pair = replay.pair(0);
    let energy = pair.rebloom.energy.unwrap();
    let hours = energy.kilowatt_hours / (433_196.0 / 1_082_990.0);
    let most = replay.scenario.days * 24.0 * 384.0;
    let held = hours / most;
    assert!((0.98..1.0).contains(&held), "{hours} of {most} GPU-hours");
    let grams = energy.kilograms * 1000.0 / energy.kilowatt_hours;
    assert!((grams - 24_692_172.0 / 433_196.0).abs() < 1e-3, "{grams}");
    let account = energy.kilograms / hours * 1_082_990.0;
    assert!((account - 24_692.0).abs() < 1.0, "{account} kg");
    // The same devices did less then in the same time.
    let then = pair.then.energy.unwrap().kilowatt_hours / pair.then.work;
    assert!(energy.kilowatt_hours / pair.rebloom.work < then);
}

/// Nobody tells the engine how often things will break.
#[test]
fn the_interval_between_saves_is_the_engines_choice_and_follows_what_breaks() {
    let every = |cause: &str| {
        let scenario = SHORT.replace("count = 4", cause);
        let replay = Replay::new(&scenario, None).unwrap();
        replay.pair(0).rebloom.save_every
    };
    let (calm, stormy) = (every("count = 1"), every("count = 200"));
    assert!(
        stormy < 60 && calm < 60,
        "it leaves the operators' 60 steps"
    );
    assert!(stormy * 2 < calm, "{stormy}, {calm}");
}

/// An evening on which a node dies while a save is written, a GPU leaves the bus with no spare left, and
/// the storage is full for two hours.
const EVENING: &str = r#"
name = "evening"
title = "twelve nodes, a day with a bad evening"
days = 1.0

[cluster]
nodes = 12
gpus_per_node = 8
ranks_per_node = 8

[layout]
tensor = 8
pipeline = 1
data = 11

[work]
step_seconds = 12.0

[then]
save_every_steps = 250
save_stall_seconds = 60.0

[[event]]
day = 0.10
name = "disk full"
kind = "storage"
hours = 2.0

[[event]]
day = 0.12
name = "segmentation fault"
kind = "process"

[[event]]
day = 0.75
name = "power supply"
kind = "node"
during = "save"

[[event]]
day = 0.76
name = "off the bus"
kind = "gpu"
xid = 79
"#;

#[test]
fn a_scripted_evening_strikes_when_it_says_and_is_told_with_its_reasons() {
    let story = Replay::new(EVENING, None).unwrap().explain(0);
    let lines_with = |part: &str| story.lines().filter(|line| line.contains(part)).count();
    // The storage is full for one save before another fault, which takes no blame for it, then for many until
    // the gang has caught up, and after that: before a save was seen the engine saves as often as it may.
    assert_eq!(lines_with("could not save step"), 3, "{story}");
    assert_eq!(lines_with("[disk full]"), 3, "{story}");
    assert_eq!(lines_with("more saves failed"), 2, "{story}");
    assert_eq!(
        lines_with("the run restarts at the next step boundary"),
        1,
        "{story}"
    );
    assert_eq!(lines_with("[segmentation fault]"), 1, "{story}");
    assert_eq!(
        lines_with("recovery begins with rung Replace [power supply]"),
        1,
        "{story}"
    );
    assert_eq!(
        lines_with("recovery begins with rung Replace [off the bus]"),
        1,
        "{story}"
    );
    // The save that the node died in is not what the run went back to.
    let step = |part: &str, before: &str| -> u64 {
        let line = story.lines().find(|line| line.contains(part)).unwrap();
        let rest = line.split_once(before).unwrap().1;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let every = step("the run restarts", "a checkpoint every ");
    let struck = step("[power supply]", "incident at step ");
    let resumed = step("generation 4 is placed", "from step ");
    assert_eq!(struck / every * every, resumed + every, "{story}");
    // Why it waits, and who takes whose place.
    assert_eq!(
        lines_with("no room: the run waits: needs 88 slots"),
        1,
        "{story}"
    );
    assert_eq!(lines_with("node-0011 in place of node-"), 1, "{story}");
}

#[test]
fn the_scenario_of_the_docs_plays() {
    let docs = include_str!("../../docs/replay.md");
    let scenario = docs.split_once("```toml\n").unwrap().1;
    let scenario = scenario.split_once("```").unwrap().0;
    let replay = Replay::new(scenario, None).unwrap();
    let story = replay.explain(0);
    for event in &replay.scenario.events {
        assert!(
            story.contains(&event.name),
            "`{}` is not in\n{story}",
            event.name
        );
    }
    let report = Report::new(&replay.scenario, replay.play(2));
    let comes_out = report.is_calibrated() && report.reaches_goal();
    assert!(comes_out, "{}", report.text());
}

#[test]
fn what_a_program_reads_says_what_the_tables_say() {
    let replay = Replay::new(EVENING, None).unwrap();
    let report = Report::new(&replay.scenario, replay.play(3));
    let json = report.json(None);
    assert_eq!(json["seeds"], 3);
    assert_eq!(json["each"].as_array().unwrap().len(), 3);
    assert_eq!(json["rebloom"]["causes"]["off the bus"]["times"], 1.0);
    let spent = json["rebloom"]["spent"].as_object().unwrap();
    let spent: f64 = spent.values().filter_map(serde_json::Value::as_f64).sum();
    assert!(
        (spent - 86_400.0).abs() < 1.0,
        "every second is booked: {spent}"
    );
    let (worst, ettr) = report.worst();
    assert_eq!(json["each"][worst]["ettr"], ettr);
    assert_eq!(json["rebloom"]["ettr"]["min"], ettr);
}

#[test]
fn a_table_loses_no_cause_and_cuts_no_name_in_silence() {
    let causes: String = (0..14)
        .map(|cause| {
            format!(
                "[[cause]]\nname = \"{}{cause}\"\nkind = \"process\"\ncount = 1\n",
                "x".repeat(80)
            )
        })
        .collect();
    let head = SHORT.split("[[cause]]").next().unwrap();
    let replay = Replay::new(&format!("{head}{causes}"), None).unwrap();
    let text = Report::new(&replay.scenario, replay.play(1)).text();
    // Beside them there is what the engine plans itself.
    assert!(text.contains("3 others"), "{text}");
    assert!(text.contains("x… "), "{text}");
}

#[test]
fn a_scenario_that_makes_no_sense_is_refused_with_the_field() {
    let refused = |from: &str, to: &str| Replay::new(&SHORT.replace(from, to), None).unwrap_err();
    for (from, to, says) in [
        ("nodes = 9", "nodes = 3", "cluster.nodes: 3 have no room"),
        ("nodes = 9", "nodes = 0", "cluster.nodes: 0"),
        (
            "ranks_per_node = 2",
            "ranks_per_node = 9",
            "cluster.ranks_per_node: 9",
        ),
        ("tensor = 2", "tensor = 4", "never leaves its node"),
        ("tensor = 2", "tensor = 0", "layout.tensor: 0"),
        ("data = 4", "data = 0", "layout.data: 0"),
        ("days = 7.0", "days = 0.0", "days: 0"),
        ("days = 7.0", "days = 7.0\ngoal = 99", "goal: 99"),
        ("days = 7.0", "days = 7.0\nlemons = 3", "lemon_share"),
        ("name = \"short\"", "name = \"../x\"", "name: `../x`"),
        (
            "step_seconds = 60.0",
            "step_seconds = -1.0",
            "work.step_seconds: -1",
        ),
        (
            "eval_seconds = 300.0",
            "eval_seconds = nan",
            "work.eval_seconds: NaN",
        ),
        (
            "save_every_steps = 60",
            "save_every_steps = 0",
            "then.save_every_steps: 0",
        ),
        ("count = 4", "weight = 4.0", "[rate]"),
        ("count = 4", "", "count, per_week and weight"),
        (
            "count = 4",
            "per_week = -1.0",
            "cause `process`: per_week: -1",
        ),
        (
            "count = 4",
            "count = 4000000",
            "cause `process`: count: 4000000",
        ),
        (
            "count = 4",
            "count = 4\nslowdown = 0.1",
            "slowdown: 0.1 has no effect",
        ),
        ("count = 4", "count = 4\nxid = 48", "xid: 48 has no effect"),
        ("day = 5.0", "day = 50.0", "event `power cut`: day: 50"),
        ("day = 5.0", "day = -5.0", "event `power cut`: day: -5"),
        ("hours = 0.5", "hours = 0.0", "event `power cut`: hours: 0"),
        (
            "hours = 0.5",
            "hours = 0.5\nduring = \"save\"",
            "during: save has no effect",
        ),
        ("kind = \"gpu\"", "kind = \"gremlin\"", "gremlin"),
        ("kind = \"gpu\"", "kind = \"slow\"", "slowdown: 0"),
        (
            "eval_every_steps = 500\neval_seconds = 300.0",
            "",
            "eval-hang",
        ),
    ] {
        let error = refused(from, to);
        assert!(error.contains(says), "{to}: {error}");
    }
    // Room enough, but more stages than a run may have.
    let large = SHORT
        .replace("nodes = 9", "nodes = 9000")
        .replace("pipeline = 2", "pipeline = 2000");
    let error = Replay::new(&large, None).unwrap_err();
    assert!(error.starts_with("layout.pipeline: 2000"), "{error}");
}
