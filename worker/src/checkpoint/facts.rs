//! What a shard says of itself, and what the version before said.

use super::slice::Slice;
use crate::model::shape::Stage;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::guard::Figures;
use rebloom_core::id::{Rank, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::spec::Model;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// What stands in front of the names of weights and moments.
pub(super) const KINDS: [&str; 3] = ["weight", "exp_avg", "exp_avg_sq"];

/// The key under which [`Facts`] lie in a shard's metadata.
pub(super) const FACTS: &str = "rebloom";

/// The version of [`Facts`] that is written.
pub(super) const VERSION: u32 = 2;

/// What a shard says of itself; `S` is how it says which slice of a parameter it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facts<S = Slice> {
    pub(super) version: u32,
    pub(super) run: RunId,
    pub(super) id: CheckpointId,
    pub(super) rank: Rank,
    pub(super) layout: Layout,
    pub(super) model: Model,
    pub(super) seed: u64,
    pub(super) samples: u64,
    /// Figures of the last steps, which the loss guard goes on from; the same in every shard.
    #[serde(default)]
    pub(super) recent: Vec<Figures>,
    /// By name of the parameter.
    pub(super) slices: BTreeMap<String, S>,
}

/// Version 1 counted elements from the first of the part that the rank's place in its layout holds.
type Before = Facts<Range<i64>>;

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A shape beyond all bounds would have tables made that no memory holds.
fn possible(model: &Model) -> Result<(), String> {
    let sizes = [
        (model.layers, 1024),
        (model.hidden, 1 << 17),
        (model.heads, 1024),
        (model.vocab, 1 << 22),
    ];
    if sizes.iter().all(|(size, most)| (1..=*most).contains(size)) {
        return Ok(());
    }
    Err(format!("its model cannot be: {model:?}"))
}

impl Facts {
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let text = |error: serde_json::Error| error.to_string();
        let Version { version } = serde_json::from_str(json).map_err(text)?;
        let facts = match version {
            1 => Self::of_before(serde_json::from_str(json).map_err(text)?)?,
            VERSION => serde_json::from_str(json).map_err(text)?,
            other => return Err(format!("its format is {other}, which is not known")),
        };
        possible(&facts.model)?;
        Ok(facts)
    }

    fn of_before(before: Before) -> Result<Self, String> {
        let Facts {
            version,
            run,
            id,
            rank,
            layout,
            model,
            seed,
            samples,
            recent,
            slices,
        } = before;
        possible(&model)?;
        let sizes = [layout.tensor, layout.pipeline, layout.data];
        if sizes.contains(&0) || layout.pipeline > model.layers {
            return Err(format!("its layout cannot be: {layout}"));
        }
        let at = layout.coordinates(rank);
        let parameters = Stage::of(&model, layout.pipeline, at.stage).parameters(&model);
        let slices = slices.into_iter().map(|(name, range)| {
            let known = parameters.iter().find(|p| p.name == name);
            let parameter =
                known.ok_or_else(|| format!("{name} is no parameter of rank {rank}"))?;
            let slice = Slice::of(parameter, (at.tensor, layout.tensor), range);
            Ok((name, slice))
        });
        Ok(Self {
            slices: slices.collect::<Result<_, String>>()?,
            version,
            run,
            id,
            rank,
            layout,
            model,
            seed,
            samples,
            recent,
        })
    }
}
