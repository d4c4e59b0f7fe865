//! The way from a journal to an engine, and from an engine to what is written.

use crate::Error;
use rebloom_core::engine::{Engine, Limits, Record, State};
use rebloom_core::time::Instant;
use rebloom_runtime::journal::Journal;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
struct Snapshot<S> {
    at: Instant,
    state: S,
}

/// An engine as it was, and the last moment it knows of.
pub(crate) struct Past {
    pub(crate) engine: Engine,
    /// Records that came after its snapshot.
    pub(crate) tail: usize,
    pub(crate) last: Instant,
}

/// Replays a journal.
pub(crate) fn read(journal: &mut impl Journal, limits: Limits) -> Result<Past, Error> {
    let replay = journal.replay()?;
    for repair in &replay.repairs {
        warn!("journal repaired: {repair}");
    }
    let refuse = |what: String| move |error| Error::Past { what, error };
    let snapshot = match &replay.snapshot {
        None => Snapshot {
            at: Instant::ZERO,
            state: State::default(),
        },
        Some(entry) => serde_json::from_slice(&entry.record)
            .map_err(refuse(format!("the snapshot at record {}", entry.sequence)))?,
    };
    let records = replay
        .entries
        .iter()
        .map(|entry| {
            serde_json::from_slice(&entry.record)
                .map_err(refuse(format!("record {}", entry.sequence)))
        })
        .collect::<Result<Vec<Record>, Error>>()?;
    let last = records
        .last()
        .map_or(snapshot.at, |record| record.at.max(snapshot.at));
    info!(
        records = records.len(),
        snapshot = replay.snapshot.is_some(),
        "journal replayed"
    );
    let tail = records.len();
    let mut engine = Engine::from_snapshot(limits, snapshot.state, records);
    if replay.may_lack_end {
        warn!(
            "the journal may lack its last moments: nothing is placed until every node has joined, or \
             has surely fenced its ranks"
        );
        engine = engine.in_doubt();
    }
    Ok(Past { tail, engine, last })
}

/// A record as it is written.
pub(crate) fn record(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have no maps with keys that are not text or numbers")
}

/// A snapshot as it is written.
pub(crate) fn snapshot(at: Instant, state: &State) -> Vec<u8> {
    serde_json::to_vec(&Snapshot { at, state })
        .expect("the state has no maps with keys that are not text or numbers")
}
