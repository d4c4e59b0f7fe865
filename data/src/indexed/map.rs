//! A file mapped for reading, or held in memory.
#![allow(
    unsafe_code,
    reason = "a mapping is only sound while nobody cuts the file short"
)]

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The mapping and where it came from.
#[derive(Debug)]
pub(super) struct Map {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Held(Vec<u8>),
}

impl Map {
    /// Maps a whole file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: datasets are replaced by renaming, never changed or cut short in place, so the
        // mapped bytes stay as they are for as long as the mapping lives.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self {
            path: path.to_owned(),
            bytes: Bytes::Mapped(map),
        })
    }

    /// Bytes that are in memory, under the name of a file.
    pub(super) fn held(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            bytes: Bytes::Held(bytes),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Held(bytes) => bytes,
        }
    }

    /// `N` bytes, which must be there.
    pub(super) fn take<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes()[at..at + N]
            .try_into()
            .expect("the slice has N bytes")
    }
}
