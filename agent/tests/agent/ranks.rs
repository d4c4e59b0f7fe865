//! Ranks under an agent: trained, killed, re-formed, adopted, stopped.

use crate::cluster::{Cluster, run_id, stat, to_pid, until};
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use rebloom_core::flight::Phase;
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::{RankEvent, Report};
use rebloom_proto::link::{FromAgent, Question, Reply, ToAgent};
use rebloom_runtime::shard_hash::ShardHash;
use rustix::process::{Signal, kill_process};
use std::process::Command;

fn exited(event: RankEvent) -> Option<Exit> {
    match event {
        RankEvent::Exited { exit, .. } => Some(exit),
        _ => None,
    }
}

#[tokio::test]
async fn a_killed_rank_is_told_at_once_and_the_survivor_goes_on_in_its_process() {
    let mut cluster = Cluster::new().await;
    let (agent, join) = cluster.joined("a").await;
    assert_eq!((join.facts.slots, join.runs.len()), (2, 0));
    let [survivor, victim] = cluster.train("a", "demo", &join).await;

    let page = cluster.hear("a", "a beat with pages", |message| match message {
        FromAgent::Beat(beat) => beat
            .pages
            .first()
            .map(|pages| pages.sightings[0].page.clone()),
        _ => None,
    });
    let page = page.await;
    assert_eq!(
        (page.phase, page.step, page.samples),
        (Phase::Step, Step(3), 48)
    );

    kill_process(to_pid(victim), Signal::KILL).unwrap();
    let exit = cluster.report("a", 1, |_, event| exited(event)).await;
    assert_eq!(exit, Exit::Signal(9));
    assert_eq!(stat(victim), None, "no zombie is left");

    let start = cluster.a_start("demo", 2, &[0, 1], &join);
    cluster.order("a", Order::Start(start)).await;
    assert_eq!(cluster.steps("a", 0, 2).await, survivor);
    assert!(stat(survivor).is_some());
    drop(agent);
}

#[tokio::test]
async fn ranks_outlive_their_agent_and_its_next_life_adopts_them() {
    let mut cluster = Cluster::new().await;
    let (mut agent, join) = cluster.joined("a").await;
    let pids = cluster.train("a", "demo", &join).await;
    agent.kill();
    let started = pids.map(|pid| stat(pid).expect("it trains on").started);

    let (mut agent, join) = cluster.joined("a").await;
    let run = &join.runs[0];
    assert_eq!((&run.run, run.generation), (&run_id("demo"), Generation(1)));
    let adopted: Vec<u32> = run.ranks.iter().map(|rank| rank.pid).collect();
    assert_eq!(adopted, pids);
    assert_eq!(pids.map(|pid| stat(pid).unwrap().started), started);

    // They follow the new life: words, fences and pages go through it.
    let start = cluster.a_start("demo", 2, &[0, 1], &join);
    cluster.order("a", Order::Start(start)).await;
    assert_eq!(cluster.steps("a", 0, 2).await, pids[0]);

    // One dies while no agent is there.
    agent.signal(Signal::TERM);
    assert!(agent.end().await.success());
    kill_process(to_pid(pids[1]), Signal::KILL).unwrap();
    until("its end", || stat(pids[1]).is_none_or(|stat| stat.zombie)).await;
    assert!(stat(pids[0]).is_some(), "the agent's end is not the ranks'");
    let (_agent, join) = cluster.joined("a").await;
    assert_eq!(join.runs[0].ranks.len(), 1, "{join:?}");
    assert_eq!(
        cluster.report("a", 1, |_, event| exited(event)).await,
        Exit::Unknown
    );

    // And one while the next life watches.
    kill_process(to_pid(pids[0]), Signal::KILL).unwrap();
    assert_eq!(
        cluster.report("a", 0, |_, event| exited(event)).await,
        Exit::Unknown
    );
}

#[tokio::test]
async fn a_rank_of_which_nothing_was_written_down_is_ended() {
    let mut cluster = Cluster::new().await;
    let (mut agent, join) = cluster.joined("a").await;
    let pids = cluster.train("a", "demo", &join).await;
    agent.kill();
    // One of them hangs, so it will not say that it is there.
    kill_process(to_pid(pids[1]), Signal::STOP).unwrap();
    std::fs::remove_file(agent.state.join("agent.json")).unwrap();
    let (_agent, join) = cluster.joined("a").await;
    assert_eq!(join.runs, []);
    for pid in pids {
        until("its end", || stat(pid).is_none_or(|stat| stat.zombie)).await;
    }
}

#[tokio::test]
async fn a_reused_pid_is_never_touched() {
    let mut cluster = Cluster::new().await;
    let (mut agent, join) = cluster.joined("a").await;
    let [_, pid] = cluster.train("a", "demo", &join).await;
    agent.kill();
    // As if the rank were gone and its number given to another process.
    let path = agent.state.join("agent.json");
    let mut memory = agent.memory();
    let process = memory.runs[0].ranks[1].process.as_mut().unwrap();
    assert_eq!(process.pid, pid);
    kill_process(to_pid(pid), Signal::KILL).unwrap();
    let mut stranger = loop {
        let mut stranger = Command::new("setsid")
            .args(["sleep", "1000"])
            .spawn()
            .unwrap();
        // The kernel counts start times in ticks of 10 ms, in which no number comes round again.
        let stat = stat(stranger.id()).expect("nobody reaped it");
        if stat.started != process.started {
            break stranger;
        }
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    };
    let pid = stranger.id();
    process.pid = pid;
    std::fs::write(&path, serde_json::to_vec(&memory).unwrap()).unwrap();
    let (mut next, _) = cluster.joined("a").await;
    assert_eq!(
        cluster.report("a", 1, |_, event| exited(event)).await,
        Exit::Unknown
    );
    let stop = Order::Stop {
        run: run_id("demo"),
        generation: Generation(1),
        how: Stop::Now,
        cause: Cause::StopRequested,
    };
    cluster.order("a", stop).await;
    cluster
        .hear("a", "the stop", |message| match message {
            FromAgent::Report {
                report: Report::Stopped { .. },
                ..
            } => Some(()),
            _ => None,
        })
        .await;
    next.kill();
    assert!(
        stat(pid).is_some_and(|stat| !stat.zombie),
        "the stranger lives"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn a_stop_ends_the_ranks_and_so_does_the_agent_where_it_shall() {
    let mut cluster = Cluster::new().await;
    let mut agent = cluster.start("a", &["--end-ranks-on-exit"]);
    let join = cluster.join_of("a").await;
    let pids = cluster.train("a", "demo", &join).await;
    agent.signal(Signal::TERM);
    assert!(agent.end().await.success());
    assert_eq!(
        pids.map(stat),
        [None; 2],
        "ended and reaped before the agent itself"
    );
}

#[tokio::test]
async fn a_memory_that_cannot_be_written_stops_nobody_and_is_written_later() {
    let mut cluster = Cluster::new().await;
    let (agent, join) = cluster.joined("a").await;
    let in_the_way = agent.state.join("agent.json");
    std::fs::create_dir_all(in_the_way.join("folder")).unwrap();
    let pids = cluster.train("a", "demo", &join).await;
    assert!(agent.log().contains("cannot write down"), "{}", agent.log());
    std::fs::remove_dir_all(&in_the_way).unwrap();
    until("its memory", || !agent.memory().runs.is_empty()).await;
    let ranks = agent.memory().runs.remove(0).ranks;
    let written: Vec<u32> = ranks.iter().map(|rank| rank.process.unwrap().pid).collect();
    assert_eq!(written, pids);
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_reported() {
    let mut cluster = Cluster::new().await;
    let worker = cluster.folder.path().join("worker");
    std::fs::write(&worker, "no program").unwrap();
    let agent = cluster.start("a", &["--worker", worker.to_str().unwrap()]);
    let join = cluster.join_of("a").await;
    let start = cluster.a_start("demo", 1, &[0, 1], &join);
    cluster.order("a", Order::Start(start)).await;
    let error = cluster.report("a", 0, |_, event| match event {
        RankEvent::NotStarted { error } => Some(error),
        _ => None,
    });
    let error = error.await;
    assert!(error.contains(worker.to_str().unwrap()), "{error}");
    drop(agent);
}

#[tokio::test]
async fn output_can_be_read_and_that_of_the_process_before_too() {
    let mut cluster = Cluster::new().await;
    let (_agent, join) = cluster.joined("a").await;
    let [_, pid] = cluster.train("a", "loud", &join).await;
    let read = |previous, offset, limit, tail_lines| Question::ReadLog {
        run: run_id("loud"),
        rank: Rank(1),
        previous,
        offset,
        limit,
        tail_lines,
    };
    let text = ask(&mut cluster, read(false, 0, 37, 0)).await;
    assert_eq!(text, "rank 1 on slot 1 of cpu via 127.0.0.1");
    let text = ask(&mut cluster, read(false, 0, 1000, 1)).await;
    assert_eq!(text, "goes as rank 1 in generation 1\n");
    let text = ask(&mut cluster, read(true, 0, 1000, 0)).await;
    assert_eq!(text, "");

    kill_process(to_pid(pid), Signal::KILL).unwrap();
    cluster.report("a", 1, |_, event| exited(event)).await;
    let start = cluster.a_start("loud", 2, &[0, 1], &join);
    cluster.order("a", Order::Start(start)).await;
    cluster.steps("a", 1, 2).await;
    let text = ask(&mut cluster, read(true, 0, 1000, 1)).await;
    assert_eq!(text, "goes as rank 1 in generation 1\n");
}

async fn ask(cluster: &mut Cluster, question: Question) -> String {
    cluster
        .say("a", ToAgent::Question { id: 7, question })
        .await;
    let reply = cluster.hear("a", "the answer", |message| match message {
        FromAgent::Reply { id: 7, reply } => Some(reply),
        _ => None,
    });
    match reply.await.unwrap() {
        Reply::LogPart { data, .. } => String::from_utf8(data).unwrap(),
        Reply::Verified(verified) => format!("{} problems", verified.problems.len()),
    }
}

#[tokio::test]
async fn a_sealed_checkpoint_is_found_again_and_a_failed_seal_is_told() {
    let mut cluster = Cluster::new().await;
    let (mut agent, join) = cluster.joined("a").await;
    cluster.train("a", "demo", &join).await;
    let directory = cluster.checkpoints();
    let checkpoint = CheckpointId {
        step: Step(10),
        generation: Generation(1),
    };
    let place = directory.join("demo").join(checkpoint.directory());
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("rank-00000.safetensors"), "weights").unwrap();
    let shard = Shard {
        rank: Rank(0),
        file: "rank-00000.safetensors".to_owned(),
        bytes: 7,
        hash: ShardHash::of(b"weights"),
    };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        run: run_id("demo"),
        id: checkpoint,
        layout: Layout {
            tensor: 1,
            pipeline: 1,
            data: 1,
        },
        samples: 40,
        shards: vec![shard],
    };
    let mut torn = manifest.clone();
    torn.shards[0].bytes = 8;
    for (manifest, expected) in [(torn, Some("has 7 bytes")), (manifest.clone(), None)] {
        let seal = Order::Seal {
            directory: directory.to_str().unwrap().to_owned(),
            manifest: Box::new(manifest),
        };
        cluster.order("a", seal).await;
        let error = cluster.hear("a", "the seal", |message| match message {
            FromAgent::Report {
                report: Report::Sealed { error, .. },
                ..
            } => Some(error),
            _ => None,
        });
        let error = error.await;
        assert_eq!(error.is_some(), expected.is_some(), "{error:?}");
        assert!(
            error
                .unwrap_or_default()
                .contains(expected.unwrap_or_default())
        );
    }
    agent.kill();
    let (_agent, join) = cluster.joined("a").await;
    assert_eq!(join.runs[0].sealed, [manifest]);

    let question = Question::VerifyCheckpoint {
        directory: directory.to_str().unwrap().to_owned(),
        run: run_id("demo"),
        checkpoint,
    };
    assert_eq!(ask(&mut cluster, question.clone()).await, "0 problems");
    std::fs::write(place.join("rank-00000.safetensors"), "weightS").unwrap();
    assert_eq!(ask(&mut cluster, question).await, "1 problems");
    let prune = Order::Prune {
        run: run_id("demo"),
        directory: directory.to_str().unwrap().to_owned(),
        checkpoints: vec![checkpoint],
    };
    cluster.order("a", prune).await;
    until("the end of the checkpoint", || !place.exists()).await;
}
