//! What an agent does unasked or against a rank: fences, deadlines and kills.

use crate::agent::*;
use rebloom_core::cause::Cause;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::flight::{Page, Phase, Sighting};
use rebloom_core::id::{Digest, Generation, Rank, Step};
use rebloom_core::order::Order;
use rebloom_core::supervisor::Event;
use rebloom_core::time::Duration;
use rebloom_core::word::FromWorker;

/// S1: a node without a controller fences itself, and says so when it is back.
#[test]
fn orphans_are_fenced_also_across_lives() {
    let mut agent = Agent::running();
    agent.tell(Event::LinkDown);
    let due = NOW + Duration::from_secs(60);
    let early = agent.wait_until(due - Duration::from_nanos(1));
    assert_eq!(early, ["read"], "it trains on for as long as it may");
    let orphaned = agent.wait_until(due);
    assert_eq!(orphaned, ["fence 0 below 2", "fence 1 below 2", "remember"]);
    assert_eq!(agent.hello(0, 10, 0), [""; 0], "no go below its fence");
    let reports = [
        "1: rank 0 g1 Failed Infrastructure",
        "2: rank 1 g1 Failed Infrastructure",
    ];
    let fences = ["fence 0 below 2", "fence 1 below 2"];
    let mut next = Agent::of(agent.memory.clone());
    let again = next.tell_at(due, Event::LinkUp);
    assert_eq!(again[..2], fences, "the page may not have been written");
    assert_eq!(
        again[4..],
        reports,
        "what an agent knew, its next life says"
    );
    assert_eq!(agent.tell_at(due, Event::LinkUp), reports);

    let mut lost = Agent::running().again();
    let orphaned = lost.wait_until(due);
    assert!(
        orphaned.starts_with(&["open 1".into(), "route 1".into()]),
        "{orphaned:?}"
    );
    assert!(
        orphaned.contains(&"fence 0 below 2".to_owned()),
        "a next life counts from the last link"
    );
}

/// S1: a worker whose agent dies while it is cut off must not count from that death.
#[test]
fn ranks_know_when_a_controller_was_last_there() {
    let mut agent = Agent::running();
    let both = |at| vec![(Rank(0), at), (Rank(1), at)];
    assert_eq!(agent.heard, both(NOW), "said after the hello");
    let said = |agent: &mut Agent, seconds| {
        agent.heard.clear();
        let now = NOW + Duration::from_secs(seconds);
        agent.wait_until(now);
        (now, std::mem::take(&mut agent.heard))
    };
    assert_eq!(said(&mut agent, 7).1, [], "an eighth of a minute is longer");
    let (now, again) = said(&mut agent, 8);
    assert_eq!(again, both(now));
    agent.tell_at(now, Event::LinkDown);
    assert_eq!(said(&mut agent, 30).1, [], "nobody is there");
    let now = NOW + Duration::from_secs(31);
    agent.tell_at(now, Event::LinkUp);
    assert_eq!(agent.heard, both(now));
    agent.tell_at(now, Event::LinkDown);
    agent.heard.clear();
    agent.hello(1, 11, 1);
    assert_eq!(agent.heard, [(Rank(1), now)], "the last time, not this one");
}

/// S1: what waited for an agent that did not run may be orders of a generation that is over.
#[test]
fn an_agent_that_slept_trusts_neither_its_link_nor_what_came_over_it() {
    let mut agent = Agent::linked();
    agent.wait_until(NOW + Duration::from_secs(1));
    let now = NOW + Duration::from_secs(90);
    let start = Event::Order(Order::Start(start(1, &[0])));
    let woken = agent.sleep_until(now, start);
    assert_eq!(woken[0], "rejoin");
    assert!(
        !woken.iter().any(|act| act.starts_with("spawn")),
        "{woken:?}"
    );
    assert_eq!(
        agent.tell_at(now, Event::LinkUp),
        ["rejoin"],
        "that may have waited as well"
    );
    agent.tell_at(now, Event::LinkDown);
    let again = agent.tell_at(now + Duration::from_secs(1), Event::LinkUp);
    assert!(
        again.iter().any(|act| act.starts_with("spawn")),
        "{again:?}"
    );
}

#[test]
fn a_missed_deadline_is_said_once_and_with_the_pages() {
    let mut agent = Agent::running();
    let page = |rank, phase, deadline: u64| {
        let deadline = Some(NOW + Duration::from_secs(deadline));
        let page = Page {
            generation: Generation(1),
            phase,
            deadline,
            ..Page::default()
        };
        (
            run(),
            Sighting {
                rank: Rank(rank),
                page,
            },
        )
    };
    assert_eq!(agent.wait_until(NOW + Duration::from_secs(1)), ["read"]);
    let later = NOW + Duration::from_secs(10);
    let pages = vec![page(0, Phase::Step, 9), page(1, Phase::Step, 11)];
    let seen = agent.tell_at(later, Event::Pages(pages.clone()));
    assert_eq!(seen, ["1: rank 0 g1 overdue in step", "beat 1"]);
    assert_eq!(agent.tell_at(later, Event::Pages(pages)), ["beat 1"]);
    let init = NOW + Duration::from_secs(61);
    let unmoved = (
        run(),
        Sighting {
            rank: Rank(1),
            page: Page::default(),
        },
    );
    let seen = agent.tell_at(init, Event::Pages(vec![page(0, Phase::Save, 99), unmoved]));
    assert_eq!(
        seen,
        ["2: rank 1 g1 overdue in init", "beat 1"],
        "a go that was never taken up"
    );
}

#[test]
fn an_adopted_rank_that_says_nothing_is_overdue() {
    let mut agent = Agent::running().again();
    agent.tell(Event::LinkUp);
    agent.hello(1, 11, 1);
    let idle = |rank| {
        let page = Page {
            generation: Generation(1),
            ..Page::default()
        };
        (
            run(),
            Sighting {
                rank: Rank(rank),
                page,
            },
        )
    };
    assert_eq!(agent.tell(Event::Pages(vec![idle(0), idle(1)])), ["beat 1"]);
    let init = NOW + Duration::from_secs(60);
    assert_eq!(
        agent.tell_at(init, Event::Pages(vec![idle(0), idle(1)])),
        ["1: rank 0 g1 overdue in idle", "beat 1"]
    );
}

#[test]
fn a_blamed_rank_is_killed_once() {
    let mut agent = Agent::running();
    let kill = || {
        let (generation, cause) = (
            Generation(1),
            Cause::GangHung {
                phase: Phase::Step,
                suspects: Vec::new(),
                group: None,
            },
        );
        Event::Order(Order::Kill {
            run: run(),
            generation,
            rank: Rank(1),
            cause,
        })
    };
    assert_eq!(agent.tell(kill()), ["kill 1 pid 11"]);
    assert_eq!(agent.tell(kill()), [""; 0]);
    let restarted = agent.order_start(2, &[0, 1]);
    assert_eq!(
        restarted[3..],
        ["fence 0 below 2", "tell 0 go 2", "fence 1 below 2"]
    );
    let exited = agent.exit(1, 11);
    assert_eq!(
        exited,
        ["1: rank 1 g1 SIGKILL", "remember", "spawn 1 slot 1 for 2"]
    );
    let not_started = Event::NotStarted {
        run: run(),
        rank: Rank(0),
        error: "e".into(),
    };
    assert_eq!(
        agent.tell(not_started),
        [""; 0],
        "nothing was being started"
    );
}

/// The loss of a checkpoint's step is on its page: it is read before the checkpoint can be sealed.
#[test]
fn pages_are_read_when_a_shard_is_saved() {
    let mut agent = Agent::running();
    assert_eq!(agent.wait_until(NOW), ["read"]);
    assert_eq!(agent.wait_until(NOW), [""; 0]);
    let word = FromWorker::Saved {
        checkpoint: CheckpointId {
            step: Step(20),
            generation: Generation(1),
        },
        samples: 160,
        shard: Shard {
            rank: Rank(0),
            file: "rank-00000.safetensors".to_owned(),
            bytes: 8,
            hash: Digest([1; 32]),
        },
    };
    let said = agent.say(0, 10, word);
    assert_eq!(said, ["1: shard of 0"]);
    assert_eq!(agent.wait_until(NOW), ["read"]);
}
