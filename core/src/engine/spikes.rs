//! Spikes: what comes of a loss or a gradient norm that ran away.
//!
//! A warning is an incident and nothing else. Where the run goes back, the samples in question are
//! skipped by every later generation, and no checkpoint that was trained on them is resumed from.

use super::state::{Run, Skipped};
use super::{Engine, Fact};
use crate::cause::Cause;
use crate::flight::Phase;
use crate::guard::Spike;
use crate::id::{Generation, RunId};

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
