//! `rebloom chaos`: breaks something in the cluster that `up` started on this machine, and says what.

use crate::args::{ChaosCommand, Global, OfRun};
use crate::checkpoint::path;
use crate::client::goes_on;
use crate::cluster_file::{ClusterFile, Process, command_line, signal_pid};
use crate::failure::Failure;
use crate::format::{line, say};
use crate::view::newest_sealed;
use rebloom_core::engine::{RankView, RunView};
use rebloom_core::id::NodeId;
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
        ChaosCommand::KillRank { ranks, of } => {
            let run = the_run(global, &of).await?;
            signal_ranks(&run, &ranks, Signal::KILL, "killed")
        }
        ChaosCommand::StopRank { ranks, of } => {
            let run = the_run(global, &of).await?;
            signal_ranks(&run, &ranks, Signal::STOP, "stopped")?;
            line(&format!(
                "it hangs now; its deadline for a step is {} s",
                run.spec.deadlines.step
            ));
            Ok(())
        }
        ChaosCommand::CorruptCheckpoint { rank, of } => corrupt(&the_run(global, &of).await?, rank),
    }
}

async fn the_run(global: &Global, of: &OfRun) -> Result<RunView, Failure> {
    let client = global.target().reach().await?;
    match &of.run {
        Some(name) => client.run(name).await,
        None => only_live(client.runs().await?),
    }
}

/// The run that goes on, where there is one; else the only run there is.
fn only_live(runs: Vec<RunView>) -> Result<RunView, Failure> {
    let (mut live, mut over): (Vec<_>, Vec<_>) =
        runs.into_iter().partition(|run| goes_on(run.state));
    let names = |runs: &[RunView]| {
        let names = runs.iter().map(|run| run.spec.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    if live.len() > 1 {
        let live = names(&live);
        return Err(Failure::BadInput(format!(
            "which run? {live} go on; name one with --run"
        )));
    }
    if let Some(run) = live.pop() {
        return Ok(run);
    }
    if over.len() > 1 {
        let over = names(&over);
        return Err(Failure::NotFound(format!(
            "no run goes on; {over} are over"
        )));
    }
    over.pop()
        .ok_or_else(|| Failure::NotFound("there is no run".to_owned()))
}

/// Refuses a rank that the run does not have.
fn known_rank(run: &RunView, rank: u32) -> Result<(), Failure> {
    let last = run.spec.layout.world().saturating_sub(1);
    if rank <= last {
        return Ok(());
    }
    Err(Failure::BadInput(format!(
        "run {} has ranks 0 to {last}, not {rank}",
        run.spec.name
    )))
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
    named.iter().try_for_each(|rank| known_rank(run, *rank))?;
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
    let rank = rank.or_else(|| any((0..world).collect()));
    let rank = rank.ok_or_else(|| Failure::NotFound("the run has no ranks".to_owned()))?;
    known_rank(run, rank)?;
    let shard = format!("{}/rank-{rank:05}.safetensors", path(run, id));
    let at = flip(Path::new(&shard))?;
    say(&format!(
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
    use crate::view::sample;
    use rebloom_core::engine::RunState;
    use rebloom_core::id::RunId;

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
    fn a_run_is_named_or_the_only_one_that_goes_on() {
        let run = |name: &str, state| {
            let mut run = sample::run(5);
            run.spec.name = RunId::new(name).unwrap();
            RunView { state, ..run }
        };
        let (over, live) = (
            run("over", RunState::Completed),
            run("live", RunState::Running),
        );
        let found = only_live(vec![over.clone(), live.clone()]).unwrap();
        assert_eq!(found.spec.name.as_str(), "live");
        let other = run("other", RunState::Pending);
        let two = only_live(vec![live, other]).unwrap_err();
        assert_eq!(two.code(), 2);
        assert!(two.to_string().contains("live, other go on"), "{two}");
        assert_eq!(only_live(vec![over.clone()]).unwrap(), over);
        assert_eq!(only_live(Vec::new()).unwrap_err().code(), 3);
    }

    #[test]
    fn a_rank_that_there_is_not_is_bad_input() {
        let refused = signal_ranks(&sample::run(5), &[3, 99], Signal::KILL, "killed");
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), 2);
        assert!(refused.to_string().contains("ranks 0 to 7, not 99"));
        assert_eq!(corrupt(&sample::run(50), Some(8)).unwrap_err().code(), 2);
    }

    #[test]
    fn only_a_worker_is_a_worker() {
        assert!(!is_worker(std::process::id(), 0));
    }
}
