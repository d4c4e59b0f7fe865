//! Loading: a rank's own part of weights and moments, from a checkpoint in whatever layout.

use super::directory;
use super::read::{Common, Stored, Want, unreadable};
use super::slice::Slice;
use crate::trainer::{StepError, Trainer};
use crate::weights::Weights;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::guard::Guard;
use rebloom_core::id::{Rank, Step};

/// Why a checkpoint was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is unsound.
    #[error("the checkpoint is unsound: {0}")]
    Unsound(Unsound),
    /// The rest of the gang, or libtorch.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl From<Unsound> for LoadError {
    fn from(unsound: Unsound) -> Self {
        Self::Unsound(unsound)
    }
}

/// Loads this rank's part of a sealed checkpoint and gathers the weights of its data group.
pub fn load(trainer: &mut Trainer, rank: Rank, id: CheckpointId) -> Result<(), LoadError> {
    let spec = trainer.spec();
    let common = Common {
        model: spec.model,
        seed: spec.train.seed,
    };
    let stored = Stored::of(&directory(spec, id), id, common)?;
    if stored.manifest().run != spec.name {
        let text = format!("is of run {}", stored.manifest().run);
        return Err(unreadable("manifest.json", text).into());
    }
    let recent = stored.fill(wants(trainer, rank, 3), Some(rank))?;
    trainer.resume_guard(Guard::resume(recent));
    trainer.resume(id.step, stored.manifest().samples)?;
    Ok(())
}

/// Begins with the weights of a model folder or of another run's checkpoint.
pub fn begin_with(trainer: &mut Trainer, rank: Rank, weights: &Weights) -> Result<(), StepError> {
    let wanted = trainer.spec().model;
    weights.suits(&wanted).map_err(StepError::Data)?;
    let wants = wants(trainer, rank, 1);
    weights
        .fill(wants)
        .map_err(|error| StepError::Data(error.to_string()))?;
    trainer.resume(Step(0), 0)
}

/// What this rank updates, with its weights (`kinds` is 1) or its moments as well (3).
fn wants(trainer: &Trainer, rank: Rank, kinds: usize) -> Vec<Want> {
    let layout = trainer.spec().layout;
    let place = (layout.coordinates(rank).tensor, layout.tensor);
    let own = trainer.optimizer().own(&trainer.flat().plan);
    own.map(|slice| {
        let parameter = &slice.slot.parameter;
        let into = slice.tensors.into_iter().take(kinds).collect();
        let slice = Slice::of(parameter, place, slice.range);
        Want::new(&parameter.name, slice, into)
    })
    .collect()
}
