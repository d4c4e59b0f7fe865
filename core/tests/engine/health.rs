//! Verdicts on nodes that run something: what moves, what waits, what the breaker holds, and that a
//! restart of the controller changes nothing of it.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Answer, Ask, Limits, NodeHealth, Refusal, RunState, Rung};
use rebloom_core::health::edited::{EditedRule, OwnRule};
use rebloom_core::health::signal::{Recovery, Sign, Signal, Throttle};
use rebloom_core::health::{Action, Mode, Verdict, Windows};
use rebloom_core::id::{NodeId, RunId, Slot};
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::Report;
use rebloom_core::time::Duration;

/// In this world a minute takes a second: hours of beats would take the tests seconds.
pub(super) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes)
}

pub(super) fn fleet(slots: &[u32]) -> World {
    let usual = Windows::default();
    let health = Windows {
        burst: usual.burst / 60,
        sticky: usual.sticky / 60,
        history: usual.history / 60,
        throttled_for: usual.throttled_for / 60,
        suspect_for: usual.suspect_for / 60,
        quarantine_for: usual.quarantine_for / 60,
        flaps_within: usual.flaps_within / 60,
        lemon_within: usual.lemon_within / 60,
        act_within: usual.act_within / 60,
        ..usual
    };
    let limits = Limits {
        health,
        ..Limits::default()
    };
    World::limited(slots, limits)
}

pub(super) fn running(slots: &[u32]) -> (World, RunId) {
    fleet(slots).with_run(spec("a", 2, 1, 2))
}

pub(super) fn xid(code: u32) -> Signal {
    let detail = "a test".to_owned();
    Signal::raised(Some(Slot(0)), Sign::Xid { code, detail })
}

pub(super) fn vote(action: Recovery) -> Signal {
    Signal::raised(Some(Slot(0)), Sign::RecoveryAction { action })
}

pub(super) fn boot(boot: u64) -> Signal {
    Signal::raised(None, Sign::ProbesStarted { boot })
}

pub(super) fn say(world: &mut World, name: &str, signal: &Signal) {
    let signal = signal.clone();
    world.report(&node(name), Report::Signal { signal });
}

pub(super) fn health(world: &World, name: &str) -> NodeHealth {
    let nodes = world.engine.nodes();
    let found = nodes.into_iter().find(|view| view.facts.node == node(name));
    found.unwrap().health
}

pub(super) fn verdict(world: &World, name: &str) -> Verdict {
    health(world, name).verdict
}

pub(super) fn seats(world: &World, run: &RunId) -> Vec<NodeId> {
    let ranks = world.view(run).ranks;
    let mut nodes: Vec<_> = ranks.into_iter().map(|rank| rank.seating.node).collect();
    nodes.dedup();
    nodes
}

#[test]
fn a_run_leaves_a_faulty_node_at_once() {
    let (mut world, run) = running(&[2, 2, 2]);
    assert_eq!(seats(&world, &run), [node("n0"), node("n1")]);
    say(&mut world, "n1", &xid(79));
    assert_eq!(verdict(&world, "n1"), Verdict::Faulty);
    assert_eq!(seats(&world, &run), [node("n0"), node("n2")]);
    let incident = world.view(&run).incidents.pop().unwrap();
    assert_eq!(incident.rung, Some(Rung::Replace));
    let Cause::NodeFaulty {
        node: at,
        rule,
        action,
        ..
    } = &incident.cause
    else {
        panic!("{:?}", incident.cause);
    };
    assert_eq!(
        (at, rule.as_str(), *action),
        (&node("n1"), "xid_fatal", Action::RebootNode)
    );
    assert!(
        !incident.cause.spends_budget(),
        "it is not the run's fault (S7)"
    );
    world.pass(Duration::from_secs(10));
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn without_room_elsewhere_a_run_waits_rather_than_use_a_faulty_node() {
    let (mut world, run) = running(&[2, 2]);
    say(&mut world, "n1", &boot(1));
    say(&mut world, "n1", &xid(79));
    assert_eq!(world.state(&run), RunState::Pending);
    // Rebooted, and clean for an hour: it is used again (L2).
    world.pass(minutes(30));
    say(&mut world, "n1", &boot(2));
    world.pass(minutes(59));
    assert_eq!(world.state(&run), RunState::Pending);
    world.pass(minutes(2));
    assert_eq!(verdict(&world, "n1"), Verdict::Healthy);
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn a_run_leaves_a_quarantined_node_at_a_step_boundary() {
    let (mut world, _) = running(&[2, 2, 2]);
    let mark = world.orders.len();
    say(&mut world, "n1", &vote(Recovery::DrainPeers));
    assert_eq!(verdict(&world, "n1"), Verdict::Quarantined);
    let stops = world.orders[mark..]
        .iter()
        .filter_map(|(_, order)| match order {
            Order::Stop { how, cause, .. } => Some((*how, cause.label())),
            _ => None,
        });
    assert!(
        stops
            .into_iter()
            .any(|stop| stop == (Stop::Safely, "NodeQuarantined"))
    );
}

#[test]
fn a_run_stays_on_a_quarantined_node_until_there_is_room() {
    let (mut world, run) = running(&[2, 2]);
    let before = world.generation(&run);
    say(&mut world, "n1", &vote(Recovery::DrainPeers));
    world.pass(minutes(100));
    assert_eq!(
        world.state(&run),
        RunState::Running,
        "training on is better than waiting"
    );
    assert_eq!(world.generation(&run), before);
    // Nothing new goes there (S3).
    world.submit(spec("b", 1, 1, 1));
    assert_eq!(world.state(&run_id("b")), RunState::Pending);
}

#[test]
fn suspects_are_used_last() {
    let mut world = fleet(&[2, 2]);
    let reason = Throttle::Thermal;
    let nanos = 5_000_000_000;
    let hot = Signal::raised(Some(Slot(1)), Sign::Throttled { reason, nanos });
    say(&mut world, "n0", &hot);
    assert_eq!(verdict(&world, "n0"), Verdict::Suspect);
    world.submit(spec("a", 2, 1, 1));
    assert_eq!(seats(&world, &run_id("a")), [node("n1")]);
    world.submit(spec("b", 2, 1, 1));
    assert_eq!(seats(&world, &run_id("b")), [node("n0")]);
}

#[test]
fn the_breaker_holds_what_is_beyond_its_share() {
    let mut world = fleet(&[1; 6]);
    for name in ["n0", "n1", "n2", "n3", "n4"] {
        say(&mut world, name, &xid(79));
    }
    // Half of six are three (S8); the others are suspects, and it is said why.
    let verdicts = ["n0", "n1", "n2", "n3", "n4"].map(|name| verdict(&world, name));
    let (faulty, suspect) = (Verdict::Faulty, Verdict::Suspect);
    assert_eq!(verdicts, [faulty, faulty, faulty, suspect, suspect]);
    assert_eq!(health(&world, "n3").held.unwrap().rule, "xid_fatal");
    // An admin lifts one: there is room in the breaker for the next, while its finding is young.
    world.ask(Ask::Uncordon { node: node("n0") });
    assert_eq!(verdict(&world, "n0"), Verdict::Healthy);
    assert_eq!(verdict(&world, "n3"), Verdict::Faulty);
    // What is old is not acted upon when room comes (S10).
    world.pass(minutes(11));
    world.ask(Ask::Uncordon { node: node("n1") });
    assert_eq!(verdict(&world, "n4"), Verdict::Suspect);
    assert_eq!(world.engine.refusals()["stale_finding"], 1);
    say(&mut world, "n4", &xid(79));
    assert_eq!(
        verdict(&world, "n4"),
        Verdict::Faulty,
        "what is said anew is"
    );
}

#[test]
fn repeat_offenders_leave_for_good() {
    let mut world = fleet(&[1, 1, 1]);
    say(&mut world, "n1", &boot(0));
    for at in 1..=4 {
        say(&mut world, "n1", &xid(119));
        assert_eq!(verdict(&world, "n1"), Verdict::Faulty);
        assert!(!health(&world, "n1").is_lemon);
        world.pass(minutes(1));
        say(&mut world, "n1", &boot(at));
        world.pass(minutes(61));
    }
    let nanos = 700_000_000_000;
    let reason = Throttle::PowerBrake;
    let hot = Signal::raised(Some(Slot(0)), Sign::Throttled { reason, nanos });
    say(&mut world, "n1", &hot);
    let seen = health(&world, "n1");
    assert!(seen.is_lemon && seen.verdict == Verdict::Faulty);
    assert_eq!(seen.why.unwrap().rule, "lemon");
    let over = Signal {
        cleared: true,
        ..hot
    };
    say(&mut world, "n1", &over);
    say(&mut world, "n1", &boot(9));
    world.pass(minutes(300));
    assert_eq!(verdict(&world, "n1"), Verdict::Faulty);
    // Only an admin brings it back, and then with a clean slate (S11).
    world.ask(Ask::Uncordon { node: node("n1") });
    assert_eq!(health(&world, "n1"), NodeHealth::default());
}

#[test]
fn a_node_that_is_lifted_after_each_repair_is_a_lemon_all_the_same() {
    let mut world = fleet(&[1, 1, 1]);
    for _ in 1..=4 {
        say(&mut world, "n1", &xid(119));
        assert!(!health(&world, "n1").is_lemon);
        world.ask(Ask::Uncordon { node: node("n1") });
        assert_eq!(verdict(&world, "n1"), Verdict::Healthy);
        assert_eq!(health(&world, "n1").findings, []);
        world.pass(minutes(5));
    }
    say(&mut world, "n1", &xid(119));
    assert!(health(&world, "n1").is_lemon);
    // Who lifts a lemon pardons it.
    world.ask(Ask::Uncordon { node: node("n1") });
    world.pass(minutes(5));
    say(&mut world, "n1", &xid(119));
    assert!(!health(&world, "n1").is_lemon);
}

#[test]
fn what_an_admin_cordoned_stays_so_whatever_its_health() {
    let mut world = fleet(&[1, 1, 1]);
    world.ask(Ask::Cordon { node: node("n1") });
    say(&mut world, "n1", &boot(1));
    say(&mut world, "n1", &xid(79));
    world.pass(minutes(1));
    say(&mut world, "n1", &boot(2));
    world.pass(minutes(70));
    assert_eq!(verdict(&world, "n1"), Verdict::Healthy);
    let nodes = world.engine.nodes();
    assert!(
        nodes
            .iter()
            .any(|view| view.facts.node == node("n1") && view.cordoned)
    );
}

#[test]
fn signals_that_lie_flood_or_repeat_are_counted_and_dropped() {
    let mut world = fleet(&[2, 2]);
    say(&mut world, "n0", &boot(1));
    let before = world.journal.len();
    let far = Signal::raised(Some(Slot(7)), Sign::GpuLost);
    say(&mut world, "n0", &far);
    let mut ended = xid(79);
    ended.cleared = true;
    say(&mut world, "n0", &ended);
    assert_eq!(world.engine.refusals()["bad_signal"], 2);
    say(&mut world, "n0", &boot(1));
    assert_eq!(world.engine.refusals()["repeated_signal"], 1);
    assert_eq!(world.journal.len(), before);
    for code in 1000..2000 {
        say(&mut world, "n1", &xid(code));
    }
    assert!(world.engine.refusals()["too_many_signals"] > 700);
}

#[test]
fn admins_edit_rules_and_see_what_they_would_do() {
    let mut world = fleet(&[1, 1, 1]);
    let rule = |mode| EditedRule {
        name: "remaps".to_owned(),
        mode,
        own: Some(OwnRule {
            when: "signal.kind == 'xid' && signal.code == 63".to_owned(),
            verdict: Verdict::Quarantined,
            action: Action::RunDiagnostics,
        }),
    };
    say(&mut world, "n0", &xid(63));
    let when = rule(Mode::Shadow).own.unwrap().when;
    let hits = world.engine.test_rule(&when).unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!((&hits[0].node, &hits[0].fires), (&node("n0"), &Ok(true)));
    world.ask(Ask::SetRule {
        rule: rule(Mode::Shadow),
    });
    say(&mut world, "n1", &xid(63));
    assert_eq!(
        verdict(&world, "n1"),
        Verdict::Healthy,
        "it only says what it would do"
    );
    assert_eq!(health(&world, "n1").findings[0].1.rule, "remaps");
    let name = || "remaps".to_owned();
    world.ask(Ask::SetRuleMode {
        name: name(),
        mode: Mode::Enforce,
    });
    say(&mut world, "n2", &xid(63));
    assert_eq!(verdict(&world, "n2"), Verdict::Quarantined);
    let listed = world.engine.health_rules();
    let mine = listed.iter().find(|rule| rule.name == "remaps").unwrap();
    assert_eq!(
        (mine.tally.enforced, mine.tally.shadowed, mine.is_builtin),
        (1, 1, false)
    );
    // A controller that starts again has it compiled.
    world.restart(world.journal.clone());
    world.pass(minutes(5));
    say(&mut world, "n0", &xid(63));
    assert!(
        health(&world, "n0")
            .findings
            .iter()
            .any(|(_, finding)| finding.rule == "remaps")
    );
    world.ask(Ask::UnsetRule { name: name() });
    let gone = world.ask(Ask::UnsetRule { name: name() });
    assert_eq!(gone, Answer::Refused(Refusal::NoSuchRule(name())));
    for name in ["n0", "n1", "n2"] {
        world.ask(Ask::Uncordon { node: node(name) });
    }
    world.ask(Ask::SetRuleMode {
        name: "xid_fatal".to_owned(),
        mode: Mode::Off,
    });
    world.ask(Ask::UnsetRule {
        name: "xid_fatal".to_owned(),
    });
    say(&mut world, "n1", &xid(79));
    assert_eq!(verdict(&world, "n1"), Verdict::Faulty);
}

#[test]
fn a_rule_is_tested_on_what_was_known_when_the_signal_came() {
    let mut world = fleet(&[1, 1, 1]);
    for _ in 0..3 {
        say(&mut world, "n0", &xid(63));
        world.pass(minutes(5));
    }
    let fires = |world: &World, when: &str| -> Vec<bool> {
        let hits = world.engine.test_rule(when).unwrap();
        hits.into_iter().map(|hit| hit.fires.unwrap()).collect()
    };
    let again = "signal.kind == 'xid' && signal.code == 63 && node.again >= 3";
    assert_eq!(fires(&world, again), [false, false, true]);
    assert_eq!(fires(&world, "node.again == 1"), [true, false, false]);
    say(&mut world, "n0", &vote(Recovery::Reset));
    let withdrawn = fires(&world, "node.withdrawals > 0");
    assert_eq!(
        withdrawn, [false; 4],
        "it was withdrawn for the last of them"
    );
    // The rule that is set says the same.
    let own = Some(OwnRule {
        when: again.to_owned(),
        verdict: Verdict::Suspect,
        action: Action::None,
    });
    let (name, mode) = ("remaps".to_owned(), Mode::Enforce);
    world.ask(Ask::SetRule {
        rule: EditedRule { name, mode, own },
    });
    for expected in [0, 0, 1] {
        say(&mut world, "n1", &xid(63));
        world.pass(minutes(5));
        let rules = world.engine.health_rules();
        let mine = rules.iter().find(|rule| rule.name == "remaps").unwrap();
        assert_eq!(mine.tally.enforced, expected);
    }
}

#[test]
fn a_controller_that_dies_between_verdict_and_recovery_carries_on() {
    let (mut world, run) = running(&[2, 2, 2]);
    say(&mut world, "n1", &xid(79));
    let whole = world.journal.clone();
    let from = whole
        .iter()
        .position(|record| format!("{:?}", record.fact).starts_with("SignalHeard"))
        .unwrap();
    for cut in from..=whole.len() {
        let (mut world, _) = running(&[2, 2, 2]);
        world.restart(whole[..cut].to_vec());
        if cut == from {
            say(&mut world, "n1", &xid(79));
        }
        world.pass(Duration::from_secs(20));
        assert_eq!(verdict(&world, "n1"), Verdict::Faulty, "cut at {cut}");
        assert!(!seats(&world, &run).contains(&node("n1")), "cut at {cut}");
        assert_eq!(world.state(&run), RunState::Running, "cut at {cut}");
    }
}

#[test]
fn three_quarters_of_a_fleet_at_once() {
    let mut world = fleet(&[1; 120]);
    for at in 0..90 {
        say(&mut world, &format!("n{at}"), &xid(79));
    }
    let nodes = world.engine.nodes();
    let withdrawn = nodes.iter().filter(|node| node.health.verdict.withdraws());
    assert_eq!(withdrawn.count(), 60, "half of 120 (S8)");
    let held = nodes.iter().filter(|node| node.health.held.is_some());
    assert_eq!(held.count(), 30);
}
