use super::sample::{checkpoint, cluster, run, run_with_incident};
use super::screen::{drawn, drawn_in};
use super::*;
use rebloom_core::engine::NodeState;
use rebloom_core::id::Step;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn model() -> Model {
    Model::new(RunId::new("bloom-small").unwrap(), at(0))
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn the_first_look_says_where_the_run_stands_and_no_more() {
    let lines = model().update(cluster(run_with_incident()), at(1));
    assert_eq!(
        texts(&lines),
        ["bloom-small is Running in generation 2, step 50"]
    );
}

#[test]
fn each_thing_that_happens_is_told_once() {
    let mut model = model();
    model.update(cluster(run(47)), at(1));
    let mut broken = run_with_incident();
    broken.state = RunState::Recovering;
    broken.incidents[0].closed = None;
    let lines = model.update(cluster(broken.clone()), at(2));
    assert_eq!(
        texts(&lines),
        [
            "incident 1: rank 3 on node-2 ended with SIGKILL",
            "bloom-small is Recovering from step 40"
        ]
    );
    assert!(model.update(cluster(broken), at(3)).is_empty());
    let mut whole = run_with_incident();
    whole.checkpoints.insert(0, checkpoint(60));
    let lines = model.update(cluster(whole.clone()), at(4));
    assert_eq!(
        texts(&lines),
        [
            "incident 1: recovered in 1.50 s; survivors re-formed in place, 7 steps done again",
            "checkpoint at step 60 sealed",
            "bloom-small is Running in generation 2, step 50"
        ]
    );
    whole.checkpoints[0].1 = CheckpointState::Rejected;
    let lines = model.update(cluster(whole), at(5));
    assert_eq!(
        texts(&lines),
        ["checkpoint at step 60 is unsound and will not be used"]
    );
    assert_eq!(lines[0].tone, Tone::Bad);
}

fn with_node(state: NodeState) -> Cluster {
    let mut cluster = cluster(run(2));
    cluster.nodes[1].state = state;
    cluster
}

#[test]
fn a_node_that_goes_and_comes_is_told() {
    let mut model = model();
    model.update(cluster(run(1)), at(1));
    assert_eq!(
        texts(&model.update(with_node(NodeState::Lost), at(2))),
        ["node-2 is lost"]
    );
    assert!(model.update(with_node(NodeState::Lost), at(3)).is_empty());
    assert_eq!(
        texts(&model.update(with_node(NodeState::Ready), at(4))),
        ["node-2 is back"]
    );
}

#[test]
fn a_node_that_is_away_for_a_moment_is_no_news() {
    let mut model = model();
    model.update(cluster(run(1)), at(1));
    assert!(
        model
            .update(with_node(NodeState::Unreachable), at(2))
            .is_empty()
    );
    assert!(model.update(with_node(NodeState::Ready), at(3)).is_empty());
    assert!(
        model
            .update(with_node(NodeState::Unreachable), at(4))
            .is_empty()
    );
    let lines = model.update(with_node(NodeState::Unreachable), at(6));
    assert_eq!(texts(&lines), ["node-2 cannot be reached"]);
    assert_eq!(
        texts(&model.update(with_node(NodeState::Lost), at(7))),
        ["node-2 is lost"]
    );
}

#[test]
fn the_last_loss_stays_when_the_run_stops() {
    let mut model = model();
    model.update(cluster(run(10)), at(1));
    let mut stopped = run(10);
    (stopped.state, stopped.loss) = (RunState::Stopped, None);
    stopped.ranks.clear();
    model.update(cluster(stopped), at(2));
    assert_eq!(model.loss(), Some(7.4));
    let text = drawn(&model, 100);
    assert!(text.contains("loss 7.400"), "{text}");
    assert!(text.contains("node-1     Ready           free"), "{text}");
}

#[test]
fn a_controller_that_goes_and_comes_is_told_once() {
    let mut model = model();
    model.update(cluster(run(1)), at(1));
    assert_eq!(model.lost("refused").len(), 1);
    assert!(model.lost("refused").is_empty());
    let lines = model.update(cluster(run(1)), at(2));
    assert_eq!(texts(&lines), ["the controller answers again"]);
}

/// 10 steps in 20 seconds of 16 samples of 64 tokens.
#[test]
fn the_speed_is_what_was_done_over_a_while() {
    let mut model = model();
    model.update(cluster(run(100)), at(0));
    for second in 1..=20 {
        model.update(cluster(run(100 + second / 2)), at(second));
    }
    assert_eq!(model.tokens(), Some(512));
    let left = model.remaining().unwrap();
    assert_eq!(left.as_secs(), 380, "190 steps at half a step a second");
    let mut other = run(111);
    other.state = RunState::Recovering;
    model.update(cluster(other), at(21));
    assert_eq!(model.tokens(), None, "while it recovers it has no speed");
}

#[test]
fn steps_that_are_done_again_tell_the_loss_anew() {
    let mut model = model();
    for step in [10, 11, 12, 11] {
        model.update(cluster(run(step)), at(step));
    }
    assert_eq!(
        model
            .losses
            .iter()
            .map(|(step, _)| *step)
            .collect::<Vec<_>>(),
        [10, 11]
    );
    for step in 12..5000 {
        model.update(cluster(run(step)), at(step));
    }
    assert!(model.losses.len() <= MOST_LOSSES);
    assert_eq!(model.losses.last().map(|(step, _)| *step), Some(4999));
}

#[test]
fn the_panel_shows_what_matters() {
    let mut model = model();
    for step in 40..=50 {
        model.update(cluster(run(step)), at(step));
    }
    assert!(drawn(&model, 120).contains("node-5     Ready           spare"));
    let mut view = cluster(run_with_incident());
    view.runs[0].ranks[5].pid = None;
    view.runs[0].ranks[4].phase = Some(rebloom_core::flight::Phase::Load);
    view.nodes[3].cordoned = true;
    view.nodes[4].cordoned = true;
    model.update(view, at(51));
    model.hint("Ctrl-C stops");
    let text = drawn(&model, 120);
    for part in [
        "bloom-small  ● Running  generation 2  TP 2 x PP 2 x DP 2",
        "ETTR 0.900",
        "17 %  step 50 of 300",
        "loss 7.000 (a guess has 7.62)",
        "node-1     Ready           rank 0   step 50",
        "rank 5   no process",
        "rank 4   load",
        "node-5     Ready,Cordoned  not in use",
        "step 40 sealed, 10 steps ago",
        "1, the last: rank 3 on node-2 ended with SIGKILL, recovered in 1.50 s",
        "Ctrl-C stops",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn the_panel_bears_any_size_and_any_state() {
    let mut model = model();
    for width in [1, 10, 60, 80, 300] {
        drawn(&model, width);
    }
    let mut odd = run(0);
    odd.spec.train.steps = 0;
    odd.loss = Some(f32::NAN);
    odd.step = Step(7);
    odd.checkpoints.clear();
    odd.ranks.clear();
    model.update(cluster(odd), at(1));
    for width in [1, 10, 60, 80, 300] {
        drawn(&model, width);
    }
    assert!(drawn(&model, 80).contains("none yet; the first comes at step 20"));
}

#[test]
fn a_plain_line_has_the_numbers() {
    let mut model = model();
    model.update(cluster(run_with_incident()), at(1));
    let text = plain::numbers(&model);
    for part in [
        "step 50/300",
        "loss 7.000",
        "2 048 tokens/s",
        "nodes 5/5",
        "ranks 8/8",
        "ETA",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(plain::stamp(Duration::from_secs(65)), "[ 1:05]");
    assert_eq!(plain::stamp(Duration::from_secs(3665)), "[1:01:05]");
}

/// A step takes half a second here, and its deadline is 60 s.
#[test]
fn a_frozen_step_is_told_once_and_has_no_speed() {
    let mut model = model();
    for second in 0..=10 {
        model.update(cluster(run(20 + 2 * second)), at(second));
    }
    assert!(model.tokens().is_some() && model.remaining().is_some());
    // The same step again and again is no news, and no movement.
    model.update(cluster(run(40)), at(12));
    assert_eq!(model.tick(at(12)), None, "two seconds are few");
    let line = model.tick(at(22)).unwrap();
    assert_eq!(
        line.text,
        "bloom-small: no step for 12 s (deadline 1:00 min)"
    );
    assert_eq!(model.tick(at(23)), None, "it was told");
    assert_eq!((model.tokens(), model.remaining()), (None, None));
    let text = drawn(&model, 100);
    assert!(
        text.contains("no step for 13 s (deadline 1:00 min)"),
        "{text}"
    );
    assert!(
        !text.contains("tokens/s") && !text.contains("to go"),
        "{text}"
    );
    let plain = plain::numbers(&model);
    assert!(
        !plain.contains("tokens/s") && !plain.contains("ETA"),
        "{plain}"
    );
    model.update(cluster(run(41)), at(24));
    assert!(model.stall().is_none() && model.tokens().is_some());
}

#[test]
fn only_a_run_that_should_step_stalls() {
    let mut model = model();
    let mut saves = run(40);
    saves.ranks[1].phase = Some(rebloom_core::flight::Phase::Save);
    model.update(cluster(saves), at(0));
    let stall = model.tick(at(30)).unwrap().text;
    assert!(
        stall.contains("no step for 30 s, it saves (deadline 2:00 min)"),
        "{stall}"
    );
    // Nobody is heard while the controller is away, and nothing is known of that time.
    model.lost("refused");
    assert_eq!(model.stall(), None);
    model.update(cluster(run(40)), at(60));
    assert_eq!(model.stall(), None);
    for other in [
        RunView {
            state: RunState::Recovering,
            ..run(40)
        },
        run(300),
    ] {
        model.update(cluster(other), at(61));
        assert_eq!(model.tick(at(400)), None);
    }
}

#[test]
fn what_matters_most_is_seen_in_a_narrow_terminal() {
    let mut model = model();
    for second in 0..=10 {
        model.update(cluster(run(20 + 2 * second)), at(second));
    }
    let mut incident = run_with_incident();
    let spent = &mut incident.incidents[0].spent.spent;
    spent.insert(rebloom_core::engine::Spend::CatchUp, Duration::from_secs(3));
    model.update(cluster(incident), at(11));
    let text = drawn(&model, 80);
    for part in [
        "to go",
        "tokens/s",
        "recovered in 4.50 s (training again after 1.50 s)",
        "rank 3",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let text = drawn(&model, 60);
    assert!(text.contains("to go") && text.contains("loss"), "{text}");
    assert!(text.contains("rank 0 step 50  rank 1 step 50"), "{text}");
    // Too few rows: nodes that are not shown are counted.
    let text = drawn_in(&model, 60, 15);
    assert!(
        text.contains("node-1") && text.contains("and 4 more nodes"),
        "{text}"
    );
    drawn_in(&model, 60, 3);
}

#[test]
fn a_note_is_no_incident() {
    let mut model = model();
    model.update(cluster(run(47)), at(1));
    let mut noted = run_with_incident();
    noted.incidents[0].rung = None;
    let lines = model.update(cluster(noted), at(2));
    assert_eq!(texts(&lines), ["note: rank 3 on node-2 ended with SIGKILL"]);
    let text = drawn(&model, 100);
    assert!(text.contains("none; 1 note"), "{text}");
}
