//! How often to save.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use rebloom_core::interval::{Measured, best};
use rebloom_core::time::Duration;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Share of the time that is lost with a save of `cost` every `interval`, by Daly's model of failures
/// that come at any moment: repeated work and restarts, as expected wall time by useful time.
fn lost(interval: f64, cost: f64, between: f64) -> f64 {
    between * (((interval + cost) / between).exp() - 1.0) / interval - 1.0
}

#[test]
fn the_best_interval_loses_less_than_any_other() {
    for (cost, between) in [
        (40.0, 86_400.0),
        (40.0, 6_000.0),
        (300.0, 1_800.0),
        (1.0, 60.0),
    ] {
        let chosen = best(seconds(cost), seconds(between)).as_secs_f64();
        let least = lost(chosen, cost, between);
        for factor in [0.25, 0.5, 0.8, 1.25, 2.0, 4.0] {
            let other = lost(chosen * factor, cost, between);
            assert!(least < other, "{cost} s, {between} s: {factor} x {chosen}");
        }
    }
}

#[test]
fn a_save_that_takes_longer_than_failures_are_apart_is_made_as_rarely_as_they_come() {
    assert_eq!(best(seconds(200.0), seconds(100.0)), seconds(100.0));
}

/// BLOOM saved 2.3 TB in 40 s and lost one or two GPUs a week; its operators went from every 250 steps of
/// 105 s to every 100. (That they lost hours to hangs beside it is not in this formula.)
#[test]
fn bloom_would_have_saved_twice_as_often_as_its_operators_did_in_the_end() {
    let measured = Measured {
        nodes: 48,
        ran: seconds(100.0 * 86_400.0),
        failures: 25,
        save: Some(seconds(40.0)),
        step: Some(seconds(105.0)),
    };
    let steps = measured.steps((seconds(60.0), seconds(86_400.0))).unwrap();
    assert!((40..=60).contains(&steps), "{steps}");
}

#[test]
fn bounds_always_win_and_nothing_is_chosen_before_a_step_was_seen() {
    let measured = Measured {
        nodes: 2,
        ran: seconds(60.0),
        failures: 0,
        save: None,
        step: Some(seconds(2.0)),
    };
    let bounds = (seconds(60.0), seconds(600.0));
    assert_eq!(
        measured.steps(bounds),
        Some(30),
        "often until a save was seen"
    );
    let cheap = Measured {
        save: Some(seconds(1.0)),
        ..measured
    };
    assert_eq!(cheap.steps(bounds), Some(300), "failures are rare");
    let failing = Measured {
        failures: 100_000,
        ..cheap
    };
    assert_eq!(failing.steps(bounds), Some(30));
    let unseen = Measured {
        step: None,
        ..measured
    };
    assert_eq!(unseen.steps(bounds), None);
}

#[test]
fn what_another_interval_costs_is_known_once_a_save_was_seen_and_is_least_where_it_is_chosen() {
    let bounds = (seconds(10.0), seconds(86_400.0));
    let measured = Measured {
        nodes: 48,
        ran: seconds(0.0),
        failures: 0,
        save: Some(seconds(40.0)),
        step: Some(seconds(105.0)),
    };
    let chosen = measured.steps(bounds).unwrap();
    for steps in [1, chosen / 4, chosen / 2, chosen * 2, chosen * 4, u64::MAX] {
        let excess = measured.excess(steps, bounds).unwrap();
        assert!(excess > 0.0, "{steps} steps: {excess}");
    }
    assert_eq!(measured.excess(chosen, bounds), Some(0.0));
    // BLOOM's first interval at its own rates: 250 steps are 7.3 h, of which half is done again every 3.2 days.
    let excess = measured.excess(250, bounds).unwrap();
    assert!((0.025..0.04).contains(&excess), "{excess}");
    let unseen = Measured {
        save: None,
        ..measured
    };
    assert_eq!(unseen.excess(250, bounds), None);
}
