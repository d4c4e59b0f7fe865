//! The two hangs of BLOOM's chronicle that people solved by reading stacks: as the flight pages would have shown
//! them, through the engine, from the first overdue rank to the order that ends the culprit.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{RunState, Rung};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_core::layout::{Coordinates, Layout};
use rebloom_core::order::Order;
use rebloom_core::report::RankEvent;
use rebloom_core::time::Duration;

/// Every rank has done ten operations in each channel and waits in the eleventh of the one that is said; none is
/// by itself.
fn stand(
    world: &mut World,
    run: &RunId,
    layout: Layout,
    place: impl Fn(Rank, Coordinates) -> Option<Channel>,
) {
    world.for_each_process(run, |rank, process| {
        let at = place(rank, layout.coordinates(rank));
        for channel in Channel::ALL {
            let entered = 10 + u64::from(at == Some(channel));
            count(&mut process.page, channel, entered, 10);
        }
    });
}

/// One rank after the other is overdue, as their agents see it; the culprit must be named, killed and replaced.
fn is_solved(mut world: World, run: &RunId, (culprit, waits): (Rank, Rank)) {
    world.pass(Duration::from_secs(60));
    let phase = Phase::Step;
    world.rank_event(run, waits.0, RankEvent::Overdue { phase, step: None });
    assert_eq!(
        world.generation(run),
        Generation(1),
        "every node shows its pages first"
    );
    let seated = world.view(run).ranks[culprit.0 as usize].seating.clone();
    world.pass(Duration::from_secs(2));
    let view = world.view(run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    let expected = Cause::RankHung {
        rank: culprit,
        node: seated.node.clone(),
        phase,
        channel: Some(Channel::Tensor),
    };
    assert_eq!(view.incidents.len(), 1);
    assert_eq!(view.incidents[0].cause, expected);
    assert_eq!(view.incidents[0].rung, Some(Rung::Reform));
    let killed = world.orders.iter().filter_map(|(node, order)| match order {
        Order::Kill { rank, .. } => Some((node.clone(), *rank)),
        _ => None,
    });
    assert_eq!(killed.collect::<Vec<_>>(), [(seated.node, culprit)]);
}

/// 2022-04-30, iteration 45,000: eighteen hours were lost. Four ranks were in the broadcast of a pipeline's scalar, one
/// in its data loader, its three partners in the broadcast of keys, four in an all-reduce and four in a receive.
#[test]
fn one_rank_in_its_data_loader_holds_sixteen() {
    let layout = Layout {
        tensor: 4,
        pipeline: 2,
        data: 2,
    };
    let (mut world, run) = World::running(&[4, 4, 4, 4], spec("bloom", 4, 2, 2));
    let loader = Coordinates {
        tensor: 1,
        stage: 0,
        data: 1,
    };
    stand(&mut world, &run, layout, |_, at| {
        match (at.stage, at.data) {
            (0, 0) => Some(Channel::World),
            (0, _) => (at != loader).then_some(Channel::Tensor),
            (_, 0) => Some(Channel::Data),
            (_, _) => Some(Channel::ForwardIn),
        }
    });
    is_solved(world, &run, (layout.rank(loader), Rank(0)));
}

/// 2022-05-18: eight ranks of one node in a broadcast; on another four in a send and four in a broadcast; eight in an
/// all-reduce; on the last four in an all-reduce, three in the broadcast of keys, and one that waits for a worker
/// of its data loader, which had inherited a lock that nobody would ever release.
#[test]
fn one_rank_with_an_inherited_lock_holds_forty_eight() {
    let layout = Layout {
        tensor: 4,
        pipeline: 3,
        data: 4,
    };
    let (mut world, run) = World::running(&[8; 6], spec("bloom", 4, 3, 4));
    let locked = Coordinates {
        tensor: 2,
        stage: 1,
        data: 2,
    };
    stand(&mut world, &run, layout, |_, at| {
        match (at.stage, at.data) {
            (1, 2) => (at != locked).then_some(Channel::Tensor),
            (0, 2) => Some(Channel::ForwardOut),
            (2, 2) => Some(Channel::ForwardIn),
            (0, 3) => Some(Channel::World),
            (_, _) => Some(Channel::Data),
        }
    });
    is_solved(world, &run, (layout.rank(locked), Rank(0)));
}

/// Where who waits for whom leaves several, the one of them that stands somewhere else is named: two ranks did
/// not come to the step, and one of these is not where its like are.
#[test]
fn of_several_that_are_waited_for_the_one_that_stands_elsewhere_is_named() {
    for stands_out in [true, false] {
        let layout = Layout {
            tensor: 4,
            pipeline: 1,
            data: 1,
        };
        let (mut world, run) = World::running(&[4], spec("bloom", 4, 1, 1));
        stand(&mut world, &run, layout, |rank, _| {
            let waits = rank.0 < 2 || (stands_out && rank.0 == 2);
            waits.then_some(if rank.0 < 2 {
                Channel::Tensor
            } else {
                Channel::World
            })
        });
        world.pass(Duration::from_secs(60));
        let (phase, step) = (Phase::Step, None);
        world.rank_event(&run, 0, RankEvent::Overdue { phase, step });
        world.pass(Duration::from_secs(2));
        let cause = &world.view(&run).incidents[0].cause;
        let named = matches!(cause, Cause::RankHung { rank: Rank(3), .. });
        assert_eq!(named, stands_out, "{cause:?}");
    }
}
