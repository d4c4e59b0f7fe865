//! What a fact is about: the run or node that it touches, and whether it may change what a run holds.

use super::Fact;
use crate::id::{NodeId, RunId};

impl Fact {
    /// The run it is about.
    pub(in crate::engine) const fn run(&self) -> Option<&RunId> {
        match self {
            Self::NodeEnrolled { .. }
            | Self::NodeLost { .. }
            | Self::NodeReturned { .. }
            | Self::NodeCordoned { .. }
            | Self::NodeUncordoned { .. }
            | Self::SignalHeard { .. }
            | Self::VerdictReached { .. }
            | Self::VerdictHeld { .. }
            | Self::HealthRuleSet { .. }
            | Self::HealthRuleUnset { .. }
            | Self::NumbersLeftOut { .. } => None,
            Self::RunSubmitted { spec } => Some(&spec.name),
            Self::RunForgotten { run }
            | Self::StopAsked { run, .. }
            | Self::ResumeAsked { run }
            | Self::LayoutChosen { run, .. }
            | Self::MoveAsked { run, .. }
            | Self::PreemptAsked { run, .. }
            | Self::TurnAsked { run, .. }
            | Self::StorageBlamed { run, .. }
            | Self::GenerationSeen { run, .. }
            | Self::Placed { run, .. }
            | Self::Unplaced { run, .. }
            | Self::RankReached { run, .. }
            | Self::RankFinished { run, .. }
            | Self::RankGone { run, .. }
            | Self::RankBroke { run, .. }
            | Self::RankOverdue { run, .. }
            | Self::OverdueDropped { run }
            | Self::NodeFenced { run, .. }
            | Self::GangFenced { run, .. }
            | Self::PhaseTimed { run, .. }
            | Self::PaceSeen { run, .. }
            | Self::SearchBegun { run, .. }
            | Self::SearchJudged { run, .. }
            | Self::IncidentOpened { run, .. }
            | Self::EvidenceAdded { run, .. }
            | Self::IncidentClosed { run, .. }
            | Self::MilepostPassed { run, .. }
            | Self::Evaluated { run, .. }
            | Self::ShardSaved { run, .. }
            | Self::CheckpointFailed { run, .. }
            | Self::CheckpointSealed { run, .. }
            | Self::CheckpointRejected { run, .. }
            | Self::SamplesSkipped { run, .. }
            | Self::CheckpointsPruned { run, .. }
            | Self::RunEnded { run, .. } => Some(run),
        }
    }

    /// The node of the fleet that it is about, where it is about no run.
    pub(in crate::engine) const fn fleet_node(&self) -> Option<&NodeId> {
        if let Self::NodeEnrolled { facts, .. } = self {
            return Some(&facts.node);
        }
        if let Self::NodeLost { node, .. }
        | Self::NodeReturned { node }
        | Self::NodeCordoned { node }
        | Self::NodeUncordoned { node }
        | Self::VerdictReached { node, .. } = self
        {
            return Some(node);
        }
        None
    }

    /// Whether it may change what its run holds, or whether it waits or is over.
    pub(in crate::engine) const fn moves(&self) -> bool {
        !matches!(
            self,
            Self::RankReached { .. }
                | Self::RankFinished { .. }
                | Self::RankBroke { .. }
                | Self::RankOverdue { .. }
                | Self::OverdueDropped { .. }
                | Self::PhaseTimed { .. }
                | Self::PaceSeen { .. }
                | Self::SearchBegun { .. }
                | Self::SearchJudged { .. }
                | Self::IncidentOpened { .. }
                | Self::EvidenceAdded { .. }
                | Self::IncidentClosed { .. }
                | Self::MilepostPassed { .. }
                | Self::Evaluated { .. }
                | Self::ShardSaved { .. }
                | Self::CheckpointFailed { .. }
                | Self::CheckpointSealed { .. }
                | Self::CheckpointRejected { .. }
                | Self::SamplesSkipped { .. }
                | Self::CheckpointsPruned { .. }
        )
    }
}
