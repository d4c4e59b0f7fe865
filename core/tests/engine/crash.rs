//! The controller dies at any moment: what comes up from the journal goes on where it was.

use crate::world::*;
use proptest::prelude::*;
use rebloom_core::engine::{Ask, Engine, Limits, Record, RunState};
use rebloom_core::id::Generation;
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::Finish;
use rebloom_core::time::Duration;
use std::collections::BTreeMap;

#[test]
fn a_restart_in_peace_disturbs_nobody() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let mark = world.orders.len();
    world.restart(world.journal.clone());
    world.pass(Duration::from_secs(20));
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Running, Generation(1))
    );
    assert_eq!(
        world.orders.len(),
        mark,
        "ranks that run what they should are left alone"
    );
}

#[test]
fn after_a_restart_agents_have_time_to_join() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.go_down(world.journal.clone());
    world.pass_in_silence(millis(2000));
    world.join(&node("n0"));
    world.pass(millis(1500));
    assert_eq!(world.generation(&run), Generation(1));
    world.join(&node("n1"));
    world.pass(Duration::from_secs(10));
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Running, Generation(1))
    );
}

#[test]
fn an_older_journal_takes_the_truth_from_the_agents() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let older = world.journal.clone();
    world.train(&run, 10);
    let checkpoint = world.save(&run, 10);
    world.kill(&run, &[0]);
    world.kill(&run, &[1]);
    assert_eq!(world.generation(&run), Generation(3));
    world.restart(older);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.state(&run), RunState::Running);
    assert!(
        world.generation(&run) > Generation(3),
        "above what the agents remember (S5)"
    );
    let (_, start) = world.starts_since(0).pop().unwrap();
    assert_eq!(start.gang.resume, Some(checkpoint));
}

/// Cuts the journal after every record of a story; whatever the agents had been told by then, the
/// fleet comes to the same end.
fn cut_everywhere(story: impl Fn(&mut World)) {
    let prepare = || World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let (mut whole, run) = prepare();
    let begin = whole.journal.len();
    story(&mut whole);
    let end = whole.journal.len();
    assert!(end > begin);
    for at in begin..=end {
        let (mut world, _) = prepare();
        story(&mut world);
        // The agents heard everything, the journal lost its end.
        world.restart(world.journal[..at].to_vec());
        world.pass(Duration::from_secs(10));
        check_recovered(&world, at);

        // The agents heard nothing that came after this record.
        let (mut world, _) = prepare();
        world.obedient = false;
        story(&mut world);
        world.obedient = true;
        let cut = at.min(world.journal.len());
        world.restart(world.journal[..cut].to_vec());
        world.pass(Duration::from_secs(10));
        check_recovered(&world, at);
        assert!(world.generation(&run) <= Generation(4), "cut at {at}");
    }
}

fn check_recovered(world: &World, at: usize) {
    let run = run_id("bloom");
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running, "cut at {at}: {:?}", view.why);
    let mut highest: BTreeMap<_, Generation> = BTreeMap::new();
    for local in world
        .agents
        .values()
        .filter_map(|agent| agent.runs.get(&run))
    {
        for (rank, process) in local.ranks.iter().filter(|(_, process)| process.alive) {
            let before = highest.insert(*rank, process.generation);
            assert_eq!(before, None, "cut at {at}: rank {rank} lives twice");
            assert_eq!(process.generation, view.generation, "cut at {at}");
        }
    }
    assert_eq!(highest.len(), 4, "cut at {at}");
}

#[test]
fn a_re_form_that_is_cut_in_two_comes_to_its_end() {
    cut_everywhere(|world| world.kill(&run_id("bloom"), &[3]));
}

#[test]
fn a_replacement_that_is_cut_in_two_comes_to_its_end() {
    cut_everywhere(|world| {
        world.destroy(&node("n1"));
        world.pass_in_silence(millis(3100));
        world.beat();
    });
}

#[test]
fn a_double_fault_that_is_cut_in_two_comes_to_its_end() {
    cut_everywhere(|world| {
        world.train(&run_id("bloom"), 10);
        world.save(&run_id("bloom"), 10);
        world.kill(&run_id("bloom"), &[0, 2]);
    });
}

#[test]
fn with_the_whole_journal_no_order_is_repeated_by_a_restart() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.kill(&run, &[3]);
    let (generation, orders) = (world.generation(&run), world.orders.len());
    world.restart(world.journal.clone());
    assert_eq!(world.generation(&run), generation);
    assert_eq!(world.orders.len(), orders);
    assert_eq!(world.view(&run).incidents.len(), 1);
}

#[test]
fn a_stop_survives_a_restart() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.obedient = false;
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    });
    world.obedient = true;
    world.restart(world.journal.clone());
    assert_eq!(world.state(&run), RunState::Stopped);
    let stops = world
        .orders
        .iter()
        .filter(|(_, order)| matches!(order, Order::Stop { .. }));
    assert_eq!(stops.count(), 4, "two that were lost and two that were not");
}

fn stories() -> impl Strategy<Value = Vec<(u8, u32)>> {
    prop::collection::vec((0..11_u8, 0..4_u32), 1..40)
}

/// Does one made-up thing to the fleet.
fn act(world: &mut World, (what, which): (u8, u32)) {
    let run = run_id("bloom");
    let name = node(&format!("n{}", which % 3));
    let live = world
        .engine
        .run(&run, world.now)
        .is_some_and(|view| view.ranks.len() == 4);
    let runs = live && world.state(&run) == RunState::Running;
    let alive = runs && {
        let locals = world
            .agents
            .values()
            .filter_map(|agent| agent.runs.get(&run));
        let mut ranks = locals.flat_map(|local| local.ranks.iter());
        ranks.any(|(rank, process)| rank.0 == which && process.alive)
    };
    let linked = world.agents.values().all(|agent| agent.session.is_some());
    let step = world
        .engine
        .run(&run, world.now)
        .map_or(0, |view| view.step.0);
    match what {
        0 if alive => world.kill(&run, &[which]),
        1 => world.cut(&name),
        2 => world.destroy(&name),
        3 => world.join(&name),
        4 => world.pass(millis(700 * u64::from(which + 1))),
        5 if runs => world.train(&run, step + 3),
        6 if runs && linked => {
            world.save(&run, step);
        }
        7 => {
            world.ask(Ask::Stop {
                run,
                how: if which == 0 { Stop::Safely } else { Stop::Now },
            });
        }
        8 => {
            world.ask(Ask::Resume { run, layout: None });
        }
        9 => {
            world.ask(Ask::Drain {
                node: name.clone(),
                dry_run: false,
            });
            world.ask(Ask::Uncordon { node: name });
        }
        10 if runs && alive && linked && which == 0 => {
            let all = {
                let locals = world
                    .agents
                    .values()
                    .filter_map(|agent| agent.runs.get(&run));
                locals
                    .flat_map(|l| l.ranks.values())
                    .filter(|process| process.alive)
                    .count()
            };
            if all == 4 {
                world.finish(&run, Finish::Stopped, step);
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, a snapshot at any point and the records after it give the state of the
    /// whole journal, also by way of text; and no invariant breaks (the world judges after every
    /// event). When it is over, the run can be brought to run again.
    #[test]
    fn snapshot_and_tail_are_the_whole_fold(story in stories(), cut in 0.0..1.0_f64) {
        let mut world = World::new(&[2, 2, 2]);
        world.submit(spec("bloom", 2, 1, 2));
        story.into_iter().for_each(|step| act(&mut world, step));
        let at = (world.journal.len() as f64 * cut) as usize;
        let whole = Engine::replay(Limits::default(), world.journal.iter().cloned());
        let head = Engine::replay(Limits::default(), world.journal[..at].iter().cloned());
        let text = serde_json::to_string(head.snapshot()).unwrap();
        let snapshot = serde_json::from_str(&text).unwrap();
        let tail: Vec<Record> = world.journal[at..]
            .iter()
            .map(|record| serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap())
            .collect();
        let again = Engine::from_snapshot(Limits::default(), snapshot, tail);
        prop_assert_eq!(again.snapshot(), whole.snapshot());
        prop_assert_eq!(whole.snapshot(), world.engine.snapshot());
        bring_back(&mut world);
    }
}

/// Faults stop and capacity suffices: the run must come to run (L1).
fn bring_back(world: &mut World) {
    let run = run_id("bloom");
    let names: Vec<_> = world.agents.keys().cloned().collect();
    for name in &names {
        if world.agents[name].session.is_none() {
            world.join(name);
        }
        world.ask(Ask::Uncordon { node: name.clone() });
    }
    world.pass(Duration::from_secs(400));
    if world.state(&run) != RunState::Running {
        let answer = world.ask(Ask::Resume {
            run: run.clone(),
            layout: None,
        });
        assert!(
            matches!(answer, rebloom_core::engine::Answer::Done { .. }),
            "{answer:?} after {:#?}",
            world.journal.iter().rev().take(20).collect::<Vec<_>>()
        );
    }
    world.pass(Duration::from_secs(400));
    assert_eq!(
        world.state(&run),
        RunState::Running,
        "{:#?}",
        world.journal.iter().rev().take(20).collect::<Vec<_>>()
    );
}
