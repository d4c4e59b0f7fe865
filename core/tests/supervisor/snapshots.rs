//! What ranks leave in memory: told of, sent on, handed out again, and dropped when it never came about.

use crate::agent::*;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::id::{Digest, Generation, NodeId, Rank, Step};
use rebloom_core::order::{Order, Start};
use rebloom_core::snapshot::{Peer, Piece, Recall};
use rebloom_core::spec::Snapshots;
use rebloom_core::supervisor::{Command, Event};
use rebloom_core::word::{FromWorker, ToWorker};
use std::sync::Arc;

fn peer() -> Peer {
    Peer {
        node: NodeId::new("other").expect("a sound name"),
        address: "10.0.0.2:1".to_owned(),
    }
}

fn piece(step: u64, generation: u64, rank: u32) -> Piece {
    Piece {
        checkpoint: CheckpointId {
            step: Step(step),
            generation: Generation(generation),
        },
        layout: start(1, &[0, 1]).gang.spec.layout,
        samples: step * 4,
        shard: Shard {
            rank: Rank(rank),
            file: "r".to_owned(),
            bytes: 1,
            hash: Digest([1; 32]),
        },
    }
}

fn snapping(generation: u64, replica: Option<Peer>) -> Start {
    let mut start = start(generation, &[0, 1]);
    let spec = Arc::make_mut(&mut Arc::make_mut(&mut start.gang).spec);
    spec.checkpoint.snapshot = Some(Snapshots { every_steps: 1 });
    start.replica = replica;
    start
}

fn order(start: Start) -> Event {
    Event::Order(Order::Start(start))
}

/// Ranks 0 and 1 in a generation whose replicas another node keeps, as processes 10 and 11.
fn snapping_agent(replica: Option<Peer>) -> Agent {
    let mut agent = Agent::linked();
    let began = agent.tell(order(snapping(1, replica)));
    assert_eq!(began[0], "drop after 0");
    agent.comes_up(0, 10);
    agent.comes_up(1, 11);
    agent
}

#[test]
fn what_a_rank_leaves_is_told_of_and_sent_to_the_peer_that_keeps_it_too() {
    let mut agent = snapping_agent(Some(peer()));
    let said = agent.say(1, 11, FromWorker::Snapped(piece(3, 1, 1)));
    let sent = "replicate 3 of 1 to other";
    assert_eq!(said, [sent, &format!("1: snapshot 3 of 1 at {}", node())]);
    let kept = agent.tell(Event::Replicated {
        run: run(),
        piece: piece(3, 1, 1),
        at: peer().node,
    });
    assert_eq!(kept, ["2: snapshot 3 of 1 at other"]);
    // Of another process, or of another rank's shard, it is nobody's word.
    let odd = FromWorker::Snapped(piece(4, 1, 1));
    assert_eq!(agent.say(1, 99, odd.clone()), [""; 0]);
    assert_eq!(agent.say(0, 10, odd), [""; 0]);

    let mut alone = snapping_agent(None);
    let said = alone.say(1, 11, FromWorker::Snapped(piece(3, 1, 1)));
    assert_eq!(said, [format!("1: snapshot 3 of 1 at {}", node())]);
}

#[test]
fn a_generation_that_goes_on_from_a_snapshot_drops_what_came_after_and_says_who_has_it() {
    let mut agent = snapping_agent(Some(peer()));
    let mut next = snapping(2, None);
    Arc::make_mut(&mut next.gang).resume = Some(piece(3, 1, 0).checkpoint);
    let from = Some(peer());
    next.snapshot = [(0, None), (1, from)]
        .map(|(rank, from)| Recall {
            piece: piece(3, 1, rank),
            from,
        })
        .to_vec();
    let wanted = next.snapshot.clone();
    agent.supervisor.handle(NOW, order(next));
    let mut goes = Vec::new();
    let mut dropped = None;
    while let Some(command) = agent.supervisor.poll_command() {
        if let Command::DropSnapshots { after, .. } = command {
            assert!(goes.is_empty(), "dropped before anybody loads");
            dropped = Some(after);
        } else if let Command::Tell {
            word: ToWorker::Go(go),
            ..
        } = command
        {
            goes.extend(go.snapshot.map(|recall| *recall));
        }
    }
    assert_eq!((dropped, goes), (Some(Step(3)), wanted));
    // What an older generation was still writing is told of, but no peer gets it.
    let late = agent.say(1, 11, FromWorker::Snapped(piece(5, 1, 1)));
    assert_eq!(late, [format!("1: snapshot 5 of 1 at {}", node())]);
}
