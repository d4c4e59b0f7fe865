//! Run specs. Their numbers are judged by `RunSpec::flaws`, not here.

use crate::check::{Malformed, code, list, maybe, part, run_id, same_names, text};
use crate::wire;
use rebloom_core::guard::{GuardAction, LossGuard};
use rebloom_core::hang::deadline::Learn;
use rebloom_core::spec::{
    Auto, Checkpoint, Data, DataPart, Deadlines, Elastic, Model, Numerics, Optimizer, Precision,
    RampUp, Recovery, RunSpec, Snapshots, Train,
};

/// Both ways between a message and a struct of core whose fields have the same names and types.
macro_rules! same_fields {
    ($wire:ident <=> $core:ident { $($field:ident),+ $(,)? }) => {
        impl From<$core> for wire::$wire {
            fn from($core { $($field),+ }: $core) -> Self {
                Self { $($field),+ }
            }
        }
        impl TryFrom<wire::$wire> for $core {
            type Error = Malformed;
            fn try_from(value: wire::$wire) -> Result<Self, Malformed> {
                let wire::$wire { $($field),+ } = value;
                Ok(Self { $($field),+ })
            }
        }
    };
}

same_fields!(ModelSpec <=> Model {
    layers, hidden, heads, vocab, sequence, residual_after_layernorm,
});
same_fields!(RampUpSpec <=> RampUp { start, increment, samples });
same_names!(Precision <=> Precision { Fp32, Bf16 });
same_names!(GuardAction <=> GuardAction { Off, Warn, RollBack });
same_fields!(OptimizerSpec <=> Optimizer {
    learning_rate, min_learning_rate, warmup_samples, decay_samples,
    beta1, beta2, epsilon, weight_decay, clip,
});
same_fields!(LearnSpec <=> Learn { factor, skip, least });
same_fields!(AutoSpec <=> Auto { min, max });
same_fields!(RecoverySpec <=> Recovery {
    restarts, reform, restart, replace, async_off, shrink, unsealed, hangs, clean_spell,
});
same_fields!(ElasticSpec <=> Elastic { min_data, wait });

impl From<Deadlines> for wire::DeadlineSpec {
    fn from(deadlines: Deadlines) -> Self {
        let Deadlines {
            init,
            load,
            step,
            eval,
            save,
            exit,
            learn,
        } = deadlines;
        Self {
            init,
            load,
            step,
            save,
            exit,
            eval,
            learn: learn.map(Into::into),
        }
    }
}

impl TryFrom<wire::DeadlineSpec> for Deadlines {
    type Error = Malformed;
    fn try_from(deadlines: wire::DeadlineSpec) -> Result<Self, Malformed> {
        Ok(Self {
            init: deadlines.init,
            load: deadlines.load,
            step: deadlines.step,
            eval: deadlines.eval,
            save: deadlines.save,
            exit: deadlines.exit,
            learn: maybe(deadlines.learn, "learn")?,
        })
    }
}

impl From<Train> for wire::TrainSpec {
    fn from(
        Train {
            steps,
            global_batch,
            micro_batch,
            seed,
            optimizer,
            ramp_up,
            numerics,
        }: Train,
    ) -> Self {
        Self {
            steps,
            global_batch,
            micro_batch,
            seed,
            optimizer: Some(optimizer.into()),
            ramp_up: ramp_up.map(Into::into),
            numerics: Some(numerics.into()),
        }
    }
}

impl TryFrom<wire::TrainSpec> for Train {
    type Error = Malformed;
    fn try_from(train: wire::TrainSpec) -> Result<Self, Malformed> {
        Ok(Self {
            steps: train.steps,
            global_batch: train.global_batch,
            micro_batch: train.micro_batch,
            seed: train.seed,
            optimizer: part(train.optimizer, "optimizer")?,
            ramp_up: maybe(train.ramp_up, "ramp_up")?,
            numerics: part(train.numerics, "numerics")?,
        })
    }
}

impl From<Numerics> for wire::NumericsSpec {
    fn from(
        Numerics {
            precision,
            recompute,
            hidden_dropout,
            attention_dropout,
            group_elements,
        }: Numerics,
    ) -> Self {
        Self {
            precision: wire::Precision::from(precision).into(),
            recompute,
            hidden_dropout,
            attention_dropout,
            group_elements,
        }
    }
}

impl TryFrom<wire::NumericsSpec> for Numerics {
    type Error = Malformed;
    fn try_from(numerics: wire::NumericsSpec) -> Result<Self, Malformed> {
        Ok(Self {
            precision: code::<wire::Precision, _>(numerics.precision, "precision")?,
            recompute: numerics.recompute,
            hidden_dropout: numerics.hidden_dropout,
            attention_dropout: numerics.attention_dropout,
            group_elements: numerics.group_elements,
        })
    }
}

impl From<LossGuard> for wire::GuardSpec {
    fn from(
        LossGuard {
            action,
            window,
            least,
            loss_deviations,
            norm_deviations,
            skip_steps,
            skip,
        }: LossGuard,
    ) -> Self {
        Self {
            action: wire::GuardAction::from(action).into(),
            window,
            least,
            loss_deviations,
            norm_deviations,
            skip_steps,
            skip: skip.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::GuardSpec> for LossGuard {
    type Error = Malformed;
    fn try_from(guard: wire::GuardSpec) -> Result<Self, Malformed> {
        Ok(Self {
            action: code::<wire::GuardAction, _>(guard.action, "action")?,
            window: guard.window,
            least: guard.least,
            loss_deviations: guard.loss_deviations,
            norm_deviations: guard.norm_deviations,
            skip_steps: guard.skip_steps,
            skip: list(guard.skip, "skip")?,
        })
    }
}

impl From<Data> for wire::DataSpec {
    fn from(Data { prefix, blend }: Data) -> Self {
        let blend = blend.into_iter().map(Into::into).collect();
        Self { prefix, blend }
    }
}

impl From<DataPart> for wire::DataPart {
    fn from(
        DataPart {
            prefix,
            weight,
            documents: [documents_from, documents_to],
        }: DataPart,
    ) -> Self {
        Self {
            prefix,
            weight,
            documents_from,
            documents_to,
        }
    }
}

impl TryFrom<wire::DataPart> for DataPart {
    type Error = Malformed;
    fn try_from(part: wire::DataPart) -> Result<Self, Malformed> {
        Ok(Self {
            prefix: text(part.prefix, "prefix")?,
            weight: part.weight,
            documents: [part.documents_from, part.documents_to],
        })
    }
}

impl TryFrom<wire::DataSpec> for Data {
    type Error = Malformed;
    fn try_from(data: wire::DataSpec) -> Result<Self, Malformed> {
        Ok(Self {
            prefix: text(data.prefix, "prefix")?,
            blend: list(data.blend, "blend")?,
        })
    }
}

impl From<Checkpoint> for wire::CheckpointSpec {
    fn from(
        Checkpoint {
            directory,
            every_steps,
            auto,
            keep,
            snapshot,
        }: Checkpoint,
    ) -> Self {
        Self {
            directory,
            every_steps,
            keep,
            auto: auto.map(Into::into),
            snapshot: snapshot.map(|it| wire::SnapshotSpec {
                every_steps: it.every_steps,
            }),
        }
    }
}

impl TryFrom<wire::CheckpointSpec> for Checkpoint {
    type Error = Malformed;
    fn try_from(checkpoint: wire::CheckpointSpec) -> Result<Self, Malformed> {
        Ok(Self {
            directory: text(checkpoint.directory, "directory")?,
            every_steps: checkpoint.every_steps,
            keep: checkpoint.keep,
            auto: maybe(checkpoint.auto, "auto")?,
            snapshot: checkpoint.snapshot.map(|it| Snapshots {
                every_steps: it.every_steps,
            }),
        })
    }
}

impl From<RunSpec> for wire::RunSpec {
    fn from(spec: RunSpec) -> Self {
        let RunSpec {
            name,
            priority,
            model,
            init,
            layout,
            train,
            data,
            checkpoint,
            deadlines,
            recovery,
            elastic,
            guard,
            eval,
            log_rules,
        } = spec;
        Self {
            name: name.into(),
            priority,
            model: Some(model.into()),
            init,
            layout: Some(layout.into()),
            train: Some(train.into()),
            data: Some(data.into()),
            checkpoint: Some(checkpoint.into()),
            deadlines: Some(deadlines.into()),
            recovery: Some(recovery.into()),
            elastic: elastic.map(Into::into),
            guard: Some(guard.into()),
            eval: eval.map(Into::into),
            log_rules: log_rules.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::RunSpec> for RunSpec {
    type Error = Malformed;
    fn try_from(spec: wire::RunSpec) -> Result<Self, Malformed> {
        Ok(Self {
            name: run_id(spec.name, "name")?,
            priority: spec.priority,
            model: part(spec.model, "model")?,
            init: spec.init.map(|init| text(init, "init")).transpose()?,
            layout: part(spec.layout, "layout")?,
            train: part(spec.train, "train")?,
            data: part(spec.data, "data")?,
            checkpoint: part(spec.checkpoint, "checkpoint")?,
            deadlines: part(spec.deadlines, "deadlines")?,
            recovery: part(spec.recovery, "recovery")?,
            elastic: maybe(spec.elastic, "elastic")?,
            guard: part(spec.guard, "guard")?,
            eval: maybe(spec.eval, "eval")?,
            log_rules: list(spec.log_rules, "log_rules")?,
        })
    }
}
