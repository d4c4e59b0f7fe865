//! What came before: what counts once, what counts again, and for how long.

use super::{Bench, facts, minutes, node, on, over, xid};
use rebloom_core::health::expression::Expression;
use rebloom_core::health::fleet::most_withdrawn;
use rebloom_core::health::signal::{Recovery, Sign, Signal, Throttle};
use rebloom_core::health::{Action, Examined, Finding, Mode, Verdict};
use rebloom_core::time::{Duration, Instant};

const INSTANT: Duration = Duration::from_nanos(1);

fn boot(boot: u64) -> Signal {
    Signal::raised(None, Sign::ProbesStarted { boot })
}

fn replays(device: u32, per_minute: u64) -> Signal {
    on(device, Sign::PcieReplays { per_minute })
}

fn finding(verdict: Verdict) -> Finding {
    Finding {
        rule: "some".to_owned(),
        device: None,
        verdict,
        action: Action::None,
        mode: Mode::Enforce,
        what: "something".to_owned(),
    }
}

#[test]
fn a_burst_ends_when_its_time_is_over() {
    for (after, is_news) in [(minutes(3) - INSTANT, false), (minutes(3), true)] {
        let mut bench = Bench::new();
        bench.rules("n1", &xid(3, 31, ""));
        let told = bench.wait(after).tell("n1", &xid(3, 31, ""));
        assert_eq!(told.is_some(), is_news, "{after:?}");
        // The same of another unit, or of another node, is something else.
        assert!(bench.tell("n1", &xid(4, 31, "")).is_some());
        assert!(bench.tell("n2", &xid(3, 31, "")).is_some());
    }
    // So it is with a value that moves.
    let mut bench = Bench::new();
    bench.rules("n1", &replays(0, 9));
    let late = bench.wait(minutes(3) - INSTANT).tell("n1", &replays(0, 10));
    assert!(late.is_none());
    assert!(bench.wait(INSTANT).tell("n1", &replays(0, 11)).is_some());
}

#[test]
fn units_are_counted_together_within_a_burst_and_by_their_xid() {
    let third = |wait, code| {
        let mut bench = Bench::new();
        bench.rules("n1", &xid(0, 13, ""));
        bench.rules("n2", &xid(0, 13, ""));
        bench.wait(wait).rules("n3", &xid(0, code, ""))
    };
    assert_eq!(third(minutes(3), 13), ["xid_many_units"]);
    assert_eq!(third(minutes(3) + INSTANT, 13), ["xid_once"]);
    assert_eq!(third(Duration::ZERO, 31), ["xid_once"], "another one");
    // Three are many, so none of them is charged with it later.
    let mut bench = Bench::new();
    for name in ["n1", "n2", "n3"] {
        bench.tell(name, &xid(0, 13, ""));
    }
    bench.wait(minutes(60));
    assert_eq!(bench.rules("n1", &xid(0, 13, "")), ["xid_once"]);
    // Two are not.
    let mut bench = Bench::new();
    for name in ["n1", "n2"] {
        bench.tell(name, &xid(0, 13, ""));
    }
    bench.wait(minutes(60));
    assert_eq!(bench.rules("n1", &xid(0, 13, "")), ["xid_again"]);
}

#[test]
fn an_echo_comes_within_the_burst_of_another_xid_of_the_unit() {
    let second = |wait, device, name: &str| {
        let mut bench = Bench::new();
        bench.rules("n1", &xid(3, 48, ""));
        bench.wait(wait).rules(name, &xid(device, 45, ""))
    };
    assert_eq!(second(minutes(3), 3, "n1"), [""; 0]);
    assert_eq!(second(minutes(3) + INSTANT, 3, "n1"), ["xid_once"]);
    assert_eq!(second(minutes(3), 4, "n1"), ["xid_once"]);
    assert_eq!(second(minutes(3), 3, "n2"), ["xid_once"]);
}

/// A unit faults so often, so far apart, and is repaired where it says so before each next time.
fn faults(times: usize, apart: Duration, repaired: bool) -> Vec<String> {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(0)).unwrap();
    let mut last = Vec::new();
    for at in 1..=times {
        last = bench.rules("n1", &xid(3, 119, ""));
        bench.wait(apart);
        if repaired {
            bench.tell("n1", &boot(at as u64)).unwrap();
        }
    }
    last
}

#[test]
fn a_fault_echoes_until_it_is_repaired() {
    let (fatal, repeated) = (["xid_fatal"].as_slice(), ["xid_fatal", "xid_repeated"]);
    assert_eq!(faults(20, minutes(10), false), fatal);
    // What comes in the very moment of the repair comes after it.
    assert_eq!(faults(5, minutes(10), true), repeated);
    assert_eq!(faults(4, minutes(10), true), fatal);
    // After three hours it is no echo any more.
    assert_eq!(faults(5, minutes(180), false), repeated);
    assert_eq!(faults(5, minutes(180) - INSTANT, false), fatal);
    // Nor do echoes count once the fault they echoed is repaired.
    let mut bench = Bench::new();
    bench.tell("n1", &boot(0)).unwrap();
    for _ in 0..4 {
        bench.rules("n1", &xid(3, 119, ""));
        bench.wait(minutes(10));
    }
    bench.tell("n1", &boot(1)).unwrap();
    assert_eq!(bench.wait(minutes(1)).rules("n1", &xid(3, 119, "")), fatal);
}

#[test]
fn what_was_seen_a_day_ago_counts_and_what_was_before_does_not() {
    let again = |wait| {
        let mut bench = Bench::new();
        bench.rules("n1", &xid(3, 31, ""));
        bench.wait(wait).rules("n1", &xid(3, 31, ""))
    };
    assert_eq!(again(minutes(24 * 60)), ["xid_again"]);
    assert_eq!(again(minutes(24 * 60) + INSTANT), ["xid_once"]);
}

#[test]
fn only_a_level_that_comes_back_flickers() {
    // An event that makes a node suspect, again and again.
    let mut bench = Bench::new();
    for _ in 0..5 {
        assert_eq!(bench.rules("n1", &xid(0, 78, "")), ["xid_software"]);
        bench.wait(minutes(5));
    }
    // A level that stays raised, and moves.
    let mut bench = Bench::new();
    for at in 0..5 {
        assert_eq!(bench.rules("n1", &replays(1, 20 + at)), ["pcie_replays"]);
        bench.wait(minutes(5));
    }
    // One that comes back for the third time, an hour after the first was over.
    let third = |wait| {
        let mut bench = Bench::new();
        for _ in 0..2 {
            bench.rules("n1", &replays(1, 20));
            bench.tell("n1", &over(replays(1, 20))).unwrap();
        }
        bench.wait(wait).rules("n1", &replays(1, 20))
    };
    assert_eq!(third(minutes(60)), ["pcie_replays", "flapping"]);
    assert_eq!(third(minutes(60) + INSTANT), ["pcie_replays"]);
}

#[test]
fn a_rule_of_an_admin_that_fails_is_counted_and_finds_nothing() {
    let mut bench = Bench::new();
    // It works for every sample that it was tried on.
    let when = "1 / (signal.code - 5) == 7";
    bench.set("odd", Mode::Enforce, Some(when), Verdict::Suspect);
    bench.set(
        "even",
        Mode::Enforce,
        Some("1 / (signal.code - 5) == 8"),
        Verdict::Suspect,
    );
    let examined = |bench: &Bench, code| {
        let programs = &bench.programs;
        let facts = (&facts("n1"), false);
        let signal = xid(0, code, "");
        let fleet = &bench.fleet;
        fleet.examine(bench.now, facts, &signal, &bench.windows, programs)
    };
    let failed = |examined| match examined {
        Examined::News { failed, .. } => failed,
        Examined::Repeat => panic!("it is news"),
    };
    assert_eq!(failed(examined(&bench, 6)), 0);
    assert_eq!(failed(examined(&bench, 5)), 2);
}

#[test]
fn an_expression_sees_what_became_of_the_node() {
    let mut bench = Bench::new();
    let when = "node.verdict == 'quarantined' && node.withdrawals == 2 && node.again == 3";
    bench.set("known", Mode::Enforce, Some(when), Verdict::Suspect);
    for _ in 0..2 {
        assert_eq!(bench.rules("n1", &xid(0, 63, "")), [""; 0]);
        bench.wait(minutes(4));
    }
    let why = finding(Verdict::Quarantined);
    for verdict in [Verdict::Quarantined, Verdict::Healthy, Verdict::Quarantined] {
        let (now, why) = (bench.now, Some(&why));
        bench.fleet.reached(now, &node("n1"), verdict, why, false);
    }
    assert_eq!(bench.rules("n1", &xid(0, 63, "")), ["known"]);
    // Seven days on the withdrawals are forgotten.
    let when = "signal.code == 66 && node.withdrawals == 2";
    assert!(Expression::new(when).is_ok());
    bench.set("late", Mode::Enforce, Some(when), Verdict::Suspect);
    bench.wait(minutes(7 * 24 * 60));
    assert_eq!(bench.rules("n1", &xid(0, 66, "")), ["late"]);
    assert_eq!(bench.wait(INSTANT).rules("n1", &xid(1, 66, "")), [""; 0]);
}

#[test]
fn of_equal_findings_the_first_is_named_and_of_others_the_worst() {
    let mut bench = Bench::new();
    let hot = |device| {
        let (reason, nanos) = (Throttle::Thermal, 30_000_000_000);
        on(device, Sign::Throttled { reason, nanos })
    };
    bench.rules("n1", &hot(2));
    bench.rules("n1", &hot(1));
    let named = bench.judged("n1").finding.unwrap();
    assert_eq!(named.device.unwrap().0, 1);
    bench.rules("n1", &xid(5, 79, ""));
    let named = bench.judged("n1").finding.unwrap();
    assert_eq!(named.device.unwrap().0, 5);
}

#[test]
fn a_node_of_which_nothing_bad_was_ever_seen_has_no_chart() {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1)).unwrap();
    assert!(bench.fleet.chart(&node("n1")).is_none());
    let (now, over) = (bench.now, over(replays(0, 9)));
    bench.fleet.heard(now, &node("n1"), &over, &[], None);
    assert!(bench.fleet.chart(&node("n1")).is_none());
    assert_eq!(bench.fleet.recent().count(), 2);
}

#[test]
fn a_chart_notes_when_a_verdict_changed_and_each_withdrawal_once() {
    let mut bench = Bench::new();
    let begin = bench.now;
    let mut reach = |after: u64, verdict| {
        let now = begin + Duration::from_secs(after);
        let why = finding(verdict);
        bench.fleet.held_back(&node("n1"), &why);
        bench
            .fleet
            .reached(now, &node("n1"), verdict, Some(&why), false);
        bench.fleet.chart(&node("n1")).unwrap().clone()
    };
    let at = |after: u64| begin + Duration::from_secs(after);
    let chart = reach(1, Verdict::Suspect);
    assert_eq!((chart.since, chart.withdrawn.len()), (at(1), 0));
    let chart = reach(2, Verdict::Quarantined);
    assert_eq!((chart.since, chart.withdrawn.len()), (at(2), 1));
    assert!(chart.held.is_none(), "it is withdrawn, not held");
    let chart = reach(3, Verdict::Faulty);
    assert_eq!(
        (chart.since, chart.withdrawn.len()),
        (at(3), 1),
        "it was already"
    );
    let chart = reach(4, Verdict::Faulty);
    assert_eq!(chart.since, at(3));
    let chart = reach(5, Verdict::Suspect);
    assert_eq!(chart.withdrawn.len(), 1);
    assert!(
        chart.held.is_some(),
        "a suspect is what the breaker made of it"
    );
    assert!(reach(6, Verdict::Healthy).held.is_none());
    for after in 0..20 {
        reach(10 + 2 * after, Verdict::Faulty);
        reach(11 + 2 * after, Verdict::Healthy);
    }
    let chart = reach(100, Verdict::Faulty);
    assert_eq!(chart.withdrawn.len(), 16, "the last sixteen");
    assert_eq!(chart.withdrawn.back(), Some(&at(100)));
    assert_eq!(chart.withdrawn.front(), Some(&at(20)));
}

#[test]
fn the_fleet_remembers_the_last_signals() {
    let mut bench = Bench::new();
    for code in 1..=300 {
        bench.tell("n1", &xid(0, code, ""));
    }
    let recent: Vec<_> = bench
        .fleet
        .recent()
        .map(|heard| heard.signal.key().index)
        .collect();
    assert_eq!(recent, (45..=300).collect::<Vec<_>>());
}

#[test]
fn nodes_that_cannot_use_the_storage_are_known() {
    let failing = Signal::raised(
        None,
        Sign::StorageFailing {
            error: "gone".to_owned(),
        },
    );
    let mut bench = Bench::new();
    let stranded = |bench: &Bench| -> Vec<String> {
        let nodes = bench.fleet.stranded().iter();
        nodes.map(ToString::to_string).collect()
    };
    bench.tell("n1", &boot(1)).unwrap();
    bench.rules("n1", &failing);
    bench.rules("n2", &failing);
    assert_eq!(stranded(&bench), ["n1", "n2"]);
    bench.tell("n2", &over(failing)).unwrap();
    assert_eq!(stranded(&bench), ["n1"]);
    bench.tell("n1", &boot(2)).unwrap();
    assert_eq!(stranded(&bench), [""; 0], "its probes begin anew");
}

#[test]
fn the_breaker_s_share_is_rounded_down() {
    let cases = [
        (6, 0.5, 3),
        (7, 0.5, 3),
        (7, 2.0, 7),
        (7, -1.0, 0),
        (0, 0.5, 0),
    ];
    for (nodes, share, most) in cases {
        assert_eq!(most_withdrawn(nodes, share), most, "{nodes} {share}");
    }
    let mut bench = Bench::new();
    assert!(bench.fleet.may_withdraw(2, 0.5));
    let faulty = finding(Verdict::Faulty);
    let reached = |bench: &mut Bench, name| {
        let (now, why) = (Instant::ZERO, Some(&faulty));
        bench
            .fleet
            .reached(now, &node(name), Verdict::Faulty, why, false);
    };
    reached(&mut bench, "n1");
    assert!(!bench.fleet.may_withdraw(2, 0.5));
    assert!(bench.fleet.may_withdraw(4, 0.5));
}

#[test]
fn a_reset_mends_what_a_reset_mends_on_that_gpu() {
    let vote = on(
        3,
        Sign::RecoveryAction {
            action: Recovery::Reset,
        },
    );
    for (fault, is_mended) in [
        (xid(3, 119, ""), true),
        (xid(4, 119, ""), false),
        (xid(3, 79, ""), false),
    ] {
        let mut bench = Bench::new();
        bench.rules("n1", &fault);
        bench.rules("n1", &vote);
        bench.tell("n1", &over(vote.clone())).unwrap();
        bench.wait(minutes(60));
        let is_well = bench.verdict("n1") == Verdict::Healthy;
        assert_eq!(is_well, is_mended, "{fault}");
    }
}

#[test]
fn a_chart_is_bounded() {
    let mut bench = Bench::new();
    let errors = |device, link| {
        on(
            device,
            Sign::NvLinkErrors {
                link,
                per_minute: 1,
            },
        )
    };
    let raised = |bench: &Bench| -> Vec<_> {
        let chart = bench.fleet.chart(&node("n1")).unwrap();
        let keys = chart.raised.keys();
        keys.map(|key| (key.device.unwrap().0, key.index)).collect()
    };
    for link in 0..64 {
        bench.rules("n1", &errors(0, link));
    }
    assert_eq!(raised(&bench).len(), 64);
    // One that is raised already takes no other's place.
    bench.wait(minutes(4));
    let again = Sign::NvLinkErrors {
        link: 5,
        per_minute: 2,
    };
    bench.rules("n1", &on(0, again));
    assert!(raised(&bench).contains(&(0, 63)));
    bench.rules("n1", &errors(1, 0));
    let raised = raised(&bench);
    assert_eq!(raised.len(), 64);
    assert!(raised.contains(&(1, 0)) && !raised.contains(&(0, 63)));

    for at in 0..40 {
        bench.wait(minutes(4)).rules("n2", &xid(at % 8, 63, ""));
    }
    assert_eq!(bench.fleet.chart(&node("n2")).unwrap().seen.len(), 32);
}

#[test]
fn what_is_older_than_a_month_is_forgotten_unless_it_waits_for_its_repair() {
    let mut bench = Bench::new();
    let month = minutes(30 * 24 * 60);
    bench.wait(month);
    bench.rules("n1", &xid(0, 31, ""));
    bench.rules("n1", &xid(1, 79, ""));
    let why = finding(Verdict::Faulty);
    let (now, verdict) = (bench.now, Verdict::Faulty);
    bench
        .fleet
        .reached(now, &node("n1"), verdict, Some(&why), false);
    let known = |bench: &Bench| {
        let chart = bench.fleet.chart(&node("n1")).unwrap();
        let seen = chart.seen.iter().map(|seen| seen.key.index);
        (seen.collect::<Vec<_>>(), chart.withdrawn.len())
    };
    bench.wait(month).tell("n1", &xid(2, 63, ""));
    assert_eq!(known(&bench), (vec![31, 79, 63], 1));
    bench.wait(INSTANT).tell("n1", &xid(3, 63, ""));
    assert_eq!(known(&bench), (vec![79, 63, 63], 0));
}
