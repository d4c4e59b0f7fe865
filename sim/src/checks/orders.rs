//! What crosses the border of the controller: what it may order, and what it may do about a report.

use crate::options::Fault;
use crate::worker::Process;
use crate::world::World;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Command, Event, Fact, Record};
use rebloom_core::id::{Generation, NodeId, Rank, RunId};
use rebloom_core::order::Order;
use rebloom_core::report::{RankEvent, Report};

impl World {
    /// Something is done for a cause that says what it is.
    pub(super) fn check_cause(&mut self, run: &RunId, cause: &Cause) {
        if cause.label().is_empty() || cause.to_string().is_empty() {
            self.checks
                .violated(format!("S9: something is done to {run} for no cause"));
        }
    }

    /// Whether a report is of a generation that is over, and does not say that a rank of it is gone.
    pub(crate) fn is_stale(&self, event: &Event) -> bool {
        let Event::Report { report, .. } = event else {
            return false;
        };
        let (run, generation) = match report {
            Report::Rank {
                event: RankEvent::Exited { .. } | RankEvent::NotStarted { .. },
                ..
            }
            | Report::SnapshotHeld { .. }
            | Report::Sealed { .. }
            | Report::Stopped { .. }
            | Report::Signal { .. } => return false,
            Report::Rank {
                run, generation, ..
            } => (run, *generation),
            Report::ShardSaved {
                run, checkpoint, ..
            }
            | Report::ShardFailed {
                run, checkpoint, ..
            } => (run, checkpoint.generation),
        };
        let seen = self.checks.runs.get(run);
        seen.is_some_and(|seen| generation < seen.newest)
    }

    /// What the engine did about a stale report, with nothing else to do: at most take it for
    /// evidence, or write down the figures of an evaluation.
    pub(crate) fn check_unmoved<'a>(&mut self, done: impl Iterator<Item = &'a Command<Record>>) {
        let is_record = |command: &Command<Record>| matches!(command, Command::Persist(record) if matches!(record.fact, Fact::EvidenceAdded { .. } | Fact::Evaluated { .. }));
        if let Some(command) = done.into_iter().find(|command| !is_record(command)) {
            self.checks
                .violated(format!("S10: a stale report leads to {command:?}"));
        }
    }

    /// The engine orders something. With a journal that lost its last moments it may believe in a
    /// checkpoint that was removed since; then its ranks refuse to load it.
    pub(crate) fn check_order(&mut self, node: &NodeId, order: &Order) {
        if let Order::Stop { run, cause, .. } | Order::Kill { run, cause, .. } = order {
            self.check_cause(run, cause);
        }
        if let Order::Kill {
            run,
            generation,
            rank,
            cause: Cause::RankHung { .. },
        } = order
        {
            self.check_blame(node, run, *generation, *rank);
        }
        let Order::Start(start) = order else { return };
        let run = &start.gang.spec.name;
        let generation = start.gang.generation;
        if self.checks.lost.contains(node) {
            self.checks.violated(format!(
                "S3: generation {generation} of {run} is to start on {node}, which is lost"
            ));
        }
        let cause = self.checks.runs.get(run);
        let cause = cause.and_then(|seen| seen.causes.get(&generation));
        if cause != Some(&start.gang.cause) {
            let cause = &start.gang.cause;
            self.checks.violated(format!(
                "S9: generation {generation} of {run} is started for another cause than it was \
                 decided for: {cause}"
            ));
        }
        if let Some(id) = start.gang.resume
            && start.snapshot.is_empty()
            && !self.storage.is_sealed(run, id)
            && !self.has(Fault::PowerCutController)
        {
            let at = id.directory();
            self.checks.violated(format!(
                "S6: {run} is to resume from {at}, which is not sealed"
            ));
        }
    }

    /// A hang is blamed on a rank of a generation. Where only processes fail, the one that is to be
    /// killed for it must be one that was stopped; one of that rank that a cut-off node still runs, or
    /// that came after, is not meant.
    fn check_blame(&mut self, node: &NodeId, run: &RunId, generation: Generation, rank: Rank) {
        let blurs = [
            Fault::IsolateNode,
            Fault::SlowLink,
            Fault::SlowRank,
            Fault::KillAgent,
            Fault::LoseAgent,
            Fault::FreezeAgent,
        ];
        let is_meant = |process: &&Process| {
            let newest = process.generation().max(process.spawned_for);
            process.run == *run
                && process.rank == rank
                && self.nodes[process.node].id == *node
                && newest <= generation
        };
        let is_healthy = |process: &Process| !process.was_ill;
        let blamed = self.processes.values().find(is_meant);
        if blamed.is_some_and(is_healthy) && !blurs.iter().any(|f| self.has(*f)) {
            self.checks
                .violated(format!("blame: rank {rank} of {run} did not hang"));
        }
    }

    /// An order has reached an agent.
    pub(crate) fn check_received(&mut self, node: &NodeId, order: &Order) {
        let Order::Start(start) = order else { return };
        let (run, generation) = (start.gang.spec.name.clone(), start.gang.generation);
        let received = self
            .checks
            .received
            .entry((node.clone(), run.clone()))
            .or_default();
        let before = *received;
        *received = before.max(generation);
        if generation < before {
            self.checks.violated(format!(
                "S5: {node} was sent generation {before} of {run}, then {generation}"
            ));
        }
        let Some(seen) = self.checks.runs.get_mut(&run) else {
            return;
        };
        let Some(decided) = seen.decided.get(&generation) else {
            return;
        };
        let ordered = seen
            .ordered
            .entry(generation)
            .or_insert_with(|| decided.clone());
        if ordered != decided {
            self.checks.violated(format!(
                "S1: generation {generation} of {run} is two placements"
            ));
        }
    }
}
