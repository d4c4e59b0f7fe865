use super::*;
use crate::view::sample;
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::engine::{RunState, Rung};
use rebloom_core::id::{NodeId, Rank};

#[test]
fn every_reason_is_the_cause_itself() {
    let mut run = sample::run_with_incident();
    run.state = RunState::Stopped;
    let text = story(&run, Instant::from_nanos(100_000_000_000));
    for incident in &run.incidents {
        assert!(text.contains(&incident.cause.to_string()), "{text}");
        for seen in &incident.evidence {
            assert!(text.contains(&seen.to_string()), "{text}");
        }
    }
    assert!(text.contains(&run.why.to_string()), "{text}");
}

#[test]
fn a_recovery_says_what_was_done_and_what_it_cost() {
    let text = story(
        &sample::run_with_incident(),
        Instant::from_nanos(100_000_000_000),
    );
    for part in [
        "incident 1: RankExited, 30.0 s after it was submitted",
        "what      rank 3 on node-2 ended with SIGKILL",
        "done      survivors re-formed in place (generation 1 -> 2)",
        "from the checkpoint at step 40 (generation 1); 7 steps done again",
        "cost      1.50 s: detect 500 ms, re-form 1.00 s",
        "productive",
        "ETTR 0.900",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn an_incident_that_stopped_nothing_says_so() {
    let mut run = sample::run_with_incident();
    run.state = RunState::Running;
    run.incidents[0].rung = None;
    run.incidents[0].cause = Cause::SaveFailed {
        step: rebloom_core::id::Step(50),
        rank: Some(Rank(1)),
        error: "no space left on device".to_owned(),
    };
    let text = story(&run, Instant::ZERO);
    assert!(text.contains("nothing had to be"), "{text}");
    assert!(!text.contains("resumed"), "{text}");
}

#[test]
fn much_evidence_is_counted() {
    let mut run = sample::run_with_incident();
    let seen = Cause::RankExited {
        rank: Rank(1),
        node: NodeId::new("node-1").unwrap(),
        exit: Exit::Unknown,
    };
    run.incidents[0].evidence = vec![seen; MOST_EVIDENCE + 3];
    run.incidents[0].rung = Some(Rung::Replace);
    let text = story(&run, Instant::ZERO);
    assert!(text.contains("and 3 more"), "{text}");
    assert!(text.contains("replaced by a spare"), "{text}");
}
