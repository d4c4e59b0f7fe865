//! What an agent and a worker say to each other.

use super::{checkpoint, differs, evaluation, recall, run, shard, spec, spike, unsounds};
use rebloom_core::cause::Blamed;
use rebloom_core::flight::Phase;
use rebloom_core::id::{Digest, Generation, Rank, Slot, Step};
use rebloom_core::report::{Finish, Milestone};
use rebloom_core::time::Instant;
use rebloom_core::word::{FromWorker, Go, Hello, ToWorker};
use rebloom_proto::rank::{FromRank, ToRank};

pub(crate) fn to_rank() -> Vec<ToRank> {
    let go = Go {
        spec: spec(),
        generation: Generation(8),
        rank: Rank(3),
        slot: Slot(1),
        resume: Some(checkpoint()),
        snapshot: Some(Box::new(recall(true))),
        evaluated: Some(Step(7)),
    };
    let first = Go {
        resume: None,
        snapshot: None,
        evaluated: None,
        ..go.clone()
    };
    vec![
        ToRank::Ack(3),
        ToRank::Word(ToWorker::Go(Box::new(go))),
        ToRank::Word(ToWorker::Go(Box::new(first))),
        ToRank::Word(ToWorker::Exit),
        ToRank::Word(ToWorker::Heard(Instant::from_nanos(77))),
    ]
}

pub(crate) fn from_rank() -> Vec<FromRank> {
    let (generation, checkpoint, error) = (Generation(8), checkpoint(), || "no".to_owned());
    let hello = Hello {
        run: run(),
        rank: Rank(1),
        pid: 77,
        generation: Generation(0),
        milestone: Milestone::Going,
    };
    let mut words = vec![
        FromWorker::Hello(hello),
        FromWorker::Reached {
            generation,
            milestone: Milestone::Formed,
            step: Step(0),
        },
        FromWorker::Saved {
            checkpoint,
            samples: 1,
            shard: shard(),
        },
        FromWorker::Snapped(recall(false).piece),
        FromWorker::SaveFailed {
            checkpoint,
            error: error(),
        },
    ];
    for blamed in [None, Some(Blamed::Run), Some(Blamed::Infrastructure)] {
        let phase = Phase::Step;
        words.push(FromWorker::Failed {
            generation,
            phase,
            error: error(),
            blamed,
        });
    }
    words.push(FromWorker::ReplicasDiffer {
        generation,
        differs: differs(),
    });
    words.push(FromWorker::Evaluated {
        generation,
        evaluation: evaluation(),
    });
    for goes_on in [false, true] {
        let spike = spike();
        words.push(FromWorker::Spiked {
            generation,
            spike,
            goes_on,
        });
    }
    for unsound in unsounds() {
        words.push(FromWorker::LoadRefused {
            generation,
            checkpoint,
            unsound,
        });
    }
    for why in [Finish::Completed, Finish::Stopped] {
        let state = Digest([2; 32]);
        words.push(FromWorker::Finished {
            generation,
            why,
            step: Step(200),
            state,
        });
    }
    words
        .into_iter()
        .zip(1..)
        .map(|(word, sequence)| FromRank { sequence, word })
        .collect()
}

/// A part of a blend.
pub(super) fn data_part() -> rebloom_core::spec::DataPart {
    rebloom_core::spec::DataPart {
        prefix: "/data/sw".to_owned(),
        weight: 0.25,
        documents: [0.5, 0.75],
    }
}
