//! Verdicts at their limits: what is told once, what is left alone, and what comes back by itself.

use crate::health::{boot, fleet, health, minutes, say, seats, verdict, vote, xid};
use crate::world::*;
use rebloom_core::engine::{Answer, Ask, Fact, Limits, Refusal, RunState};
use rebloom_core::health::edited::{EditedRule, MOST_RULES, OwnRule};
use rebloom_core::health::signal::{Recovery, Sign, Signal, Throttle};
use rebloom_core::health::{Action, Mode, Verdict, Windows};
use rebloom_core::id::Slot;
use rebloom_core::order::{Order, Stop};
use rebloom_core::time::Duration;

/// How many facts since `mark` this one is like.
fn facts(world: &World, mark: usize, is_like: impl Fn(&Fact) -> bool) -> usize {
    let journal = world.journal[mark..].iter();
    journal.filter(|record| is_like(&record.fact)).count()
}

fn is_verdict(fact: &Fact) -> bool {
    matches!(fact, Fact::VerdictReached { .. })
}

#[test]
fn a_verdict_is_reached_once_however_often_it_is_confirmed() {
    let mut world = fleet(&[1; 4]);
    say(&mut world, "n1", &xid(79));
    assert_eq!(facts(&world, 0, is_verdict), 1);
    say(&mut world, "n1", &xid(48));
    say(&mut world, "n2", &xid(31));
    world.pass(minutes(5));
    assert_eq!(facts(&world, 0, is_verdict), 1);
    let held = |fact: &Fact| matches!(fact, Fact::VerdictHeld { .. });
    say(&mut world, "n2", &xid(79));
    say(&mut world, "n3", &xid(79));
    say(&mut world, "n3", &xid(48));
    assert_eq!(facts(&world, 0, held), 1, "what is held is held once");
}

#[test]
fn the_second_half_of_storage_that_fails_acquits_the_first() {
    let mut world = fleet(&[1; 6]);
    let failing = Signal::raised(
        None,
        Sign::StorageFailing {
            error: "gone".to_owned(),
        },
    );
    say(&mut world, "n0", &failing);
    say(&mut world, "n1", &failing);
    assert_eq!(verdict(&world, "n0"), Verdict::Quarantined);
    say(&mut world, "n2", &failing);
    for name in ["n0", "n1", "n2"] {
        assert_eq!(verdict(&world, name), Verdict::Healthy, "{name}");
    }
}

#[test]
fn only_runs_on_the_node_leave_it() {
    let mut world = fleet(&[2; 6]);
    for name in ["a", "b"] {
        world.submit(spec(name, 2, 1, 2));
    }
    let (a, b) = (run_id("a"), run_id("b"));
    assert_eq!(seats(&world, &a), [node("n0"), node("n1")]);
    say(&mut world, "n1", &xid(79));
    assert!(!seats(&world, &a).contains(&node("n1")));
    assert!(world.view(&b).incidents.is_empty());
    let on_b = seats(&world, &b)[0].clone();
    let mark = world.orders.len();
    say(&mut world, on_b.as_str(), &vote(Recovery::DrainPeers));
    let stopped = |(_, order): &(_, Order)| match order {
        Order::Stop { run, how, .. } => Some((run.clone(), *how)),
        _ => None,
    };
    let mut stopped: Vec<_> = world.orders[mark..].iter().filter_map(stopped).collect();
    stopped.dedup();
    assert_eq!(stopped, [(b, Stop::Safely)]);
}

#[test]
fn a_run_is_asked_to_move_once_there_is_room_and_only_once() {
    let (mut world, run) = fleet(&[2, 2, 2]).with_run(spec("a", 2, 1, 2));
    let moves = |world: &World| facts(world, 0, |fact| matches!(fact, Fact::MoveAsked { .. }));
    world.submit(spec("b", 2, 1, 1));
    say(&mut world, "n1", &vote(Recovery::DrainPeers));
    world.pass(minutes(70));
    assert_eq!(moves(&world), 0, "there is nowhere to go");
    world.ask(Ask::Stop {
        run: run_id("b"),
        how: Stop::Now,
    });
    world.pass(Duration::from_secs(31));
    assert_eq!(moves(&world), 1, "it is looked at every half a minute");
    world.pass(Duration::from_secs(100));
    assert_eq!(moves(&world), 1);
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn what_the_breaker_held_is_withdrawn_when_a_node_comes_back_by_itself() {
    let mut world = fleet(&[1, 1]);
    say(&mut world, "n0", &boot(1));
    say(&mut world, "n0", &xid(79));
    say(&mut world, "n0", &boot(2));
    world.pass(minutes(55));
    say(&mut world, "n1", &xid(79));
    assert_eq!(verdict(&world, "n1"), Verdict::Suspect);
    assert!(health(&world, "n1").held.is_some());
    world.pass(minutes(6));
    assert_eq!(verdict(&world, "n0"), Verdict::Healthy);
    assert_eq!(verdict(&world, "n1"), Verdict::Faulty);
}

#[test]
fn a_finding_is_acted_upon_for_ten_minutes() {
    for (after, expected) in [
        (minutes(10), Verdict::Faulty),
        (minutes(10) + Duration::from_nanos(1), Verdict::Suspect),
    ] {
        let mut world = fleet(&[1; 3]);
        say(&mut world, "n0", &xid(79));
        say(&mut world, "n1", &xid(79));
        assert_eq!(verdict(&world, "n1"), Verdict::Suspect);
        world.wait(after);
        world.ask(Ask::Uncordon { node: node("n0") });
        assert_eq!(verdict(&world, "n1"), expected, "{after:?}");
    }
}

#[test]
fn a_node_that_was_only_heard_of_is_as_good_as_another() {
    let mut world = fleet(&[1, 1]);
    say(&mut world, "n0", &xid(31));
    assert_eq!(verdict(&world, "n0"), Verdict::Healthy);
    world.submit(spec("a", 1, 1, 1));
    assert_eq!(seats(&world, &run_id("a")), [node("n0")]);
}

#[test]
fn a_device_is_one_of_the_node_s_slots_or_gpus() {
    let mut world = fleet(&[2]);
    let lost = |slot| Signal::raised(Some(Slot(slot)), Sign::GpuLost);
    world.agents.get_mut(&node("n0")).unwrap().gpus = 4;
    world.cut(&node("n0"));
    world.join(&node("n0"));
    say(&mut world, "n0", &lost(4));
    assert_eq!(world.engine.refusals()["bad_signal"], 1);
    assert_eq!(health(&world, "n0").findings.len(), 0);
    say(&mut world, "n0", &lost(3));
    assert_eq!(world.engine.refusals()["bad_signal"], 1);
    assert_eq!(health(&world, "n0").findings.len(), 1);
}

#[test]
fn so_many_signals_of_a_node_are_heard_within_a_burst() {
    let mut world = fleet(&[1, 1]);
    let dropped = |world: &World| {
        let counts = world.engine.refusals();
        counts.get("too_many_signals").copied().unwrap_or_default()
    };
    for code in 1000..1256 {
        say(&mut world, "n1", &xid(code));
    }
    assert_eq!(dropped(&world), 0);
    say(&mut world, "n1", &xid(2000));
    assert_eq!(dropped(&world), 1);
    say(&mut world, "n0", &xid(3000));
    assert_eq!(dropped(&world), 1);
    world.wait(minutes(3) - Duration::from_nanos(1));
    say(&mut world, "n1", &xid(4000));
    assert_eq!(dropped(&world), 2);
    world.wait(Duration::from_nanos(1));
    say(&mut world, "n1", &xid(4001));
    assert_eq!(dropped(&world), 2);
}

#[test]
fn admins_have_so_many_rules_and_may_change_each_of_them() {
    let mut world = fleet(&[1]);
    let rule = |name: String, code: u32| {
        let (mode, verdict, action) = (Mode::Shadow, Verdict::Suspect, Action::None);
        let when = format!("signal.code == {code}");
        let own = Some(OwnRule {
            when,
            verdict,
            action,
        });
        Ask::SetRule {
            rule: EditedRule { name, mode, own },
        }
    };
    world.ask(Ask::SetRuleMode {
        name: "xid_fatal".to_owned(),
        mode: Mode::Shadow,
    });
    for at in 0..MOST_RULES {
        let answer = world.ask(rule(format!("r{at}"), 1));
        assert!(!matches!(answer, Answer::Refused(_)), "{at}: {answer:?}");
    }
    let answer = world.ask(rule("one-more".to_owned(), 1));
    assert!(
        matches!(&answer, Answer::Refused(Refusal::BadRule(why)) if why.contains("already")),
        "{answer:?}"
    );
    let answer = world.ask(rule("r7".to_owned(), 2));
    assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    let answer = world.ask(Ask::SetRuleMode {
        name: "gpu_lost".to_owned(),
        mode: Mode::Shadow,
    });
    assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    assert_eq!(world.engine.health_rules().last().unwrap().name, "r9");
    let name = "r9".to_owned();
    let answer = world.ask(Ask::UnsetRule { name });
    assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    assert_eq!(world.engine.health_rules().last().unwrap().name, "r8");
}

#[test]
fn rules_that_are_built_in_and_as_they_were_can_be_unset_too() {
    let mut world = fleet(&[1]);
    let mark = world.journal.len();
    let name = || "xid_fatal".to_owned();
    let unset = |world: &mut World| world.ask(Ask::UnsetRule { name: name() });
    let answer = unset(&mut world);
    assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    let is_unset = |fact: &Fact| matches!(fact, Fact::HealthRuleUnset { .. });
    assert_eq!(facts(&world, mark, is_unset), 0, "nothing is to be changed");
    world.ask(Ask::SetRuleMode {
        name: name(),
        mode: Mode::Off,
    });
    unset(&mut world);
    assert_eq!(facts(&world, mark, is_unset), 1);
}

#[test]
fn a_rule_that_fails_is_counted() {
    let mut world = fleet(&[1]);
    let own = Some(OwnRule {
        when: "1 / (signal.code - 63) == 7".to_owned(),
        verdict: Verdict::Suspect,
        action: Action::None,
    });
    let (name, mode) = ("odd".to_owned(), Mode::Enforce);
    world.ask(Ask::SetRule {
        rule: EditedRule { name, mode, own },
    });
    say(&mut world, "n0", &xid(63));
    assert_eq!(world.engine.refusals()["rule_failed"], 1);
}

#[test]
fn what_is_raised_is_shown_before_what_was_seen_and_the_newest_first() {
    let mut world = fleet(&[8]);
    let hot = |slot| {
        let (reason, nanos) = (Throttle::Thermal, 5_000_000_000);
        Signal::raised(Some(Slot(slot)), Sign::Throttled { reason, nanos })
    };
    for code in [31, 13, 8] {
        say(&mut world, "n0", &xid(code));
    }
    say(&mut world, "n0", &hot(1));
    let shown = health(&world, "n0").findings;
    let shown: Vec<_> = shown.iter().map(|(_, f)| f.rule.as_str()).collect();
    assert_eq!(shown, ["throttled", "xid_once", "xid_once", "xid_once"]);
    assert!(health(&world, "n0").findings[1].1.what.contains("XID 8"));
    for slot in 0..8 {
        for reason in [
            Throttle::Thermal,
            Throttle::PowerBrake,
            Throttle::SoftThermal,
        ] {
            let nanos = 5_000_000_000;
            let hot = Signal::raised(Some(Slot(slot)), Sign::Throttled { reason, nanos });
            say(&mut world, "n0", &hot);
        }
    }
    assert_eq!(health(&world, "n0").findings.len(), 16);
}

#[test]
fn a_verdict_that_ends_by_itself_wakes_the_engine() {
    let limits = Limits {
        silent_after: Duration::from_secs(30 * 86_400),
        ..Limits::default()
    };
    let mut world = World::limited(&[2], limits);
    let (reason, nanos) = (Throttle::Thermal, 5_000_000_000);
    let hot = Signal::raised(Some(Slot(0)), Sign::Throttled { reason, nanos });
    let over = Signal {
        cleared: true,
        ..hot.clone()
    };
    say(&mut world, "n0", &hot);
    say(&mut world, "n0", &over);
    assert_eq!(verdict(&world, "n0"), Verdict::Suspect);
    let until = world.now + Windows::default().suspect_for;
    assert_eq!(world.engine.poll_timeout(), Some(until));
    world.pass_in_silence(Windows::default().suspect_for);
    assert_eq!(verdict(&world, "n0"), Verdict::Healthy);
}
