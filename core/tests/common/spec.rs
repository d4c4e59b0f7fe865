//! A small run to test with: two ranks, five steps, a checkpoint every two.

use rebloom_core::id::{Digest, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Checkpoint, Data, Deadlines, Model, Recovery, RunSpec, Train};

/// The spec of that run.
pub(crate) fn spec() -> RunSpec {
    RunSpec {
        eval: None,
        name: RunId::new("run").expect("a name"),
        priority: 0,
        model: Model {
            layers: 2,
            hidden: 8,
            heads: 2,
            vocab: 32,
            sequence: 8,
            residual_after_layernorm: false,
        },
        init: None,
        layout: Layout {
            tensor: 2,
            pipeline: 1,
            data: 1,
        },
        train: Train {
            steps: 5,
            global_batch: 4,
            micro_batch: 1,
            seed: 1,
            optimizer: rebloom_core::spec::Optimizer::default(),
            ramp_up: None,
            numerics: rebloom_core::spec::Numerics::default(),
        },
        data: Data {
            prefix: "/data/corpus".into(),
            ..Data::default()
        },
        checkpoint: Checkpoint {
            directory: "/checkpoints".into(),
            every_steps: 2,
            auto: None,
            keep: 3,
            snapshot: None,
        },
        deadlines: Deadlines::default(),
        recovery: Recovery::default(),
        elastic: None,
        guard: rebloom_core::guard::LossGuard::default(),
        log_rules: Vec::new(),
    }
}

/// A digest to tell apart from others.
pub(crate) const fn digest(of: u8) -> Digest {
    Digest([of; 32])
}
