//! Nothing is acknowledged, answered or ordered before it is in the journal.

use crate::fleet::*;
use rebloom_controller::Error;
use rebloom_core::engine::{RunState, RunView};
use rebloom_core::id::{Rank, Step};
use rebloom_core::order::Order;
use rebloom_core::report::{Milestone, RankEvent, RankStatus, Remembered};
use rebloom_proto::link::ToAgent;
use rebloom_proto::wire;
use rebloom_runtime::journal::{self, Journal, Replay, Sled};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc as async_mpsc;
use tokio::time::timeout;

/// A journal whose writes wait for the test, or fail.
struct Gate {
    below: Sled,
    begun: async_mpsc::UnboundedSender<()>,
    go_on: mpsc::Receiver<bool>,
    armed: Arc<AtomicBool>,
    durable: Arc<AtomicBool>,
}

impl Journal for Gate {
    fn replay(&mut self) -> Result<Replay, journal::Error> {
        self.below.replay()
    }
    fn append(&mut self, records: &[Vec<u8>]) -> Result<(), journal::Error> {
        if self.armed.load(Ordering::SeqCst) {
            self.begun.send(()).unwrap();
            if !self.go_on.recv().unwrap() {
                return Err(journal::Error::Stopped);
            }
        }
        self.below.append(records)?;
        self.durable.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn snapshot(&mut self, state: &[u8]) -> Result<(), journal::Error> {
        self.below.snapshot(state)
    }
    fn vouch(&mut self) -> Result<(), journal::Error> {
        self.below.vouch()
    }
}

struct Control {
    begun: async_mpsc::UnboundedReceiver<()>,
    go_on: mpsc::Sender<bool>,
    armed: Arc<AtomicBool>,
    durable: Arc<AtomicBool>,
}

impl Control {
    /// From now on writes wait.
    fn arm(&self) {
        self.durable.store(false, Ordering::SeqCst);
        self.armed.store(true, Ordering::SeqCst);
    }
}

fn gate(directory: &std::path::Path) -> (Gate, Control) {
    let (begin, begun) = async_mpsc::unbounded_channel();
    let (let_go, go_on) = mpsc::channel();
    let (armed, durable) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let below = Sled::open(&directory.join("journal")).unwrap();
    let gate = Gate {
        below,
        begun: begin,
        go_on,
        armed: armed.clone(),
        durable: durable.clone(),
    };
    (
        gate,
        Control {
            begun,
            go_on: let_go,
            armed,
            durable,
        },
    )
}

#[tokio::test]
async fn a_report_is_acknowledged_when_it_is_on_disk() {
    let cluster = cluster();
    let (journal, mut control) = gate(cluster.path());
    let server = Server::with_journal(cluster.path(), journal).await;
    let mut agents = [server.join("n1").await, server.join("n2").await];
    server
        .admin()
        .await
        .submit_run(submission(spec("bloom")))
        .await
        .unwrap();
    let start = agents[0].start_order().await;

    control.arm();
    let event = RankEvent::Reached {
        milestone: Milestone::Going,
        step: Step(0),
        pid: 77,
    };
    let sequence = agents[0]
        .report(rank_report(&start, start.seats[0].rank, event))
        .await;
    tokio::select! {
        biased;
        early = agents[0].next() => panic!("{early:?} before the journal was written"),
        begun = timeout(PATIENCE, control.begun.recv()) => begun.unwrap().unwrap(),
    }
    // While the disk is slow a second report comes; the two are acknowledged in order.
    let second = agents[0].report(stale()).await;
    assert!(!control.durable.load(Ordering::SeqCst));
    control.armed.store(false, Ordering::SeqCst);
    control.go_on.send(true).unwrap();
    assert_eq!(agents[0].next().await.unwrap(), ToAgent::Ack(sequence));
    assert!(control.durable.load(Ordering::SeqCst));
    assert_eq!(agents[0].next().await.unwrap(), ToAgent::Ack(second));
    server.stop().await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_ends_the_controller() {
    let cluster = cluster();
    let (journal, mut control) = gate(cluster.path());
    let server = Server::with_journal(cluster.path(), journal).await;
    let mut agents = [server.join("n1").await, server.join("n2").await];
    let mut admin = server.admin().await;
    control.arm();
    let submitting = tokio::spawn(async move { admin.submit_run(submission(spec("bloom"))).await });
    timeout(PATIENCE, control.begun.recv())
        .await
        .unwrap()
        .unwrap();
    control.go_on.send(false).unwrap();
    assert!(matches!(server.ended().await, Err(Error::Journal(_))));
    submitting.await.unwrap().unwrap_err();
    // Nothing went out: the next thing each agent hears is the end.
    for agent in &mut agents {
        agent.next().await.unwrap_err();
    }
    // And nothing was kept.
    let server = Server::start(cluster.path()).await;
    let runs = server
        .admin()
        .await
        .list_runs(wire::ListRunsRequest {})
        .await
        .unwrap();
    assert!(runs.into_inner().runs.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_new_life_goes_on_where_the_old_one_ended() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut agents = [server.join("n1").await, server.join("n2").await];
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
    // A checkpoint is half saved, and a snapshot is written of that.
    let first = starts[0].seats[0].rank;
    let sequence = agents[0].report(shard_saved(&starts[0], 5, first)).await;
    agents[0].acked(sequence).await;
    let mut admin = server.admin().await;
    for _ in 0..8 {
        let node = "n2".to_owned();
        admin
            .cordon(wire::CordonRequest { node: node.clone() })
            .await
            .unwrap();
        admin
            .uncordon(wire::UncordonRequest { node })
            .await
            .unwrap();
    }
    let before = server.run("bloom").await;
    server.stop().await;
    for agent in &mut agents {
        agent.closed().await;
    }
    let files = std::fs::read_dir(cluster.path().join("journal")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().any(|name| name.starts_with("snapshot-")));

    let server = Server::start(cluster.path()).await;
    let after = server.run("bloom").await;
    assert_eq!(after.spec, before.spec);
    assert_eq!(
        (after.state, after.generation),
        (RunState::Running, before.generation)
    );
    let seated = |view: &RunView| -> Vec<_> {
        view.ranks
            .iter()
            .map(|rank| (rank.seating.clone(), rank.pid, rank.milestone))
            .collect()
    };
    assert_eq!(seated(&after), seated(&before));
    assert_eq!(
        (after.submitted, after.why),
        (before.submitted, before.why.clone())
    );
    let mut agents = Vec::new();
    for (name, start) in ["n1", "n2"].into_iter().zip(&starts) {
        let mut agent = server.attach(name).await;
        let ranks = start.seats.iter().map(|seat| RankStatus {
            rank: seat.rank,
            pid: 1000 + seat.rank.0,
            generation: start.gang.generation,
            milestone: Milestone::Stepped,
        });
        let remembered = Remembered {
            run: start.gang.spec.name.clone(),
            generation: start.gang.generation,
            ranks: ranks.collect(),
            snapshots: Vec::new(),
            sealed: vec![],
        };
        agent.join(vec![remembered]).await.unwrap();
        // No new generation is ordered before the answer to what is said next.
        let sequence = agent.report(stale()).await;
        loop {
            match agent.next().await.unwrap() {
                ToAgent::Ack(acked) => break assert_eq!(acked, sequence),
                ToAgent::Order(Order::Start(again)) => {
                    assert_eq!(again.gang.generation, start.gang.generation);
                }
                other => panic!("{other:?}"),
            }
        }
        agents.push(agent);
    }
    // The other half is saved, and the whole is sealed.
    for (agent, start) in agents.iter_mut().zip(&starts) {
        for seat in start.seats.iter().filter(|seat| seat.rank != first) {
            let sequence = agent.report(shard_saved(start, 5, seat.rank)).await;
            agent.acked(sequence).await;
        }
    }
    let host = agents
        .iter_mut()
        .find(|agent| agent.node == starts[0].gang.store_node)
        .unwrap();
    let manifest = host.seal_order().await;
    assert_eq!((manifest.id.step, manifest.samples), (Step(5), 40));
    assert_eq!(
        manifest.shards,
        (0..4).map(|rank| shard(Rank(rank))).collect::<Vec<_>>()
    );
    server.stop().await;
}
