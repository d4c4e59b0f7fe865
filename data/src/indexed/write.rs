//! Writes an indexed dataset, byte for byte as Megatron's builder does.

use super::{MAGIC, VERSION, Width, bin_path, idx_path};
use crate::aside::Aside;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A dataset being written. Nothing has its name before [`Writer::finish`].
pub struct Writer {
    prefix: PathBuf,
    width: Width,
    bin: Aside,
    sizes: Vec<i32>,
    documents: Vec<i64>,
}

impl Writer {
    /// Begins a dataset.
    pub fn create(prefix: &Path, width: Width) -> Result<Self> {
        let bin = Aside::create(&bin_path(prefix))?;
        Ok(Self {
            prefix: prefix.to_owned(),
            width,
            bin,
            sizes: Vec::new(),
            documents: vec![0],
        })
    }

    /// Appends one sequence.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let path = bin_path(&self.prefix);
        let size = i32::try_from(tokens.len()).map_err(|_| {
            Error::format(
                &path,
                format!("sizes[{}]", self.sizes.len()),
                tokens.len(),
                "more than fits",
            )
        })?;
        let mut bytes = Vec::with_capacity(tokens.len() * self.width.bytes());
        for token in tokens {
            let fits = match self.width {
                Width::U16 => u16::try_from(*token).map(|token| bytes.extend(token.to_le_bytes())),
                Width::I32 => i32::try_from(*token).map(|token| bytes.extend(token.to_le_bytes())),
            };
            fits.map_err(|_| Error::format(&path, "token", token, "more than fits"))?;
        }
        self.bin.write(&bytes)?;
        self.sizes.push(size);
        Ok(())
    }

    /// Ends a document: the sequences since the last end.
    pub fn end_document(&mut self) {
        self.documents
            .push(i64::try_from(self.sizes.len()).expect("sequences in memory fit an i64"));
    }

    /// Puts both files on the disk, the index last: it is what makes the tokens a dataset. Returns
    /// the SHA-256 of the tokens and of the index.
    pub fn finish(self) -> Result<(String, String)> {
        let mut idx = Aside::create(&idx_path(&self.prefix))?;
        idx.write(MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.width.code()])?;
        idx.write(&(self.sizes.len() as u64).to_le_bytes())?;
        idx.write(&(self.documents.len() as u64).to_le_bytes())?;
        for size in &self.sizes {
            idx.write(&size.to_le_bytes())?;
        }
        let mut offset = 0_i64;
        for size in &self.sizes {
            idx.write(&offset.to_le_bytes())?;
            offset += i64::from(*size) * self.width.bytes() as i64;
        }
        for document in &self.documents {
            idx.write(&document.to_le_bytes())?;
        }
        Ok((self.bin.finish()?, idx.finish()?))
    }
}
