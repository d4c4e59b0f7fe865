//! A file mapped for reading.
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
    map: Mmap,
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
            map,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// `N` bytes, which must be there.
    pub(super) fn take<const N: usize>(&self, at: usize) -> [u8; N] {
        self.map[at..at + N]
            .try_into()
            .expect("the slice has N bytes")
    }
}
