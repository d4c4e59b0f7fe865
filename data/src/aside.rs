//! A file that is written aside and takes its name only when it is whole and on the disk.

use crate::error::{Error, Result};
use crate::tokenizer::hexadecimal;
use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The file being written; dropped before [`Aside::finish`], it leaves nothing behind.
pub(crate) struct Aside {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    sum: Sha256,
}

impl Aside {
    /// Begins the file that will be `path`, in the same folder.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let folder = folder(path);
        fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        let file = tempfile::Builder::new()
            .prefix(".writing-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(Error::io("write into", folder))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            path: path.to_owned(),
            sum: Sha256::new(),
        })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(Error::io("write", &self.path))
    }

    /// Puts the file on the disk under its name; returns the SHA-256 of what is in it.
    pub(crate) fn finish(self) -> Result<String> {
        let Self { file, path, sum } = self;
        let file = file
            .into_inner()
            .map_err(|e| Error::io("write", &path)(e.into_error()))?;
        file.as_file()
            .sync_all()
            .map_err(Error::io("write", &path))?;
        file.persist(&path)
            .map_err(|e| Error::io("rename", &path)(e.error))?;
        let folder = folder(&path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io("write", folder))?;
        Ok(hexadecimal(&sum.finalize()))
    }
}

/// SHA-256 of a file, in hexadecimal. `read` hears of every piece how long it was.
pub(crate) fn sha256_of(path: &Path, mut read: impl FnMut(u64)) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut sum = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut piece).map_err(Error::io("read", path))?;
        if length == 0 {
            return Ok(hexadecimal(&sum.finalize()));
        }
        sum.update(&piece[..length]);
        read(length as u64);
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// `prefix` with an ending appended (not replaced: a prefix may have dots of its own).
pub(crate) fn with_ending(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
