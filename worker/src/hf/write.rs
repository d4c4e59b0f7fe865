//! A model folder out of weights: safetensors, in several files with an index where one would be too large,
//! and `config.json`. The folder takes its name when all of it is on the disk.

use super::{CONFIG, Config, HfError, TOKENIZER, TOKENIZER_ALONGSIDE};
use crate::model::shape::{Parameter, parameters};
use crate::shim::bytes;
use crate::weights::{Weights, WeightsError};
use rebloom_format::hf::{INDEX, PREFIX, SINGLE};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use tch::Tensor;

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// fp32, as they are trained.
    Float,
    /// bf16, rounded to nearest, ties to even.
    BFloat16,
}

impl Kind {
    pub(super) const fn torch(self) -> &'static str {
        match self {
            Self::Float => "float32",
            Self::BFloat16 => "bfloat16",
        }
    }

    const fn dtype(self) -> Dtype {
        match self {
            Self::Float => Dtype::F32,
            Self::BFloat16 => Dtype::BF16,
        }
    }

    const fn width(self) -> usize {
        match self {
            Self::Float => 4,
            Self::BFloat16 => 2,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Files with weights.
    pub files: usize,
    /// Elements of all parameters.
    pub parameters: u64,
    /// Bytes of weights.
    pub bytes: u64,
    /// How they are written.
    pub kind: Kind,
}

/// Writes `weights` as the folder `to`, which must not be there yet, in files of at most `most` bytes of
/// weights (or one parameter), with the tokenizer where one is given.
pub fn write(
    weights: &Weights,
    to: &Path,
    kind: Kind,
    most: u64,
    tokenizer: Option<&Path>,
) -> Result<Written, WeightsError> {
    if to.exists() {
        return Err(HfError::odd(to, "is there already; name a folder that is not").into());
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let aside = to.with_file_name(format!(".{name}.writing-{}", std::process::id()));
    let written = write_aside(weights, &aside, kind, most, tokenizer).and_then(|written| {
        fs::rename(&aside, to).map_err(HfError::io(to))?;
        Ok(written)
    });
    if written.is_err() {
        // What counts is the first error.
        drop(fs::remove_dir_all(&aside));
    }
    written
}

fn write_aside(
    weights: &Weights,
    folder: &Path,
    kind: Kind,
    most: u64,
    tokenizer: Option<&Path>,
) -> Result<Written, WeightsError> {
    fs::create_dir_all(folder).map_err(HfError::io(folder))?;
    let model = weights.model();
    let parameters = parameters(&model);
    let all: Vec<_> = parameters.values().collect();
    let size = |parameter: &Parameter| {
        u64::try_from(parameter.shape.iter().product::<i64>()).unwrap_or_default()
            * kind.width() as u64
    };
    let mut groups: Vec<Vec<&Parameter>> = vec![Vec::new()];
    let mut room = most;
    for parameter in all {
        let bytes = size(parameter);
        if bytes > room && groups.last().is_some_and(|group| !group.is_empty()) {
            groups.push(Vec::new());
            room = most;
        }
        room = room.saturating_sub(bytes);
        groups.last_mut().expect("there is one").push(parameter);
    }
    let total: u64 = parameters.values().map(size).sum();
    let mut map = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        let file = if groups.len() == 1 {
            SINGLE.to_owned()
        } else {
            format!("model-{:05}-of-{:05}.safetensors", at + 1, groups.len())
        };
        let tensors = weights.whole(group.iter().copied())?;
        write_file(&folder.join(&file), group, &tensors, kind)?;
        let names = group
            .iter()
            .map(|p| (format!("{PREFIX}{}", p.name), file.clone()));
        map.extend(names);
    }
    if groups.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        write_text(&folder.join(INDEX), &format!("{index:#}\n"))?;
    }
    write_text(&folder.join(CONFIG), &config(weights, kind)?)?;
    let beside = weights.path().join(TOKENIZER);
    if let Some(from) = tokenizer {
        copy(from, &folder.join(TOKENIZER))?;
    } else if beside.exists() {
        copy(&beside, &folder.join(TOKENIZER))?;
        for name in TOKENIZER_ALONGSIDE {
            let from = weights.path().join(name);
            if from.exists() {
                copy(&from, &folder.join(name))?;
            }
        }
    }
    if tokenizer.is_some() {
        let about = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
            "clean_up_tokenization_spaces": false,
            "model_max_length": model.sequence,
        });
        write_text(
            &folder.join("tokenizer_config.json"),
            &format!("{about:#}\n"),
        )?;
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(HfError::io(folder))?;
    Ok(Written {
        files: groups.len(),
        parameters: total / kind.width() as u64,
        bytes: total,
        kind,
    })
}

/// The config that came with a model folder, or one of our own.
fn config(weights: &Weights, kind: Kind) -> Result<String, HfError> {
    let path = weights.path().join(CONFIG);
    if weights.checkpoint().is_some() {
        return Ok(Config::text(&weights.model(), kind.torch()));
    }
    Config::converted(&path, kind.torch())
}

fn write_file(
    path: &Path,
    group: &[&Parameter],
    tensors: &[Tensor],
    kind: Kind,
) -> Result<(), HfError> {
    let mut end = 0;
    let infos = group.iter().zip(tensors).map(|(parameter, tensor)| {
        let begin = end;
        end += tensor.numel() * kind.width();
        let shape = tensor
            .size()
            .into_iter()
            .map(|n| usize::try_from(n).unwrap_or_default());
        let info = TensorInfo {
            dtype: kind.dtype(),
            shape: shape.collect(),
            data_offsets: (begin, end),
        };
        (format!("{PREFIX}{}", parameter.name), info)
    });
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata =
        Metadata::new(Some(about), infos.collect()).expect("the offsets follow each other");
    let mut json = serde_json::to_vec(&metadata).expect("metadata are plain data");
    json.resize(json.len().next_multiple_of(8), b' ');
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&(json.len() as u64).to_le_bytes())?;
        out.write_all(&json)?;
        for tensor in tensors {
            let (words, _) = bytes(tensor).as_chunks::<4>();
            match kind {
                Kind::Float => out.write_all(bytes(tensor))?,
                Kind::BFloat16 => {
                    for &word in words {
                        out.write_all(&bf16(u32::from_le_bytes(word)).to_le_bytes())?;
                    }
                }
            }
        }
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()
    })();
    written.map_err(HfError::io(path))
}

/// The nearest bf16 of an fp32, ties to even; not-a-number stays what it is.
const fn bf16(bits: u32) -> u16 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn write_text(path: &Path, text: &str) -> Result<(), HfError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(HfError::io(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), HfError> {
    fs::copy(from, to).map_err(HfError::io(from))?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(HfError::io(to))
}

#[cfg(test)]
mod tests {
    use super::bf16;

    #[test]
    fn rounding_is_to_nearest_and_ties_to_even() {
        for (value, bits) in [
            (1.0_f32, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (-1.0 - 1.0 / 256.0 - f32::EPSILON, 0xbf81),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
            (0.0, 0),
        ] {
            assert_eq!(bf16(value.to_bits()), bits, "{value}");
        }
        assert!(f32::from_bits(u32::from(bf16(f32::NAN.to_bits())) << 16).is_nan());
        // What came from bf16 goes back to the same bits.
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7fff <= 0x7f80) {
            assert_eq!(bf16(u32::from(bits) << 16), bits);
        }
    }
}
