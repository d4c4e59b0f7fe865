//! Each cause as a sentence; decides nothing.

use super::Cause;
use std::fmt;

/// One sentence without a full stop, for logs and `explain`.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submitted => f.write_str("the run was submitted"),
            Self::StopRequested => f.write_str("an admin asked the run to stop"),
            Self::ResumeRequested => f.write_str("an admin asked the run to go on"),
            Self::NodeDrained { node } => write!(f, "an admin drained node {node}"),
            Self::NodeFaulty {
                node,
                rule,
                what,
                action,
            } => {
                let action = action.meaning();
                write!(f, "node {node} is faulty ({rule}): {what}; {action}")
            }
            Self::NodeQuarantined { node, rule, what } => {
                write!(f, "node {node} is quarantined ({rule}): {what}")
            }
            Self::RankExited { rank, node, exit } => {
                write!(f, "rank {rank} on {node} ended with {exit}")
            }
            Self::RankNotStarted { rank, node, error } => {
                write!(f, "rank {rank} could not be started on {node}: {error}")
            }
            Self::RankFailed {
                rank,
                node,
                phase,
                error,
                blamed: _,
            } => {
                write!(f, "rank {rank} on {node} failed in phase {phase}: {error}")
            }
            Self::RankHung {
                rank,
                node,
                phase,
                channel: Some(channel),
            } => write!(
                f,
                "rank {rank} on {node} hung in phase {phase}: others waited for it in {}",
                channel.name()
            ),
            Self::RankHung {
                rank,
                node,
                phase,
                channel: None,
            } => {
                write!(f, "rank {rank} on {node} hung in phase {phase}")
            }
            Self::GangHung {
                phase,
                suspects,
                group,
            } => {
                write!(
                    f,
                    "the gang hung in phase {phase} and no single rank stands out"
                )?;
                let names: Vec<_> = suspects.iter().map(ToString::to_string).collect();
                if !names.is_empty() {
                    write!(f, ": it may be any of the ranks {}", names.join(", "))?;
                }
                match group {
                    Some(group) => write!(f, ", which share a {group}"),
                    None => Ok(()),
                }
            }
            Self::NodeLost { node, silent_for } => {
                write!(
                    f,
                    "node {node} was silent for {:.1} s",
                    silent_for.as_secs_f64()
                )
            }
            Self::RanksMissing { node, rank } => {
                write!(f, "node {node} came back without rank {rank}")
            }
            Self::CheckpointUnsound {
                step,
                rank,
                unsound,
            } => {
                write!(
                    f,
                    "the checkpoint at step {step} is unsound (rank {rank}): {unsound}"
                )
            }
            Self::SnapshotUnsound {
                step,
                rank,
                unsound,
            } => {
                write!(
                    f,
                    "the snapshot at step {step} cannot be restored (rank {rank}): {unsound}"
                )
            }
            Self::LogRule {
                rule,
                breach,
                rank,
                node,
            } => {
                write!(f, "log rule `{rule}`: {breach}")?;
                match (rank, node) {
                    (Some(rank), Some(node)) => write!(f, " (rank {rank} on {node})"),
                    (_, _) => Ok(()),
                }
            }
            Self::Straggler {
                rank,
                node,
                relative_percent,
                own_percent,
            } => {
                write!(
                    f,
                    "rank {rank} on {node} is slow: busy for {relative_percent} % of the median of its \
                     stage, {own_percent} % of its own best"
                )
            }
            Self::Slower { before, now } => {
                write!(
                    f,
                    "a step takes {:.2} s instead of {:.2} s",
                    now.as_secs_f64(),
                    before.as_secs_f64()
                )
            }
            Self::NodeSlow { node } => {
                write!(f, "the gang is slow with node {node} and fast without it")
            }
            Self::StorageMisread {
                node,
                rank,
                unsound,
            } => {
                write!(
                    f,
                    "node {node} (rank {rank}) finds one checkpoint after the other unsound: {unsound}"
                )
            }
            Self::ReplicasDiffer { differs, node } => {
                write!(f, "{differs}")?;
                node.as_ref()
                    .map_or(Ok(()), |node| write!(f, " (on {node})"))
            }
            Self::SpikesRepeat { step } => write!(
                f,
                "spikes came again from the checkpoint at step {step} and the one before it, whatever was skipped"
            ),
            Self::CleanSpell { lasted } => {
                write!(
                    f,
                    "no hang came for {} s with asynchronous launches off, so they are turned on again",
                    lasted.as_secs()
                )
            }
            Self::LaunchesStayAsync { why } => {
                write!(f, "asynchronous launches cannot be turned off: {why}")
            }
            Self::RoomToGrow { data } => {
                write!(f, "there is room for {data} copies of the model again")
            }
            Self::IntervalOff { from, to } => {
                write!(
                    f,
                    "a checkpoint every {to} steps costs less than every {from}, by what was measured"
                )
            }
            Self::SaveFailed {
                step,
                rank: Some(rank),
                error,
            } => {
                write!(f, "rank {rank} could not save step {step}: {error}")
            }
            Self::SaveFailed {
                step,
                rank: None,
                error,
            } => {
                write!(
                    f,
                    "the checkpoint at step {step} could not be sealed: {error}"
                )
            }
            Self::LossSpiked {
                step,
                samples,
                reading,
                rolls_back,
            } => {
                write!(f, "step {step} had {reading}")?;
                if *rolls_back {
                    write!(f, "; samples {samples} are skipped")?;
                }
                Ok(())
            }
            Self::Preempted { by } => {
                write!(f, "run {by} has a higher priority and takes the place")
            }
            Self::Superseded => f.write_str("a newer generation runs"),
            Self::Completed => f.write_str("the run reached its last step"),
            Self::BudgetSpent { restarts } => {
                write!(
                    f,
                    "the run failed by itself more often than its {restarts} restarts allow"
                )
            }
            Self::NoProgress { recoveries } => {
                write!(f, "{recoveries} recoveries in a row led to no progress")
            }
            Self::NoSoundCheckpoint { step } => {
                write!(
                    f,
                    "no checkpoint is left that can be loaded; the newest was that of step {step}"
                )
            }
        }
    }
}
