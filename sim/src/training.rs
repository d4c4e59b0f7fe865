//! The made-up training: a hash chain over the samples of every step, through all ranks.
//!
//! A rank's state after a step mixes the states of the whole gang before it with the samples of that
//! step. A step left out, done twice, done on other samples or with a rank that resumed from
//! something else gives other states for ever: so T1 can be checked after every single step. Copies of the
//! model hold the same, so that a run comes to the same with fewer of them.

use crate::random::mix;
use crate::storage::Saved;
use rebloom_core::eval::{Evaluation, Score};
use rebloom_core::guard::{GuardAction, Samples, Spike};
use rebloom_core::id::{Rank, Step};
use rebloom_core::layout::{Coordinates, Layout};
use rebloom_core::spec::RunSpec;
use std::collections::BTreeMap;

/// Which part of the model a rank holds: the rank that holds it where there is one copy.
pub(crate) fn part(layout: Layout, rank: Rank) -> Rank {
    let at = layout.coordinates(rank);
    Layout { data: 1, ..layout }.rank(Coordinates { data: 0, ..at })
}

/// The state before the first step.
pub(crate) fn initial(spec: &RunSpec, rank: Rank) -> Saved {
    let part = part(spec.layout, rank);
    let state = mix(spec.train.seed ^ mix(u64::from(part.0)));
    Saved {
        step: Step(0),
        samples: 0,
        state,
    }
}

/// What the gang's collectives carry in one step, by its ranks in order: all parts of the model, and what a copy
/// differs in, where one does.
pub(crate) fn reduce(layout: Layout, states: impl Iterator<Item = Saved>) -> u64 {
    let mut parts = BTreeMap::new();
    let mut off = 0;
    for (rank, saved) in layout.ranks().zip(states) {
        let first = *parts.entry(part(layout, rank)).or_insert(saved.state);
        off ^= first ^ saved.state;
    }
    parts.into_values().fold(off, |sum, state| mix(sum ^ state))
}

/// The samples of one step that have its loss run away, in a run that is guarded: which ones its seed decides alone, beside
/// the chances of the world.
pub(crate) fn poisoned(spec: &RunSpec) -> Option<Samples> {
    if spec.guard.action != GuardAction::RollBack {
        return None;
    }
    let batch = u64::from(spec.train.global_batch);
    let from = mix(!spec.train.seed) % spec.train.steps * batch;
    Some(Samples {
        from,
        until: from + batch,
    })
}

/// The spike that a gang comes upon in its next step, if it does.
pub(crate) fn spike(spec: &RunSpec, before: Saved) -> Option<Spike> {
    let bad = poisoned(spec)?;
    let (first, end) = consumed(spec, before);
    let numbers = spec.guard.skips().numbers(first..end);
    (numbers.start < bad.until && bad.from < numbers.end).then(|| Spike {
        step: Step(before.step.0 + 1),
        consumed: first,
        samples: Samples {
            from: numbers.start,
            until: numbers.end,
        },
        reading: "a loss of 9".to_owned(),
    })
}

/// Counts of samples before and after the next step.
fn consumed(spec: &RunSpec, before: Saved) -> (u64, u64) {
    let batch = u64::from(spec.train.batch(before.samples));
    (before.samples, before.samples + batch)
}

/// One step of one rank, from what the collectives carried and the samples that are next for it.
pub(crate) fn step(spec: &RunSpec, reduced: u64, before: Saved) -> Saved {
    let (first, end) = consumed(spec, before);
    let skips = spec.guard.skips();
    let gradient = (first..end).fold(reduced, |sum, nth| mix(sum ^ skips.number(nth)));
    Saved {
        step: Step(before.step.0 + 1),
        samples: end,
        state: mix(before.state ^ gradient),
    }
}

/// What an evaluation gives, from what the collectives carry then.
pub(crate) fn evaluation(reduced: u64, at: Saved) -> Evaluation {
    Evaluation {
        step: at.step,
        samples: at.samples,
        scores: vec![Score {
            set: "held out".to_owned(),
            documents: 1,
            bytes: None,
            tokens: 1000,
            nats: (reduced >> 32) as f64 / 1e6,
        }],
    }
}

/// Every state of every part of the model in a world where nothing ever happens, and that was told what to pass over: by
/// step, then by part.
pub(crate) fn undisturbed(spec: &RunSpec) -> Vec<Vec<Saved>> {
    let mut spec = spec.clone();
    spec.layout.data = 1;
    spec.guard.skip.extend(poisoned(&spec));
    let (spec, layout) = (&spec, spec.layout);
    let mut all = vec![
        layout
            .ranks()
            .map(|rank| initial(spec, rank))
            .collect::<Vec<_>>(),
    ];
    for at in 0..spec.train.steps {
        let before = &all[usize::try_from(at).expect("steps fit in memory")];
        let reduced = reduce(layout, before.iter().copied());
        all.push(
            before
                .iter()
                .map(|state| step(spec, reduced, *state))
                .collect(),
        );
    }
    all
}
