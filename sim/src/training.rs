//! The made-up training: a hash chain over the samples of every step, through all ranks.
//!
//! A rank's state after a step mixes the states of the whole gang before it with the samples of that
//! step. A step left out, done twice, done on other samples or with a rank that resumed from
//! something else gives other states for ever: so T1 can be checked after every single step.

use crate::random::mix;
use crate::storage::Saved;
use rebloom_core::eval::{Evaluation, Score};
use rebloom_core::id::{Rank, Step};
use rebloom_core::spec::RunSpec;

/// The state before the first step.
pub(crate) fn initial(spec: &RunSpec, rank: Rank) -> Saved {
    let state = mix(spec.train.seed ^ mix(u64::from(rank.0)));
    Saved {
        step: Step(0),
        samples: 0,
        state,
    }
}

/// What the gang's collectives carry in one step.
pub(crate) fn reduce(states: impl Iterator<Item = Saved>) -> u64 {
    states.fold(0, |sum, saved| mix(sum ^ saved.state))
}

/// One step of one rank, from what the collectives carried and the samples that are next for it.
pub(crate) fn step(spec: &RunSpec, reduced: u64, before: Saved) -> Saved {
    let batch = u64::from(spec.train.batch(before.samples));
    let samples = before.samples..before.samples + batch;
    let gradient = samples
        .clone()
        .fold(reduced, |sum, sample| mix(sum ^ sample));
    Saved {
        step: Step(before.step.0 + 1),
        samples: samples.end,
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

/// Every state of every rank in a world where nothing ever happens: by step, then by rank.
pub(crate) fn undisturbed(spec: &RunSpec) -> Vec<Vec<Saved>> {
    let mut all = vec![
        spec.layout
            .ranks()
            .map(|rank| initial(spec, rank))
            .collect::<Vec<_>>(),
    ];
    for at in 0..spec.train.steps {
        let before = &all[usize::try_from(at).expect("steps fit in memory")];
        let reduced = reduce(before.iter().copied());
        all.push(
            before
                .iter()
                .map(|state| step(spec, reduced, *state))
                .collect(),
        );
    }
    all
}
