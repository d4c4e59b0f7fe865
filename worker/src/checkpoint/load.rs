//! Loading: a rank's own part of weights and moments, from a checkpoint in whatever layout.

use super::directory;
use super::read::{Common, Stored, Want, unreadable};
use super::slice::Slice;
use crate::shim::cuda;
use crate::trainer::{StepError, Trainer};
use crate::weights::Weights;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest};
use rebloom_core::guard::Guard;
use rebloom_core::id::{Rank, Step};
use rebloom_core::snapshot::Piece;
use std::path::Path;
use tch::{Device, Tensor, no_grad};

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
    take_up(trainer, rank, &stored)
}

/// Loads this rank's shard of a snapshot of the same layout, which lies in `directory`, and gathers the weights
/// of its data group.
pub fn recall(
    trainer: &mut Trainer,
    rank: Rank,
    directory: &Path,
    piece: &Piece,
) -> Result<(), LoadError> {
    let spec = trainer.spec();
    let common = Common {
        model: spec.model,
        seed: spec.train.seed,
    };
    // In the layout that wrote it, a rank's own shard is all that it needs.
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        run: spec.name.clone(),
        id: piece.checkpoint,
        layout: piece.layout,
        samples: piece.samples,
        shards: vec![piece.shard.clone()],
    };
    let stored = Stored::told(directory, manifest, common);
    take_up(trainer, rank, &stored)
}

fn take_up(trainer: &mut Trainer, rank: Rank, stored: &Stored) -> Result<(), LoadError> {
    same_samples(trainer, stored, rank)?;
    let (wants, landings) = wants(trainer, rank, 3);
    let recent = stored.fill(wants, Some(rank))?;
    land(landings)?;
    let (step, samples) = (stored.manifest().id.step, stored.manifest().samples);
    trainer.resume_guard(Guard::resume(recent));
    trainer.resume(step, samples)?;
    Ok(())
}

/// What was passed over so far must be what this run passes over: else it would train on samples twice or never, and no run
/// from the start could come to the same weights. A later skip is no matter.
fn same_samples(trainer: &Trainer, stored: &Stored, rank: Rank) -> Result<(), StepError> {
    let manifest = stored.manifest();
    let ours = trainer.spec().guard.skips().below(manifest.samples);
    match stored.skipped(rank) {
        Some(theirs) if theirs != ours => Err(StepError::Data(format!(
            "the checkpoint at step {} was trained passing over samples {theirs}, this run passes over {ours} up to there; \
             resume from an older one, or with the same guard.skip",
            manifest.id.step
        ))),
        _ => Ok(()),
    }
}

/// Begins with the weights of a model folder or of another run's checkpoint.
pub fn begin_with(trainer: &mut Trainer, rank: Rank, weights: &Weights) -> Result<(), StepError> {
    let wanted = trainer.spec().model;
    weights.suits(&wanted).map_err(StepError::Data)?;
    let (wants, landings) = wants(trainer, rank, 1);
    weights
        .fill(wants)
        .map_err(|error| StepError::Data(error.to_string()))?;
    land(landings)?;
    trainer.resume(Step(0), 0)
}

/// What is read into the host's memory, and where on a GPU it belongs.
type Landing = (Tensor, Tensor);

/// What this rank updates, with its weights (`kinds` is 1) or its moments as well (3).
fn wants(trainer: &Trainer, rank: Rank, kinds: usize) -> (Vec<Want>, Vec<Landing>) {
    let layout = trainer.spec().layout;
    let place = (layout.coordinates(rank).tensor, layout.tensor);
    let own = trainer.optimizer().own(&trainer.flat().plan);
    let mut landings = Vec::new();
    let wants = own.map(|slice| {
        let parameter = &slice.slot.parameter;
        let tensors = slice.tensors.into_iter().take(kinds);
        let into = tensors.map(|tensor| match tensor.device() {
            Device::Cpu => tensor,
            Device::Cuda(_) | Device::Mps | Device::Vulkan => {
                let room = Tensor::empty(tensor.size(), (tensor.kind(), Device::Cpu));
                landings.push((room.shallow_clone(), tensor));
                room
            }
        });
        let into = into.collect();
        let slice = Slice::of(parameter, place, slice.range);
        Want::new(&parameter.name, slice, into)
    });
    (wants.collect(), landings)
}

fn land(landings: Vec<Landing>) -> Result<(), StepError> {
    if let Some((_, place)) = landings.first() {
        cuda::copies_first(place.device())?;
    }
    no_grad(|| {
        for (arrived, mut place) in landings {
            place.copy_(&arrived);
        }
    });
    Ok(())
}
