//! Weights as they lie on storage: a model folder of Hugging Face, or a checkpoint in whatever layout.
//!
//! Whoever wants weights and not the rest of a run's state asks here: a run that begins with them,
//! export, generation, evaluation.

use crate::checkpoint::slice::Slice;
use crate::checkpoint::{Stored, Want};
use crate::hf::{CONFIG, Folder, HfError};
use crate::model::shape::Parameter;
use rebloom_core::cause::Unsound;
use rebloom_core::spec::Model;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Why weights were not read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The model folder.
    #[error(transparent)]
    Folder(#[from] HfError),
    /// The checkpoint.
    #[error("{}: {unsound}", path.display())]
    Checkpoint {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        unsound: Unsound,
    },
    /// It is neither.
    #[error(
        "{} is neither a model folder (with config.json) nor a checkpoint (with manifest.json)",
        .0.display()
    )]
    Neither(PathBuf),
}

#[derive(Debug)]
enum Source {
    Folder(Folder),
    Checkpoint(Stored),
}

/// Weights on storage.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    source: Source,
}

impl Weights {
    /// Opens what lies at `path`.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let source = if path.join(CONFIG).exists() {
            Source::Folder(Folder::open(path)?)
        } else if path.join("manifest.json").exists() {
            Source::Checkpoint(Stored::open(path).map_err(unsound(path))?)
        } else {
            return Err(WeightsError::Neither(path.to_owned()));
        };
        Ok(Self {
            path: path.to_owned(),
            source,
        })
    }

    /// Where they lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shape of the model.
    pub const fn model(&self) -> Model {
        match &self.source {
            Source::Folder(folder) => folder.model(),
            Source::Checkpoint(stored) => stored.common().model,
        }
    }

    /// The checkpoint they are of; none for a model folder.
    pub const fn checkpoint(&self) -> Option<&Stored> {
        match &self.source {
            Source::Folder(_) => None,
            Source::Checkpoint(stored) => Some(stored),
        }
    }

    /// Whether bf16 holds them all.
    pub fn is_bf16(&self) -> bool {
        matches!(&self.source, Source::Folder(folder) if folder.is_bf16())
    }

    /// Whether a run of this shape can begin with them; positions are relative, so that the length
    /// of a sample is the run's to choose.
    pub fn suits(&self, wanted: &Model) -> Result<(), String> {
        let held = Model {
            sequence: wanted.sequence,
            ..self.model()
        };
        if held == *wanted {
            return Ok(());
        }
        let path = self.path.display();
        Err(format!(
            "{path} holds {held:?}; the run's model is {wanted:?}"
        ))
    }

    /// Fills what is wanted; only weights are there for the asking.
    pub fn fill(&self, wants: Vec<Want>) -> Result<(), WeightsError> {
        match &self.source {
            Source::Folder(folder) => Ok(folder.fill(wants)?),
            Source::Checkpoint(stored) => {
                stored.fill(wants, None).map_err(unsound(&self.path))?;
                Ok(())
            }
        }
    }

    /// Whole parameters in fp32, in the order asked for.
    pub fn whole<'a>(
        &self,
        parameters: impl Iterator<Item = &'a Parameter>,
    ) -> Result<Vec<Tensor>, WeightsError> {
        let mut tensors = Vec::new();
        let mut wants = Vec::new();
        for parameter in parameters {
            let slice = Slice::whole(parameter);
            let flat = Tensor::empty([slice.len()], (Kind::Float, Device::Cpu));
            tensors.push(flat.view(parameter.shape.as_slice()));
            wants.push(Want::new(&parameter.name, slice, vec![flat]));
        }
        self.fill(wants)?;
        Ok(tensors)
    }
}

fn unsound(path: &Path) -> impl FnOnce(Unsound) -> WeightsError + '_ {
    |unsound| WeightsError::Checkpoint {
        path: path.to_owned(),
        unsound,
    }
}
