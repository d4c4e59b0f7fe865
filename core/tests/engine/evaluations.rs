//! Evaluations: recorded once, told to every later generation, and forgotten with samples that are skipped.

use crate::world::*;
use rebloom_core::eval::{Eval, EvalSet, Evaluation, Score};
use rebloom_core::guard::{GuardAction, Samples, Spike};
use rebloom_core::id::{Generation, Step};
use rebloom_core::report::RankEvent;
use rebloom_core::spec::RunSpec;

fn evaluated() -> RunSpec {
    let mut spec = spec("bloom", 2, 1, 1);
    spec.guard.action = GuardAction::RollBack;
    spec.eval = Some(Eval {
        every_steps: 10,
        samples: 1,
        sets: vec![EvalSet {
            name: "fr".to_owned(),
            prefix: "/data/fr".to_owned(),
            documents: [0.95, 1.0],
        }],
    });
    spec
}

/// Eight samples a step.
fn after(step: u64) -> RankEvent {
    RankEvent::Evaluated(Evaluation {
        step: Step(step),
        samples: step * 8,
        scores: vec![Score {
            set: "fr".to_owned(),
            documents: 1,
            bytes: None,
            tokens: 10,
            nats: step as f64,
        }],
    })
}

fn steps(world: &World, run: &rebloom_core::id::RunId) -> Vec<u64> {
    let view = world.view(run);
    let known = view
        .evaluations
        .iter()
        .map(|(_, evaluation)| evaluation.step.0);
    known.collect()
}

#[test]
fn an_evaluation_counts_once_and_later_generations_know_of_it() {
    let (mut world, run) = World::running(&[2, 2], evaluated());
    world.train(&run, 20);
    world.save(&run, 20);
    for event in [after(20), after(10), after(10), after(20), after(40)] {
        world.rank_event(&run, 0, event);
    }
    assert_eq!(steps(&world, &run), [10, 20, 40]);
    let mark = world.orders.len();
    world.kill(&run, &[1]);
    let starts = world.starts_since(mark);
    assert!(!starts.is_empty());
    assert!(
        starts
            .iter()
            .all(|(_, start)| start.gang.evaluated == Some(Step(20))),
        "30 is not known, and done again"
    );
    world.event_of(&run, 0, Generation(1), after(30));
    assert_eq!(
        steps(&world, &run),
        [10, 20, 30, 40],
        "what came late is as true as ever"
    );

    let journal = world.journal.clone();
    world.restart(journal);
    world.pass(millis(5_000));
    assert_eq!(
        steps(&world, &run),
        [10, 20, 30, 40],
        "as it was before the restart"
    );
}

#[test]
fn what_was_trained_on_skipped_samples_is_evaluated_again() {
    let (mut world, run) = World::running(&[2, 2], evaluated());
    world.train(&run, 20);
    world.save(&run, 20);
    for step in [10, 20, 30] {
        world.rank_event(&run, 0, after(step));
    }
    let mark = world.orders.len();
    let spiked = RankEvent::Spiked {
        spike: Spike {
            step: Step(31),
            consumed: 232,
            samples: Samples {
                from: 232,
                until: 248,
            },
            reading: "a loss of 9".to_owned(),
        },
        goes_on: false,
    };
    world.rank_event(&run, 0, spiked);
    world.event_of(&run, 0, Generation(1), after(30));
    assert_eq!(steps(&world, &run), [10, 20], "it was trained on them");
    let starts = world.starts_since(mark);
    assert!(
        starts
            .iter()
            .all(|(_, start)| start.gang.evaluated == Some(Step(20)))
    );
}
