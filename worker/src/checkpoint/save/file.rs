//! The file of a shard: written aside, to the disk, then under its name.

use crate::checkpoint::file_name;
use crate::shim::bytes;
use rebloom_core::checkpoint::{MANIFEST_VERSION, Shard};
use rebloom_core::id::{Digest, Rank};
use rebloom_format::facts::FACTS;
use rebloom_runtime::shard_hash::ShardHash;
use rustix::fs::{Advice, fadvise};
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use tch::Tensor;

const BUFFER: usize = 1 << 20;
/// Bytes after which the disk is told to begin with them.
const STRETCH: u64 = 16 << 20;

/// What a shard is to hold, but for the numbers themselves.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) directory: PathBuf,
    pub(super) rank: Rank,
    /// Samples consumed when it was taken.
    pub(super) samples: u64,
    /// The head of the safetensors file.
    pub(super) header: Vec<u8>,
    /// Bytes of all its tensors.
    pub(super) bytes: u64,
}

/// The head of a safetensors file: its length, and JSON padded to a multiple of eight bytes.
pub(super) fn header(facts: String, names: Vec<(String, TensorInfo)>) -> Vec<u8> {
    let metadata = Metadata::new(Some(HashMap::from([(FACTS.to_owned(), facts)])), names)
        .expect("the offsets follow each other");
    let mut json = serde_json::to_vec(&metadata).expect("metadata are plain data");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

struct Hashing {
    inner: File,
    hash: ShardHash,
    bytes: u64,
    /// Up to where the disk was told to begin.
    begun: u64,
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        if let Some(length) = NonZeroU64::new(self.bytes - self.begun)
            && length.get() >= STRETCH
        {
            // The disk writes while the rest is hashed. Only advice: what is not taken waits for the sync.
            if let Err(error) = fadvise(&self.inner, self.begun, Some(length), Advice::DontNeed) {
                tracing::debug!(%error, "the disk takes no advice");
            }
            self.begun = self.bytes;
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes what `copies` brings, in the order of the outline. Where that fails, or too little comes,
/// nothing is left behind.
pub(super) fn write<C: AsRef<[Tensor]>>(
    outline: &Outline,
    copies: impl Iterator<Item = io::Result<C>>,
) -> Result<Shard, String> {
    let name = file_name(outline.rank);
    let path = outline.directory.join(&name);
    let aside = outline.directory.join(format!("{name}.tmp"));
    let written = fs::create_dir_all(&outline.directory)
        .and_then(|()| write_aside(outline, copies, &aside))
        .and_then(|written| {
            fs::rename(&aside, &path)?;
            sync_directory(&outline.directory)?;
            outline.directory.parent().map_or(Ok(()), sync_directory)?;
            Ok(written)
        });
    match written {
        Ok((bytes, hash)) => Ok(Shard {
            rank: outline.rank,
            file: name,
            bytes,
            hash,
        }),
        Err(error) => {
            // It may not even be there; what counts is the first error.
            drop(fs::remove_file(&aside));
            Err(format!("{}: {error}", path.display()))
        }
    }
}

fn write_aside<C: AsRef<[Tensor]>>(
    outline: &Outline,
    copies: impl Iterator<Item = io::Result<C>>,
    aside: &Path,
) -> io::Result<(u64, Digest)> {
    let file = File::create(aside)?;
    // The hash runs over pieces that are still in the cache.
    let hashing = Hashing {
        inner: file,
        hash: ShardHash::of_version(MANIFEST_VERSION),
        bytes: 0,
        begun: 0,
    };
    let mut out = BufWriter::with_capacity(BUFFER, hashing);
    out.write_all(&outline.header)?;
    for copy in copies {
        for tensor in copy?.as_ref() {
            for piece in bytes(tensor).chunks(BUFFER) {
                out.write_all(piece)?;
            }
        }
    }
    let hashing = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    if hashing.bytes != outline.header.len() as u64 + outline.bytes {
        return Err(io::Error::other("training gave up before all was copied"));
    }
    hashing.inner.sync_all()?;
    Ok((hashing.bytes, hashing.hash.finish()))
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
