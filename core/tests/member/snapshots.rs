//! Snapshots: taken between checkpoints, never waited for.

use super::*;
use rebloom_core::layout::Layout;
use rebloom_core::snapshot::Piece;
use rebloom_core::spec::Snapshots;

/// A worker that saves every 4 steps of 20 and leaves a snapshot every 2, in its first step.
fn snapping() -> Worker {
    let mut worker = Worker::new();
    let mut go = go(1);
    go.spec.train.steps = 20;
    go.spec.checkpoint.every_steps = 4;
    go.spec.checkpoint.snapshot = Some(Snapshots { every_steps: 2 });
    worker.tell(Event::Word(ToWorker::Go(Box::new(go))));
    worker.tell(Event::Formed { outcome: Ok(()) });
    let outcome = Ok((Step(0), 0));
    worker.tell(Event::Loaded { outcome });
    let first = worker.step(1, false);
    assert_eq!(first, ["say Reached Stepped 1", "enter step", "step"]);
    worker
}

fn snapped(worker: &mut Worker, step: u64, error: Option<&str>) -> Vec<String> {
    let checkpoint = at(step, 1);
    let piece = Piece {
        checkpoint,
        layout: Layout {
            tensor: 1,
            pipeline: 1,
            data: 1,
        },
        samples: step * 4,
        shard: Shard {
            rank: Rank(0),
            file: "r".into(),
            bytes: 1,
            hash: digest(1),
        },
    };
    let outcome = error.map_or(Ok(piece), |error| Err(error.to_owned()));
    worker.tell(Event::Snapped {
        checkpoint,
        outcome,
    })
}

#[test]
fn one_is_left_where_no_checkpoint_is_due_and_training_goes_on() {
    let mut worker = snapping();
    let due = ["snapshot 2", "enter step", "step"];
    assert_eq!(worker.step(2, false), due);
    assert_eq!(snapped(&mut worker, 2, None), ["say Snapped 2"]);
    assert_eq!(worker.step(3, false), ["enter step", "step"]);
    let saves = ["enter save", "save 4", "enter step", "step"];
    assert_eq!(worker.step(4, false), saves, "a checkpoint is worth more");
    // While the save is under way there is no memory for another copy.
    assert_eq!(worker.step(5, false), ["enter step", "step"]);
    assert_eq!(worker.step(6, false), ["enter step", "step"]);
    assert_eq!(worker.saved(4, 1, None), ["say Saved 4"]);
    let comes_back = worker.tell(Event::AgentBack);
    assert!(
        comes_back.contains(&"say Snapped 2".to_owned()),
        "{comes_back:?}"
    );
}

#[test]
fn one_that_fails_or_takes_long_costs_only_itself() {
    let mut worker = snapping();
    assert_eq!(worker.step(2, false)[0], "snapshot 2");
    assert_eq!(snapped(&mut worker, 2, Some("no room")), [""; 0]);
    worker.step(4, false);
    worker.saved(4, 1, None);
    assert_eq!(worker.step(6, false)[0], "snapshot 6");
    assert_eq!(worker.step(8, false)[1], "save 8");
    worker.saved(8, 1, None);
    // The one of step 6 is still under way.
    assert_eq!(worker.step(10, false), ["enter step", "step"]);
    assert_eq!(snapped(&mut worker, 6, None), ["say Snapped 6"]);
    worker.step(12, false);
    worker.saved(12, 1, None);
    assert_eq!(worker.step(14, false)[0], "snapshot 14");
}
