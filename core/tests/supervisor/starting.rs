//! Starts: orders in any order, survivors, fresh processes, and the next life of an agent.

use crate::agent::*;
use rebloom_core::cause::Cause;
use rebloom_core::id::{Generation, Rank, Slot};
use rebloom_core::order::{Order, Seat};
use rebloom_core::supervisor::Event;
use std::sync::Arc;

#[test]
fn an_order_that_comes_twice_or_late_does_nothing() {
    let mut agent = Agent::running();
    assert_eq!(agent.order_start(1, &[0, 1]), [""; 0]);
    agent.order_start(3, &[0, 1]);
    assert_eq!(agent.order_start(2, &[0, 1]), [""; 0]);
    let (generation, cause) = (Generation(2), Cause::Superseded);
    let kill = Order::Kill {
        run: run(),
        generation,
        rank: Rank(0),
        cause,
    };
    assert_eq!(agent.tell(Event::Order(kill)), [""; 0]);
    assert_eq!(agent.supervisor.remembered()[0].generation, Generation(3));
}

#[test]
fn survivors_are_fenced_and_told_and_only_the_lost_rank_is_started() {
    let mut agent = Agent::running();
    assert_eq!(agent.exit(1, 11), ["1: rank 1 g1 SIGKILL", "remember"]);
    assert_eq!(
        agent.order_start(1, &[0, 1]),
        [""; 0],
        "a rank is tried once in a generation"
    );
    assert_eq!(
        agent.order_start(2, &[0, 1]),
        [
            "remember",
            "open 2",
            "route 2",
            "fence 0 below 2",
            "tell 0 go 2",
            "spawn 1 slot 1 for 2"
        ]
    );
    assert_eq!(agent.comes_up(1, 12), ["tell 1 go 2"]);
    assert_eq!(
        agent.exit(1, 11),
        [""; 0],
        "that process is known to be gone"
    );
}

#[test]
fn fresh_processes_wait_for_the_old_ones_to_end() {
    let mut agent = Agent::running();
    let mut fresh = start(2, &[0, 1]);
    Arc::make_mut(&mut fresh.gang).fresh_processes = true;
    assert_eq!(
        agent.tell(Event::Order(Order::Start(fresh))),
        [
            "remember",
            "open 2",
            "route 2",
            "fence 0 below 2",
            "kill 0 pid 10",
            "fence 1 below 2",
            "kill 1 pid 11"
        ]
    );
    let mut next = agent.again();
    assert_eq!(
        next.tell(Event::LinkUp).last().map(String::as_str),
        Some("kill 1 pid 11")
    );
    assert_eq!(
        next.exit(0, 10),
        ["1: rank 0 g1 SIGKILL", "remember", "spawn 0 slot 0 for 2"],
        "also in the agent's next life"
    );
}

/// S2: a slot is free only when its process is gone.
#[test]
fn a_rank_that_moves_waits_for_its_slot() {
    let mut agent = Agent::running();
    let mut swapped = start(2, &[0]);
    let seats = swapped.seats.iter();
    let seats = seats.map(|seat| Seat {
        slot: Slot(1),
        ..*seat
    });
    swapped.seats = seats.collect();
    let commands = agent.tell(Event::Order(Order::Start(swapped)));
    assert_eq!(
        commands[3..],
        [
            "fence 0 below 2",
            "kill 0 pid 10",
            "fence 1 below 2",
            "kill 1 pid 11"
        ]
    );
    assert_eq!(agent.exit(0, 10), ["1: rank 0 g1 SIGKILL", "remember"]);
    assert_eq!(agent.exit(1, 11)[1..], ["remember", "spawn 0 slot 1 for 2"]);
}

#[test]
fn a_next_life_adopts_ranks_and_tells_again_what_was_lost() {
    let mut agent = Agent::linked();
    agent.order_start(1, &[0, 1]);
    let pid = 10;
    agent.tell(Event::Started {
        run: run(),
        rank: Rank(0),
        pid,
        started: 1,
    });
    let mut agent = agent.again();
    assert_eq!(
        agent.supervisor.living().collect::<Vec<_>>(),
        [(run(), Rank(0), 10, 1)]
    );
    assert_eq!(
        agent.tell(Event::LinkUp),
        ["open 1", "route 1"],
        "rank 1 is for the engine to judge"
    );
    let joined = agent.supervisor.remembered();
    assert_eq!(
        joined[0]
            .ranks
            .iter()
            .map(|status| status.rank)
            .collect::<Vec<_>>(),
        [Rank(0)]
    );
    assert_eq!(
        agent.hello(0, 10, 0),
        ["tell 0 go 1"],
        "its go was lost with the agent"
    );
    assert_eq!(agent.hello(0, 10, 1), [""; 0]);
    assert_eq!(
        agent.hello(1, 66, 0),
        ["kill 1 pid 66"],
        "a process that was never written down"
    );
}

#[test]
fn a_hello_may_overtake_the_news_of_its_process() {
    let mut agent = Agent::linked();
    agent.order_start(1, &[0]);
    assert_eq!(agent.hello(0, 10, 0), [""; 0]);
    let started = Event::Started {
        run: run(),
        rank: Rank(0),
        pid: 10,
        started: 1,
    };
    assert_eq!(agent.tell(started), ["remember", "tell 0 go 1"]);
}
