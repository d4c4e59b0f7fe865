//! The chronicle of a run that lived through something, and the ledger that it comes from.

use crate::world::*;
use proptest::prelude::*;
use rebloom_core::chronicle::Chronicle;
use rebloom_core::engine::{Ask, RunState};
use rebloom_core::id::Rank;
use rebloom_core::order::Stop;
use rebloom_core::report::Finish;
use rebloom_core::time::Duration;

#[test]
fn a_chronicle_tells_what_broke_what_was_done_and_what_it_cost() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    world.save(&run, 10);
    world.train(&run, 14);
    world.pass(Duration::from_secs(60));
    world.kill(&run, &[1]);
    world.pass(Duration::from_secs(5));
    world.train(&run, 20);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.state(&run), RunState::Running);
    let view = world.view(&run);
    let chronicle = Chronicle::of(&view, world.now);
    let markdown = chronicle.markdown();
    for told in [
        "# Chronicle of bloom",
        "Incident 1: RankExited",
        "Rank 1 on n0 ended with SIGKILL.",
        "from the checkpoint at step 10; 4 steps were done again.",
        "| effective training time |",
    ] {
        assert!(markdown.contains(told), "`{told}` is not in\n{markdown}");
    }
    let html = chronicle.html();
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert!(html.contains("<svg") && !html.contains("<script") && !html.contains("http"));
    assert_eq!(chronicle.gaps.len(), 1);
    assert_eq!(chronicle, Chronicle::of(&world.view(&run), world.now));
}

/// What an admin did to a run belongs to its story as what broke does.
#[test]
fn a_chronicle_tells_of_stops_resumes_and_ends() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    world.save(&run, 10);
    world.kill(&run, &[1]);
    world.pass(Duration::from_secs(5));
    let ask = Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    };
    world.ask(ask);
    world.pass(Duration::from_secs(60));
    let ask = Ask::Resume {
        run: run.clone(),
        layout: None,
    };
    world.ask(ask);
    world.pass(Duration::from_secs(60));
    let states = |world: &World| -> Vec<RunState> {
        let told = world.view(&run).transitions;
        assert!(told.is_sorted_by_key(|it| it.at));
        told.iter().map(|it| it.state).collect()
    };
    let wanted = [
        // Placed as soon as it was submitted; the incident tells the rest.
        RunState::Starting,
        RunState::Stopping,
        RunState::Stopped,
        RunState::Pending,
        RunState::Starting,
    ];
    assert_eq!(states(&world), wanted);
    world.train(&run, 1000);
    world.save(&run, 1000);
    world.finish(&run, Finish::Completed, 1000);
    world.pass(Duration::from_secs(5));
    assert_eq!(states(&world).last(), Some(&RunState::Completed));
    let diary = Chronicle::of(&world.view(&run), world.now).diary;
    let titles: Vec<&str> = diary.iter().map(|entry| entry.title.as_str()).collect();
    for told in ["Stopping: ", "Stopped: ", "Pending: ", "Completed: "] {
        let many = titles.iter().filter(|title| title.starts_with(told));
        assert_eq!(many.count(), 1, "{told} in {titles:#?}");
    }
    assert!(titles.iter().any(|title| title.starts_with("Incident 1")));
}

#[test]
fn the_last_hour_forgets_and_the_whole_run_does_not() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 5);
    world.pass(Duration::from_secs(60));
    world.kill(&run, &[1]);
    world.pass(Duration::from_secs(30));
    let hour = world.view(&run).ettr_hour.unwrap();
    assert!(
        (0.5..0.8).contains(&hour),
        "thirty seconds of ninety are catch-up: {hour}"
    );
    world.train(&run, 30);
    let later = world.now + Duration::from_secs(7200);
    let view = world.engine.run(&run, later).unwrap();
    assert_eq!(view.ettr_hour, Some(1.0));
    assert!(view.ledger.ettr().unwrap() < 1.0);
}

#[test]
fn how_training_stood_is_kept_after_the_end() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    world.save(&run, 10);
    world.train(&run, 1000);
    world.save(&run, 1000);
    world.finish(&run, Finish::Completed, 1000);
    world.pass(Duration::from_secs(5));
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Completed);
    assert_eq!(view.loss, Some(2.0));
    let steps: Vec<_> = view.mileposts.iter().map(|post| post.step.0).collect();
    assert_eq!(steps, [10, 1000]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever happens, every nanosecond since the submission is in exactly one entry, and every
    /// device of the gang spends it on the same.
    #[test]
    fn the_phases_sum_to_the_wall_time(deeds in proptest::collection::vec((0..6_u8, 0..4_u32, 1..20_u64), 1..20)) {
        let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
        let submitted = world.view(&run).submitted;
        let lives = |world: &World, rank: u32| {
            let locals = world.agents.values().filter_map(|agent| agent.runs.get(&run));
            locals.filter_map(|local| local.ranks.get(&Rank(rank))).any(|process| process.alive)
        };
        for (deed, which, seconds) in deeds {
            let name = node(&format!("n{}", which % 3));
            match deed {
                0 if lives(&world, which) => world.kill(&run, &[which]),
                1 => world.cut(&name),
                2 if world.agents[&name].session.is_none() => world.join(&name),
                3 => world.destroy(&name),
                4 if world.state(&run) == RunState::Running => {
                    let step = world.view(&run).step.0;
                    world.train(&run, step + seconds);
                }
                _ => {}
            }
            world.pass(Duration::from_secs(seconds));
            let view = world.view(&run);
            let spent: Duration = view.ledger.spent.values().sum();
            prop_assert_eq!(spent, world.now.since(submitted));
            for (spend, time) in &view.ledger.devices {
                prop_assert_eq!(*time, view.ledger.spent[spend] * 4);
                prop_assert!(spend.holds_devices());
            }
            let hour = view.ettr_hour.unwrap_or(0.0);
            prop_assert!((0.0..=1.0).contains(&hour));
        }
    }
}
