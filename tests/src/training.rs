//! What the clusters of these tests train: a tiny BLOOM on a tiny dataset, the same every time.

use anyhow::Result;
use rebloom_core::guard::LossGuard;
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use rebloom_core::spec::{
    Checkpoint, Data, Deadlines, Model, Numerics, Optimizer, Recovery, RunSpec, Train,
};
use rebloom_data::indexed::{Width, Writer};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Steps of a run; long enough for a fault in its middle.
pub const STEPS: u64 = 30;
/// Steps between checkpoints.
pub const EVERY: u64 = 5;

/// A run of eight ranks, TP 2 x PP 2 x DP 2, with deadlines short enough to wait for in a test.
pub fn spec(name: &str, data: &Path, checkpoints: &Path) -> Result<RunSpec> {
    Ok(RunSpec {
        eval: None,
        name: RunId::new(name)?,
        priority: 0,
        model: Model {
            layers: 4,
            hidden: 32,
            heads: 4,
            vocab: 512,
            sequence: 32,
            residual_after_layernorm: false,
        },
        init: None,
        layout: Layout {
            tensor: 2,
            pipeline: 2,
            data: 2,
        },
        train: Train {
            steps: STEPS,
            global_batch: 8,
            micro_batch: 2,
            seed: 42,
            optimizer: Optimizer::default(),
            ramp_up: None,
            numerics: Numerics::default(),
        },
        data: Data {
            prefix: data.display().to_string(),
            ..Data::default()
        },
        checkpoint: Checkpoint {
            directory: checkpoints.display().to_string(),
            every_steps: EVERY,
            auto: None,
            keep: 100,
            snapshot: None,
        },
        deadlines: Deadlines {
            init: 20.0,
            load: 20.0,
            step: 6.0,
            save: 20.0,
            exit: 20.0,
            ..Deadlines::default()
        },
        recovery: Recovery::default(),
        elastic: None,
        guard: LossGuard::default(),
        log_rules: Vec::new(),
    })
}

/// A dataset whose next token mostly follows from the one before, so that there is something to learn;
/// made once per test process.
pub fn dataset() -> Result<&'static Path> {
    static DATASET: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    if let Some((_, prefix)) = DATASET.get() {
        return Ok(prefix);
    }
    let folder = TempDir::with_prefix("rebloom-data-")?;
    let prefix = folder.path().join("text");
    let mut writer = Writer::create(&prefix, Width::U16)?;
    let mut noise = 1_u32;
    for document in 0..64_u32 {
        let mut token = document;
        let tokens: Vec<u32> = (0..200)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                token = if noise >> 29 == 0 {
                    noise >> 16
                } else {
                    token * 5 + 3
                } % 512;
                token
            })
            .collect();
        writer.push(&tokens)?;
        writer.end_document();
    }
    writer.finish()?;
    Ok(&DATASET.get_or_init(|| (folder, prefix)).1)
}
