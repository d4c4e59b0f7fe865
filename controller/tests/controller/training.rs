//! A run from its submission to its end, as agents and admins see it.

use crate::fleet::*;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{CheckpointState, NodeState, NodeView, RunState};
use rebloom_core::id::{Rank, Step};
use rebloom_core::report::{Finish, Milestone, RankEvent, Report};
use rebloom_proto::admin::CheckpointVerified;
use rebloom_proto::link::{FromAgent, Question, Reply, ToAgent, Verified};
use rebloom_proto::wire;
use std::collections::BTreeSet;
use tokio_stream::StreamExt;
use tonic::Code;

#[tokio::test]
async fn a_run_is_placed_trains_and_completes() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut agents = [server.join("n1").await, server.join("n2").await];
    let mut admin = server.admin().await;
    let nodes = admin
        .list_nodes(wire::ListNodesRequest {})
        .await
        .unwrap()
        .into_inner()
        .nodes;
    let nodes: Vec<NodeView> = nodes
        .into_iter()
        .map(|node| node.try_into().unwrap())
        .collect();
    assert_eq!(nodes.len(), 2);
    assert!(nodes.iter().all(|node| node.state == NodeState::Ready));

    admin.submit_run(submission(spec("bloom"))).await.unwrap();
    let mut starts = Vec::new();
    for agent in &mut agents {
        starts.push(agent.start_order().await);
    }
    let ranks: BTreeSet<_> = starts
        .iter()
        .flat_map(|s| s.seats.iter().map(|s| s.rank))
        .collect();
    assert_eq!(ranks, (0..4).map(Rank).collect());
    assert!(starts.iter().all(|start| *start.gang.spec == spec("bloom")));
    // A name is given once.
    let refused = admin
        .submit_run(submission(spec("bloom")))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);

    for milestone in [
        Milestone::Going,
        Milestone::Formed,
        Milestone::Loaded,
        Milestone::Stepped,
    ] {
        for (agent, start) in agents.iter_mut().zip(&starts) {
            agent.reach(start, milestone).await;
        }
    }
    assert_eq!(server.run("bloom").await.state, RunState::Running);
    server
        .until_metric("rebloom_run_state{run=\"bloom\",state=\"Running\"} 1")
        .await;
    server
        .until_metric("rebloom_nodes{state=\"Ready\"} 2")
        .await;
    server.until_metric("rebloom_links 2").await;

    for (agent, start) in agents.iter_mut().zip(&starts) {
        for seat in &start.seats {
            let (why, state) = (Finish::Completed, digest(seat.rank.0 as u8));
            let event = RankEvent::Finished {
                why,
                step: Step(30),
                state,
            };
            let sequence = agent.report(rank_report(start, seat.rank, event)).await;
            agent.acked(sequence).await;
        }
    }
    // Done is done once what was trained is sealed.
    let id = CheckpointId {
        step: Step(30),
        generation: starts[0].gang.generation,
    };
    for (agent, start) in agents.iter_mut().zip(&starts) {
        for seat in &start.seats {
            let sequence = agent.report(shard_saved(start, 30, seat.rank)).await;
            agent.acked(sequence).await;
        }
    }
    assert_eq!(server.run("bloom").await.state, RunState::Running);
    let host = agents
        .iter_mut()
        .find(|agent| agent.node == starts[0].gang.store_node)
        .unwrap();
    let manifest = host.seal_order().await;
    assert_eq!((manifest.id, manifest.samples), (id, 240));
    assert_eq!(
        manifest.shards,
        (0..4).map(|rank| shard(Rank(rank))).collect::<Vec<_>>()
    );
    let sealed = Report::Sealed {
        run: manifest.run,
        checkpoint: id,
        error: None,
    };
    let sequence = host.report(sealed).await;
    host.acked(sequence).await;

    let done = server.run("bloom").await;
    assert_eq!(done.state, RunState::Completed);
    assert_eq!(done.checkpoints, [(id, CheckpointState::Sealed)]);
    assert_eq!(done.final_states, (0..4).map(digest).collect::<Vec<_>>());
    server
        .until_metric("rebloom_checkpoints{run=\"bloom\",state=\"Sealed\"} 1")
        .await;

    // Anybody may ask whether it is sound.
    let request = wire::VerifyCheckpointRequest {
        run: "bloom".to_owned(),
        checkpoint: None,
    };
    let asking = tokio::spawn(async move { admin.verify_checkpoint(request).await });
    let asked = |message| match message {
        ToAgent::Question { id, question } => Some((id, question)),
        _ => None,
    };
    let (question, reader) = {
        let [one, two] = &mut agents;
        tokio::select! {
            asked = one.until(asked) => (asked, 0),
            asked = two.until(asked) => (asked, 1),
        }
    };
    assert!(
        matches!(question.1, Question::VerifyCheckpoint { checkpoint, .. } if checkpoint == id)
    );
    let problems = vec![Unsound::Hash {
        file: shard(Rank(2)).file,
    }];
    let reply = Ok(Reply::Verified(Verified {
        shards: 4,
        bytes: 4000,
        problems,
    }));
    agents[reader]
        .say(FromAgent::Reply {
            id: question.0,
            reply,
        })
        .await;
    let found: CheckpointVerified = asking
        .await
        .unwrap()
        .unwrap()
        .into_inner()
        .try_into()
        .unwrap();
    assert_eq!(
        (found.checkpoint, found.node),
        (id, agents[reader].node.clone())
    );
    assert_eq!(found.verified.problems.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_bad_spec_is_refused_with_every_field_named() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut bad = spec("bloom");
    bad.layout.tensor = 3;
    bad.layout.pipeline = 9;
    let status = server
        .admin()
        .await
        .submit_run(submission(bad))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for part in ["layout.tensor: 3", "layout.pipeline: 9"] {
        assert!(status.message().contains(part), "{}", status.message());
    }
    let request = wire::GetRunRequest {
        run: "bloom".to_owned(),
    };
    let status = server.admin().await.get_run(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_watcher_sees_what_changes() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut admin = server.admin().await;
    let watched = admin
        .watch_cluster(wire::WatchClusterRequest {})
        .await
        .unwrap();
    let mut watched = watched.into_inner();
    assert!(watched.next().await.unwrap().unwrap().nodes.is_empty());
    let _agent = server.join("n1").await;
    loop {
        let seen = watched.next().await.unwrap().unwrap();
        if let [only] = &*seen.nodes {
            let only: NodeView = only.clone().try_into().unwrap();
            assert_eq!(only.facts.node, node("n1"));
            break;
        }
    }
    let request = wire::WatchRunRequest {
        run: "none".to_owned(),
    };
    assert_eq!(
        admin.watch_run(request).await.unwrap_err().code(),
        Code::NotFound
    );
    server.stop().await;
}

#[tokio::test]
async fn questions_reach_the_agent_that_knows() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut agents = [server.join("n1").await, server.join("n2").await];
    let mut admin = server.admin().await;
    admin.submit_run(submission(spec("bloom"))).await.unwrap();
    let mut starts = Vec::new();
    for agent in &mut agents {
        starts.push(agent.start_order().await);
    }
    let rank = starts[1].seats[0].rank;
    let request = wire::ReadLogRequest {
        run: "bloom".to_owned(),
        rank: rank.0,
        previous: false,
        tail_lines: 7,
        follow: false,
    };
    let mut lines = admin.read_log(request.clone()).await.unwrap().into_inner();
    let asked = |message| match message {
        ToAgent::Question { id, question } => Some((id, question)),
        _ => None,
    };
    let parts = [(100, 7, 100, "hello ", true), (106, 0, 106, "world", false)];
    for (n, (asked_offset, tail, from, data, more)) in parts.into_iter().enumerate() {
        let (id, question) = agents[1].until(asked).await;
        let Question::ReadLog {
            rank: of,
            offset,
            tail_lines,
            ..
        } = question
        else {
            panic!()
        };
        let asked_offset = if n == 0 { 0 } else { asked_offset };
        assert_eq!((of, offset, tail_lines), (rank, asked_offset, tail));
        let part = Reply::LogPart {
            offset: from,
            data: data.into(),
            more,
        };
        agents[1]
            .say(FromAgent::Reply {
                id,
                reply: Ok(part),
            })
            .await;
        assert_eq!(lines.next().await.unwrap().unwrap().data, data.as_bytes());
    }
    assert!(lines.next().await.is_none());

    // The agent says no; then it goes away with the question.
    let mut lines = admin.read_log(request.clone()).await.unwrap().into_inner();
    let (id, _) = agents[1].until(asked).await;
    agents[1]
        .say(FromAgent::Reply {
            id,
            reply: Err("no such file".to_owned()),
        })
        .await;
    let status = lines.next().await.unwrap().unwrap_err();
    assert!(
        status.message().contains("n2: no such file"),
        "{}",
        status.message()
    );
    let mut lines = admin.read_log(request).await.unwrap().into_inner();
    agents[1].until(asked).await;
    let [first, second] = agents;
    drop(second);
    let status = lines.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
    drop(first);

    let request = wire::VerifyCheckpointRequest {
        run: "bloom".to_owned(),
        checkpoint: None,
    };
    let status = admin.verify_checkpoint(request).await.unwrap_err();
    assert_eq!(status.message(), "run bloom has no sealed checkpoint");
    server.stop().await;
}
