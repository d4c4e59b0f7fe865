//! The ladder without a fleet: rungs and budgets, the gate of blocking launches, groups, shapes.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

#[path = "common/spec.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod spec;

use rebloom_core::cause::{Blamed, Cause, Exit, Unsound};
use rebloom_core::flight::Phase;
use rebloom_core::id::{NodeId, Rank, Step};
use rebloom_core::ladder::evict::{self, Group};
use rebloom_core::ladder::gate::{self, Nccl, Shut, Site};
use rebloom_core::ladder::{Rung, Standing, climb, first, shape};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Elastic, Recovery};
use rebloom_core::time::Duration;
use std::collections::BTreeMap;

fn node() -> NodeId {
    NodeId::new("n1").unwrap()
}

fn exited() -> Cause {
    Cause::RankExited {
        rank: Rank(1),
        node: node(),
        exit: Exit::Signal(9),
    }
}

fn hung(group: Option<Group>) -> Cause {
    Cause::GangHung {
        phase: Phase::Step,
        suspects: vec![Rank(0), Rank(1)],
        group,
    }
}

/// The rungs that are taken one after the other, without any progress.
fn climbed(cause: &Cause, may_async_off: bool, may_shrink: bool) -> Vec<(Rung, u32)> {
    let recovery = Recovery {
        unsealed: 1000,
        hangs: 1000,
        ..Recovery::default()
    };
    let mut tries = BTreeMap::new();
    loop {
        let standing = Standing {
            tries: &tries,
            unsealed: 0,
            hangs: 0,
            blamed: 0,
            may_async_off,
            may_shrink,
        };
        let rung = climb(cause, first(cause, &tries), &recovery, &standing);
        if rung == Rung::Park {
            return tries.into_iter().collect();
        }
        *tries.entry(rung).or_default() += 1;
    }
}

#[test]
fn every_rung_is_climbed_to_its_budget_and_the_special_ones_only_where_they_can_be() {
    use Rung::*;
    assert_eq!(
        climbed(&exited(), true, true),
        [(Reform, 4), (Restart, 3), (Replace, 3), (Shrink, 2)],
        "a crash is no reason to make launches block"
    );
    assert_eq!(
        climbed(&hung(None), true, true),
        [(Restart, 3), (Replace, 3), (AsyncOff, 1), (Shrink, 2)]
    );
    assert_eq!(
        climbed(&hung(Some(Group::Tensor)), false, false),
        [(Restart, 1), (Replace, 3)],
        "the group leaves after one restart"
    );
}

#[test]
fn hangs_that_come_back_after_progress_turn_launches_off_and_unsealed_runs_are_parked() {
    let (recovery, tries) = (Recovery::default(), BTreeMap::new());
    let standing = |hangs, unsealed| Standing {
        tries: &tries,
        unsealed,
        hangs,
        blamed: 0,
        may_async_off: true,
        may_shrink: false,
    };
    let from = first(&hung(None), &tries);
    let rung = |standing| climb(&hung(None), from, &recovery, &standing);
    assert_eq!(rung(standing(2, 0)), Rung::Restart);
    assert_eq!(rung(standing(3, 0)), Rung::AsyncOff);
    assert_eq!(rung(standing(0, 24)), Rung::Park);
    // A try that is counted as none is none.
    let tries = BTreeMap::from([(Rung::Restart, 0)]);
    assert_eq!(first(&hung(Some(Group::Data)), &tries), Rung::Restart);
    let drained = Cause::NodeDrained { node: node() };
    let exempt = climb(&drained, Rung::Reform, &recovery, &standing(9, 99));
    assert_eq!(exempt, Rung::Reform);
}

#[test]
fn hangs_that_come_back_on_the_same_node_make_it_leave_before_launches_are_turned_off() {
    use Rung::*;
    let tries = BTreeMap::new();
    let cause = Cause::RankHung {
        rank: Rank(1),
        node: node(),
        phase: Phase::Step,
        channel: None,
    };
    let recovery = Recovery::default();
    // How many hangs there were, how many spoke against the same node, and whether the gate is open.
    for (hangs, blamed, may_async_off, expected) in [
        (1, 1, true, Reform),
        (2, 1, true, Reform),
        (2, 2, true, Replace),
        (3, 2, true, Replace),
        (3, 1, true, AsyncOff),
        (3, 3, true, AsyncOff),
        (9, 1, false, Reform),
        (3, 3, false, Replace),
        (9, 9, false, Replace),
    ] {
        let standing = Standing {
            tries: &tries,
            unsealed: 0,
            hangs,
            blamed,
            may_async_off,
            may_shrink: false,
        };
        let rung = climb(&cause, first(&cause, &tries), &recovery, &standing);
        assert_eq!(rung, expected, "{hangs} {blamed} {may_async_off}");
        let other = climb(&exited(), Reform, &recovery, &standing);
        assert_eq!(other, Reform, "what died has not hung");
    }
}

#[test]
fn without_a_checkpoint_in_between_every_cause_that_was_not_planned_comes_to_an_end() {
    let (recovery, tries) = (Recovery::default(), BTreeMap::new());
    let unsound = Unsound::Missing {
        file: "manifest.json".to_owned(),
    };
    let lost = Cause::NodeLost {
        node: node(),
        silent_for: Duration::from_secs(5),
    };
    let refused = Cause::CheckpointUnsound {
        step: Step(10),
        rank: Rank(1),
        unsound: unsound.clone(),
    };
    let misread = Cause::StorageMisread {
        node: node(),
        rank: Rank(1),
        unsound,
    };
    let failed = Cause::RankFailed {
        rank: Rank(1),
        node: node(),
        phase: Phase::Step,
        error: "it broke".to_owned(),
        blamed: Blamed::Run,
    };
    let drained = Cause::NodeDrained { node: node() };
    let spell = Duration::from_secs(60);
    let clean = Cause::CleanSpell { lasted: spell };
    for (cause, ends) in [
        (lost, true),
        (refused, true),
        (misread, true),
        (failed, true),
        (exited(), true),
        (drained, false),
        (clean, false),
        (Cause::RoomToGrow { data: 2 }, false),
        (Cause::IntervalOff { from: 250, to: 46 }, false),
    ] {
        for unsealed in [23, 24] {
            let standing = Standing {
                tries: &tries,
                unsealed,
                hangs: 0,
                blamed: 0,
                may_async_off: false,
                may_shrink: false,
            };
            let from = first(&cause, &tries);
            let rung = climb(&cause, from, &recovery, &standing);
            let is_over = ends && unsealed == 24;
            assert_eq!(rung, if is_over { Rung::Park } else { from }, "{cause}");
        }
    }
}

#[test]
fn the_gate_is_open_only_for_versions_that_are_known_not_to_hang() {
    let name = node();
    let check = |devices, processes, nccl| {
        gate::check([Site {
            node: &name,
            devices,
            processes,
            nccl,
        }])
    };
    let version = |text: &str| Some(text.parse::<Nccl>().unwrap());
    for open in ["2.10.3", "2.12.12", "2.17.1", "2.27.5+cuda12.9"] {
        assert_eq!(check(8, 8, version(open)), Ok(()), "{open}");
    }
    for shut in ["2.13.0", "2.14.3", "2.16.5"] {
        assert!(
            matches!(check(8, 8, version(shut)), Err(Shut::Hangs { .. })),
            "{shut}"
        );
    }
    assert_eq!(check(8, 8, None), Err(Shut::Unknown(node())));
    assert_eq!(check(0, 8, version("2.27.5")), Err(Shut::NoDevice(node())));
    assert_eq!(
        check(4, 8, version("2.27.5")),
        Err(Shut::SharedDevice(node()))
    );
    for bad in ["", "2.27", "2.x.1", "2.1.2.3"] {
        assert!(bad.parse::<Nccl>().is_err(), "{bad:?}");
    }
}

#[test]
fn suspects_share_the_smallest_group_that_holds_them_all() {
    let bloom = Layout {
        tensor: 4,
        pipeline: 12,
        data: 8,
    };
    let shared = |ranks: &[u32]| {
        let ranks: Vec<_> = ranks.iter().copied().map(Rank).collect();
        evict::shared(bloom, &ranks).map(|(group, ranks)| (group, ranks.len()))
    };
    assert_eq!(shared(&[5, 6]), Some((Group::Tensor, 4)));
    assert_eq!(shared(&[1, 5]), Some((Group::Data, 8)));
    assert_eq!(shared(&[1, 33, 353]), Some((Group::Pipeline, 12)));
    assert_eq!(shared(&[1, 34]), None, "another copy, another stage");
    assert_eq!(shared(&[1]), None);
    let alone = Layout {
        tensor: 2,
        pipeline: 1,
        data: 1,
    };
    assert_eq!(
        evict::shared(alone, &[Rank(0), Rank(1)]),
        None,
        "that is everybody"
    );
}

#[test]
fn a_run_shrinks_to_copies_that_keep_its_batch_and_grows_back_to_what_it_had() {
    let mut spec = spec::spec();
    spec.layout.data = 8;
    (spec.train.global_batch, spec.train.micro_batch) = (48, 2);
    let copies = |layouts: Vec<Layout>| layouts.iter().map(|l| l.data).collect::<Vec<_>>();
    assert_eq!(
        copies(shape::smaller(&spec, spec.layout)),
        [0; 0],
        "not allowed"
    );
    spec.elastic = Some(Elastic {
        min_data: 2,
        wait: 1.0,
    });
    assert_eq!(copies(shape::smaller(&spec, spec.layout)), [6, 4, 3, 2]);
    let full = spec.layout;
    let now = Layout { data: 3, ..full };
    assert_eq!(copies(shape::larger(&spec, now, full)), [8, 6, 4]);
    assert_eq!(copies(shape::smaller(&spec, now)), [2]);
}

#[test]
fn rungs_groups_and_versions_have_names() {
    for rung in Rung::ALL {
        assert_eq!(rung.name(), format!("{rung:?}"));
    }
    let groups = [Group::Tensor, Group::Pipeline, Group::Data].map(|group| group.to_string());
    assert_eq!(groups, ["tensor group", "pipeline group", "data group"]);
    assert_eq!(Nccl(2, 27, 5).to_string(), "2.27.5");
}
