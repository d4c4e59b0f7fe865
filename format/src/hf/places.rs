//! Where a file of weights has which parameter: names and shapes are those of the model, or it is refused.

use crate::head::Head;
use crate::shape::{EMBEDDING, Parameter};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;

/// What stands before most names in the files.
pub const PREFIX: &str = "transformer.";
/// The output projection, where a file holds the tied embedding a second time.
pub const HEAD: &str = "lm_head.weight";

/// Where a parameter lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first byte.
    pub offset: u64,
    /// Numbers of its elements; one that has a [`width`].
    pub dtype: Dtype,
}

/// Bytes of an element of a kind that is read: fp32, bf16 or fp16.
pub fn width(dtype: Dtype) -> Option<usize> {
    if dtype == Dtype::F32 {
        Some(4)
    } else {
        matches!(dtype, Dtype::BF16 | Dtype::F16).then_some(2)
    }
}

/// The name of a parameter in the table of shapes.
pub fn plain(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The places of all parameters in a file with this head, by plain name, each in the shape that `known` has
/// for it; or the name of the one that is otherwise.
pub fn places(
    head: &Head,
    known: &BTreeMap<String, Parameter>,
) -> Result<BTreeMap<String, Place>, String> {
    let mut places = BTreeMap::new();
    for (name, info) in head.metadata.tensors() {
        let parameter = match plain(&name) {
            HEAD => known.get(EMBEDDING),
            plain => known.get(plain),
        };
        let parameter = parameter.ok_or_else(|| format!("{name} is nothing that BLOOM has"))?;
        let Some(width) = width(info.dtype) else {
            return Err(format!("{name}: {:?} is not read", info.dtype));
        };
        let shape: Vec<_> = info.shape.iter().map(|&n| i64::try_from(n).ok()).collect();
        let wanted: Vec<_> = parameter.shape.iter().copied().map(Some).collect();
        if shape != wanted {
            let (found, wanted) = (&info.shape, &parameter.shape);
            return Err(format!("{name} has shape {found:?} and not {wanted:?}"));
        }
        let (begin, end) = info.data_offsets;
        let bytes = info.shape.iter().product::<usize>() * width;
        if end.checked_sub(begin) != Some(bytes) || end as u64 > head.room {
            return Err(format!("{name} has offsets {begin} to {end}"));
        }
        let place = Place {
            offset: head.data + begin as u64,
            dtype: info.dtype,
        };
        if places.insert(plain(&name).to_owned(), place).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;
    use crate::shape::parameters;
    use rebloom_core::spec::Model;
    use serde_json::{Value, json};

    const MODEL: Model = Model {
        layers: 1,
        hidden: 4,
        heads: 2,
        vocab: 6,
        sequence: 8,
        residual_after_layernorm: false,
    };

    fn found(json: &Value, room: usize) -> Result<BTreeMap<String, Place>, String> {
        let bytes = head::tests::file(&json.to_string(), room);
        let head = head::read(&mut &bytes[..], bytes.len() as u64).unwrap();
        places(&head, &parameters(&MODEL))
    }

    fn tensor(dtype: &str, shape: &[usize], from: usize, to: usize) -> Value {
        json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]})
    }

    #[test]
    fn parameters_are_found_with_and_without_their_prefix() {
        let json = json!({
            "transformer.ln_f.bias": tensor("F32", &[4], 0, 16),
            "ln_f.weight": tensor("BF16", &[4], 16, 24),
            "lm_head.weight": tensor("F16", &[6, 4], 24, 72),
        });
        let places = found(&json, 72).unwrap();
        let names: Vec<_> = places.keys().map(String::as_str).collect();
        assert_eq!(names, ["lm_head.weight", "ln_f.bias", "ln_f.weight"]);
        let begin = 8 + json.to_string().len() as u64;
        assert_eq!(places["ln_f.bias"].offset, begin);
        assert_eq!(places["lm_head.weight"].offset, begin + 24);
    }

    #[test]
    fn what_the_model_has_not_is_refused_by_name() {
        let bias = "transformer.ln_f.bias";
        for (json, room, wanted) in [
            (
                json!({"wte.weight": tensor("F32", &[4], 0, 16)}),
                16,
                "wte.weight is nothing",
            ),
            (
                json!({bias: tensor("F64", &[4], 0, 32)}),
                32,
                "transformer.ln_f.bias: F64",
            ),
            (
                json!({bias: tensor("F32", &[5], 0, 20)}),
                20,
                "transformer.ln_f.bias has shape [5]",
            ),
            (
                json!({bias: tensor("F32", &[4, 1], 0, 16)}),
                16,
                "transformer.ln_f.bias has shape",
            ),
            (
                json!({bias: tensor("F32", &[4], 0, 16)}),
                15,
                "transformer.ln_f.bias has offsets 0 to",
            ),
            (
                json!({bias: tensor("F32", &[4], 0, 16), "ln_f.bias": tensor("F32", &[4], 16, 32)}),
                32,
                "ln_f.bias is there twice",
            ),
        ] {
            let error = found(&json, room).unwrap_err();
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}
