//! Nodes that come, go silent, get lost and come back.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Ask, Event, Fact, NodeState, Refusal, RunState, Rung};
use rebloom_core::id::{Generation, Session};
use rebloom_core::order::{Order, Stop};
use rebloom_core::time::Duration;

fn state_of(world: &World, name: &str) -> NodeState {
    let nodes = world.engine.nodes();
    nodes
        .iter()
        .find(|view| view.facts.node == node(name))
        .unwrap()
        .state
}

#[test]
fn a_known_name_with_another_key_is_refused() {
    let mut world = World::new(&[2]);
    let join = world.join_message(&node("n0"));
    world.tell(Event::Joined {
        session: Session(77),
        identity: digest(9),
        join,
    });
    assert_eq!(
        world.refused,
        [(Session(77), Refusal::OtherIdentity(node("n0")))]
    );
    assert_eq!(world.engine.refusals()["other_identity"], 1);
    let report = rebloom_core::report::Report::Stopped {
        run: run_id("x"),
        generation: Generation(1),
    };
    world.tell(Event::Report {
        node: node("n0"),
        session: Session(77),
        report,
    });
    assert_eq!(
        world.engine.refusals()["stale_link"],
        1,
        "nor is it listened to"
    );
}

#[test]
fn a_newer_link_replaces_an_older_one() {
    let mut world = World::new(&[2]);
    let old = world.agents[&node("n0")].session.unwrap();
    world.join(&node("n0"));
    world.tell(Event::Left {
        node: node("n0"),
        session: old,
    });
    assert_eq!(state_of(&world, "n0"), NodeState::Ready);
}

#[test]
fn an_agent_that_is_back_in_time_finds_its_ranks_adopted() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let mark = world.orders.len();
    world.cut(&node("n1"));
    assert_eq!(state_of(&world, "n1"), NodeState::Unreachable);
    world.pass(millis(2500));
    world.join(&node("n1"));
    world.pass(Duration::from_secs(20));
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Running, Generation(1))
    );
    assert_eq!(world.orders.len(), mark, "nobody is told anything");
    assert!(world.view(&run).incidents.is_empty());
}

#[test]
fn a_lost_node_is_replaced_by_the_spare_and_told_to_stop_when_it_is_back() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let kept = world.view(&run).ranks;
    world.cut(&node("n1"));
    world.pass(millis(3100));
    assert_eq!(state_of(&world, "n1"), NodeState::Lost);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(view.incidents[0].rung, Some(Rung::Replace));
    assert!(
        matches!(&view.incidents[0].cause, Cause::NodeLost { node: n, .. } if *n == node("n1"))
    );
    for (was, is) in kept.iter().zip(&view.ranks) {
        let moved = was.seating.node == node("n1");
        assert_eq!(is.seating.node == node("n2"), moved);
        assert_eq!(was.pid == is.pid, !moved, "survivors keep their processes");
    }
    let mark = world.orders.len();
    world.join(&node("n1"));
    assert_eq!(state_of(&world, "n1"), NodeState::Ready);
    let stop = &world.orders[mark..];
    assert!(
        matches!(stop, [(n, Order::Stop { how: Stop::Now, cause: Cause::Superseded, .. })] if *n == node("n1")),
        "{stop:?}"
    );
    assert_eq!(world.generation(&run), Generation(2));
}

#[test]
fn a_node_that_a_run_lost_is_taken_last_until_an_admin_vouches_for_it() {
    for (is_vouched_for, next) in [(false, "n3"), (true, "n1")] {
        let (mut world, run) = World::running(&[2, 2, 2, 2], spec("bloom", 2, 1, 2));
        world.cut(&node("n1"));
        world.pass(millis(3100));
        world.join(&node("n1"));
        if is_vouched_for {
            world.ask(Ask::Uncordon { node: node("n1") });
        }
        world.cut(&node("n2"));
        world.pass(millis(3100));
        let ranks = world.view(&run).ranks;
        let is_there = ranks.iter().any(|rank| rank.seating.node == node(next));
        assert!(is_there, "{next}: {ranks:?}");
    }
}

#[test]
fn a_silent_agent_is_lost_without_its_link_breaking() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    for _ in 0..11 {
        world.now = world.now + millis(500);
        world.beat_of(&node("n0"));
        world.beat_of(&node("n2"));
    }
    assert_eq!(state_of(&world, "n1"), NodeState::Lost);
    assert_eq!(world.generation(&run), Generation(2));
    world.beat_of(&node("n1"));
    assert_eq!(state_of(&world, "n1"), NodeState::Ready, "it was only slow");
}

#[test]
fn without_a_spare_the_run_waits_for_the_node() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 12);
    let checkpoint = world.save(&run, 10);
    world.destroy(&node("n1"));
    world.pass(millis(3100));
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Pending);
    assert!(
        view.waits_for.contains("needs 4 slots"),
        "{}",
        view.waits_for
    );
    world.join(&node("n1"));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(view.incidents.len(), 1);
    assert_eq!(view.incidents[0].resumed_from, Some(checkpoint));
}

#[test]
fn a_fault_while_an_agent_is_being_restarted_waits_for_it() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.cut(&node("n1"));
    world.kill(&run, &[0]);
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Recovering, Generation(1))
    );
    world.pass(millis(1000));
    world.join(&node("n1"));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert!(
        view.ranks
            .iter()
            .all(|rank| rank.seating.node != node("n2")),
        "nobody moved"
    );
}

#[test]
fn a_cut_between_the_controller_and_the_whole_gang_disturbs_nobody() {
    let (mut world, run) = World::running(&[2, 2, 2, 2], spec("bloom", 2, 1, 2));
    let nodes = [world.node_of(&run, 0), world.node_of(&run, 2)];
    nodes.iter().for_each(|name| world.cut(name));
    world.pass(Duration::from_secs(120));
    assert_eq!(
        world.generation(&run),
        Generation(1),
        "no second generation beside the first (S1)"
    );
    world.join(&nodes[0]);
    world.pass(Duration::from_secs(1));
    world.join(&nodes[1]);
    world.pass(Duration::from_secs(10));
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Running, Generation(1))
    );
    assert!(world.view(&run).incidents.is_empty());
}

#[test]
fn a_gang_that_is_out_of_sight_for_long_is_given_up_only_when_it_has_fenced_itself() {
    let (mut world, run) = World::running(&[2, 2, 2, 2], spec("bloom", 2, 1, 2));
    let nodes = [world.node_of(&run, 0), world.node_of(&run, 2)];
    nodes.iter().for_each(|name| world.cut(name));
    world.pass(Duration::from_secs(300));
    assert_eq!(world.generation(&run), Generation(1));
    world.pass(Duration::from_secs(40));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert!(
        view.ranks
            .iter()
            .all(|rank| !nodes.contains(&rank.seating.node))
    );
    let mark = world.orders.len();
    world.join(&nodes[0]);
    assert!(matches!(
        world.orders[mark].1,
        Order::Stop { how: Stop::Now, .. }
    ));
}

#[test]
fn one_of_two_cut_nodes_that_stays_away_is_lost_after_a_grace() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.cut(&node("n0"));
    world.cut(&node("n1"));
    world.pass(Duration::from_secs(30));
    world.join(&node("n0"));
    assert_eq!(
        world.generation(&run),
        Generation(1),
        "the other one may be on its way"
    );
    world.pass(millis(3100));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(view.ranks[2].seating.node, node("n2"));
}

#[test]
fn an_agent_that_comes_back_without_its_ranks_opens_an_incident() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.cut(&node("n1"));
    world.process(&run, 2).alive = false;
    world.join(&node("n1"));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert!(matches!(
        view.incidents[0].cause,
        Cause::RanksMissing { .. }
    ));

    world.destroy(&node("n1"));
    world.join(&node("n1"));
    assert_eq!(
        world.generation(&run),
        Generation(3),
        "it forgot everything"
    );
}

#[test]
fn ranks_of_an_unknown_run_are_stopped_and_its_generations_never_reused() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.kill(&run, &[0]);
    assert_eq!(world.generation(&run), Generation(2));
    world.restart(Vec::new());
    assert!(world.engine.run(&run, world.now).is_none());
    let living = |world: &World| {
        let locals = world.agents.values().flat_map(|agent| agent.runs.values());
        locals
            .flat_map(|local| local.ranks.values())
            .filter(|p| p.alive)
            .count()
    };
    assert_eq!(living(&world), 0);
    world.submit(spec("bloom", 2, 1, 2));
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Running, Generation(3))
    );
}

/// Its disk stalled, or its machine did: what agents said meanwhile waits in its inbox.
#[test]
fn an_engine_that_was_asleep_does_not_take_that_for_the_silence_of_others() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let mark = world.orders.len();
    world.pass(Duration::from_secs(2));
    for asleep in [6, 60, 600] {
        world.wait(Duration::from_secs(asleep));
        world.beat();
        for name in ["n0", "n1"] {
            assert_eq!(state_of(&world, name), NodeState::Ready, "{asleep} s");
        }
    }
    assert_eq!(world.generation(&run), Generation(1));
    assert_eq!(world.orders.len(), mark);

    // Who is silent now is lost as soon as ever.
    world.wait(Duration::from_secs(60));
    world.beat_of(&node("n0"));
    world.pass_in_silence(millis(4900));
    assert_eq!(state_of(&world, "n1"), NodeState::Ready);
    world.beat_of(&node("n0"));
    world.pass_in_silence(millis(200));
    assert_eq!(state_of(&world, "n1"), NodeState::Lost);
    assert_eq!(state_of(&world, "n0"), NodeState::Ready);
}

#[test]
fn a_lost_node_is_told_once_while_its_run_waits_for_another() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 3));
    world.destroy(&node("n1"));
    world.pass_in_silence(millis(2900));
    world.beat();
    world.cut(&node("n2"));
    world.pass_in_silence(millis(200));
    world.beat();
    assert_eq!(world.view(&run).state, RunState::Recovering);
    let records = world.journal.len();
    for _ in 0..20 {
        world.pass_in_silence(millis(10));
        world.beat();
    }
    assert_eq!(world.journal.len(), records, "nothing new, nothing written");
}

#[test]
fn a_lost_node_is_told_of_once_while_its_recovery_waits_for_another() {
    let (mut world, _) = World::running(&[2, 2, 2, 2], spec("bloom", 2, 1, 3));
    world.cut(&node("n1"));
    world.pass(millis(2000));
    world.cut(&node("n2"));
    world.pass(millis(2500));
    assert_eq!(state_of(&world, "n1"), NodeState::Lost);
    assert_eq!(state_of(&world, "n2"), NodeState::Unreachable);
    let lost = world.journal.iter().filter(|record| {
        matches!(&record.fact, Fact::IncidentOpened { cause: Cause::NodeLost { node: lost, .. }, .. }
            if *lost == node("n1"))
    });
    assert_eq!(lost.count(), 1);
}

#[test]
fn a_gang_that_may_still_step_is_not_doubled_elsewhere() {
    let (mut world, run) = World::running(&[2, 2, 2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Cordon { node: node("n0") });
    world.obedient = false;
    world.cut(&node("n1"));
    world.pass(millis(3500));
    assert_eq!(state_of(&world, "n1"), NodeState::Lost);
    // The only places are off both nodes of a gang of which nobody has said that it ended (S1).
    assert_eq!(world.generation(&run), Generation(1));
    world.obedient = true;
    world.cut(&node("n0"));
    world.join(&node("n0"));
    world.pass(Duration::from_secs(600));
    assert_eq!(world.state(&run), RunState::Running);
    assert_eq!(world.generation(&run), Generation(2));
}
