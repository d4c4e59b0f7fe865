//! Hangs and slowness without a fleet: who stands out, deadlines, rules, pace, bisecting.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod bisect;
mod straggler;

use rebloom_core::flight::{Channel, Counter, Page, Phase};
use rebloom_core::hang::deadline::{self, Clock, Learn, Timing};
use rebloom_core::hang::pace::Pace;
use rebloom_core::hang::rules::{self, Breach, Heard, LogRule, Match, Metric, Operator, Pause};
use rebloom_core::hang::stacks::{odd_ones_out, of_pages};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::time::{Duration, Instant};

/// Pages of ranks that stand where it is said, so many at each place, numbered through.
fn standing(places: &[(u32, Option<Channel>)]) -> Vec<(Rank, Page)> {
    let each = places
        .iter()
        .flat_map(|(many, place)| (0..*many).map(move |_| *place));
    let page = |(at, place): (u32, Option<Channel>)| {
        let mut page = Page {
            phase: Phase::Step,
            ..Page::default()
        };
        for (counter, channel) in page.counters.iter_mut().zip(Channel::ALL) {
            *counter = Counter {
                entered: 10 + u64::from(place == Some(channel)),
                done: 10,
            };
        }
        (Rank(at), page)
    };
    (0..).zip(each).map(page).collect()
}

/// Who stands out by pages like these.
fn odd(places: &[(u32, Option<Channel>)]) -> Vec<Rank> {
    let pages = standing(places);
    odd_ones_out(&of_pages(pages.iter().map(|(rank, page)| (*rank, page))))
}

/// (Both of BLOOM's hangs on record go through the engine in `engine/bloom_hangs.rs`.)
#[test]
fn who_waits_for_nobody_stands_out() {
    let all = |rest: &[(u32, Option<Channel>)]| odd(&[&[(4, Some(Channel::World))], rest].concat());
    assert_eq!(all(&[(1, None), (3, Some(Channel::Tensor))]), [Rank(4)]);
    assert_eq!(
        all(&[(3, Some(Channel::Data)), (2, None)]),
        [Rank(7), Rank(8)]
    );
    for channel in Channel::ALL {
        let here = [(3, Some(channel)), (1, None)];
        assert_eq!(odd(&here), [Rank(3)], "{channel:?} is waiting for others");
    }
}

#[test]
fn where_everybody_waits_for_others_the_smallest_group_stands_out_if_it_is_alone() {
    let one = [(6, Some(Channel::Data)), (1, Some(Channel::ForwardOut))];
    assert_eq!(odd(&one), [Rank(6)]);
    let two = [
        (6, Some(Channel::Data)),
        (1, Some(Channel::ForwardOut)),
        (1, Some(Channel::ForwardIn)),
    ];
    assert_eq!(odd(&two), []);
    assert_eq!(odd(&[(8, Some(Channel::World))]), []);
    assert_eq!(odd(&[]), []);
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(moment: u64) -> Instant {
    Instant::ZERO + seconds(moment)
}

#[test]
fn deadlines_are_learned_from_the_longest_time_and_never_exceed_what_was_set() {
    let learn = Learn::default();
    let allowed = |longest, seen, learn| {
        let timing = Timing {
            longest: seconds(longest),
            seen,
            ..Timing::default()
        };
        deadline::allowed(60.0, Some(&timing), learn)
    };
    assert_eq!(allowed(4, 2, Some(&learn)), 20.0);
    assert_eq!(
        allowed(1, 3, Some(&learn)),
        learn.least,
        "not below the least"
    );
    assert_eq!(
        allowed(100, 2, Some(&learn)),
        60.0,
        "not above what was set"
    );
    assert_eq!(allowed(4, 1, Some(&learn)), 60.0, "seen once is not known");
    assert_eq!(allowed(4, 2, None), 60.0);
    assert_eq!(deadline::allowed(60.0, None, Some(&learn)), 60.0);
}

#[test]
fn growth_is_recorded_only_where_it_matters() {
    let known = Timing {
        longest: seconds(10),
        seen: 2,
        ..Timing::default()
    };
    let of = (Generation(1), Step(7));
    assert_eq!(known.after(Duration::from_millis(10_500), of), None);
    assert_eq!(known.after(seconds(12), of).unwrap().longest, seconds(12));
    assert_eq!(Timing::default().after(seconds(1), of).unwrap().seen, 1);
}

#[test]
fn what_many_ranks_show_at_once_is_seen_once_and_what_is_in_doubt_not_at_all() {
    let learn = Learn::default();
    let allowed = |timing: Timing| deadline::allowed(600.0, Some(&timing), Some(&learn));
    let of = |generation, step| (Generation(generation), Step(step));
    for (times, expected) in [
        (vec![(2, of(1, 0))], 600.0),
        (vec![(2, of(1, 0)), (2, of(1, 0)), (2, of(1, 0))], 600.0),
        (vec![(2, of(1, 0)), (3, of(1, 0)), (4, of(1, 0))], 600.0),
        (vec![(2, of(1, 0)), (3, of(2, 0))], 15.0),
        (vec![(2, of(1, 6)), (3, of(1, 7)), (8, of(1, 7))], 40.0),
    ] {
        let mut timing = Timing::default();
        for (took, of) in &times {
            timing = timing.after(seconds(*took), *of).unwrap_or(timing);
        }
        assert_eq!(allowed(timing), expected, "{times:?}");
    }
    assert_eq!(Timing::in_doubt().after(seconds(2), of(3, 9)), None);
    assert_eq!(allowed(Timing::in_doubt()), 600.0);
}

#[test]
fn a_clock_times_phases_and_leaves_the_first_steps_out() {
    let (mut clock, learn) = (Clock::default(), Learn::default());
    let page = |phase, step, step_nanos| Page {
        phase,
        step: Step(step),
        step_nanos,
        ..Page::default()
    };
    let mut look = |phase, step, moment| {
        let page = page(phase, step, 7_000_000_000);
        clock.look((Rank(0), &page), (Step(0), &learn), at(moment))
    };
    assert_eq!(look(Phase::Load, 0, 0).over, None);
    assert_eq!(look(Phase::Load, 0, 8).goes_on, (Phase::Load, at(0)));
    assert_eq!(
        look(Phase::Step, 0, 9).over,
        Some((Phase::Load, seconds(9), Step(0)))
    );
    assert_eq!(look(Phase::Step, 5, 20).over, None, "the first five");
    assert_eq!(
        look(Phase::Step, 6, 30).over,
        Some((Phase::Step, seconds(7), Step(6)))
    );
    assert_eq!(look(Phase::Step, 6, 90).goes_on, (Phase::Step, at(30)));
}

fn rule() -> LogRule {
    serde_json::from_str(
        r#"{"name": "beat", "pattern": "iteration", "expected_start": 60, "expected_recurrence": 300}"#,
    )
    .unwrap()
}

fn said(lines: u32, stopped: bool) -> Match {
    Match {
        generation: Generation(1),
        rule: 0,
        lines,
        stopped,
    }
}

#[test]
fn a_rule_waits_for_its_start_and_then_for_each_next_line() {
    let (rule, mut heard) = (rule(), Heard::default());
    let pause = Pause::default();
    let within = seconds(60);
    assert_eq!(
        rules::due(&rule, heard, at(100), &pause),
        Some((at(160), Breach::NotStarted { within }))
    );
    heard.hear(&said(2, false), &pause, at(150));
    let within = seconds(300);
    assert_eq!(
        rules::due(&rule, heard, at(100), &pause),
        Some((at(450), Breach::Ceased { within }))
    );
    assert_eq!(
        rules::due(&rule, heard, at(200), &pause).unwrap().0,
        at(500),
        "not before it was in sight"
    );
    heard.hear(&said(0, true), &pause, at(160));
    assert_eq!(
        rules::due(&rule, heard, at(100), &pause),
        None,
        "the watch is over"
    );
}

#[test]
fn what_is_no_number_breaks_every_limit() {
    for operator in [
        Operator::Greater,
        Operator::AtLeast,
        Operator::Less,
        Operator::AtMost,
    ] {
        let metric = Metric {
            operator,
            threshold: 2.0,
            points: 1,
        };
        assert!(metric.is_breach(f64::NAN));
        let is_upper = matches!(operator, Operator::Greater | Operator::AtLeast);
        assert_eq!(metric.is_breach(3.0), is_upper);
        assert_eq!(metric.is_breach(1.0), !is_upper);
        let takes_equal = matches!(operator, Operator::AtLeast | Operator::AtMost);
        assert_eq!(metric.is_breach(2.0), takes_equal);
    }
}

/// BLOOM, 2022-04-28: 105.2 s became 111.1 s a step, without any error.
#[test]
fn bloom_s_slow_node_is_noticed_within_a_window_of_steps() {
    let mut pace = Pace::default();
    pace.begin("384 ranks");
    let step = |noise: u64, seconds: f64| {
        Duration::from_secs_f64(seconds) + Duration::from_millis(noise * 37 % 400)
    };
    (0..200).for_each(|at| pace.step(step(at, 105.0)));
    assert_eq!(pace.slowdown(), None);
    (0..24).for_each(|at| pace.step(step(at, 110.9)));
    let (before, now) = pace.slowdown().unwrap();
    assert!(before < seconds(106) && now > seconds(110));
    pace.accept();
    assert_eq!(pace.slowdown(), None, "said once");
    pace.begin("192 ranks");
    (0..24).for_each(|at| pace.step(step(at, 210.0)));
    assert_eq!(pace.slowdown(), None, "another shape has another pace");
}

/// Steps on a busy machine differ by a fifth; their medians then differ by more than 4 % now and then.
#[test]
fn what_chance_does_to_a_pace_is_no_slowdown() {
    let mut pace = Pace::default();
    pace.begin("8 ranks");
    let mut state = 7_u64;
    for _ in 0..2000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        pace.step(Duration::from_millis(160 + (state >> 33) % 40));
        assert_eq!(pace.slowdown(), None);
    }
    (0..24).for_each(|_| pace.step(Duration::from_millis(230)));
    assert!(pace.slowdown().is_some());
}
