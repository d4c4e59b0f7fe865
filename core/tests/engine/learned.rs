//! What is learned from pages, at its limits: when a pace is another one, when a search begins anew, when a
//! rank is late, and what a save costs.

use crate::slow::steps;
use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Fact, Limits};
use rebloom_core::flight::Phase;
use rebloom_core::hang::deadline::Learn;
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::report::{Finish, RankEvent};
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// What each fact says, of those that are meant.
fn facts<T>(world: &World, meant: impl Fn(&Fact) -> Option<T>) -> Vec<T> {
    let journal = world.journal.iter();
    journal.filter_map(|record| meant(&record.fact)).collect()
}

fn paces(world: &World) -> Vec<(Duration, Option<Duration>)> {
    facts(world, |fact| match fact {
        Fact::PaceSeen { step, save, .. } => Some((*step, *save)),
        _ => None,
    })
}

fn searches(world: &World) -> usize {
    let begun = facts(world, |fact| {
        matches!(fact, Fact::SearchBegun { .. }).then_some(())
    });
    begun.len()
}

fn slowdowns(world: &World, run: &RunId) -> usize {
    let incidents = world.view(run).incidents;
    let slower = |cause: &Cause| matches!(cause, Cause::Slower { .. });
    incidents.iter().filter(|i| slower(&i.cause)).count()
}

fn long(name: &str) -> RunSpec {
    let mut spec = spec(name, 2, 1, 2);
    spec.train.steps = 1_000_000;
    spec
}

#[test]
fn a_pace_is_another_one_when_it_differs_by_more_than_a_tenth() {
    let (mut world, run) = World::running(&[2, 2], long("bloom"));
    let mut done = 2;
    let mut then = |nanos, expected: &[u64]| {
        steps(&mut world, &run, done..done + 40, nanos);
        done += 40;
        let paces: Vec<_> = paces(&world).into_iter().map(|(step, _)| step).collect();
        let expected = expected.iter().copied().map(Duration::from_millis);
        assert!(paces.iter().copied().eq(expected), "{paces:?}");
    };
    then(10 * SECOND, &[10_000]);
    then(11 * SECOND, &[10_000]);
    then(9 * SECOND + 1, &[10_000]);
    then(11 * SECOND + SECOND / 10, &[10_000, 11_100]);
    then(9 * SECOND, &[10_000, 11_100, 9_000]);
}

#[test]
fn a_step_counts_once_and_only_where_its_worker_said_how_long_it_took() {
    let (mut world, run) = World::running(&[2, 2], long("bloom"));
    steps(&mut world, &run, 2..40, 0);
    assert_eq!(paces(&world), []);
    for _ in 0..40 {
        steps(&mut world, &run, 40..41, SECOND);
    }
    assert_eq!(paces(&world), []);
    steps(&mut world, &run, 41..41 + 22, SECOND);
    assert_eq!(paces(&world), [], "one is lacking");
    steps(&mut world, &run, 41 + 22..41 + 23, SECOND);
    assert_eq!(paces(&world).len(), 1);
    // The first five of a generation do not count.
    let (mut world, run) = World::running(&[2, 2], long("bloom"));
    steps(&mut world, &run, 2..6 + 23, SECOND);
    assert_eq!(paces(&world), []);
    steps(&mut world, &run, 6 + 23..6 + 24, SECOND);
    assert_eq!(paces(&world).len(), 1);
}

#[test]
fn what_a_save_costs_is_how_often_ranks_were_seen_saving() {
    let (mut world, run) = World::running(&[2, 2], long("bloom"));
    steps(&mut world, &run, 2..40, SECOND);
    for at in 1..=3 {
        assert!(paces(&world).iter().all(|(_, save)| save.is_none()));
        world.for_each_process(&run, |_, process| process.page.phase = Phase::Save);
        // Every rank is seen in it three times.
        world.pass(millis(1500));
        world.save(&run, 40 * at - 1);
        steps(&mut world, &run, 40 * at..40 * at + 30, SECOND);
    }
    let save = world.engine.limits().beat_every * 3;
    assert_eq!(paces(&world).last().unwrap().1, Some(save));
}

#[test]
fn while_a_suspect_is_there_a_slower_pace_is_its_doing_and_without_any_it_is_another_s() {
    let (mut world, run) = World::running(&[2, 2], long("bloom"));
    steps(&mut world, &run, 2..40, 500_000_000);
    steps(&mut world, &run, 40..80, 550_000_000);
    assert_eq!((slowdowns(&world, &run), searches(&world)), (1, 1));
    steps(&mut world, &run, 80..120, 610_000_000);
    assert_eq!(slowdowns(&world, &run), 1, "the search goes on for it");

    let mut spec = long("bloom");
    spec.recovery.reform = 100;
    let (mut world, run) = World::running(&[2, 2, 2, 2, 2, 2], spec);
    steps(&mut world, &run, 2..40, 500_000_000);
    let mut done = 40;
    for nanos in [550_000_000, 550_000_000, 610_000_000] {
        steps(&mut world, &run, done..done + 40, nanos);
        done += 40;
        world.kill(&run, &[0]);
    }
    assert_eq!(slowdowns(&world, &run), 2, "none of the suspects was there");
}

#[test]
fn a_search_whose_suspects_are_all_left_out_explains_no_slower_pace() {
    let mut spec = long("bloom");
    (spec.layout.data, spec.train.global_batch) = (4, 32);
    let (mut world, run) = World::running(&[2; 8], spec);
    steps(&mut world, &run, 2..40, 500_000_000);
    steps(&mut world, &run, 40..80, 550_000_000);
    assert_eq!((slowdowns(&world, &run), searches(&world)), (1, 1));
    world.kill(&run, &[0]);
    // Without half of the suspects it is fast again: the slow one is among those.
    steps(&mut world, &run, 80..120, 500_000_000);
    let judged = facts(&world, |fact| {
        matches!(fact, Fact::SearchJudged { .. }).then_some(())
    });
    assert_eq!(judged.len(), 1);
    assert_eq!(slowdowns(&world, &run), 1);
    steps(&mut world, &run, 120..160, 610_000_000);
    assert_eq!(slowdowns(&world, &run), 2, "it is none of them");
}

#[test]
fn a_search_begins_anew_where_a_node_stands_out_by_now_and_only_there() {
    for (stands_out, expected) in [(false, 1), (true, 2)] {
        let mut spec = long("bloom");
        spec.layout.data = 4;
        spec.train.global_batch = 32;
        let (mut world, run) = World::running(&[2; 6], spec);
        steps(&mut world, &run, 2..40, 500_000_000);
        steps(&mut world, &run, 40..80, 550_000_000);
        assert_eq!(searches(&world), 1);
        world.kill(&run, &[0]);
        let last = Rank(6);
        for step in 80..120 {
            world.for_each_process(&run, |rank, process| {
                let busy = if stands_out && rank >= last { 130 } else { 100 };
                process.page.step = Step(step);
                process.page.phase = Phase::Step;
                process.page.step_nanos = 550_000_000;
                process.page.busy_nanos = busy * 4_000_000;
            });
            world.pass(millis(500));
        }
        assert_eq!(searches(&world), expected, "stands out: {stands_out}");
    }
}

fn overdue(world: &World) -> Vec<Rank> {
    facts(world, |fact| match fact {
        Fact::RankOverdue { rank, .. } => Some(*rank),
        _ => None,
    })
}

fn learning(step: f64, least: f64) -> RunSpec {
    let mut spec = long("bloom");
    spec.deadlines.step = step;
    spec.deadlines.learn = Some(Learn {
        least,
        ..Learn::default()
    });
    spec
}

#[test]
fn a_rank_is_late_four_beats_after_what_was_learned() {
    for least in [10.0, 10.25] {
        let (mut world, run) = World::running(&[2, 2], learning(1800.0, least));
        steps(&mut world, &run, 2..30, 500_000_000);
        let slack = world.engine.limits().beat_every * 4;
        // The last beat was the first that saw this step.
        world.pass(Duration::from_secs(10) + slack);
        assert_eq!(overdue(&world), []);
        assert_eq!(world.generation(&run), Generation(1));
        world.pass(millis(500));
        assert_eq!(overdue(&world).len(), 1);
    }
}

#[test]
fn what_was_set_by_hand_is_for_the_worker_to_watch() {
    // What was learned is no less than that.
    let (mut world, run) = World::running(&[2, 2], learning(10.0, 10.0));
    steps(&mut world, &run, 2..30, 500_000_000);
    world.pass(Duration::from_secs(60));
    assert_eq!(overdue(&world), []);
    assert_eq!(world.generation(&run), Generation(1));
}

#[test]
fn a_rank_that_has_finished_is_never_late() {
    let (mut world, run) = World::running(&[2, 2], learning(1800.0, 10.0));
    steps(&mut world, &run, 2..30, 500_000_000);
    let (why, step, state) = (Finish::Completed, Step(29), digest(0));
    world.rank_event(&run, 0, RankEvent::Finished { why, step, state });
    for step in 30..100 {
        world.for_each_process(&run, |rank, process| {
            if rank != Rank(0) {
                process.page.step = Step(step);
            }
        });
        world.pass(millis(500));
    }
    assert_eq!(world.generation(&run), Generation(1));
    assert_eq!(overdue(&world), []);
}

/// A gang of four nodes, half of which could be left, that becomes slow by 11 % with so many steps left.
fn asks_for_a_turn(left: u64, ran: u64) -> bool {
    let mut spec = long("bloom");
    (spec.layout.data, spec.train.global_batch) = (4, 32);
    spec.train.steps = 120 + left;
    let limits = Limits {
        silent_after: Duration::from_secs(30 * 86_400),
        ..Limits::default()
    };
    let (mut world, run) = World::limited(&[2; 8], limits).with_run(spec);
    steps(&mut world, &run, 2..40, 500_000_000);
    world.wait(Duration::from_secs(ran));
    steps(&mut world, &run, 40..120, 550_000_000);
    let asked = facts(&world, |fact| {
        matches!(fact, Fact::TurnAsked { .. }).then_some(())
    });
    !asked.is_empty()
}

/// A turn costs a minute here, and the eleventh part of every step is lost: 660 s of running lose as much.
#[test]
fn a_turn_is_asked_for_once_it_pays_and_was_lost_already() {
    // Of four suspects two are left out, so one and a half turns are needed: 990 s have to be left.
    assert!(!asks_for_a_turn(1700, 1000));
    assert!(asks_for_a_turn(1900, 1000));
    // Forty-five seconds went by while it was fast, and forty while it was slow.
    assert!(!asks_for_a_turn(100_000, 540));
    assert!(asks_for_a_turn(100_000, 640));
}
