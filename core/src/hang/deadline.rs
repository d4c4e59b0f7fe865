//! Deadlines that a run learns from itself: how long each phase took at most, times a safety factor.
//!
//! What is set by hand is what a phase may ever take; what was learned only makes it less, and is for the
//! controller to watch: workers know only what was set. The first steps of a generation are left out, since
//! they warm caches and libraries. Never judges who is late.

use crate::by_rank::ByRank;
use crate::flight::{Page, Phase};
use crate::id::{Generation, Rank, Step};
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};

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
    /// How often it was seen, by whichever ranks; a first sight alone is not believed.
    pub seen: u32,
    /// The occurrence that was counted last: every rank of a gang shows the same one.
    #[serde(default)]
    pub last: Option<(Generation, Step)>,
    /// Whether a hang was judged by it. It may have been too short, so nothing is learned before the run
    /// has come further than ever.
    #[serde(default)]
    pub doubted: bool,
}

/// Growth below this is not worth a record.
const MATTERS: f64 = 1.1;
/// Occurrences after which a time is believed.
const BELIEVED: u32 = 2;

impl Timing {
    /// What is known after one more time, where that changes anything; `of` is the generation and step in
    /// which it was.
    pub fn after(self, took: Duration, of: (Generation, Step)) -> Option<Self> {
        let grows = took.as_secs_f64() > self.longest.as_secs_f64() * MATTERS;
        let is_new = self.last != Some(of);
        let tells = grows || (is_new && self.seen < BELIEVED);
        (tells && !self.doubted).then_some(Self {
            longest: self.longest.max(took),
            seen: self.seen.saturating_add(u32::from(is_new)),
            last: Some(of),
            doubted: false,
        })
    }

    /// What is left of it once a hang was judged by it.
    pub fn in_doubt() -> Self {
        Self {
            doubted: true,
            ..Self::default()
        }
    }
}

/// How long a phase may take, in seconds: by hand, or less where that was learned.
pub fn allowed(by_hand: f64, timing: Option<&Timing>, learn: Option<&Learn>) -> f64 {
    match (timing.filter(|timing| timing.seen >= BELIEVED), learn) {
        (Some(timing), Some(learn)) => {
            let learned = timing.longest.as_secs_f64() * learn.factor;
            learned.max(learn.least).min(by_hand)
        }
        (None, _) | (_, None) => by_hand,
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
    /// A phase, or one step of it, that is over, how long it took, and the step in which it was.
    pub over: Option<(Phase, Duration, Step)>,
    /// The phase that goes on, and since when it has.
    pub goes_on: (Phase, Instant),
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
            let goes_on = (phase, since);
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
            (is_warm && page.step > step && !took.is_zero()).then_some((phase, took, page.step))
        } else {
            // Before they have loaded, the pages of survivors may still name a step of the last generation.
            let is_early = matches!(phase, Phase::Init | Phase::Load);
            let step = if is_early { first } else { step };
            (phase != page.phase && phase != Phase::Idle).then(|| (phase, now.since(since), step))
        };
        let goes_on = (page.phase, now);
        Look { over, goes_on }
    }

    /// Begins anew: another generation.
    pub fn clear(&mut self) {
        self.since.clear();
    }
}
