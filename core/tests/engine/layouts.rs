//! Runs that go on in another layout.

use crate::world::*;
use rebloom_core::engine::{Answer, Ask, Refusal, RunState};
use rebloom_core::id::{Generation, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::order::Stop;
use rebloom_core::report::Finish;

const SMALL: Layout = Layout {
    tensor: 1,
    pipeline: 2,
    data: 1,
};

fn stopped_at(step: u64) -> (World, RunId) {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Safely,
    });
    world.train(&run, step);
    world.save(&run, step);
    world.finish(&run, Finish::Stopped, step);
    assert_eq!(world.state(&run), RunState::Stopped);
    (world, run)
}

fn resume(world: &mut World, run: &RunId, layout: Layout) -> Answer {
    let run = run.clone();
    world.ask(Ask::Resume {
        run,
        layout: Some(layout),
    })
}

#[test]
fn a_stopped_run_goes_on_in_another_layout_from_the_same_checkpoint() {
    let (mut world, run) = stopped_at(7);
    let wide = world.view(&run).spec.layout;
    let answer = resume(&mut world, &run, SMALL);
    let Answer::Done { message, .. } = answer else {
        panic!("{answer:?}")
    };
    assert!(
        message.contains("step 7 as TP 1 x PP 2 x DP 1"),
        "{message}"
    );
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation, view.ranks.len()),
        (RunState::Running, Generation(2), 2)
    );
    let (_, start) = world.starts_since(0).pop().unwrap();
    assert_eq!(start.gang.resume, Some(world.storage[0].id));
    assert_eq!(start.gang.spec.layout, SMALL);
    // What it saves now says which layout wrote it; the older one is not forgotten for its own.
    world.train(&run, 20);
    world.save(&run, 20);
    let layouts: Vec<_> = world.storage.iter().map(|m| m.layout).collect();
    assert_eq!(layouts, [wide, SMALL]);
    assert_eq!(world.view(&run).checkpoints.len(), 2);
    // An agent that comes back with both of them tells the engine nothing new.
    world.restart(world.journal.clone());
    assert_eq!(world.view(&run).checkpoints.len(), 2);
    assert_eq!(world.engine.refusals().get("foreign_manifest"), None);
}

#[test]
fn checkpoints_of_another_layout_are_learned_from_storage() {
    let (mut world, run) = stopped_at(7);
    resume(&mut world, &run, SMALL);
    // The journal lost its end; the storage did not.
    let asked = world.journal.iter().position(|record| {
        matches!(
            record.fact,
            rebloom_core::engine::Fact::CheckpointSealed { .. }
        )
    });
    let mut journal = world.journal.clone();
    journal.remove(asked.unwrap());
    world.restart(journal);
    assert_eq!(world.view(&run).checkpoints.len(), 1);
}

#[test]
fn a_layout_that_cannot_work_changes_nothing() {
    let (mut world, run) = stopped_at(7);
    let wide = world.view(&run).spec.layout;
    for (layout, field) in [
        (Layout { tensor: 3, ..SMALL }, "layout.tensor"),
        (Layout { data: 9, ..SMALL }, "train.global_batch"),
        (Layout { data: 4, ..SMALL }, "layout"),
    ] {
        let answer = resume(&mut world, &run, layout);
        let Answer::Refused(Refusal::Flaws(flaws)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(flaws[0].field, field);
        let view = world.view(&run);
        assert_eq!((view.state, view.spec.layout), (RunState::Stopped, wide));
    }
}
