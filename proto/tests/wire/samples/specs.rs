//! A run spec with every field set.

use super::{run, samples, words};
use rebloom_core::eval::{Eval, EvalSet};
use rebloom_core::guard::{GuardAction, LossGuard};
use rebloom_core::hang::deadline::Learn;
use rebloom_core::hang::rules::{LogRule, Metric, Operator};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{
    Auto, Checkpoint, Data, Deadlines, Elastic, Model, Numerics, Optimizer, Precision, RampUp,
    Recovery, RunSpec, Snapshots, Train,
};

pub(crate) fn spec() -> RunSpec {
    RunSpec {
        name: run(),
        priority: -3,
        model: Model {
            layers: 4,
            hidden: 64,
            heads: 4,
            vocab: 4096,
            sequence: 128,
            residual_after_layernorm: true,
        },
        init: Some("/models/bloom-560m".to_owned()),
        layout: Layout {
            tensor: 2,
            pipeline: 2,
            data: 2,
        },
        train: Train {
            steps: 200,
            global_batch: 16,
            micro_batch: 2,
            seed: 7,
            optimizer: Optimizer {
                warmup_samples: 320,
                ..Optimizer::default()
            },
            ramp_up: Some(RampUp {
                start: 4,
                increment: 4,
                samples: 64,
            }),
            numerics: Numerics {
                precision: Precision::Bf16,
                recompute: true,
                hidden_dropout: 0.1,
                attention_dropout: 0.2,
                group_elements: 1 << 20,
            },
        },
        data: Data {
            prefix: "/data/roots".to_owned(),
            blend: vec![words::data_part()],
        },
        checkpoint: Checkpoint {
            directory: "/checkpoints".to_owned(),
            every_steps: 20,
            keep: 3,
            snapshot: Some(Snapshots { every_steps: 5 }),
            auto: Some(Auto {
                min: 60.0,
                max: 3600.0,
            }),
        },
        deadlines: Deadlines {
            init: 1.5,
            load: 2.5,
            step: 3.5,
            save: 4.5,
            exit: 5.5,
            eval: 7.0,
            learn: Some(Learn {
                factor: 4.0,
                skip: 3,
                least: 8.0,
            }),
        },
        recovery: Recovery {
            restarts: 1,
            reform: 2,
            restart: 3,
            replace: 4,
            async_off: 1,
            shrink: 2,
            unsealed: 24,
            hangs: 2,
            clean_spell: 21_600,
        },
        elastic: Some(Elastic {
            min_data: 2,
            wait: 120.5,
        }),
        guard: LossGuard {
            action: GuardAction::RollBack,
            skip: vec![samples()],
            ..LossGuard::default()
        },
        eval: Some(Eval {
            every_steps: 100,
            samples: 64,
            sets: vec![EvalSet {
                name: "fr".to_owned(),
                prefix: "/data/fr".to_owned(),
                documents: [0.95, 1.0],
            }],
        }),
        log_rules: vec![LogRule {
            name: "iterations".to_owned(),
            pattern: "^ iteration".to_owned(),
            expected_start: Some(600.0),
            expected_recurrence: None,
            stop_pattern: Some("done".to_owned()),
            fault_on_match: true,
            metric: Some(Metric {
                operator: Operator::AtMost,
                threshold: 0.5,
                points: 3,
            }),
        }],
    }
}
