//! A controller that comes back with an older journal: the machine lost its power, not the process
//! its life. It takes the truth from the agents before it commands anything.

use crate::fleet::*;
use rebloom_core::cause::Exit;
use rebloom_core::engine::RunState;
use rebloom_core::id::Generation;
use rebloom_core::order::{Order, Start};
use rebloom_core::report::{Milestone, RankEvent, RankStatus, Remembered};
use rebloom_proto::link::ToAgent;
use rebloom_runtime::journal::Sled;
use std::fs;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What an agent tells on joining: these ranks run.
fn remembers(start: &Start, milestone: Milestone) -> Vec<Remembered> {
    let ranks = start.seats.iter().map(|seat| RankStatus {
        rank: seat.rank,
        pid: 1000 + seat.rank.0,
        generation: start.gang.generation,
        milestone,
    });
    vec![Remembered {
        run: start.gang.spec.name.clone(),
        generation: start.gang.generation,
        ranks: ranks.collect(),
        snapshots: Vec::new(),
        sealed: vec![],
    }]
}

/// What the agent is ordered before the answer to what it says next.
async fn orders_so_far(agent: &mut Agent) -> Vec<Order> {
    let sequence = agent.report(stale()).await;
    let mut orders = Vec::new();
    loop {
        match agent.next().await.unwrap() {
            ToAgent::Ack(acked) => {
                assert_eq!(acked, sequence);
                return orders;
            }
            ToAgent::Order(order) => orders.push(order),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn after_a_power_cut_the_agents_are_heard_before_anything_is_placed() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut agents = vec![server.join("n1").await, server.join("n2").await];
    let spare = server.join("n3").await;
    server
        .admin()
        .await
        .submit_run(submission(spec("bloom")))
        .await
        .unwrap();
    let mut starts = Vec::new();
    for agent in &mut agents {
        starts.push(agent.start_order().await);
    }
    for milestone in [Milestone::Formed, Milestone::Loaded, Milestone::Stepped] {
        for (agent, start) in agents.iter_mut().zip(&starts) {
            agent.reach(start, milestone).await;
        }
    }
    server.stop().await;
    drop((agents, spare));
    let older = cluster.path().join("older");
    copy(&cluster.path().join("journal"), &older);

    // The run goes on to its second generation, of which the older journal knows nothing.
    let server = Server::start(cluster.path()).await;
    let mut agents = Vec::new();
    for (name, start) in ["n1", "n2"].into_iter().zip(&starts) {
        let mut agent = server.attach(name).await;
        agent
            .join(remembers(start, Milestone::Stepped))
            .await
            .unwrap();
        agents.push(agent);
    }
    let exited = RankEvent::Exited {
        exit: Exit::Signal(9),
        noticed_after_nanos: None,
    };
    let rank = starts[0].seats[0].rank;
    agents[0]
        .report(rank_report(&starts[0], rank, exited))
        .await;
    for (agent, start) in agents.iter_mut().zip(&mut starts) {
        *start = agent.start_order().await;
        assert_eq!(start.gang.generation, Generation(2));
    }
    server.stop().await;
    drop(agents);

    let journal = Sled::open_under(&older, "another-boot").unwrap();
    let server = Server::with_journal(cluster.path(), journal).await;
    let stamp = || fs::read_to_string(older.join("boot")).unwrap();
    let view = server.run("bloom").await;
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(1)),
        "the journal is the older one"
    );
    let mut agents = Vec::new();
    for (name, start) in ["n1", "n2"].into_iter().zip(&starts) {
        let mut agent = server.attach(name).await;
        agent
            .join(remembers(start, Milestone::Going))
            .await
            .unwrap();
        agents.push(agent);
        // One of the nodes has not spoken yet: it might run what nobody else knows of.
        for agent in &mut agents {
            assert_eq!(orders_so_far(agent).await, []);
        }
        assert_ne!(stamp(), "another-boot\n");
    }
    let spare = server.join("n3").await;
    for (agent, start) in agents.iter_mut().zip(&starts) {
        let again = agent.start_order().await;
        assert!(
            again.gang.generation > start.gang.generation,
            "{} after {}",
            again.gang.generation,
            start.gang.generation
        );
    }
    assert_eq!(
        stamp(),
        "another-boot\n",
        "what was lost is in the journal again"
    );
    server.stop().await;
    drop((agents, spare));
}

#[tokio::test]
async fn a_doubt_outlives_the_controller_that_had_it() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let agents = [server.join("n1").await, server.join("n2").await];
    server.stop().await;
    drop(agents);
    let start = async || {
        let journal = cluster.path().join("journal");
        let journal = Sled::open_under(&journal, "another-boot").unwrap();
        Server::with_journal(cluster.path(), journal).await
    };
    // One node has room for it.
    let mut small = spec("bloom");
    small.layout.data = 1;

    let server = start().await;
    let mut agent = server.join("n1").await;
    server
        .admin()
        .await
        .submit_run(submission(small))
        .await
        .unwrap();
    assert_eq!(orders_so_far(&mut agent).await, []);
    server.stop().await;
    drop(agent);

    let server = start().await;
    let mut agent = server.join("n1").await;
    assert_eq!(orders_so_far(&mut agent).await, []);
    let other = server.join("n2").await;
    agent.start_order().await;
    server.stop().await;
    drop(other);
}
