//! One pinned download, and one folder that pinned downloads make.

use super::{Python, say};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file that a registry carries, by the name and the hash it has there.
pub(super) struct Pin {
    /// What it is called where it comes from.
    pub(super) project: &'static str,
    /// Which version.
    pub(super) version: &'static str,
    /// The file's name.
    pub(super) file: &'static str,
    /// Its SHA-256.
    pub(super) sha256: &'static str,
    /// Its size, for the user to know how long it will take.
    pub(super) megabytes: u32,
}

/// A folder of `.rebloom/`, made of pinned files.
pub(super) struct Piece {
    /// Path below `.rebloom/`.
    pub(super) folder: &'static str,
    /// The files it is made of, all of one kind.
    pub(super) pins: &'static [Pin],
    /// What of them is needed: prefixes of their members.
    pub(super) keep: &'static [&'static str],
    /// The folder inside the files that becomes `folder`.
    pub(super) inner: &'static str,
}

/// Lies inside every finished folder and says what it was made of.
const MARKER: &str = ".pinned";

impl Piece {
    /// Where the piece lies.
    pub(super) fn path(&self, home: &Path) -> PathBuf {
        home.join(self.folder)
    }

    fn marker(&self) -> String {
        self.pins
            .iter()
            .map(|pin| format!("{}  {}\n", pin.sha256, pin.file))
            .collect()
    }

    /// Whether the folder is there, whole, and of these pins.
    pub(super) fn is_there(&self, home: &Path) -> bool {
        fs::read_to_string(self.path(home).join(MARKER)).is_ok_and(|text| text == self.marker())
    }

    /// Makes the folder: fetches each file with `fetch`, verifies, unpacks aside, renames.
    pub(super) fn install(
        &self,
        home: &Path,
        python: &Python,
        fetch: impl Fn(&Pin, &Path) -> Result<()>,
    ) -> Result<()> {
        let downloads = home.join("downloads");
        make(&downloads)?;
        let mut archives = Vec::new();
        for pin in self.pins {
            archives.push(pin.obtain(&downloads, &fetch)?);
        }
        let aside = home.join("unpack").join(self.folder);
        clear(&aside)?;
        make(&aside)?;
        say(&format!("unpacking {}", self.folder));
        for archive in &archives {
            python.unpack(archive, &aside, self.keep)?;
        }
        let inner = aside.join(self.inner);
        let marker = inner.join(MARKER);
        fs::write(&marker, self.marker())
            .with_context(|| format!("cannot write {}", marker.display()))?;
        let path = self.path(home);
        make(path.parent().expect("a piece lies below .rebloom"))?;
        clear(&path)?;
        fs::rename(&inner, &path).with_context(|| format!("cannot move {}", path.display()))?;
        clear(&home.join("unpack"))?;
        for archive in &archives {
            fs::remove_file(archive)
                .with_context(|| format!("cannot remove {}", archive.display()))?;
        }
        say(&format!("{} is in place", path.display()));
        Ok(())
    }
}

impl Pin {
    /// The file, from the downloads of an earlier attempt or fetched now; its hash is right.
    fn obtain(
        &self,
        downloads: &Path,
        fetch: impl Fn(&Self, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = downloads.join(self.file);
        if path.exists() {
            if sha256(&path)? == self.sha256 {
                say(&format!(
                    "{} {} is downloaded already",
                    self.project, self.version
                ));
                return Ok(path);
            }
            say(&format!(
                "{} is not what it should be; downloading again",
                path.display()
            ));
            clear(&path)?;
        }
        say(&format!(
            "downloading {} {} ({} MB)",
            self.project, self.version, self.megabytes
        ));
        fetch(self, downloads).with_context(|| {
            format!(
                "cannot download {} {}; is there a network? Without one, put {} into {} and repeat \
                 this command",
                self.project,
                self.version,
                self.file,
                downloads.display()
            )
        })?;
        if !path.exists() {
            bail!(
                "{} {} came, but not as {}",
                self.project,
                self.version,
                self.file
            );
        }
        let found = sha256(&path)?;
        if found != self.sha256 {
            clear(&path)?;
            bail!(
                "{} has SHA-256 {found} and not {}; refused",
                self.file,
                self.sha256
            );
        }
        Ok(path)
    }
}

/// SHA-256 of a file, in hexadecimal.
fn sha256(path: &Path) -> Result<String> {
    let mut file =
        fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect());
        }
        hash.update(&buffer[..count]);
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Removes a file or a folder, where there is one.
pub(super) fn clear(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Pin = Pin {
        project: "hello",
        version: "1",
        file: "hello.bin",
        sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        megabytes: 0,
    };

    fn brings(text: &'static str) -> impl Fn(&Pin, &Path) -> Result<()> {
        move |pin, folder| Ok(fs::write(folder.join(pin.file), text)?)
    }

    fn brings_nothing(_: &Pin, _: &Path) -> Result<()> {
        bail!("no network")
    }

    #[test]
    fn a_download_with_another_hash_is_refused_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let error = HELLO.obtain(folder.path(), brings("hellO")).unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
        assert!(!folder.path().join("hello.bin").exists());
    }

    #[test]
    fn a_finished_download_is_used_again_and_a_torn_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = HELLO.obtain(folder.path(), brings("hello")).unwrap();
        assert_eq!(HELLO.obtain(folder.path(), brings_nothing).unwrap(), path);
        fs::write(&path, "hel").unwrap();
        let error = HELLO.obtain(folder.path(), brings_nothing).unwrap_err();
        assert!(
            format!("{error:#}").contains("put hello.bin into"),
            "{error:#}"
        );
        HELLO.obtain(folder.path(), brings("hello")).unwrap();
    }

    #[test]
    fn a_folder_counts_only_with_the_marker_of_its_pins() {
        let home = tempfile::tempdir().unwrap();
        let piece = Piece {
            folder: "a/b",
            pins: &[HELLO],
            keep: &[],
            inner: "",
        };
        fs::create_dir_all(home.path().join("a/b")).unwrap();
        assert!(!piece.is_there(home.path()));
        fs::write(home.path().join("a/b").join(MARKER), "other  hello.bin\n").unwrap();
        assert!(!piece.is_there(home.path()));
        fs::write(home.path().join("a/b").join(MARKER), piece.marker()).unwrap();
        assert!(piece.is_there(home.path()));
    }
}
