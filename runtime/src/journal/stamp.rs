//! Under which boot of the machine a journal was last known to be whole.
//!
//! The store below survives the death of a process, but may lose its last moments when the machine
//! loses its power. A journal that is opened under another boot than the one it was vouched for may
//! have; one without a stamp, such as one restored from a copy, may have as well.

use crate::files;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's name of this boot of the machine.
pub(super) fn boot_id() -> Result<String, files::Error> {
    let id = files::read(Path::new(BOOT_ID))?;
    Ok(String::from_utf8_lossy(&id).trim().to_owned())
}

/// The stamp of a journal's directory.
#[derive(Debug)]
pub(super) struct Stamp {
    path: PathBuf,
    boot: String,
    /// What it says; none where it does not exist.
    said: Option<String>,
}

impl Stamp {
    pub(super) fn read(directory: &Path, boot: &str) -> Result<Self, files::Error> {
        let path = directory.join("boot");
        let said = match files::read(&path) {
            Ok(said) => Some(String::from_utf8_lossy(&said).trim().to_owned()),
            Err(files::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                None
            }
            Err(error) => return Err(error),
        };
        let boot = boot.to_owned();
        Ok(Self { path, boot, said })
    }

    /// Whether it was renewed under this boot.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.said.as_ref() == Some(&self.boot)
    }

    /// From now on it is of this boot.
    pub(super) fn renew(&mut self) -> Result<(), files::Error> {
        if !self.is_of_this_boot() {
            files::write(&self.path, format!("{}\n", self.boot).as_bytes())?;
            self.said = Some(self.boot.clone());
        }
        Ok(())
    }

    /// From now on it is of no boot.
    pub(super) fn void(&mut self) -> Result<(), files::Error> {
        if self.said.is_some() {
            files::remove(&self.path)?;
            self.said = None;
        }
        Ok(())
    }
}
