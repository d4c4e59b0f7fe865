//! Files that are there whole or not at all, and a lock that says who owns a directory.
//!
//! A file is written aside, fsynced, renamed over the old one, and its directory fsynced; whoever
//! opens it, also after a crash, sees the old content or the new one.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Something that could not be done to a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("{} is in use by process {holder}; stop that one first, or use another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as it wrote down.
        holder: String,
    },
}

impl Error {
    fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// Replaces `path` by `bytes`, readable for everyone its directory lets in.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes, 0o644)
}

/// Replaces `path` by `bytes`, readable for its owner only.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes, 0o600)
}

/// One process writes one path at a time, so that the file aside has a fixed name and whatever a
/// crash left of it is written over.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    let aside = path.with_file_name(name);
    // An old file aside may have a wider mode, and a mode is only given to a file that is new.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::of("remove", &aside)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(Error::of("write", &aside))
        .and_then(|()| fs::rename(&aside, path).map_err(Error::of("write", path)));
    if let Err(error) = written {
        // What is left is of no use, and on a full disk its room is.
        drop(fs::remove_file(&aside));
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes what was created, renamed or removed in a directory last.
pub fn sync_directory(directory: &Path) -> Result<(), Error> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(Error::of("sync", directory))
}

/// Creates a directory and what is above it; one that is there is as good.
pub fn create_directory(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::of("create", directory))
}

/// Removes a file for good.
pub fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(Error::of("remove", path))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::of("read", path))
}

/// Holds a directory for this process. The kernel drops the lock with the process, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Lock {
    /// Takes the lock of `directory`, or says who holds it.
    pub fn take(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::of("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                drop(file.read_to_string(&mut holder));
                let holder = holder.trim().to_owned();
                return Err(Error::InUse {
                    path: directory.to_owned(),
                    holder,
                });
            }
            Err(errno) => return Err(Error::of("lock", &path)(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(Error::of("write", &path))?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_secrets_are_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"one").unwrap();
        fs::write(
            dir.path().join(".key.tmp"),
            b"left by a crash, readable for all",
        )
        .unwrap();
        write_secret(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_file() {
        let error = write(Path::new("/nowhere/at/all"), b"").unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/at/.all.tmp"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        Lock::take(dir.path()).unwrap();
    }
}
