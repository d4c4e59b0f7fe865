//! Flight pages.

use crate::check::{Malformed, code, list, part, same_names};
use crate::wire;
use rebloom_core::flight::{Channel, Counter, Page, Phase, Sighting};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::time::Instant;

same_names!(Phase <=> Phase { Idle, Init, Load, Step, Eval, Save, Exit });
same_names!(Channel <=> Channel {
    Tensor, Data, Embedding, World, ForwardIn, ForwardOut, BackwardIn, BackwardOut,
});

impl From<Counter> for wire::Counter {
    fn from(Counter { entered, done }: Counter) -> Self {
        Self { entered, done }
    }
}

impl TryFrom<wire::Counter> for Counter {
    type Error = Malformed;
    fn try_from(wire::Counter { entered, done }: wire::Counter) -> Result<Self, Malformed> {
        if done > entered {
            return Err(Malformed::new(
                "done",
                format!("{done} is more than entered ({entered})"),
            ));
        }
        Ok(Self { entered, done })
    }
}

impl From<Page> for wire::Page {
    fn from(page: Page) -> Self {
        Self {
            generation: page.generation.0,
            phase: wire::Phase::from(page.phase).into(),
            deadline: page.deadline.map(Instant::as_nanos),
            step: page.step.0,
            samples: page.samples,
            loss: page.loss,
            grad_norm: page.grad_norm,
            step_nanos: page.step_nanos,
            counters: page.counters.into_iter().map(Into::into).collect(),
            pulse: page.pulse,
            busy_nanos: page.busy_nanos,
        }
    }
}

impl TryFrom<wire::Page> for Page {
    type Error = Malformed;
    fn try_from(page: wire::Page) -> Result<Self, Malformed> {
        let counters: Vec<Counter> = list(page.counters, "counters")?;
        Ok(Self {
            generation: Generation(page.generation),
            phase: code::<wire::Phase, _>(page.phase, "phase")?,
            deadline: page.deadline.map(Instant::from_nanos),
            step: Step(page.step),
            samples: page.samples,
            loss: page.loss,
            grad_norm: page.grad_norm,
            step_nanos: page.step_nanos,
            pulse: page.pulse,
            busy_nanos: page.busy_nanos,
            counters: counters.try_into().map_err(|counters: Vec<Counter>| {
                Malformed::new("counters", format!("has {} entries, not 8", counters.len()))
            })?,
        })
    }
}

impl From<Sighting> for wire::Sighting {
    fn from(Sighting { rank, page }: Sighting) -> Self {
        Self {
            rank: rank.0,
            page: Some(page.into()),
        }
    }
}

impl TryFrom<wire::Sighting> for Sighting {
    type Error = Malformed;
    fn try_from(sighting: wire::Sighting) -> Result<Self, Malformed> {
        Ok(Self {
            rank: Rank(sighting.rank),
            page: part(sighting.page, "page")?,
        })
    }
}
