//! What a run survives: each fault on real processes, and afterwards the same weights to the bit.

use anyhow::{Context, Result, ensure};
use rebloom_core::cause::Cause;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{CheckpointState, RunState, RunView, Rung};
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_tests::cluster::{Cluster, PATIENCE, pid_of};
use rebloom_tests::night::{ends_as_if_nothing_had_happened, night, undisturbed};
use rebloom_tests::process::signal;
use rebloom_tests::training::{EVERY, STEPS};
use rebloom_tests::wait;
use rebloom_tests::weights;
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

/// Eight ranks fill this machine: one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A cluster of five nodes, one of them spare, with the run at step 7: past its first checkpoint.
fn training() -> Result<(Cluster, RunId, RunView)> {
    undisturbed();
    let cluster = Cluster::start(5)?;
    let run = cluster.submit(&night(&cluster)?)?;
    let view = cluster.until_step(&run, EVERY + 2)?;
    Ok((cluster, run, view))
}

fn causes(view: &RunView) -> Vec<&'static str> {
    view.incidents
        .iter()
        .map(|incident| incident.cause.label())
        .collect()
}

fn node_of(view: &RunView, rank: u32) -> Result<String> {
    let seat = view
        .ranks
        .iter()
        .find(|seen| seen.seating.rank == Rank(rank))
        .context("a rank")?;
    Ok(seat.seating.node.to_string())
}

#[test]
fn a_killed_rank_is_replaced_and_the_others_keep_their_process() -> Result<()> {
    let _alone = alone();
    let (cluster, run, before) = training()?;
    signal(pid_of(&before, 3)?, Signal::KILL)?;
    let after = cluster.until(&run, "recovered", |view| {
        view.generation == Generation(2) && view.state == RunState::Running
    })?;
    for rank in (0..8).filter(|&rank| rank != 3) {
        ensure!(
            pid_of(&before, rank)? == pid_of(&after, rank)?,
            "rank {rank} was restarted"
        );
    }
    ensure!(pid_of(&before, 3)? != pid_of(&after, 3)?);
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(causes(&end) == ["RankExited"], "{:#?}", end.incidents);
    let incident = &end.incidents[0];
    ensure!(incident.rung == Some(Rung::Reform));
    ensure!(
        incident.resumed_from.is_some_and(|id| id.step.0 >= EVERY),
        "{incident:#?}"
    );
    ensure!(
        incident.closed.is_some() && incident.lost_steps < EVERY + 3,
        "{incident:#?}"
    );
    Ok(())
}

#[test]
fn several_ranks_killed_at_once_are_one_recovery() -> Result<()> {
    let _alone = alone();
    let (cluster, run, before) = training()?;
    for rank in [0, 5, 6] {
        signal(pid_of(&before, rank)?, Signal::KILL)?;
    }
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    // The reports come one by one; each may begin a generation, none may be needed twice.
    ensure!(
        end.generation <= Generation(4),
        "generation {}",
        end.generation
    );
    Ok(())
}

#[test]
fn a_killed_agent_finds_its_ranks_again_and_the_run_does_not_notice() -> Result<()> {
    let _alone = alone();
    let (mut cluster, run, before) = training()?;
    let node = node_of(&before, 2)?;
    cluster.kill_agent(&node)?;
    cluster.start_agent(&node)?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);
    ensure!(end.generation == Generation(1));
    Ok(())
}

#[test]
fn a_rank_that_dies_while_its_agent_is_away_is_still_recovered() -> Result<()> {
    let _alone = alone();
    let (mut cluster, run, before) = training()?;
    let node = node_of(&before, 2)?;
    cluster.kill_agent(&node)?;
    signal(pid_of(&before, 2)?, Signal::KILL)?;
    cluster.start_agent(&node)?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(!end.incidents.is_empty() && end.generation >= Generation(2));
    Ok(())
}

#[test]
fn ranks_train_on_without_a_controller() -> Result<()> {
    let _alone = alone();
    let (mut cluster, run, before) = training()?;
    cluster.kill_controller();
    // The next checkpoint's shards appear while nobody commands.
    let folder = cluster.checkpoints().join(run.as_str());
    wait::until("shards are written without a controller", PATIENCE, || {
        Ok(shards(&folder)
            .into_iter()
            .any(|(id, _)| id.step.0 > before.step.0)
            .then_some(()))
    })?;
    cluster.start_controller()?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);
    ensure!(end.generation == Generation(1));
    Ok(())
}

#[test]
fn a_controller_killed_in_the_middle_of_a_recovery_does_nothing_twice() -> Result<()> {
    let _alone = alone();
    let (mut cluster, run, before) = training()?;
    signal(pid_of(&before, 4)?, Signal::KILL)?;
    cluster.until(&run, "the recovery has begun", |view| {
        view.generation == Generation(2)
    })?;
    cluster.kill_controller();
    cluster.start_controller()?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(
        end.generation == Generation(2),
        "generation {}",
        end.generation
    );
    ensure!(causes(&end) == ["RankExited"], "{:#?}", end.incidents);
    Ok(())
}

#[test]
fn a_controller_that_is_down_when_a_rank_dies_recovers_it_when_it_is_back() -> Result<()> {
    let _alone = alone();
    let (mut cluster, run, before) = training()?;
    cluster.kill_controller();
    signal(pid_of(&before, 4)?, Signal::KILL)?;
    cluster.start_controller()?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(
        end.generation == Generation(2),
        "generation {}",
        end.generation
    );
    Ok(())
}

#[test]
fn a_node_gone_for_good_is_replaced_by_the_spare() -> Result<()> {
    let _alone = alone();
    let (mut cluster, run, before) = training()?;
    let node = node_of(&before, 6)?;
    cluster.kill_agent(&node)?;
    for seat in before
        .ranks
        .iter()
        .filter(|seen| seen.seating.node.as_str() == node)
    {
        signal(seat.pid.context("a pid")?, Signal::KILL)?;
    }
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(causes(&end).contains(&"NodeLost"), "{:#?}", end.incidents);
    ensure!(
        end.incidents
            .iter()
            .any(|incident| incident.rung == Some(Rung::Replace))
    );
    Ok(())
}

#[test]
fn a_stopped_rank_is_blamed_and_replaced() -> Result<()> {
    let _alone = alone();
    let (cluster, run, before) = training()?;
    signal(pid_of(&before, 5)?, Signal::STOP)?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    let hung = end.incidents.iter().find_map(|incident| {
        if let Cause::RankHung { rank, channel, .. } = &incident.cause {
            Some((*rank, *channel))
        } else {
            None
        }
    });
    let (rank, channel) = hung.with_context(|| format!("no hang: {:#?}", end.incidents))?;
    ensure!(rank == Rank(5), "rank {rank} was blamed");
    ensure!(channel.is_some(), "the group is named");
    Ok(())
}

#[test]
fn a_rank_killed_while_it_writes_its_shard_leaves_nothing_that_is_resumed_from() -> Result<()> {
    let _alone = alone();
    let (cluster, run, before) = training()?;
    let folder = cluster.checkpoints().join(run.as_str());
    let (torn, rank) = wait::until("a shard of a next checkpoint appears", PATIENCE, || {
        Ok(shards(&folder)
            .into_iter()
            .find(|(id, _)| id.step.0 > before.step.0))
    })?;
    signal(pid_of(&before, rank)?, Signal::KILL)?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(end.generation >= Generation(2));
    for incident in &end.incidents {
        let sealed = |id: CheckpointId| end.checkpoints.contains(&(id, CheckpointState::Sealed));
        ensure!(
            incident.resumed_from.is_none_or(sealed),
            "{torn:?} {incident:#?}"
        );
    }
    Ok(())
}

/// Shards and half-written shards below a run's folder: which checkpoint, which rank.
fn shards(folder: &std::path::Path) -> Vec<(CheckpointId, u32)> {
    let entries = |path: &std::path::Path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    entries(folder)
        .filter_map(|path| Some((CheckpointId::parse(path.file_name()?.to_str()?)?, path)))
        .flat_map(|(id, path)| entries(&path).map(move |file| (id, file)))
        .filter_map(|(id, file)| {
            let digits = file
                .file_name()?
                .to_str()?
                .strip_prefix("rank-")?
                .get(..5)?;
            Some((id, digits.parse().ok()?))
        })
        .collect()
}

fn newest_sealed_shard(
    cluster: &Cluster,
    run: &RunId,
    rank: u32,
) -> Result<(CheckpointId, PathBuf)> {
    let view = cluster.run(run)?;
    let (id, _) = view
        .checkpoints
        .iter()
        .find(|(_, state)| *state == CheckpointState::Sealed)
        .copied()
        .context("a sealed checkpoint")?;
    let folder = cluster
        .checkpoints()
        .join(run.as_str())
        .join(id.directory());
    Ok((id, folder.join(format!("rank-{rank:05}.safetensors"))))
}

/// Damages the newest checkpoint, kills a rank, and expects the next older one to be taken.
fn damaged(damage: impl Fn(&mut Vec<u8>)) -> Result<()> {
    let _alone = alone();
    undisturbed();
    let cluster = Cluster::start(4)?;
    let run = cluster.submit(&night(&cluster)?)?;
    let two_sealed = |view: &RunView| view.checkpoints.len() >= 2;
    let before = cluster.until(&run, "two checkpoints are sealed", two_sealed)?;
    // Stopped, no newer checkpoint comes in between.
    let victim = pid_of(&before, 1)?;
    signal(victim, Signal::STOP)?;
    let (id, shard) = newest_sealed_shard(&cluster, &run, 4)?;
    let mut bytes = fs::read(&shard)?;
    damage(&mut bytes);
    fs::write(&shard, bytes)?;
    signal(victim, Signal::KILL)?;
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    // It is found while the killed rank is recovered from: evidence of that incident.
    let unsound = |cause: &Cause| {
        matches!(cause, Cause::CheckpointUnsound { step, rank, .. }
        if *step == id.step && *rank == Rank(4))
    };
    let mut seen = end
        .incidents
        .iter()
        .flat_map(|it| it.evidence.iter().chain([&it.cause]));
    ensure!(seen.any(unsound), "{:#?}", end.incidents);
    ensure!(
        end.checkpoints.contains(&(id, CheckpointState::Rejected)),
        "{:?}",
        end.checkpoints
    );
    let resumed: Vec<_> = end
        .incidents
        .iter()
        .filter_map(|incident| incident.resumed_from)
        .collect();
    ensure!(
        resumed.last().is_some_and(|older| older.step < id.step),
        "{id:?} {resumed:?}"
    );
    Ok(())
}

#[test]
fn a_truncated_shard_is_never_resumed_from() -> Result<()> {
    damaged(|bytes| bytes.truncate(bytes.len() / 2))
}

#[test]
fn a_flipped_bit_is_never_resumed_from() -> Result<()> {
    damaged(|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    })
}

#[test]
fn a_full_disk_costs_a_checkpoint_and_not_the_run() -> Result<()> {
    let _alone = alone();
    undisturbed();
    let mut cluster = Cluster::start(4)?;
    // Room for those to keep, one that is to be removed in a second, and one that is being written.
    let disk = cluster.small_disk("6m")?;
    let mut spec = night(&cluster)?;
    spec.checkpoint.directory = disk.display().to_string();
    spec.checkpoint.keep = 2;
    let run = cluster.submit(&spec)?;
    cluster.until(&run, "the first checkpoint is sealed", |view| {
        !view.checkpoints.is_empty()
    })?;
    let filler = disk.join("filler");
    fill(&filler)?;
    cluster.until(&run, "a save fails", |view| {
        causes(view).contains(&"SaveFailed")
    })?;
    let failed = cluster.run(&run)?;
    ensure!(failed.generation == Generation(1), "training goes on");
    fs::remove_file(&filler)?;
    let end = cluster.until_completed(&run)?;
    ensure!(end.generation == Generation(1), "{:#?}", end.incidents);
    let (weights, _) = weights::of(&disk, &run, STEPS)?;
    ensure!(
        weights == undisturbed().weights,
        "other weights than in the undisturbed run"
    );
    Ok(())
}

/// Writes until the disk is full.
fn fill(path: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    let block = [0; 4096];
    while file.write_all(&block).is_ok() {}
    Ok(())
}

#[test]
fn a_cut_between_controller_and_agent_makes_no_second_generation_beside_the_first() -> Result<()> {
    let _alone = alone();
    let (cluster, run, before) = training()?;
    let node = node_of(&before, 0)?;
    cluster.wire(&node)?.cut();
    let moved = cluster.until(&run, "the run has moved", |view| {
        view.generation >= Generation(2) && view.state == RunState::Running
    })?;
    ensure!(
        moved
            .ranks
            .iter()
            .all(|seen| seen.seating.node.as_str() != node),
        "S3"
    );
    // What the cut node wrote of the old generation is never sealed (S10).
    cluster.wire(&node)?.heal();
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(causes(&end) == ["NodeLost"], "{:#?}", end.incidents);
    wait::until("the old ranks are gone", PATIENCE, || {
        let alive = before
            .ranks
            .iter()
            .filter(|seen| seen.seating.node.as_str() == node);
        let alive = alive
            .filter_map(|seen| seen.pid)
            .filter(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true));
        Ok((alive.count() == 0).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_short_cut_is_caught_up_without_a_new_generation() -> Result<()> {
    let _alone = alone();
    let (cluster, run, before) = training()?;
    let node = node_of(&before, 0)?;
    cluster.wire(&node)?.cut();
    wait::until("the cut is noticed", PATIENCE, || {
        Ok(cluster.nodes()?.into_iter().find(|seen| {
            seen.facts.node.as_str() == node
                && seen.state == rebloom_core::engine::NodeState::Unreachable
        }))
    })?;
    cluster.wire(&node)?.heal();
    let end = ends_as_if_nothing_had_happened(&cluster, &run)?;
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);
    Ok(())
}
