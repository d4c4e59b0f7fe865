//! Reading shards, whoever wrote them: what is wanted is taken from whichever shards hold it, by name and
//! place in the parameter. Nothing is used before the length and the hash of its file are the manifest's.

use super::slice::{Move, Slice, Stretch, take};
use crate::shim::bytes_mut;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, Manifest, Shard};
use rebloom_core::guard::Figures;
use rebloom_core::id::{Digest, Rank};
use rebloom_core::skips::Skips;
use rebloom_core::spec::Model;
use rebloom_format::facts::{self, Facts, KINDS};
use rebloom_format::manifest::{self, MANIFEST};
use rebloom_format::{Error, shape};
use rebloom_runtime::shard_hash::ShardHash;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use tch::Tensor;

const PIECE: usize = 1 << 20;
/// Bytes of an element.
const WIDTH: usize = size_of::<f32>();

/// A piece of a parameter that somebody wants, and where it goes.
#[derive(Debug)]
pub struct Want {
    name: String,
    slice: Slice,
    /// What of it has not been found yet.
    lacking: Vec<Stretch>,
    /// The first of these of [`KINDS`], flat.
    into: Vec<Tensor>,
}

impl Want {
    /// Weights, or weights and both moments, of one piece; each tensor is flat and as long as the piece.
    pub fn new(name: &str, slice: Slice, into: Vec<Tensor>) -> Self {
        Self {
            name: name.to_owned(),
            lacking: slice.stretches(),
            slice,
            into,
        }
    }

    /// Which parameter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which elements.
    pub const fn slice(&self) -> &Slice {
        &self.slice
    }

    /// The bytes that its weights go to.
    pub fn bytes(&mut self) -> &mut [u8] {
        bytes_mut(&mut self.into[0])
    }
}

/// What is the same in every shard of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Shape of the model.
    pub model: Model,
    /// Seed of the run.
    pub seed: u64,
}

/// A sealed checkpoint as it lies on storage.
#[derive(Debug)]
pub struct Stored {
    directory: PathBuf,
    manifest: Manifest,
    common: Common,
}

impl Stored {
    /// Reads the manifest in a checkpoint's directory, and of what the checkpoint is from its first shard.
    pub fn open(directory: &Path) -> Result<Self, Unsound> {
        let manifest = manifest(directory)?;
        let first = manifest.shards.first();
        let first = first.ok_or_else(|| unreadable(MANIFEST, "names no shard"))?;
        let mut input = Input::open(directory, first, manifest.version)?;
        let (_, facts) = facts::read(&mut input.reader, first.bytes)
            .map_err(|error| unreadable(&first.file, error))?;
        check_size(&facts.model, &manifest)?;
        Ok(Self {
            directory: directory.to_owned(),
            common: Common {
                model: facts.model,
                seed: facts.seed,
            },
            manifest,
        })
    }

    /// The checkpoint `id`, which must lie there.
    pub fn of(directory: &Path, id: CheckpointId, common: Common) -> Result<Self, Unsound> {
        let manifest = manifest(directory)?;
        if manifest.id != id {
            let text = format!("is of {}", manifest.id.directory());
            return Err(unreadable(MANIFEST, text));
        }
        Ok(Self {
            directory: directory.to_owned(),
            manifest,
            common,
        })
    }

    /// What lies there is this: a part of a snapshot, sealed by whoever told so.
    pub fn told(directory: &Path, manifest: Manifest, common: Common) -> Self {
        Self {
            directory: directory.to_owned(),
            manifest,
            common,
        }
    }

    /// Its seal.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What every shard says of itself.
    pub const fn common(&self) -> &Common {
        &self.common
    }

    /// What was passed over while it was trained, as the head of a shard says: that of `rank`, where it has one. Nothing
    /// where the shard is too old to say, or is damaged, which reading all of it finds out.
    pub fn skipped(&self, rank: Rank) -> Option<Skips> {
        let shards = &self.manifest.shards;
        let own = shards.iter().find(|shard| shard.rank == rank);
        let shard = own.or(shards.first())?;
        let input = Input::open(&self.directory, shard, self.manifest.version);
        let (_, facts) = facts::read(&mut input.ok()?.reader, shard.bytes).ok()?;
        facts.skipped
    }

    /// Fills what is wanted, from as few shards as will do. The one of `first` is read first: in the layout
    /// that wrote it, it holds all that its rank wants. Answers the figures of the last steps before it, which
    /// are the same whichever shards are read.
    pub fn fill(&self, mut wants: Vec<Want>, first: Option<Rank>) -> Result<Vec<Figures>, Unsound> {
        let mut recent = None;
        let shards = &self.manifest.shards;
        let (own, others): (Vec<_>, Vec<_>) = shards.iter().partition(|s| Some(s.rank) == first);
        for shard in own.into_iter().chain(others) {
            let is_done = wants.iter().all(|want| want.lacking.is_empty());
            if is_done && recent.is_some() {
                break;
            }
            if is_done || Some(shard.rank) == first || self.helps(shard, &wants)? {
                recent = Some(self.read(shard, &mut wants)?);
            }
        }
        match wants.iter().find(|want| !want.lacking.is_empty()) {
            Some(want) => {
                let text = format!("its shards do not hold all of {}", want.name);
                Err(unreadable(MANIFEST, text))
            }
            None => Ok(recent.unwrap_or_default()),
        }
    }

    /// Whether a shard holds something that is lacking; its header is believed for that.
    fn helps(&self, shard: &Shard, wants: &[Want]) -> Result<bool, Unsound> {
        let mut input = Input::open(&self.directory, shard, self.manifest.version)?;
        let Ok((_, facts)) = facts::read(&mut input.reader, shard.bytes) else {
            // Reading all of it finds out what is wrong with it.
            return Ok(true);
        };
        Ok(wants.iter().any(|want| {
            let held = facts.slices.get(&want.name);
            held.is_some_and(|held| {
                held.fits(&want.slice) && !take(&mut want.lacking.clone(), held).is_empty()
            })
        }))
    }

    fn read(&self, shard: &Shard, wants: &mut [Want]) -> Result<Vec<Figures>, Unsound> {
        let mut input = Input::open(&self.directory, shard, self.manifest.version)?;
        let outcome = self.read_tensors(shard, &mut input.reader, wants);
        // What is wrong inside is the fault of whoever wrote it only where the bytes are the right ones.
        if input.finish()? != shard.hash {
            return Err(Unsound::Hash {
                file: shard.file.clone(),
            });
        }
        outcome.map_err(|error| unreadable(&shard.file, error))
    }

    fn read_tensors(
        &self,
        shard: &Shard,
        input: &mut impl Read,
        wants: &mut [Want],
    ) -> Result<Vec<Figures>, String> {
        let (head, facts) = facts::read(input, shard.bytes)?;
        if !self.is_part(shard, &facts) {
            return Err(
                "belongs to another run, rank, model or step than its manifest says".to_owned(),
            );
        }
        let mut plan: BTreeMap<String, (&mut Want, usize, Vec<Move>)> = BTreeMap::new();
        for want in wants {
            let Some(held) = facts.slices.get(&want.name) else {
                continue;
            };
            if !held.fits(&want.slice) {
                return Err(format!("it has {} in another shape", want.name));
            }
            let moves = take(&mut want.lacking, held);
            let length = usize::try_from(held.len()).map_err(|e| e.to_string())?;
            if !moves.is_empty() {
                plan.insert(want.name.clone(), (want, length * WIDTH, moves));
            }
        }
        let mut held: Vec<_> = head.metadata.tensors().into_iter().collect();
        held.sort_by_key(|(_, info)| info.data_offsets.0);
        let mut scratch = vec![0; PIECE];
        let (mut at, mut taken) = (0, 0);
        for (name, info) in held {
            let (kind, parameter) = name.split_once('/').ok_or_else(|| odd(&name))?;
            let kind = KINDS.iter().position(|known| *known == kind);
            let kind = kind.ok_or_else(|| odd(&name))?;
            let Some((want, length, moves)) = plan.get_mut(parameter) else {
                continue;
            };
            let Some(tensor) = want.into.get_mut(kind) else {
                continue;
            };
            let (begin, end) = info.data_offsets;
            if info.dtype != Dtype::F32 || begin < at || end.checked_sub(begin) != Some(*length) {
                return Err(format!("it holds {name} otherwise than it says"));
            }
            let into = bytes_mut(tensor);
            for m in moves {
                let place = |element: i64| usize::try_from(element).unwrap_or_default() * WIDTH;
                let (from, to, bytes) = (begin + place(m.from), place(m.to), place(m.length));
                skip(input, from - at, &mut scratch)?;
                for piece in into[to..to + bytes].chunks_mut(PIECE) {
                    input.read_exact(piece).map_err(text)?;
                }
                at = from + bytes;
            }
            taken += 1;
        }
        let all: usize = plan.values().map(|(want, ..)| want.into.len()).sum();
        if taken == all {
            Ok(facts.recent)
        } else {
            Err("it lacks tensors that it says it has".to_owned())
        }
    }

    fn is_part(&self, shard: &Shard, facts: &Facts) -> bool {
        let Manifest {
            run,
            id,
            layout,
            samples,
            ..
        } = &self.manifest;
        let Common { model, seed } = &self.common;
        facts.run == *run
            && facts.id == *id
            && facts.rank == shard.rank
            && facts.layout == *layout
            && facts.samples == *samples
            && facts.model == *model
            && facts.seed == *seed
    }
}

/// Memory is taken for a model only where its shards are large enough to hold it.
fn check_size(model: &Model, manifest: &Manifest) -> Result<(), Unsound> {
    let sizes = shape::parameters(model).into_values();
    let elements: i64 = sizes
        .map(|parameter| parameter.shape.iter().product::<i64>())
        .sum();
    let needed = (KINDS.len() * WIDTH) as u64 * elements.unsigned_abs();
    let held = manifest.shards.iter().map(|shard| shard.bytes);
    let held = held.fold(0, u64::saturating_add);
    if needed <= held {
        return Ok(());
    }
    let file = &manifest.shards[0].file;
    let text = format!("model: it takes {needed} bytes, all shards have {held}");
    Err(unreadable(file, text))
}

fn odd(name: &str) -> String {
    format!("it holds {name}, which is nothing that is known")
}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn skip(input: &mut impl Read, bytes: usize, scratch: &mut [u8]) -> Result<(), String> {
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(scratch.len());
        input.read_exact(&mut scratch[..piece]).map_err(text)?;
        left -= piece;
    }
    Ok(())
}

/// Something is wrong inside a file.
pub(super) fn unreadable(file: &str, error: impl ToString) -> Unsound {
    Unsound::Unreadable {
        file: file.to_owned(),
        error: error.to_string(),
    }
}

fn trouble(file: &str, error: &io::Error) -> Unsound {
    if error.kind() == io::ErrorKind::NotFound {
        Unsound::Missing {
            file: file.to_owned(),
        }
    } else {
        unreadable(file, error)
    }
}

fn manifest(directory: &Path) -> Result<Manifest, Unsound> {
    manifest::read(directory).map_err(|error| match error {
        Error::Io { error, .. } => trouble(MANIFEST, &error),
        Error::Odd { problem, .. } => unreadable(MANIFEST, problem),
    })
}

struct Hashing<R> {
    inner: R,
    hash: ShardHash,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// A shard of the right length, hashed while it is read.
struct Input<'a> {
    file: &'a str,
    reader: BufReader<Hashing<File>>,
}

impl<'a> Input<'a> {
    fn open(directory: &Path, shard: &'a Shard, version: u32) -> Result<Self, Unsound> {
        let name = shard.file.as_str();
        let file = File::open(directory.join(name)).map_err(|error| trouble(name, &error))?;
        let found = file.metadata().map_err(|error| trouble(name, &error))?;
        if found.len() != shard.bytes {
            return Err(Unsound::Length {
                file: name.to_owned(),
                expected: shard.bytes,
                found: found.len(),
            });
        }
        let hashing = Hashing {
            inner: file,
            hash: ShardHash::of_version(version),
        };
        Ok(Self {
            file: name,
            reader: BufReader::with_capacity(PIECE, hashing),
        })
    }

    /// Reads to the end; the hash of everything.
    fn finish(mut self) -> Result<Digest, Unsound> {
        let mut scratch = vec![0; PIECE];
        loop {
            match self.reader.read(&mut scratch) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(trouble(self.file, &error)),
            }
        }
        Ok(self.reader.into_inner().hash.finish())
    }
}
