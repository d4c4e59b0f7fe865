//! The hash of a checkpoint's shard: which function a version of the manifest means, in one place for
//! those who write, read and verify.

use rebloom_core::checkpoint::MANIFEST_VERSION;
use rebloom_core::id::Digest;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};

/// A hash over a shard's bytes as they pass by. Manifests of version 1 name SHA-256; since version 2 it
/// is BLAKE3, which on processors without SHA instructions is many times faster than the disk.
#[derive(Debug, Clone)]
pub enum ShardHash {
    /// Of version 1.
    Sha256(Sha256),
    /// Since version 2.
    Blake3(Box<blake3::Hasher>),
}

impl ShardHash {
    /// The hash that a manifest of this version names.
    pub fn of_version(version: u32) -> Self {
        if version < 2 {
            Self::Sha256(Sha256::new())
        } else {
            Self::Blake3(Box::default())
        }
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Blake3(hash) => drop(hash.update(bytes)),
        }
    }

    /// The hash of everything taken in.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest(hash.finalize().into()),
            Self::Blake3(hash) => Digest(hash.finalize().into()),
        }
    }

    /// The hash of these bytes alone, as a shard is hashed that is written today.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hash = Self::of_version(MANIFEST_VERSION);
        hash.update(bytes);
        hash.finish()
    }
}

impl Write for ShardHash {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.update(buffer);
        Ok(buffer.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of each function's published value for no input (FIPS 180-4; BLAKE3's test vectors).
    #[test]
    fn each_version_means_its_own_function() {
        for (version, start) in [(1, "e3b0c44298fc1c14"), (2, "af1349b9f5f9a1a6")] {
            let found = ShardHash::of_version(version).finish().to_string();
            assert!(found.starts_with(start), "{version}: {found}");
        }
        let mut pieces = ShardHash::of_version(2);
        pieces.update(b"born free ");
        pieces.update(b"and equal");
        assert_eq!(pieces.finish(), ShardHash::of(b"born free and equal"));
    }
}
