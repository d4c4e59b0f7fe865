//! What a gang finds out about its own numbers: spikes, and replicas that are not alike.
//!
//! A warning is an incident and nothing else. Where the run goes back, the samples in question are
//! skipped by every later generation, and no checkpoint that was trained on them is resumed from.
//! Replicas are compared before each save, so what is sealed was alike.

use super::state::{Run, Skipped};
use super::{Engine, Fact};
use crate::cause::Cause;
use crate::flight::Phase;
use crate::guard::{self, Spike};
use crate::id::{Generation, RunId, Step};
use crate::replicas::Differs;

/// Incidents in which a warning is looked for that another rank gave already.
const RECENT: usize = 64;

impl Engine {
    /// Every rank of a gang reports the same spike; the first report decides.
    pub(super) fn spiked(
        &mut self,
        id: &RunId,
        generation: Generation,
        spike: Spike,
        goes_on: bool,
    ) {
        let cause = spike_cause(spike.clone(), !goes_on);
        if goes_on {
            let is_known = self.state.runs.get(id).is_none_or(|run| {
                let mut known = run.incidents.iter().rev().take(RECENT);
                known.any(|incident| incident.cause == cause && incident.generation == generation)
            });
            if !is_known {
                self.noted(id, cause);
            }
            return;
        }
        self.tell(Fact::RankBroke {
            run: id.clone(),
            generation,
            phase: Phase::Step,
        });
        let skipped = Skipped {
            by: generation,
            consumed: spike.consumed,
            samples: spike.samples,
        };
        let is_new = |run: &Run| !run.skipped.contains(&skipped);
        if self.state.runs.get(id).is_some_and(is_new) {
            self.tell(Fact::SamplesSkipped {
                run: id.clone(),
                generation,
                consumed: spike.consumed,
                samples: spike.samples,
            });
        }
        self.fault(id, cause, self.now);
    }

    /// Every rank of the group says the same; the first report decides. The node of the odd ranks is blamed, where they
    /// are known and it is one.
    pub(super) fn replicas_differ(&mut self, id: &RunId, generation: Generation, differs: Differs) {
        self.tell(Fact::RankBroke {
            run: id.clone(),
            generation,
            phase: Phase::Step,
        });
        let gang = self.state.runs.get(id).and_then(|run| run.gang.as_ref());
        let nodes = differs.ranks.iter();
        let mut nodes = nodes.map(|rank| gang.and_then(|gang| gang.node_of(*rank)));
        let first = nodes.next().flatten();
        let node = first.filter(|first| nodes.all(|node| node == Some(first)));
        let node = node.cloned();
        self.fault(id, Cause::ReplicasDiffer { differs, node }, self.now);
    }
}

impl Run {
    /// Whether spikes came again whichever checkpoint it went back to, and from which the last one did.
    pub(super) fn spikes_repeat(&self) -> Option<Step> {
        let last = self.doubted.last()?;
        let is_over = self.doubted.len() >= guard::TRIES || self.newest_sealed().is_none();
        is_over.then_some(last.step)
    }
}

/// The cause that a spike is.
pub(super) fn spike_cause(spike: Spike, rolls_back: bool) -> Cause {
    Cause::LossSpiked {
        step: spike.step,
        samples: spike.samples,
        reading: spike.reading,
        rolls_back,
    }
}
