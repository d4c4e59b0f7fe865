//! What is wrong with a run spec by itself: every number in range, every part fitting the others.

use super::{Precision, RunSpec};
use crate::hang::rules::{LogRule, MOST_PATTERN, MOST_RULES};
use serde::{Deserialize, Serialize};

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {value} {problem}; {remedy}")]
pub struct Flaw {
    /// Path of the field, as in the file: `layout.tensor`.
    pub field: String,
    /// What it holds.
    pub value: String,
    /// Why that does not do.
    pub problem: String,
    /// What would.
    pub remedy: String,
}

/// Sizes that are whole numbers from 1 on: the field, what it holds, and the most it may.
type Size = (&'static str, fn(&RunSpec) -> u32, u32);
const SIZES: [Size; 11] = [
    ("model.layers", |spec| spec.model.layers, 1024),
    ("model.hidden", |spec| spec.model.hidden, 1 << 17),
    ("model.heads", |spec| spec.model.heads, 1024),
    ("model.vocab", |spec| spec.model.vocab, 1 << 22),
    ("model.sequence", |spec| spec.model.sequence, 1 << 20),
    ("layout.tensor", |spec| spec.layout.tensor, 64),
    ("layout.pipeline", |spec| spec.layout.pipeline, 1024),
    ("layout.data", |spec| spec.layout.data, 4096),
    (
        "train.global_batch",
        |spec| spec.train.global_batch,
        1 << 20,
    ),
    ("train.micro_batch", |spec| spec.train.micro_batch, 1 << 16),
    ("checkpoint.keep", |spec| spec.checkpoint.keep, 10_000),
];

/// Positions that two numbers of bf16 hold exactly.
const MOST_IN_BF16: u32 = 1 << 16;

/// The most that a size such as `model.layers` may be; the least is 1.
pub fn largest(field: &str) -> Option<u32> {
    let size = SIZES.iter().find(|(name, ..)| *name == field);
    size.map(|(_, _, most)| *most)
}

impl RunSpec {
    /// Everything that is wrong with the spec by itself; empty when it can run.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Flaws::default();
        self.check_numbers(&mut flaws);
        if flaws.0.is_empty() {
            self.check_fit(&mut flaws);
        }
        flaws.0
    }

    fn check_numbers(&self, flaws: &mut Flaws) {
        let Self {
            name: _,
            priority: _,
            model: _,
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
        } = self;
        for (field, value, most) in SIZES {
            flaws.whole(field, value(self).into(), most.into());
        }
        flaws.whole("recovery.clean_spell", recovery.clean_spell, 31_536_000);
        flaws.whole("recovery.unsealed", recovery.unsealed.into(), 1_000_000);
        if let Some(learn) = deadlines.learn {
            flaws.within("deadlines.learn.factor", learn.factor, 1.5, 1000.0);
            flaws.within("deadlines.learn.least", learn.least, 0.1, 86_400.0);
        }
        if let Some(auto) = checkpoint.auto {
            flaws.within("checkpoint.auto.min", auto.min, 0.1, 86_400.0);
            flaws.within("checkpoint.auto.max", auto.max, auto.min, 86_400.0);
        }
        check_rules(log_rules, flaws);
        if let Some(elastic) = elastic {
            let most = f64::from(layout.data.max(1));
            flaws.within("elastic.min_data", elastic.min_data.into(), 1.0, most);
            flaws.within("elastic.wait", elastic.wait, 0.0, 86_400.0);
        }
        flaws.whole(
            "checkpoint.every_steps",
            checkpoint.every_steps,
            1_000_000_000,
        );
        if let Some(snapshot) = checkpoint.snapshot {
            let field = "checkpoint.snapshot.every_steps";
            flaws.whole(field, snapshot.every_steps, 1_000_000_000);
            let is_rare = snapshot.every_steps >= checkpoint.every_steps;
            if is_rare && checkpoint.auto.is_none() {
                flaws.add(
                    field,
                    snapshot.every_steps,
                    &format!(
                        "is not below checkpoint.every_steps ({})",
                        checkpoint.every_steps
                    ),
                    "use fewer, or leave `snapshot` out",
                );
            }
        }
        train.check(flaws);
        guard.check(flaws);
        if let Some(eval) = eval {
            eval.check(flaws);
        }
        for (field, value, least, most) in [
            ("deadlines.init", deadlines.init, 0.1, 86_400.0),
            ("deadlines.load", deadlines.load, 0.1, 86_400.0),
            ("deadlines.step", deadlines.step, 0.1, 86_400.0),
            ("deadlines.eval", deadlines.eval, 0.1, 86_400.0),
            ("deadlines.save", deadlines.save, 0.1, 86_400.0),
            ("deadlines.exit", deadlines.exit, 0.1, 86_400.0),
        ] {
            flaws.within(field, value, least, most);
        }
        flaws.path("checkpoint.directory", &checkpoint.directory);
        if let Some(init) = init {
            flaws.path("init", init);
        }
        data.check(flaws);
    }

    fn check_fit(&self, flaws: &mut Flaws) {
        let Self {
            model,
            layout,
            train,
            ..
        } = self;
        let hidden = ("model.hidden", model.hidden);
        flaws.divides("model.heads", model.heads, &[hidden]);
        if train.numerics.precision == Precision::Bf16 && model.sequence > MOST_IN_BF16 {
            flaws.add(
                "model.sequence",
                model.sequence,
                &format!("is more positions than bf16 tells apart ({MOST_IN_BF16})"),
                &format!("use at most {MOST_IN_BF16}, or train.numerics.precision fp32"),
            );
        }
        let shared = [("model.heads", model.heads), hidden];
        flaws.divides("layout.tensor", layout.tensor, &shared);
        if layout.tensor > model.vocab {
            flaws.add(
                "layout.tensor",
                layout.tensor,
                &format!("is more than model.vocab ({})", model.vocab),
                "use fewer, or a model with more words",
            );
        }
        if layout.pipeline > model.layers {
            flaws.add(
                "layout.pipeline",
                layout.pipeline,
                &format!("is more than model.layers ({})", model.layers),
                &format!("use at most {} stages", model.layers),
            );
        }
        if u64::from(layout.tensor) * u64::from(layout.pipeline) * u64::from(layout.data) > 100_000
        {
            flaws.add(
                "layout",
                "the product",
                "is above 100000 ranks",
                "use fewer",
            );
        } else if !train
            .global_batch
            .is_multiple_of(train.micro_batch * layout.data)
        {
            let unit = train.micro_batch * layout.data;
            flaws.add(
                "train.global_batch",
                train.global_batch,
                &format!("is not a multiple of train.micro_batch x layout.data ({unit})"),
                &format!("use {}", train.global_batch.next_multiple_of(unit)),
            );
        } else {
            train.check_ramp_up(train.micro_batch * layout.data, flaws);
        }
    }
}

fn check_rules(rules: &[LogRule], flaws: &mut Flaws) {
    if rules.len() > MOST_RULES {
        let most = format!("use at most {MOST_RULES}");
        flaws.add("log_rules", rules.len(), "are too many rules", &most);
    }
    for (at, rule) in rules.iter().enumerate() {
        let field = |name: &str| format!("log_rules.{at}.{name}");
        let patterns = [
            ("pattern", Some(&rule.pattern)),
            ("stop_pattern", rule.stop_pattern.as_ref()),
        ];
        for (name, pattern) in patterns {
            let Some(pattern) = pattern else { continue };
            if pattern.is_empty() || pattern.len() > MOST_PATTERN {
                let remedy = format!("use 1 to {MOST_PATTERN} bytes");
                flaws.add(
                    &field(name),
                    format!("`{pattern}`"),
                    "is empty or too long",
                    &remedy,
                );
            }
        }
        if rule.name.is_empty() || rule.name.len() > 63 {
            let value = format!("`{}`", rule.name);
            flaws.add(
                &field("name"),
                value,
                "is empty or too long",
                "use 1 to 63 bytes",
            );
        }
        let spans = [
            ("expected_start", rule.expected_start),
            ("expected_recurrence", rule.expected_recurrence),
        ];
        for (name, seconds) in spans {
            if let Some(seconds) = seconds {
                flaws.within(&field(name), seconds, 0.1, 604_800.0);
            }
        }
        if let Some(metric) = rule.metric {
            flaws.within(&field("metric.points"), metric.points.into(), 1.0, 1000.0);
        }
        let judges = rule.expected_start.is_some()
            || rule.expected_recurrence.is_some()
            || rule.fault_on_match
            || rule.metric.is_some();
        if !judges {
            flaws.add(
                &field("pattern"),
                format!("`{}`", rule.pattern),
                "is watched for nothing",
                "add expected_start, expected_recurrence, fault_on_match or metric",
            );
        }
    }
}

#[derive(Default)]
pub(crate) struct Flaws(Vec<Flaw>);

impl Flaws {
    pub(crate) fn path(&mut self, field: &str, value: &str) {
        if !value.starts_with('/') || value.len() > 4000 || value.contains('\0') {
            self.add(
                field,
                format!("`{value}`"),
                "is not an absolute path",
                "give a path from / on",
            );
        }
    }

    pub(crate) fn add(&mut self, field: &str, value: impl ToString, problem: &str, remedy: &str) {
        self.0.push(Flaw {
            field: field.to_owned(),
            value: value.to_string(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    pub(crate) fn within(&mut self, field: &str, value: f64, least: f64, most: f64) {
        if !(least..=most).contains(&value) {
            self.add(
                field,
                value,
                "is out of range",
                &format!("use {least} to {most}"),
            );
        }
    }

    pub(crate) fn whole(&mut self, field: &str, value: u64, most: u64) {
        if !(1..=most).contains(&value) {
            self.add(field, value, "is out of range", &format!("use 1 to {most}"));
        }
    }

    /// Two shares of the documents of a dataset between which it is used.
    pub(crate) fn shares(&mut self, field: &str, [from, to]: [f64; 2]) {
        if !(0.0 <= from && from < to && to <= 1.0) {
            let value = format!("[{from}, {to}]");
            let problem = "are not two shares of the documents";
            self.add(field, value, problem, "use such as [0.0, 0.95]");
        }
    }

    /// One flaw at most, with the sizes up to 64 that divide all of the wholes.
    fn divides(&mut self, field: &str, value: u32, wholes: &[(&str, u32)]) {
        let divides_all = |size: &u32| wholes.iter().all(|(_, whole)| whole.is_multiple_of(*size));
        if divides_all(&value) {
            return;
        }
        let broken: Vec<_> = wholes
            .iter()
            .filter(|(_, whole)| !whole.is_multiple_of(value))
            .map(|(of, whole)| format!("{of} ({whole})"))
            .collect();
        let fit: Vec<_> = (1..=64)
            .filter(divides_all)
            .map(|size| size.to_string())
            .collect();
        let problem = format!("does not divide {}", broken.join(", "));
        let one_of = if fit.len() == 1 { "" } else { "one of " };
        self.add(
            field,
            value,
            &problem,
            &format!("use {one_of}{}", fit.join(", ")),
        );
    }
}
