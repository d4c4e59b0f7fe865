//! Weights out of a model folder: any piece of any parameter, straight from where it lies in its file.

use super::{CONFIG, Config, HEAD, HfError, INDEX, PREFIX, SINGLE, read_json};
use crate::checkpoint::Want;
use crate::model::shape::{EMBEDDING, Parameter, Stage};
use rebloom_core::spec::Model;
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// A tensor in a file.
#[derive(Debug)]
struct Place {
    file: usize,
    offset: u64,
    dtype: Dtype,
}

/// A model folder, checked.
#[derive(Debug)]
pub struct Folder {
    model: Model,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    /// Opens a folder: every parameter of its config must be there once, in its shape, and nothing else.
    pub fn open(folder: &Path) -> Result<Self, HfError> {
        let model = Config::read(folder)?.model();
        let mut this = Self {
            model,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let parameters = parameters(&model);
        let (named, listed) = names(folder)?;
        for name in named {
            this.add(folder.join(name), &parameters)?;
        }
        let at = folder.join(CONFIG);
        for parameter in parameters.keys() {
            if !this.tensors.contains_key(parameter) {
                let problem = format!("the weights lack {parameter}, which this shape has");
                return Err(HfError::odd(&at, problem));
            }
        }
        for (name, file) in listed {
            let holder = this
                .tensors
                .get(plain(&name))
                .map(|place| &this.files[place.file].0);
            if holder.is_none_or(|path| !path.ends_with(&file)) {
                let problem = format!("weight_map: {name} is not in {file}");
                return Err(HfError::odd(&folder.join(INDEX), problem));
            }
        }
        this.check_head()?;
        Ok(this)
    }

    /// Its shape.
    pub const fn model(&self) -> Model {
        self.model
    }

    /// Whether all weights are bf16.
    pub fn is_bf16(&self) -> bool {
        self.tensors
            .values()
            .all(|place| place.dtype == Dtype::BF16)
    }

    fn add(&mut self, path: PathBuf, known: &BTreeMap<String, Parameter>) -> Result<(), HfError> {
        let file = File::open(&path).map_err(HfError::io(&path))?;
        let length = file.metadata().map_err(HfError::io(&path))?.len();
        let odd = |problem: String| HfError::odd(&path, problem);
        let mut head = [0; 8];
        file.read_exact_at(&mut head, 0)
            .map_err(HfError::io(&path))?;
        let head = u64::from_le_bytes(head);
        if head > super::LARGEST_JSON || head > length - 8 {
            return Err(odd(format!("its header has {head} bytes")));
        }
        let mut json = vec![0; usize::try_from(head).unwrap_or_default()];
        file.read_exact_at(&mut json, 8)
            .map_err(HfError::io(&path))?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|error| odd(error.to_string()))?;
        let data = 8 + head;
        for (name, info) in metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let parameter = match plain(&name) {
                HEAD => &known[EMBEDDING],
                plain => known
                    .get(plain)
                    .ok_or_else(|| odd(format!("{name} is nothing that BLOOM has")))?,
            };
            let Some(width) = width(info.dtype) else {
                return Err(odd(format!("{name}: {:?} is not read", info.dtype)));
            };
            let shape: Vec<_> = info.shape.iter().map(|&n| i64::try_from(n).ok()).collect();
            let wanted: Vec<_> = parameter.shape.iter().copied().map(Some).collect();
            if shape != wanted {
                let (found, wanted) = (&info.shape, &parameter.shape);
                return Err(odd(format!(
                    "{name} has shape {found:?} and not {wanted:?}"
                )));
            }
            let bytes = info.shape.iter().product::<usize>() * width;
            if end.checked_sub(begin) != Some(bytes) || data.saturating_add(end as u64) > length {
                return Err(odd(format!("{name} has offsets {begin} to {end}")));
            }
            let place = Place {
                file: self.files.len(),
                offset: data + begin as u64,
                dtype: info.dtype,
            };
            if self
                .tensors
                .insert(plain(&name).to_owned(), place)
                .is_some()
            {
                return Err(odd(format!("{name} is there twice")));
            }
        }
        self.files.push((path, file));
        Ok(())
    }

    /// A head that is no copy of the embedding would be lost.
    fn check_head(&mut self) -> Result<(), HfError> {
        let Some(head) = self.tensors.remove(HEAD) else {
            return Ok(());
        };
        let embedding = &self.tensors[EMBEDDING];
        let (path, _) = &self.files[head.file];
        let elements = u64::from(self.model.vocab) * u64::from(self.model.hidden);
        let mut at = 0;
        while at < elements {
            let count = (elements - at).min(PIECE as u64);
            let [ours, theirs] = [embedding, &head].map(|place| self.floats(place, at, count));
            if ours? != theirs? {
                let problem = format!("{HEAD} is not the embedding; only tied models are BLOOM");
                return Err(HfError::odd(path, problem));
            }
            at += count;
        }
        Ok(())
    }

    /// `count` elements from element `from` on, as bytes of fp32. Nothing is lost: fp32 holds every bf16
    /// and fp16 exactly.
    fn floats(&self, place: &Place, from: u64, count: u64) -> Result<Vec<u8>, HfError> {
        let width = width(place.dtype).expect("others were refused") as u64;
        let (path, file) = &self.files[place.file];
        let mut raw = vec![0; usize::try_from(count * width).unwrap_or_default()];
        file.read_exact_at(&mut raw, place.offset + from * width)
            .map_err(HfError::io(path))?;
        let (pairs, _) = raw.as_chunks::<2>();
        let pairs = pairs.iter();
        Ok(if place.dtype == Dtype::BF16 {
            pairs.flat_map(|&[a, b]| [0, 0, a, b]).collect()
        } else if place.dtype == Dtype::F16 {
            let widened = |&pair: &[u8; 2]| half(u16::from_le_bytes(pair)).to_le_bytes();
            pairs.flat_map(widened).collect()
        } else {
            raw
        })
    }

    /// Fills weights from where they lie.
    pub fn fill(&self, wants: Vec<Want>) -> Result<(), HfError> {
        for mut want in wants {
            let place = &self.tensors[want.name()];
            for stretch in want.slice().stretches() {
                let [whole, local, length] = [stretch.whole, stretch.local, stretch.length]
                    .map(|n| u64::try_from(n).unwrap_or_default());
                let mut done = 0;
                while done < length {
                    let count = (length - done).min(PIECE as u64);
                    let floats = self.floats(place, whole + done, count)?;
                    let to = usize::try_from((local + done) * 4).unwrap_or_default();
                    want.bytes()[to..to + floats.len()].copy_from_slice(&floats);
                    done += count;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of an element of a kind that is read.
fn width(dtype: Dtype) -> Option<usize> {
    if dtype == Dtype::F32 {
        Some(4)
    } else {
        matches!(dtype, Dtype::BF16 | Dtype::F16).then_some(2)
    }
}

/// Every parameter of a model by name, each once.
pub(super) fn parameters(model: &Model) -> BTreeMap<String, Parameter> {
    let all = Stage::of(model, 1, 0).parameters(model);
    all.into_iter().map(|p| (p.name.clone(), p)).collect()
}

fn plain(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The files of weights, and what the index says is where.
fn names(folder: &Path) -> Result<(BTreeSet<String>, BTreeMap<String, String>), HfError> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok((BTreeSet::from([SINGLE.to_owned()]), BTreeMap::new()));
    }
    let index: Index = serde_json::from_slice(&read_json(&path)?)
        .map_err(|error| HfError::odd(&path, format!("weight_map: {error}")))?;
    let files: BTreeSet<String> = index.weight_map.values().cloned().collect();
    for file in &files {
        let mut parts = Path::new(file).components();
        if !matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        ) {
            let problem = format!("weight_map: {file:?} is not a file beside it");
            return Err(HfError::odd(&path, problem));
        }
    }
    let mut listed = index.weight_map;
    listed.retain(|name, _| name != HEAD);
    Ok((files, listed))
}

/// IEEE half precision, widened exactly.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10) & 0x1f, u32::from(bits) & 0x3ff);
    match exponent {
        0 => {
            // Subnormal: the fraction times 2^-24, exact in fp32.
            let magnitude = f32::from(u16::try_from(fraction).unwrap_or_default()) / 16_777_216.0;
            f32::from_bits(magnitude.to_bits() | sign)
        }
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn halves_are_widened_exactly() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2_f32.powi(-24)),
            (0x8400, -(2_f32.powi(-14))),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half(bits).to_bits(), f32::to_bits(value), "{bits:x}");
        }
        assert!(half(0x7e00).is_nan());
        assert_eq!(half(0xfc00), f32::NEG_INFINITY);
    }
}
