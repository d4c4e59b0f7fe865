//! Deadlines that a run learns from itself: how long each phase took at most, times a safety factor.
//!
//! What is set by hand is what a phase may ever take; what was learned only makes it less. The first steps
//! of a generation are left out, since they warm caches and libraries. Never judges who is late.

use crate::by_rank::ByRank;
use crate::flight::{Page, Phase};
use crate::id::{Rank, Step};
use crate::spec::Deadlines;
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How deadlines are learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Learn {
    /// A phase may take this many times the longest that was seen.
    pub factor: f64,
    /// First steps of a generation that are left out.
    pub skip: u64,
    /// Seconds below which no deadline goes.
    pub least: f64,
}

impl Default for Learn {
    fn default() -> Self {
        Self {
            factor: 5.0,
            skip: 5,
            least: 10.0,
        }
    }
}

/// What was learned of one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// The longest time that it took.
    pub longest: Duration,
    /// How often that was taken anew; a first sight alone is not believed.
    pub seen: u32,
}

/// Growth below this is not worth a record.
const MATTERS: f64 = 1.1;

impl Timing {
    /// What is known after one more time, where that changes anything.
    pub fn after(self, took: Duration) -> Option<Self> {
        let grows = took.as_secs_f64() > self.longest.as_secs_f64() * MATTERS;
        (grows || self.seen < 2).then_some(Self {
            longest: self.longest.max(took),
            seen: self.seen + 1,
        })
    }
}

/// How long a phase may take, in seconds: by hand, or less where that was learned.
pub fn allowed(by_hand: f64, timing: Option<&Timing>, learn: Option<&Learn>) -> f64 {
    match (timing.filter(|timing| timing.seen >= 2), learn) {
        (Some(timing), Some(learn)) => {
            let learned = timing.longest.as_secs_f64() * learn.factor;
            learned.max(learn.least).min(by_hand)
        }
        (None, _) | (_, None) => by_hand,
    }
}

/// Every deadline of a run as it stands with what was learned.
pub fn learned(by_hand: &Deadlines, timings: &BTreeMap<Phase, Timing>) -> Deadlines {
    let learn = by_hand.learn.as_ref();
    let of = |phase, seconds| allowed(seconds, timings.get(&phase), learn);
    Deadlines {
        init: of(Phase::Init, by_hand.init),
        load: of(Phase::Load, by_hand.load),
        step: of(Phase::Step, by_hand.step),
        eval: of(Phase::Eval, by_hand.eval),
        save: of(Phase::Save, by_hand.save),
        exit: of(Phase::Exit, by_hand.exit),
        learn: by_hand.learn,
    }
}

/// Where each rank is, and since when that is known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clock {
    since: ByRank<(Phase, Step, Instant)>,
}

/// What one look at a page told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// A phase, or one step of it, that is over, and how long it took.
    pub over: Option<(Phase, Duration)>,
    /// The phase that goes on, and for how long it has.
    pub goes_on: (Phase, Duration),
}

impl Clock {
    /// Takes in a page; `first` is the step that its generation began with.
    pub fn look(
        &mut self,
        (rank, page): (Rank, &Page),
        (first, learn): (Step, &Learn),
        now: Instant,
    ) -> Look {
        let here = (page.phase, page.step, now);
        let (phase, step, since) = *self.since.get_or_insert(rank, here);
        if (phase, step) == (page.phase, page.step) {
            let goes_on = (phase, now.since(since));
            return Look {
                over: None,
                goes_on,
            };
        }
        self.since.insert(rank, here);
        let over = if phase == Phase::Step {
            // The worker's own clock is finer than the beat, and a beat may hold several steps.
            let is_warm = page.step.0 > first.0 + learn.skip;
            let took = Duration::from_nanos(page.step_nanos);
            (is_warm && page.step > step && !took.is_zero()).then_some((phase, took))
        } else {
            (phase != page.phase && phase != Phase::Idle).then(|| (phase, now.since(since)))
        };
        let goes_on = (page.phase, Duration::ZERO);
        Look { over, goes_on }
    }

    /// Begins anew: another generation.
    pub fn clear(&mut self) {
        self.since.clear();
    }
}
