//! A worker that waits, warm, and becomes the next rank that is needed.

use crate::cluster::{Cluster, stat, until};
use std::path::Path;

/// A process other than `but` that was started to wait under the agent with this state directory; one
/// that became a rank keeps its command line.
fn waiting(state: &Path, but: Option<u32>) -> Option<u32> {
    let socket = state.canonicalize().ok()?.join("agent.sock");
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_it = line.contains("\0standby\0") && line.contains(socket.to_str()?);
        let pid = entry.file_name().to_str()?.parse().ok();
        pid.filter(|_| is_it && pid != but)
    })
}

async fn a_waiting_one(state: &Path, but: Option<u32>) -> u32 {
    until("a process waits", || waiting(state, but).is_some()).await;
    waiting(state, but).unwrap()
}

#[tokio::test]
async fn a_rank_is_the_process_that_waited_and_another_one_waits_after_it() {
    let mut cluster = Cluster::new().await;
    let (agent, join) = cluster.joined("a").await;
    let warm = a_waiting_one(&agent.state, None).await;
    let pids = cluster.train("a", "demo", &join).await;
    let rank = pids.iter().position(|&pid| pid == warm);
    let rank = rank.expect("one of the ranks is the process that waited");
    let log = agent.state.join(format!("logs/demo/rank-{rank:03}.log"));
    let line = format!("rank {rank} on slot");
    until("its output goes to the log of its rank", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&line))
    })
    .await;
    a_waiting_one(&agent.state, Some(warm)).await;
}

#[tokio::test]
async fn one_that_died_is_no_loss_and_none_outlives_its_agent() {
    let mut cluster = Cluster::new().await;
    let (mut agent, join) = cluster.joined("a").await;
    let warm = a_waiting_one(&agent.state, None).await;
    rustix::process::kill_process(crate::cluster::to_pid(warm), rustix::process::Signal::KILL)
        .unwrap();
    let pids = cluster.train("a", "demo", &join).await;
    assert!(!pids.contains(&warm));
    assert_eq!(stat(warm), None, "no zombie is left");

    let next = a_waiting_one(&agent.state, None).await;
    agent.kill();
    until("it leaves with its agent", || stat(next).is_none()).await;
    assert!(pids.iter().all(|&pid| stat(pid).is_some()), "ranks live on");
}
