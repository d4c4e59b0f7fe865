//! Final weights, tensor by tensor: what "the same to the bit" is checked on.

use anyhow::{Context, Result, ensure};
use rebloom_core::checkpoint::{CheckpointId, Manifest};
use rebloom_core::id::{Rank, RunId};
use rebloom_runtime::shard_hash::ShardHash;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// SHA-256 of every tensor of a checkpoint (master weights and optimizer state), by rank and name.
pub type Weights = BTreeMap<(u32, String), String>;

/// Reads the checkpoint of `step`, whichever generation sealed it, and checks its manifest first.
pub fn of(directory: &Path, run: &RunId, step: u64) -> Result<(Weights, Manifest)> {
    let folder = directory.join(run.as_str());
    let newest = fs::read_dir(&folder)
        .with_context(|| format!("failed to list {}", folder.display()))?
        .flatten()
        .filter_map(|entry| CheckpointId::parse(entry.file_name().to_str()?))
        .filter(|id| {
            id.step.0 == step && folder.join(id.directory()).join("manifest.json").exists()
        })
        .max()
        .with_context(|| {
            format!(
                "no sealed checkpoint at step {step} in {}",
                folder.display()
            )
        })?;
    let folder = folder.join(newest.directory());
    let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join("manifest.json"))?)?;
    ensure!(manifest.is_whole(), "the manifest lacks ranks");
    let mut weights = Weights::new();
    for shard in &manifest.shards {
        let bytes = fs::read(folder.join(&shard.file))?;
        ensure!(
            bytes.len() as u64 == shard.bytes,
            "{} has another length",
            shard.file
        );
        ensure!(
            ShardHash::of(&bytes) == shard.hash,
            "{} has another hash",
            shard.file
        );
        weights.append(&mut of_bytes(shard.rank, &bytes)?);
    }
    ensure!(!weights.is_empty(), "the checkpoint holds no tensors");
    Ok((weights, manifest))
}

/// The same of one rank's shard.
pub fn of_bytes(rank: Rank, shard: &[u8]) -> Result<Weights> {
    let shard = SafeTensors::deserialize(shard)?;
    let tensors = shard.iter();
    Ok(tensors
        .map(|(name, tensor)| ((rank.0, name.to_owned()), hex(tensor.data())))
        .collect())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
