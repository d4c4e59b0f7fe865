//! Reports that the controller has not acknowledged, in order.

use super::Command;
use crate::health::signal::{Key, Sign, Signal};
use crate::id::{Rank, RunId};
use crate::report::{RankEvent, Report};
use std::collections::{BTreeMap, VecDeque};

/// More than a gang's worth of news of a node; a controller that is away for longer learns the rest
/// from the join.
const MOST: usize = 1024;
/// Levels that are remembered, raised or over.
const LEVELS: usize = 128;

/// Reports under way.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    last: u64,
    waiting: VecDeque<(u64, Report)>,
    /// The last that was said of each level of the node's health.
    levels: BTreeMap<Key, Signal>,
}

impl Outbox {
    /// Takes a report in and says how to send it.
    pub(super) fn add(&mut self, report: Report) -> Command {
        if self.waiting.len() >= MOST {
            let passing = self
                .waiting
                .iter()
                .position(|(_, old)| is_passing(old))
                .unwrap_or(0);
            self.waiting.remove(passing);
        }
        if let Report::Signal { signal } = &report {
            self.note(signal);
        }
        self.last += 1;
        self.waiting.push_back((self.last, report.clone()));
        Command::Report {
            sequence: self.last,
            report,
        }
    }

    fn note(&mut self, signal: &Signal) {
        if matches!(signal.sign, Sign::ProbesStarted { .. }) {
            self.levels.clear();
        } else if signal.cleared && !self.levels.contains_key(&signal.key()) {
            // What never was raised, as probes say that begin anew.
        } else if !signal.is_event() {
            self.levels.insert(signal.key(), signal.clone());
            if self.levels.len() > LEVELS {
                let over = self.levels.iter().find(|(_, signal)| signal.cleared);
                let over = over.map_or_else(|| signal.key(), |(key, _)| *key);
                self.levels.remove(&over);
            }
        }
    }

    /// What was last said of each level, for a controller that may have lost it. One that has not
    /// knows that it is no news.
    pub(super) fn levels(&self) -> Vec<Report> {
        let signals = self.levels.values().cloned();
        signals.map(|signal| Report::Signal { signal }).collect()
    }

    /// The controller has it.
    pub(super) fn acked(&mut self, sequence: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != sequence);
    }

    /// Everything again, after a reconnect.
    pub(super) fn all(&self) -> Vec<Command> {
        let again = |(sequence, report): &(u64, Report)| Command::Report {
            sequence: *sequence,
            report: report.clone(),
        };
        self.waiting.iter().map(again).collect()
    }

    /// Whether this very report is under way.
    pub(super) fn has(&self, report: &Report) -> bool {
        self.waiting.iter().any(|(_, waiting)| waiting == report)
    }

    /// Whether anything about this rank is not acknowledged yet.
    pub(super) fn holds(&self, id: &RunId, of: Rank) -> bool {
        self.waiting.iter().any(|(_, report)| match report {
            Report::Rank { run, rank, .. } | Report::ShardFailed { run, rank, .. } => {
                run == id && *rank == of
            }
            Report::ShardSaved { run, shard, .. } => run == id && shard.rank == of,
            // A snapshot is worth nothing once its rank has finished.
            Report::SnapshotHeld { .. }
            | Report::Sealed { .. }
            | Report::Stopped { .. }
            | Report::Signal { .. } => false,
        })
    }
}

/// Whether later reports make this one worthless.
fn is_passing(report: &Report) -> bool {
    match report {
        // Levels are told again and again.
        Report::SnapshotHeld { .. }
        | Report::ShardSaved { .. }
        | Report::ShardFailed { .. }
        | Report::Signal { .. } => true,
        Report::Rank { event, .. } => {
            matches!(
                event,
                RankEvent::Reached { .. } | RankEvent::PeerLost { .. }
            )
        }
        Report::Sealed { .. } | Report::Stopped { .. } => false,
    }
}
