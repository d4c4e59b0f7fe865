//! `config.json`: what of it matters here, and the one that an export writes.

use super::CONFIG;
use crate::Error;
use crate::json::from_json;
use rebloom_core::spec::{Model, largest};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// A config has a few dozen lines.
const LARGEST: u64 = 1 << 20;
/// BLOOM was trained on samples of this many tokens; a config does not always say.
const SEQUENCE: u32 = 2048;

/// The shape in a `config.json`, under any of the names that it was ever written with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    hidden_size: u32,
    n_layer: u32,
    n_head: u32,
    written: Written,
}

/// The file as it is, in which a size may stand under either of two names, or both.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Written {
    model_type: String,
    hidden_size: Option<u32>,
    n_embed: Option<u32>,
    n_layer: Option<u32>,
    num_hidden_layers: Option<u32>,
    n_head: Option<u32>,
    num_attention_heads: Option<u32>,
    vocab_size: u32,
    seq_length: Option<u32>,
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default)]
    apply_residual_connection_post_layernorm: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

const fn epsilon() -> f64 {
    1e-5
}

const fn yes() -> bool {
    true
}

/// The size that stands under one of two names.
fn either(name: (&str, Option<u32>), other: (&str, Option<u32>)) -> Result<u32, String> {
    match (name.1, other.1) {
        (Some(one), Some(another)) if one != another => Err(format!(
            "{}: {one} is not what {} says ({another}); they are two names of one size",
            name.0, other.0
        )),
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => Err(format!("missing field `{}`", name.0)),
    }
}

impl Config {
    /// Reads the one in a model folder.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(CONFIG);
        Self::parse(&path, &crate::read(&path, LARGEST)?)
    }

    /// The config in the text of the file `path`.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let config = from_json(text).and_then(Self::new);
        let config = config.and_then(|config| config.flaw().map_or(Ok(config), Err));
        config.map_err(|problem| Error::odd(path, problem))
    }

    fn new(written: Written) -> Result<Self, String> {
        Ok(Self {
            hidden_size: either(
                ("hidden_size", written.hidden_size),
                ("n_embed", written.n_embed),
            )?,
            n_layer: either(
                ("n_layer", written.n_layer),
                ("num_hidden_layers", written.num_hidden_layers),
            )?,
            n_head: either(
                ("n_head", written.n_head),
                ("num_attention_heads", written.num_attention_heads),
            )?,
            written,
        })
    }

    /// What this build does not train.
    fn flaw(&self) -> Option<String> {
        let written = &self.written;
        if written.model_type != "bloom" {
            let found = &written.model_type;
            return Some(format!("model_type: {found} is not bloom"));
        }
        if !written.tie_word_embeddings {
            return Some("tie_word_embeddings: false is no BLOOM".to_owned());
        }
        if (written.layer_norm_epsilon - 1e-5).abs() > 1e-9 {
            let found = written.layer_norm_epsilon;
            return Some(format!("layer_norm_epsilon: {found} is not 1e-5"));
        }
        for (field, value, size) in [
            ("hidden_size", self.hidden_size, "model.hidden"),
            ("n_layer", self.n_layer, "model.layers"),
            ("n_head", self.n_head, "model.heads"),
            ("vocab_size", written.vocab_size, "model.vocab"),
            ("seq_length", self.model().sequence, "model.sequence"),
        ] {
            let most = largest(size).unwrap_or(u32::MAX);
            if !(1..=most).contains(&value) {
                return Some(format!("{field}: {value} is out of range; 1 to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.n_head) {
            let (heads, hidden) = (self.n_head, self.hidden_size);
            return Some(format!(
                "n_head: {heads} does not divide hidden_size ({hidden})"
            ));
        }
        None
    }

    /// The shape as a run spec has it.
    pub fn model(&self) -> Model {
        Model {
            layers: self.n_layer,
            hidden: self.hidden_size,
            heads: self.n_head,
            vocab: self.written.vocab_size,
            sequence: self.written.seq_length.unwrap_or(SEQUENCE),
            residual_after_layernorm: self.written.apply_residual_connection_post_layernorm,
        }
    }

    /// The text of the `config.json` at `path`, for the same model with weights that torch calls `dtype`.
    pub fn converted(path: &Path, dtype: &str) -> Result<String, Error> {
        let text = crate::read(path, LARGEST)?;
        let mut config: Value = from_json(&text).map_err(|problem| Error::odd(path, problem))?;
        if let Some(fields) = config.as_object_mut() {
            fields.remove("torch_dtype");
            fields.insert("dtype".to_owned(), dtype.into());
        }
        Ok(format!("{config:#}\n"))
    }

    /// The text of a `config.json` for a model whose weights are of the kind that torch calls `dtype`.
    pub fn text(model: &Model, dtype: &str) -> String {
        let config = json!({
            "architectures": ["BloomForCausalLM"],
            "model_type": "bloom",
            "vocab_size": model.vocab,
            "hidden_size": model.hidden,
            "n_layer": model.layers,
            "n_head": model.heads,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "apply_residual_connection_post_layernorm": model.residual_after_layernorm,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
            "unk_token_id": 0,
            "pretraining_tp": 1,
            "slow_but_exact": false,
            "seq_length": model.sequence,
            "tie_word_embeddings": true,
            "dtype": dtype,
            "use_cache": true,
        });
        format!("{config:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Model = Model {
        layers: 2,
        hidden: 48,
        heads: 6,
        vocab: 160,
        sequence: 64,
        residual_after_layernorm: false,
    };

    fn read(text: &str) -> Result<Config, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), text).unwrap();
        Config::read(folder.path())
    }

    #[test]
    fn what_is_written_is_read_as_the_same_shape() {
        for kind in ["float32", "bfloat16"] {
            for residual_after_layernorm in [false, true] {
                let model = Model {
                    residual_after_layernorm,
                    ..MODEL
                };
                let text = Config::text(&model, kind);
                assert_eq!(read(&text).unwrap().model(), model);
            }
        }
        let old = r#"{"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16,
            "vocab_size": 250880, "offset_alibi": 100, "n_inner": null}"#;
        assert_eq!(read(old).unwrap().model().sequence, 2048);
    }

    #[test]
    fn a_size_may_stand_under_both_of_its_names_if_they_agree() {
        let good = Config::text(&MODEL, "float32");
        for (name, other, size) in [
            ("hidden_size", "n_embed", 48),
            ("n_layer", "num_hidden_layers", 2),
            ("n_head", "num_attention_heads", 6),
        ] {
            let field = format!("\"{name}\": {size}");
            let both = |again| good.replace(&field, &format!("{field}, \"{other}\": {again}"));
            assert_eq!(read(&both(size)).unwrap().model(), MODEL);
            let error = read(&both(size + 6)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(other), "{error}");
            let error = read(&good.replace(&field, "\"x\": 1")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_no_bloom_is_refused_by_field() {
        let good = Config::text(&MODEL, "float32");
        for (from, to, field) in [
            ("\"bloom\"", "\"llama\"", "model_type"),
            ("\"n_head\": 6", "\"n_head\": 5", "n_head"),
            ("\"n_head\": 6", "\"n_head\": 0", "n_head"),
            (
                "\"n_layer\": 2",
                "\"n_layer\": -2",
                "n_layer: invalid value",
            ),
            ("\"seq_length\": 64", "\"seq_length\": 0", "seq_length"),
            (
                "\"hidden_size\": 48",
                "\"hidden_size\": \"48\"",
                "hidden_size: invalid type",
            ),
            ("\"n_layer\": 2", "\"n_layer\": 4000000000", "n_layer"),
            ("\"vocab_size\": 160", "\"x\": 160", "vocab_size"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(CONFIG), "{error}");
        }
        assert!(read("").is_err() && read("[1]").is_err());
    }
}
