//! Agents that start again: they mend nothing, and nothing flickers for it.

use super::{Bench, minutes, node, on, over, xid};
use rebloom_core::health::Verdict;
use rebloom_core::health::signal::{Recovery, Sign, Signal, Throttle};
use rebloom_core::time::Duration;

fn boot(boot: u64) -> Signal {
    Signal::raised(None, Sign::ProbesStarted { boot })
}

fn vote() -> Signal {
    let action = Recovery::Reset;
    on(3, Sign::RecoveryAction { action })
}

fn memory() -> Signal {
    let (available, total) = (1, 100);
    Signal::raised(None, Sign::HostMemory { available, total })
}

fn ecc() -> Signal {
    let (volatile, sram) = (2, 0);
    on(1, Sign::EccUncorrected { volatile, sram })
}

fn pending() -> Signal {
    let (rows, pending, failed) = (1, true, false);
    let sign = Sign::RowRemap {
        rows,
        pending,
        failed,
    };
    on(2, sign)
}

#[test]
fn an_agent_that_starts_again_mends_no_gpu() {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1));
    bench.rules("n1", &xid(3, 119, ""));
    bench.rules("n1", &vote());
    bench.wait(minutes(5)).tell("n1", &boot(1)).unwrap();
    // The node was never reset, and nobody says that it was.
    bench.wait(minutes(120));
    assert_eq!(bench.verdict("n1"), Verdict::Faulty);
    // The new agent looks, and the driver asks for a reset no more: now it was.
    bench.tell("n1", &over(vote())).unwrap();
    assert_eq!(bench.wait(minutes(59)).verdict("n1"), Verdict::Faulty);
    assert_eq!(bench.wait(minutes(1)).verdict("n1"), Verdict::Healthy);
}

#[test]
fn agents_that_start_again_and_again_make_nothing_flicker() {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1));
    for signal in [memory(), ecc(), pending()] {
        bench.rules("n1", &signal);
    }
    for _ in 0..4 {
        bench.wait(minutes(10)).tell("n1", &boot(1)).unwrap();
        assert_eq!(bench.tell("n1", &boot(1)), None, "once is enough");
        for signal in [memory(), ecc(), pending()] {
            let rules = bench.rules("n1", &signal);
            assert!(!rules.contains(&"flapping".to_owned()), "{rules:?}");
            assert_eq!(bench.tell("n1", &signal), None, "it is confirmed");
        }
        assert_eq!(bench.verdict("n1"), Verdict::Suspect);
    }
}

#[test]
fn nodes_that_boot_again_and_again_make_nothing_flicker() {
    let mut bench = Bench::new();
    for at in 0..4 {
        bench.wait(minutes(10)).tell("n1", &boot(at));
        let rules = bench.rules("n1", &memory());
        assert_eq!(rules, ["host_memory"], "boot {at}");
    }
    // What comes and goes by itself does.
    for rules in [&["host_memory"][..], &["host_memory", "flapping"]] {
        bench.tell("n1", &over(memory())).unwrap();
        assert_eq!(bench.rules("n1", &memory()), rules);
    }
}

#[test]
fn what_nobody_confirms_is_as_good_as_over_unless_probes_would_deny_it() {
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1));
    bench.rules("n1", &memory());
    bench.tell("n1", &boot(1)).unwrap();
    let after = minutes(10) - Duration::from_nanos(1);
    assert_eq!(bench.wait(after).verdict("n1"), Verdict::Suspect);
    assert_eq!(
        bench.judged("n1").until,
        Some(bench.now + Duration::from_nanos(1))
    );
    bench.wait(Duration::from_nanos(1));
    assert_eq!(bench.verdict("n1"), Verdict::Healthy);
    // A link that is down is so until it is seen up, or the node boots.
    let down = on(0, Sign::NvLinkDown { link: 4 });
    bench.rules("n1", &down);
    bench.tell("n1", &boot(1)).unwrap();
    bench.wait(minutes(3 * 24 * 60));
    assert_eq!(bench.verdict("n1"), Verdict::Faulty);
    bench.rules("n1", &xid(5, 63, ""));
    let raised = &bench.fleet.chart(&node("n1")).unwrap().raised;
    assert!(raised.keys().eq([&down.key()]), "the rest is forgotten");
    bench.tell("n1", &boot(2)).unwrap();
    assert_eq!(bench.wait(minutes(60)).verdict("n1"), Verdict::Healthy);
}

#[test]
fn a_throttle_goes_on_though_the_agent_counts_anew() {
    let hot = |secs: u64| {
        let (reason, nanos) = (Throttle::Thermal, secs * 1_000_000_000);
        on(0, Sign::Throttled { reason, nanos })
    };
    let mut bench = Bench::new();
    bench.tell("n1", &boot(1));
    bench.rules("n1", &hot(30));
    assert_eq!(
        bench.wait(minutes(11)).rules("n1", &hot(690)),
        ["throttled_long"]
    );
    bench.tell("n1", &boot(1)).unwrap();
    assert_eq!(
        bench.wait(minutes(1)).rules("n1", &hot(30)),
        ["throttled_long"]
    );
    assert_eq!(bench.verdict("n1"), Verdict::Quarantined);
}

#[test]
fn storage_that_fails_everywhere_is_the_storage_also_for_an_agent_that_starts_again() {
    let error = "gone".to_owned();
    let failing = Signal::raised(None, Sign::StorageFailing { error });
    let mut bench = Bench::new();
    let nodes = ["n1", "n2", "n3"];
    for name in nodes {
        bench.tell(name, &boot(1));
        bench.rules(name, &failing);
    }
    for name in nodes {
        bench.tell(name, &boot(1)).unwrap();
    }
    bench.wait(minutes(1));
    for name in nodes {
        bench.rules(name, &failing);
        assert_eq!(bench.verdict(name), Verdict::Healthy, "{name}");
    }
    // What nobody confirmed says nothing of another day's.
    for name in nodes {
        bench.tell(name, &boot(1)).unwrap();
    }
    bench.wait(minutes(60)).rules("n4", &failing);
    assert_eq!(bench.verdict("n4"), Verdict::Quarantined);
}
