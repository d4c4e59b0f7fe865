//! `rebloom chaos`: breaks something in the cluster that `up` started on this machine, and says what.

use crate::args::{ChaosCommand, Global};
use crate::checkpoint::path;
use crate::client::{Client, goes_on};
use crate::cluster_file::{ClusterFile, Process, command_line, signal_pid};
use crate::failure::Failure;
use crate::format::line;
use crate::view::newest_sealed;
use rebloom_core::engine::{RankView, RunView};
use rebloom_core::id::{NodeId, RunId};
use rustix::process::Signal;
use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) async fn run(command: ChaosCommand, global: &Global) -> Result<(), Failure> {
    let (_, cluster) = ClusterFile::find()?.ok_or_else(|| {
        Failure::NotFound(
            "no cluster was started below this directory or above it; `rebloom up` starts one"
                .to_owned(),
        )
    })?;
    match command {
        ChaosCommand::KillAgent { node } => kill_agent(&cluster, node.as_ref()),
        ChaosCommand::KillController => kill(cluster.controller_process, "the controller"),
        ChaosCommand::KillRank { ranks } => {
            let run = the_run(global, &cluster).await?;
            signal_ranks(&run, &ranks, Signal::KILL, "killed")
        }
        ChaosCommand::StopRank { ranks } => {
            let run = the_run(global, &cluster).await?;
            signal_ranks(&run, &ranks, Signal::STOP, "stopped")?;
            line(&format!(
                "it hangs now; its deadline for a step is {} s",
                run.spec.deadlines.step
            ));
            Ok(())
        }
        ChaosCommand::CorruptCheckpoint { rank } => {
            corrupt(&the_run(global, &cluster).await?, rank)
        }
    }
}

async fn the_run(global: &Global, cluster: &ClusterFile) -> Result<RunView, Failure> {
    let client: Client = global.target().connect().await?;
    let name = RunId::new(&cluster.run).map_err(|error| Failure::of(&error))?;
    client.run(&name).await
}

/// Any one of them.
fn any<T>(mut choices: Vec<T>) -> Option<T> {
    let at = RandomState::new().hash_one(0) % u64::try_from(choices.len()).ok()?.max(1);
    let at = usize::try_from(at).ok()?;
    (at < choices.len()).then(|| choices.swap_remove(at))
}

fn kill(process: Option<Process>, what: &str) -> Result<(), Failure> {
    match process {
        Some(process) if process.signal(Signal::KILL) => {
            line(&format!("killed {what} (pid {}) with SIGKILL", process.pid));
            Ok(())
        }
        Some(_) | None => Err(Failure::NotFound(format!("{what} does not run"))),
    }
}

fn kill_agent(cluster: &ClusterFile, node: Option<&NodeId>) -> Result<(), Failure> {
    let lives = |process: Option<Process>| process.is_some_and(Process::lives);
    let agent = match node {
        Some(node) => cluster
            .agents
            .iter()
            .find(|agent| agent.node == node.as_str()),
        None => any(cluster
            .agents
            .iter()
            .filter(|agent| lives(agent.process))
            .collect()),
    };
    let Some(agent) = agent else {
        let what = node.map_or("no agent runs".to_owned(), |node| {
            format!("there is no node {node}")
        });
        return Err(Failure::NotFound(what));
    };
    kill(agent.process, &format!("the agent of {}", agent.node))
}

fn signal_ranks(run: &RunView, named: &[u32], signal: Signal, done: &str) -> Result<(), Failure> {
    if !goes_on(run.state) {
        return Err(Failure::Failed(format!(
            "run {} is {}",
            run.spec.name, run.state
        )));
    }
    let living: Vec<&RankView> = run.ranks.iter().filter(|rank| rank.pid.is_some()).collect();
    let victims: Vec<&RankView> = if named.is_empty() {
        any(living).into_iter().collect()
    } else {
        let find = |number: &u32| {
            let rank = living
                .iter()
                .find(|rank| rank.seating.rank.0 == *number)
                .copied();
            rank.ok_or_else(|| Failure::NotFound(format!("rank {number} has no process")))
        };
        named.iter().map(find).collect::<Result<_, _>>()?
    };
    if victims.is_empty() {
        return Err(Failure::NotFound("no rank has a process".to_owned()));
    }
    for rank in victims {
        let (number, node) = (rank.seating.rank, &rank.seating.node);
        let pid = rank
            .pid
            .filter(|pid| is_worker(*pid, number.0))
            .ok_or_else(|| {
                Failure::NotFound(format!(
                    "the process of rank {number} is not on this machine any more"
                ))
            })?;
        if !signal_pid(pid, signal) {
            return Err(Failure::Failed(format!(
                "rank {number} (pid {pid}) is gone already"
            )));
        }
        line(&format!("{done} rank {number} on {node} (pid {pid})"));
    }
    Ok(())
}

/// Whether this process is the worker of this rank; a pid can have gone to somebody else meanwhile.
fn is_worker(pid: u32, rank: u32) -> bool {
    let line = command_line(pid);
    let program = line.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|program| program == "rebloom-worker")
        && line
            .windows(2)
            .any(|pair| pair[0] == "--rank" && pair[1] == rank.to_string())
}

fn corrupt(run: &RunView, rank: Option<u32>) -> Result<(), Failure> {
    let id = newest_sealed(run).ok_or_else(|| {
        Failure::NotFound(format!(
            "run {} has no sealed checkpoint yet",
            run.spec.name
        ))
    })?;
    let world = run.spec.layout.world();
    let rank = match rank.or_else(|| any((0..world).collect())) {
        Some(rank) if rank < world => rank,
        Some(rank) => return Err(Failure::NotFound(format!("there is no rank {rank}"))),
        None => return Err(Failure::NotFound("the run has no ranks".to_owned())),
    };
    let shard = format!("{}/rank-{rank:05}.safetensors", path(run, id));
    let at = flip(Path::new(&shard))?;
    line(&format!(
        "flipped one bit in byte {at} of {shard}\n\
         it shows when that checkpoint is loaded: `rebloom chaos kill-rank` makes that happen, \
         `rebloom checkpoint verify` looks at once"
    ));
    Ok(())
}

/// Flips a bit in the middle of a file; says in which byte.
fn flip(path: &Path) -> Result<u64, Failure> {
    let work = || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let at = file.metadata()?.len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 0b0001_0000;
        file.write_all_at(&byte, at)?;
        file.sync_all()?;
        Ok(at)
    };
    work().map_err(|error: std::io::Error| Failure::file("flip a bit in", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_is_flipped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0_u8; 9]).unwrap();
        assert_eq!(flip(file.path()).unwrap(), 4);
        assert_eq!(
            std::fs::read(file.path()).unwrap(),
            [0, 0, 0, 0, 16, 0, 0, 0, 0]
        );
        flip(file.path()).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [0_u8; 9]);
        std::fs::write(file.path(), []).unwrap();
        assert!(flip(file.path()).is_err());
    }

    #[test]
    fn any_is_one_of_them() {
        assert_eq!(any(Vec::<u32>::new()), None);
        assert_eq!(any(vec![7]), Some(7));
        let mut seen: Vec<u32> = (0..200).filter_map(|_| any((0..4).collect())).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3]);
    }

    #[test]
    fn only_a_worker_is_a_worker() {
        assert!(!is_worker(std::process::id(), 0));
    }
}
