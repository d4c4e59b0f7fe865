//! What the clusters of these tests train: a tiny BLOOM on a tiny dataset, the same every time.

use rebloom_core::id::{BadName, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{
    Checkpoint, Data, Deadlines, Model, Optimizer, Recovery, RunSpec, Train,
};
use std::path::Path;

/// Steps of a run; long enough for a fault in its middle.
pub const STEPS: u64 = 30;
/// Steps between checkpoints.
pub const EVERY: u64 = 5;

/// A run of eight ranks, TP 2 x PP 2 x DP 2, with deadlines short enough to wait for in a test.
pub fn spec(name: &str, data: &Path, checkpoints: &Path) -> Result<RunSpec, BadName> {
    Ok(RunSpec {
        name: RunId::new(name)?,
        model: Model { layers: 4, hidden: 32, heads: 4, vocab: 512, sequence: 32 },
        layout: Layout { tensor: 2, pipeline: 2, data: 2 },
        train: Train {
            steps: STEPS,
            global_batch: 8,
            micro_batch: 2,
            seed: 42,
            optimizer: Optimizer::default(),
        },
        data: Data { prefix: data.display().to_string() },
        checkpoint: Checkpoint {
            directory: checkpoints.display().to_string(),
            every_steps: EVERY,
            keep: 100,
        },
        deadlines: Deadlines { init: 20.0, load: 20.0, step: 6.0, save: 20.0, exit: 20.0 },
        recovery: Recovery::default(),
    })
}
