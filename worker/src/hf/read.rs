//! Weights out of a model folder: any piece of any parameter, straight from where it lies in its file.

use super::{CONFIG, Config, HfError};
use crate::checkpoint::Want;
use crate::model::shape::{EMBEDDING, Parameter, parameters};
use rebloom_core::spec::Model;
use rebloom_format::head;
use rebloom_format::hf::{HEAD, INDEX, Index, Place, SINGLE, places, plain, width};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// A model folder, checked.
#[derive(Debug)]
pub struct Folder {
    model: Model,
    files: Vec<(PathBuf, File)>,
    /// In which of the files, and where.
    tensors: BTreeMap<String, (usize, Place)>,
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
        let index = folder.join(INDEX);
        let listed = if index.exists() {
            Some(Index::read(folder)?)
        } else {
            None
        };
        let files = listed.as_ref().map_or([SINGLE].into(), Index::files);
        for name in files {
            this.add(folder.join(name), &parameters)?;
        }
        let at = folder.join(CONFIG);
        for parameter in parameters.keys() {
            if !this.tensors.contains_key(parameter) {
                let problem = format!("the weights lack {parameter}, which this shape has");
                return Err(HfError::odd(&at, problem));
            }
        }
        for (name, file) in listed.iter().flat_map(Index::parameters) {
            let holder = this.tensors.get(plain(name));
            let holder = holder.map(|(held, _)| &this.files[*held].0);
            if holder.is_none_or(|path| !path.ends_with(file)) {
                let problem = format!("weight_map: {name} is not in {file}");
                return Err(HfError::odd(&index, problem));
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
            .all(|(_, place)| place.dtype == Dtype::BF16)
    }

    fn add(&mut self, path: PathBuf, known: &BTreeMap<String, Parameter>) -> Result<(), HfError> {
        let file = File::open(&path).map_err(HfError::io(&path))?;
        let length = file.metadata().map_err(HfError::io(&path))?.len();
        let found = head::read(&mut &file, length).and_then(|head| places(&head, known));
        for (name, place) in found.map_err(|problem| HfError::odd(&path, problem))? {
            let problem = format!("{name} is there twice");
            let other = self.tensors.insert(name, (self.files.len(), place));
            if other.is_some() {
                return Err(HfError::odd(&path, problem));
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
        let (path, _) = &self.files[head.0];
        let elements = u64::from(self.model.vocab) * u64::from(self.model.hidden);
        let mut at = 0;
        while at < elements {
            let count = (elements - at).min(PIECE as u64);
            let [ours, theirs] = [embedding, &head].map(|held| self.floats(held, at, count));
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
    fn floats(
        &self,
        (held, place): &(usize, Place),
        from: u64,
        count: u64,
    ) -> Result<Vec<u8>, HfError> {
        let width = width(place.dtype).expect("others were refused") as u64;
        let (path, file) = &self.files[*held];
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
