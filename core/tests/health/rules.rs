//! What the rules make of signals and of their history, and how verdicts come and go.

use super::{Bench, REG0_HARDWARE, failing, minutes, node, of_node, on, over, throttled, xid};
use rebloom_core::health::rule::{Builtin, RULES};
use rebloom_core::health::signal::{Recovery, Sign, Signal};
use rebloom_core::health::{Action, Mode, Verdict};
use rebloom_core::time::Duration;

fn boot(boot: u64) -> Signal {
    of_node(Sign::ProbesStarted { boot })
}

#[test]
fn the_table_is_in_order_and_names_are_unique() {
    for (at, rule) in RULES.iter().enumerate() {
        assert_eq!(rule.id as usize, at, "{}", rule.name);
        assert_eq!(Builtin::from_name(rule.name), Some(rule.id));
    }
}

#[test]
fn the_same_unit_again_is_its_hardware() {
    let mut bench = Bench::new();
    assert_eq!(bench.rules("n1", &xid(3, 31, "")), ["xid_once"]);
    // Within the burst it is the same event.
    assert!(bench.wait(minutes(2)).tell("n1", &xid(3, 31, "")).is_none());
    // Another unit, and another code, are something else.
    assert_eq!(
        bench.wait(minutes(10)).rules("n1", &xid(4, 31, "")),
        ["xid_once"]
    );
    assert_eq!(bench.rules("n1", &xid(3, 13, "")), ["xid_once"]);
    assert_eq!(
        bench.wait(minutes(10)).rules("n1", &xid(3, 31, "")),
        ["xid_again"]
    );
    assert_eq!(bench.verdict("n1"), Verdict::Quarantined);
    assert_eq!(
        bench.judged("n1").finding.unwrap().action,
        Action::RunDiagnostics
    );
    // A day later it is forgotten.
    let mut bench = Bench::new();
    bench.rules("n1", &xid(3, 31, ""));
    assert_eq!(
        bench.wait(minutes(25 * 60)).rules("n1", &xid(3, 31, "")),
        ["xid_once"]
    );
}

#[test]
fn many_units_are_the_software() {
    let mut bench = Bench::new();
    assert_eq!(bench.rules("n1", &xid(0, 13, "")), ["xid_once"]);
    assert_eq!(bench.rules("n2", &xid(0, 13, "")), ["xid_once"]);
    assert_eq!(bench.rules("n3", &xid(0, 13, "")), ["xid_many_units"]);
    assert_eq!(bench.rules("n4", &xid(7, 13, "")), ["xid_many_units"]);
    // Nobody is charged with that burst, not even those who spoke before it was one.
    bench.wait(minutes(30));
    for name in ["n1", "n2", "n3", "n4"] {
        let device = if name == "n4" { 7 } else { 0 };
        assert_eq!(bench.verdict(name), Verdict::Healthy);
        bench.wait(minutes(10));
        assert_eq!(
            bench.rules(name, &xid(device, 13, "")),
            ["xid_once"],
            "{name}"
        );
    }
}

#[test]
fn a_clean_up_after_another_xid_is_its_echo() {
    let mut bench = Bench::new();
    bench.rules("n1", &xid(3, 48, ""));
    assert!(bench.rules("n1", &xid(3, 45, "")).is_empty());
    assert_eq!(bench.rules("n1", &xid(4, 45, "")), ["xid_once"]);
}

#[test]
fn nvlink_errors_again() {
    let mut bench = Bench::new();
    bench.rules("n1", &xid(3, 74, REG0_HARDWARE));
    bench.wait(minutes(30));
    assert_eq!(
        bench.rules("n1", &xid(3, 74, REG0_HARDWARE)),
        ["nvlink_xid_fatal"]
    );
    let mut bench = Bench::new();
    bench.rules("n1", &xid(3, 145, "Nonfatal"));
    bench.wait(minutes(30));
    assert_eq!(
        bench.rules("n1", &xid(3, 145, "Nonfatal")),
        ["nvlink_xid_again"]
    );
    assert_eq!(bench.verdict("n1"), Verdict::Quarantined);
}

#[test]
fn a_fault_speaks_until_it_is_repaired_and_a_unit_that_faults_five_times_is_replaced() {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1)).unwrap();
    // Echoes of one fault within the sticky window count once, however many there are.
    for _ in 0..8 {
        assert_eq!(bench.rules("n1", &xid(3, 119, "")), ["xid_fatal"]);
        bench.wait(minutes(10));
    }
    // Repaired by a reboot, it faults again, and again.
    let mut last = Vec::new();
    for at in 0..4 {
        bench.wait(minutes(20)).tell("n1", &boot(2 + at)).unwrap();
        last = bench.wait(minutes(60)).rules("n1", &xid(3, 119, ""));
    }
    assert_eq!(last, ["xid_fatal", "xid_repeated"]);
    // From now on no reboot brings it back.
    bench.wait(minutes(20));
    bench.tell("n1", &boot(9)).unwrap();
    bench.wait(minutes(24 * 60 * 20));
    assert_eq!(bench.verdict("n1"), Verdict::Faulty);
}

#[test]
fn a_faulty_node_is_faulty_until_it_booted_and_was_clean_for_a_while() {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1)).unwrap();
    bench.rules("n1", &xid(3, 79, ""));
    bench.wait(minutes(24 * 60 * 3));
    assert_eq!(
        bench.verdict("n1"),
        Verdict::Faulty,
        "time alone repairs nothing"
    );
    // An agent that is started anew on a node that was not rebooted repairs nothing either.
    assert!(bench.tell("n1", &boot(1)).is_none());
    bench.wait(minutes(120));
    assert_eq!(bench.verdict("n1"), Verdict::Faulty);
    bench.tell("n1", &boot(2)).unwrap();
    bench.wait(minutes(59));
    assert_eq!(bench.verdict("n1"), Verdict::Faulty, "it has to stay clean");
    let judged = bench.judged("n1");
    assert_eq!(judged.until, Some(bench.now + minutes(1)));
    bench.wait(minutes(1));
    assert_eq!(bench.verdict("n1"), Verdict::Healthy);
}

#[test]
fn the_drivers_vote_ends_with_the_driver() {
    let mut bench = Bench::new();
    let vote = on(
        3,
        Sign::RecoveryAction {
            action: Recovery::Reset,
        },
    );
    bench.rules("n1", &xid(3, 119, ""));
    bench.rules("n1", &vote);
    // The GPU was reset: the driver asks for nothing any more, which also answers the XID.
    bench.wait(minutes(20)).tell("n1", &over(vote)).unwrap();
    assert_eq!(bench.verdict("n1"), Verdict::Faulty);
    bench.wait(minutes(60));
    assert_eq!(bench.verdict("n1"), Verdict::Healthy);
}

#[test]
fn a_level_is_in_force_while_it_is_raised_and_a_clean_spell_longer() {
    let mut bench = Bench::new();
    let hot = throttled(30_000_000_000);
    bench.rules("n1", &hot);
    bench.wait(minutes(300));
    assert_eq!(bench.verdict("n1"), Verdict::Suspect);
    bench.tell("n1", &over(hot.clone())).unwrap();
    assert!(
        bench.tell("n1", &over(hot)).is_none(),
        "it is over only once"
    );
    bench.wait(minutes(9));
    assert_eq!(bench.verdict("n1"), Verdict::Suspect);
    bench.wait(minutes(1));
    assert_eq!(bench.verdict("n1"), Verdict::Healthy);
}

#[test]
fn what_flickers_is_a_fault_of_its_own() {
    let mut bench = Bench::new();
    let replays = on(1, Sign::PcieReplays { per_minute: 20 });
    for expected in [
        vec!["pcie_replays"],
        vec!["pcie_replays"],
        vec!["pcie_replays", "flapping"],
    ] {
        assert_eq!(bench.wait(minutes(5)).rules("n1", &replays), expected);
        bench
            .wait(minutes(5))
            .tell("n1", &over(replays.clone()))
            .unwrap();
    }
    assert_eq!(bench.verdict("n1"), Verdict::Quarantined);
    // Slowly it may.
    let mut bench = Bench::new();
    for _ in 0..6 {
        assert_eq!(
            bench.wait(minutes(35)).rules("n1", &replays),
            ["pcie_replays"]
        );
        bench
            .wait(minutes(1))
            .tell("n1", &over(replays.clone()))
            .unwrap();
    }
}

#[test]
fn storage_that_fails_on_many_nodes_is_the_storage() {
    let mut bench = Bench::new();
    bench.rules("n1", &failing());
    bench.rules("n2", &failing());
    assert_eq!(bench.verdict("n2"), Verdict::Quarantined);
    let third = bench.tell("n3", &failing()).unwrap();
    assert_eq!(third[0].verdict, Verdict::Healthy);
    for name in ["n1", "n2", "n3"] {
        assert_eq!(bench.verdict(name), Verdict::Healthy, "{name}");
    }
    // It works again for all but one, whose own fault it is the next time.
    for name in ["n1", "n2", "n3"] {
        bench.wait(minutes(1)).tell(name, &over(failing())).unwrap();
    }
    bench.wait(minutes(120)).tell("n2", &failing()).unwrap();
    assert_eq!(bench.verdict("n2"), Verdict::Quarantined);
}

#[test]
fn the_same_again_is_no_news_and_a_moving_value_now_and_then() {
    let mut bench = Bench::new();
    let memory = |available| {
        of_node(Sign::HostMemory {
            available,
            total: 1000,
        })
    };
    bench.tell("n1", &memory(20)).unwrap();
    assert!(bench.tell("n1", &memory(20)).is_none());
    assert!(bench.wait(minutes(1)).tell("n1", &memory(19)).is_none());
    assert!(bench.wait(minutes(3)).tell("n1", &memory(18)).is_some());
    // What asks for another action is news at once.
    let vote = |action| on(0, Sign::RecoveryAction { action });
    bench.tell("n1", &vote(Recovery::Reset)).unwrap();
    assert!(bench.tell("n1", &vote(Recovery::Reboot)).is_some());
}

#[test]
fn modes_and_rules_of_admins() {
    let mut bench = Bench::new();
    bench.set("xid_fatal", Mode::Shadow, None, Verdict::Healthy);
    let found = bench.tell("n1", &xid(0, 79, "")).unwrap();
    assert_eq!(found[0].mode, Mode::Shadow);
    assert_eq!(bench.verdict("n1"), Verdict::Healthy);
    assert_eq!(bench.fleet.tally("xid_fatal").shadowed, 1);
    bench.set("xid_fatal", Mode::Off, None, Verdict::Healthy);
    assert!(
        bench
            .wait(minutes(10))
            .rules("n1", &xid(0, 79, ""))
            .is_empty()
    );
    // An admin's rule takes what no rule that is built in takes.
    let when = "signal.kind == 'xid' && signal.code == 63 && node.again >= 2";
    bench.set("remaps", Mode::Enforce, Some(when), Verdict::Quarantined);
    assert!(bench.rules("n2", &xid(0, 63, "")).is_empty());
    assert_eq!(
        bench.wait(minutes(10)).rules("n2", &xid(0, 63, "")),
        ["remaps"]
    );
    assert_eq!(bench.verdict("n2"), Verdict::Quarantined);
    assert_eq!(bench.fleet.tally("remaps").enforced, 1);
}

#[test]
fn what_an_admin_lifts_is_forgotten_and_a_chart_stays_small() {
    let mut bench = Bench::new();
    bench.rules("n1", &xid(0, 79, ""));
    // Chatter does not push the fault out.
    for at in 0..200_u32 {
        let code = [13, 31, 45][at as usize % 3];
        bench.wait(minutes(4)).tell("n1", &xid(at % 8, code, ""));
    }
    assert_eq!(bench.verdict("n1"), Verdict::Faulty);
    let bytes = serde_json::to_vec(bench.fleet.chart(&node("n1")).unwrap()).unwrap();
    assert!(bytes.len() < 16 << 10, "{} bytes", bytes.len());
    bench.fleet.lifted(bench.now, &node("n1"));
    assert_eq!(bench.verdict("n1"), Verdict::Healthy);
    assert_eq!(
        bench.rules("n1", &throttled(Duration::from_secs(30).as_nanos() as u64)),
        ["throttled"]
    );
}
