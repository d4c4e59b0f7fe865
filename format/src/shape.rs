//! The parameters of BLOOM by name: their shapes, how each is cut over a tensor group, which stage
//! owns it and whether its weights decay. One table decides; every parameter matches it exactly once.

use rebloom_core::spec::Model;
use std::collections::BTreeMap;
use std::ops::Range;

/// How a parameter is cut over a tensor group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Every rank holds all of it.
    Whole,
    /// Each rank holds some rows.
    Rows,
    /// Each rank holds some columns.
    Columns,
}

/// What the optimizer and the tensor group have to know about one kind of parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    suffix: &'static str,
    split: Split,
    decays: bool,
}

const fn rule(suffix: &'static str, split: Split, decays: bool) -> Rule {
    Rule {
        suffix,
        split,
        decays,
    }
}

/// Only matrices decay: never a bias, never a layer norm, whichever class computes it.
const RULES: [Rule; 17] = [
    rule("word_embeddings.weight", Split::Rows, true),
    rule("word_embeddings_layernorm.weight", Split::Whole, false),
    rule("word_embeddings_layernorm.bias", Split::Whole, false),
    rule(".input_layernorm.weight", Split::Whole, false),
    rule(".input_layernorm.bias", Split::Whole, false),
    rule(".self_attention.query_key_value.weight", Split::Rows, true),
    rule(".self_attention.query_key_value.bias", Split::Rows, false),
    rule(".self_attention.dense.weight", Split::Columns, true),
    rule(".self_attention.dense.bias", Split::Whole, false),
    rule(".post_attention_layernorm.weight", Split::Whole, false),
    rule(".post_attention_layernorm.bias", Split::Whole, false),
    rule(".mlp.dense_h_to_4h.weight", Split::Rows, true),
    rule(".mlp.dense_h_to_4h.bias", Split::Rows, false),
    rule(".mlp.dense_4h_to_h.weight", Split::Columns, true),
    rule(".mlp.dense_4h_to_h.bias", Split::Whole, false),
    rule("ln_f.weight", Split::Whole, false),
    rule("ln_f.bias", Split::Whole, false),
];

/// The name of the embedding, which is also the output projection.
pub const EMBEDDING: &str = "word_embeddings.weight";

/// One parameter of one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Hugging Face's name, without `transformer.`.
    pub name: String,
    /// Shape of the whole parameter.
    pub shape: Vec<i64>,
    /// How it is cut.
    pub split: Split,
    /// Whether its weights decay.
    pub decays: bool,
    /// Whether another stage owns it and this is its tied copy.
    pub is_copy: bool,
}

impl Parameter {
    fn new(name: String, shape: Vec<i64>) -> Self {
        let mut rules = RULES.iter().filter(|rule| name.ends_with(rule.suffix));
        let (Some(rule), None) = (rules.next(), rules.next()) else {
            panic!("{name} must match the table of parameters exactly once");
        };
        Self {
            split: rule.split,
            decays: rule.decays,
            name,
            shape,
            is_copy: false,
        }
    }

    /// The part that member `index` of a tensor group of `size` holds: rows and columns. A vector
    /// is one column. Parts differ by one row at most: a vocabulary need not be a multiple of the group.
    pub fn part(&self, index: u32, size: u32) -> (Range<i64>, Range<i64>) {
        let rows = self.shape[0];
        let columns = self.shape.get(1).copied().unwrap_or(1);
        let cut = |whole: i64| {
            let before = |index: u32| whole * i64::from(index) / i64::from(size);
            before(index)..before(index + 1)
        };
        match self.split {
            Split::Whole => (0..rows, 0..columns),
            Split::Rows => (cut(rows), 0..columns),
            Split::Columns => (0..rows, cut(columns)),
        }
    }

    /// Shape of that part.
    pub fn part_shape(&self, index: u32, size: u32) -> Vec<i64> {
        let (rows, columns) = self.part(index, size);
        let mut shape = vec![rows.end - rows.start];
        if self.shape.len() == 2 {
            shape.push(columns.end - columns.start);
        }
        shape
    }
}

/// What one pipeline stage holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its transformer blocks.
    pub blocks: Range<u32>,
    /// Whether it holds the embedding.
    pub is_first: bool,
    /// Whether it holds the final layer norm and the output projection.
    pub is_last: bool,
}

impl Stage {
    /// Cuts the blocks evenly. What is left over goes to the middle stages first, since the embedding
    /// and the output projection weigh about as much as a block: for BLOOM that is 5, ten times 6, 5.
    pub fn of(model: &Model, stages: u32, index: u32) -> Self {
        let (each, spare) = (model.layers / stages, model.layers % stages);
        let is_first = index == 0;
        let is_last = index + 1 == stages;
        // Middle stages come first in the queue for a spare block, then the first stage.
        let middle = stages.saturating_sub(2);
        let before = |index: u32| {
            let middles = index.saturating_sub(1).min(middle);
            let first = u32::from(index > 0 && spare > middle);
            each * index + middles.min(spare) + first
        };
        let end = if is_last {
            model.layers
        } else {
            before(index + 1)
        };
        Self {
            blocks: before(index)..end,
            is_first,
            is_last,
        }
    }

    /// Its parameters, in the model's order.
    pub fn parameters(&self, model: &Model) -> Vec<Parameter> {
        let h = i64::from(model.hidden);
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[i64]| all.push(Parameter::new(name, shape.to_vec()));
        let embedding = [i64::from(model.vocab), h];
        if self.is_first {
            add(EMBEDDING.to_owned(), &embedding);
            add("word_embeddings_layernorm.weight".to_owned(), &[h]);
            add("word_embeddings_layernorm.bias".to_owned(), &[h]);
        }
        for block in self.blocks.clone() {
            for (name, shape) in [
                ("input_layernorm.weight", &[h][..]),
                ("input_layernorm.bias", &[h]),
                ("self_attention.query_key_value.weight", &[3 * h, h]),
                ("self_attention.query_key_value.bias", &[3 * h]),
                ("self_attention.dense.weight", &[h, h]),
                ("self_attention.dense.bias", &[h]),
                ("post_attention_layernorm.weight", &[h]),
                ("post_attention_layernorm.bias", &[h]),
                ("mlp.dense_h_to_4h.weight", &[4 * h, h]),
                ("mlp.dense_h_to_4h.bias", &[4 * h]),
                ("mlp.dense_4h_to_h.weight", &[h, 4 * h]),
                ("mlp.dense_4h_to_h.bias", &[h]),
            ] {
                add(format!("h.{block}.{name}"), shape);
            }
        }
        if self.is_last {
            add("ln_f.weight".to_owned(), &[h]);
            add("ln_f.bias".to_owned(), &[h]);
            if !self.is_first {
                add(EMBEDDING.to_owned(), &embedding);
                all.last_mut().expect("one was just added").is_copy = true;
            }
        }
        all
    }
}

/// Every parameter of a model by name, each once.
pub fn parameters(model: &Model) -> BTreeMap<String, Parameter> {
    let all = Stage::of(model, 1, 0).parameters(model);
    all.into_iter().map(|p| (p.name.clone(), p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOOM: Model = Model {
        layers: 70,
        hidden: 14336,
        heads: 112,
        vocab: 250_880,
        sequence: 2048,
        residual_after_layernorm: false,
    };

    fn count(model: &Model, stages: u32) -> i64 {
        (0..stages)
            .flat_map(|index| Stage::of(model, stages, index).parameters(model))
            .filter(|parameter| !parameter.is_copy)
            .map(|parameter| parameter.shape.iter().product::<i64>())
            .sum()
    }

    #[test]
    fn sizes_are_the_published_ones() {
        for (layers, hidden, heads, parameters) in [
            (24, 1024, 16, 559_214_592),
            (24, 1536, 16, 1_065_314_304),
            (24, 2048, 16, 1_722_408_960),
            (30, 2560, 32, 3_002_557_440),
            (30, 4096, 32, 7_069_016_064),
            (70, 14336, 112, 176_247_271_424),
        ] {
            let model = Model {
                layers,
                hidden,
                heads,
                ..BLOOM
            };
            assert_eq!(count(&model, 1), parameters);
            assert_eq!(count(&model, 6), parameters);
        }
    }

    /// A size as `du -h` prints it: binary units, rounded up.
    fn du(bytes: i64) -> String {
        let (mut size, mut unit) = (bytes as f64, 0);
        while size >= 1024.0 {
            size /= 1024.0;
            unit += 1;
        }
        let digits = if size < 10.0 { 10.0 } else { 1.0 };
        let name = ["", "K", "M", "G", "T"][unit];
        format!("{}{name}", (size * digits).ceil() / digits)
    }

    /// BLOOM's own checkpoint by `du` (train/tr11-176B-ml/README.md): fp32 weights and both moments with bf16
    /// weights, and bf16 weights alone.
    #[test]
    fn bloom_takes_as_much_to_save_as_it_did() {
        let parameters = count(&BLOOM, 12);
        assert_eq!(du(parameters * (4 + 4 + 4 + 2)), "2.3T");
        assert_eq!(du(parameters * 2), "329G");
        assert_eq!((du(1023), du(1 << 30)), ("1023".into(), "1G".into()));
    }

    #[test]
    fn bloom_is_cut_as_it_was_trained() {
        let blocks: Vec<_> = (0..12)
            .map(|index| Stage::of(&BLOOM, 12, index).blocks.len())
            .collect();
        assert_eq!(blocks, [5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5]);
    }

    #[test]
    fn every_cut_gives_each_stage_blocks_and_loses_none() {
        for layers in 1..40 {
            for stages in 1..=layers {
                let model = Model { layers, ..BLOOM };
                let mut next = 0;
                for index in 0..stages {
                    let stage = Stage::of(&model, stages, index);
                    assert_eq!(stage.blocks.start, next);
                    assert!(!stage.blocks.is_empty(), "{layers} {stages} {index}");
                    next = stage.blocks.end;
                }
                assert_eq!(next, layers);
            }
        }
    }

    #[test]
    fn only_matrices_decay_and_every_rule_is_used() {
        let all = Stage::of(&BLOOM, 1, 0).parameters(&BLOOM);
        for parameter in &all {
            assert_eq!(
                parameter.decays,
                parameter.shape.len() == 2,
                "{}",
                parameter.name
            );
        }
        for rule in RULES {
            assert!(
                all.iter()
                    .any(|parameter| parameter.name.ends_with(rule.suffix))
            );
        }
    }

    #[test]
    fn parts_of_a_tensor_group_make_the_whole() {
        for parameter in Stage::of(&BLOOM, 1, 0).parameters(&BLOOM) {
            let area = |index| parameter.part_shape(index, 4).iter().product::<i64>();
            let whole: i64 = parameter.shape.iter().product();
            let copies = if parameter.split == Split::Whole {
                4
            } else {
                1
            };
            assert_eq!(
                (0..4).map(area).sum::<i64>(),
                copies * whole,
                "{}",
                parameter.name
            );
        }
    }
}
