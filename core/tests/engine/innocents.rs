//! What many say at once is nobody's fault, whoever said it first.

use crate::health::{boot, fleet, health, minutes, say, verdict, xid};
use crate::world::*;
use rebloom_core::engine::{Ask, Fact};
use rebloom_core::health::signal::{Sign, Signal};
use rebloom_core::health::{Mode, Verdict};
use rebloom_core::id::Slot;
use rebloom_core::time::Duration;

fn unit(slot: u32, code: u32) -> Signal {
    let detail = "a test".to_owned();
    Signal::raised(Some(Slot(slot)), Sign::Xid { code, detail })
}

/// How often a node was withdrawn.
fn withdrawals(world: &World) -> usize {
    let journal = world.journal.iter();
    let withdraws = journal.filter(
        |record| matches!(&record.fact, Fact::VerdictReached { verdict, .. } if verdict.withdraws()),
    );
    withdraws.count()
}

#[test]
fn those_who_said_it_first_are_acquitted_when_many_say_it() {
    let mut world = fleet(&[1; 12]);
    // Two have a history, and are the first to speak in the burst.
    say(&mut world, "n0", &xid(31));
    say(&mut world, "n1", &xid(31));
    world.pass(minutes(60));
    say(&mut world, "n0", &xid(31));
    say(&mut world, "n1", &xid(31));
    assert_eq!(verdict(&world, "n0"), Verdict::Quarantined);
    assert_eq!(verdict(&world, "n1"), Verdict::Quarantined);
    say(&mut world, "n2", &xid(31));
    for name in ["n0", "n1", "n2"] {
        assert_eq!(verdict(&world, name), Verdict::Healthy, "{name}");
        assert_eq!(health(&world, name).why, None);
    }
    assert_eq!(health(&world, "n0").findings[0].1.rule, "xid_many_units");
    // It tells them once; a controller that starts again knows the same.
    let acquits = |world: &World| {
        let journal = world.journal.iter();
        let acquits = journal.filter(
            |record| matches!(&record.fact, Fact::SignalHeard { acquits, .. } if acquits.is_some()),
        );
        acquits.count()
    };
    say(&mut world, "n3", &xid(31));
    assert_eq!(acquits(&world), 1);
    world.restart(world.journal.clone());
    assert_eq!(verdict(&world, "n0"), Verdict::Healthy);
    // What was seen alone still counts, the burst does not.
    world.pass(minutes(60));
    say(&mut world, "n2", &xid(31));
    assert_eq!(verdict(&world, "n2"), Verdict::Healthy);
    say(&mut world, "n1", &xid(31));
    assert_eq!(verdict(&world, "n1"), Verdict::Quarantined);
}

#[test]
fn a_fault_of_its_own_stands_though_the_xid_is_acquitted() {
    let mut world = fleet(&[1; 12]);
    say(&mut world, "n0", &xid(31));
    world.pass(minutes(60));
    say(&mut world, "n0", &xid(31));
    say(&mut world, "n0", &xid(79));
    say(&mut world, "n1", &xid(31));
    say(&mut world, "n2", &xid(31));
    assert_eq!(verdict(&world, "n0"), Verdict::Faulty);
    assert_eq!(health(&world, "n0").why.unwrap().rule, "xid_fatal");
}

#[test]
fn a_withdrawal_that_was_none_makes_no_lemon() {
    let mut world = fleet(&[1; 12]);
    say(&mut world, "n0", &boot(0));
    for at in 1..=4 {
        say(&mut world, "n0", &xid(119));
        world.pass(minutes(1));
        say(&mut world, "n0", &boot(at));
        world.pass(minutes(61));
    }
    say(&mut world, "n0", &xid(31));
    world.pass(minutes(10));
    say(&mut world, "n0", &xid(31));
    assert!(health(&world, "n0").is_lemon, "the fifth withdrawal");
    say(&mut world, "n1", &xid(31));
    say(&mut world, "n2", &xid(31));
    let seen = health(&world, "n0");
    assert!(!seen.is_lemon && seen.verdict == Verdict::Healthy);
    // The next one is the fifth.
    say(&mut world, "n0", &xid(119));
    assert!(health(&world, "n0").is_lemon);
}

#[test]
fn software_that_crashes_the_whole_fleet_all_day_withdraws_no_node() {
    let mut world = fleet(&[8; 48]);
    for _ in 0..4 {
        for node in 0..48 {
            for slot in 0..8 {
                say(&mut world, &format!("n{node}"), &unit(slot, 31));
            }
        }
        for node in 0..48 {
            assert_eq!(verdict(&world, &format!("n{node}")), Verdict::Healthy);
        }
        world.pass(minutes(60));
    }
    assert_eq!(withdrawals(&world), 0, "the first of each burst is new");
}

#[test]
fn a_rule_that_does_not_act_acquits_nobody() {
    for mode in [Mode::Shadow, Mode::Off] {
        let mut world = fleet(&[1; 12]);
        world.ask(Ask::SetRuleMode {
            name: "xid_many_units".to_owned(),
            mode,
        });
        for name in ["n0", "n1", "n2", "n3"] {
            say(&mut world, name, &xid(31));
        }
        world.pass(minutes(60));
        say(&mut world, "n3", &xid(31));
        assert_eq!(verdict(&world, "n3"), Verdict::Quarantined, "{mode:?}");
    }
}

#[test]
fn storage_that_fails_week_after_week_makes_no_lemon_of_those_who_saw_it_first() {
    let mut world = fleet(&[1; 12]);
    let error = "gone".to_owned();
    let failing = Signal::raised(None, Sign::StorageFailing { error });
    let over = Signal {
        cleared: true,
        ..failing.clone()
    };
    for _ in 0..6 {
        for name in ["n0", "n1", "n2"] {
            say(&mut world, name, &failing);
        }
        assert_eq!(verdict(&world, "n0"), Verdict::Healthy);
        world.pass(minutes(10));
        for name in ["n0", "n1", "n2"] {
            say(&mut world, name, &over);
        }
        world.pass(minutes(70));
    }
    assert!(!health(&world, "n0").is_lemon);
}

#[test]
fn what_probes_deny_at_their_first_look_takes_nobody_s_turn() {
    let mut world = fleet(&[8, 8]);
    for _ in 0..4 {
        for link in 0..64 {
            let cleared = true;
            let up = Signal::raised(Some(Slot(0)), Sign::NvLinkDown { link });
            say(&mut world, "n0", &Signal { cleared, ..up });
        }
    }
    say(&mut world, "n0", &xid(79));
    assert_eq!(verdict(&world, "n0"), Verdict::Faulty);
    assert_eq!(world.engine.refusals().get("too_many_signals"), None);
}

fn skew() -> Signal {
    let nanos = 2_000_000_000;
    Signal::raised(None, Sign::ClockSkew { nanos })
}

fn memory() -> Signal {
    let (available, total) = (1, 100);
    Signal::raised(None, Sign::HostMemory { available, total })
}

/// Nodes raise a level one after the other, and it is over.
fn flicker(world: &mut World, names: &[&str], level: &Signal) {
    for name in names {
        say(world, name, level);
        world.wait(Duration::from_nanos(1));
    }
    for name in names {
        let cleared = true;
        say(
            world,
            name,
            &Signal {
                cleared,
                ..level.clone()
            },
        );
    }
    world.pass(minutes(12));
}

#[test]
fn what_flickers_on_many_nodes_at_once_is_none_of_theirs() {
    for level in [skew(), memory()] {
        let mut world = fleet(&[1; 12]);
        for _ in 0..6 {
            flicker(&mut world, &["n0", "n1", "n2", "n3"], &level);
        }
        assert_eq!(withdrawals(&world), 0, "{level}");
        // Nor is it counted when one of them does so alone, which it does for the first time.
        flicker(&mut world, &["n0"], &level);
        flicker(&mut world, &["n0"], &level);
        assert_eq!(withdrawals(&world), 0, "{level}");
        flicker(&mut world, &["n0"], &level);
        assert_eq!(verdict(&world, "n0"), Verdict::Quarantined, "{level}");
    }
}

#[test]
fn those_who_flickered_alone_before_are_acquitted_when_many_do() {
    let mut world = fleet(&[1; 12]);
    for _ in 0..2 {
        flicker(&mut world, &["n0", "n1"], &memory());
    }
    say(&mut world, "n0", &memory());
    say(&mut world, "n1", &memory());
    assert_eq!(verdict(&world, "n0"), Verdict::Quarantined);
    say(&mut world, "n2", &memory());
    for name in ["n0", "n1", "n2"] {
        assert_eq!(verdict(&world, name), Verdict::Suspect, "{name}");
    }
    // What is of one GPU flickers wherever it does.
    let replays = Signal::raised(Some(Slot(0)), Sign::PcieReplays { per_minute: 20 });
    for _ in 0..3 {
        flicker(&mut world, &["n4", "n5", "n6"], &replays);
    }
    assert_eq!(verdict(&world, "n4"), Verdict::Quarantined);
}

#[test]
fn a_node_that_an_admin_lifted_is_not_one_of_many() {
    let mut world = fleet(&[1; 12]);
    for _ in 0..2 {
        flicker(&mut world, &["n0"], &memory());
    }
    for name in ["n0", "n1"] {
        say(&mut world, name, &memory());
    }
    assert_eq!(verdict(&world, "n0"), Verdict::Quarantined);
    world.ask(Ask::Uncordon { node: node("n1") });
    say(&mut world, "n2", &memory());
    assert_eq!(verdict(&world, "n0"), Verdict::Quarantined);
    say(&mut world, "n1", &memory());
    assert_eq!(verdict(&world, "n0"), Verdict::Suspect);
}
