//! Text by language: a folder with a file, or a folder of files, for each; or one file. Every file is a document.

use rebloom_data::corpus;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files by the language that the first part of their path names.
#[derive(Debug, Default)]
pub struct Languages {
    /// In order of path.
    pub files: BTreeMap<String, Vec<PathBuf>>,
}

/// A file that cannot be used.
#[derive(Debug)]
pub struct LeftOut {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Languages {
    /// Finds the files below `path`, or that one file; hidden ones are left alone.
    pub fn find(path: &Path) -> io::Result<Self> {
        let mut this = Self::default();
        let found = if path.is_dir() {
            visible(path)?
        } else {
            path.metadata()?;
            named(path).into_iter().collect()
        };
        for (language, path) in found {
            let files = this.files.entry(language).or_default();
            walk(path, files)?;
        }
        this.files.retain(|_, files| !files.is_empty());
        Ok(this)
    }
}

/// What lies in a folder, in order, each with its name up to the first dot.
fn visible(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(named(&entry?.path()));
    }
    found.sort();
    Ok(found)
}

/// A path with its name up to the first dot; none where it is hidden.
fn named(path: &Path) -> Option<(String, PathBuf)> {
    let name = path.file_name()?.to_string_lossy();
    let stem = name.split('.').next().filter(|stem| !stem.is_empty())?;
    Some((stem.to_owned(), path.to_owned()))
}

fn walk(path: PathBuf, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for (_, below) in visible(&path)? {
            walk(below, files)?;
        }
    } else {
        files.push(path);
    }
    Ok(())
}

/// The text of a file, as training reads it.
pub fn read(path: &Path) -> Result<String, LeftOut> {
    corpus::document(path).map_err(|reason| LeftOut {
        path: path.to_owned(),
        reason: reason.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_a_file_or_a_folder_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("sw/more")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        for (name, bytes) in [
            ("fr.txt", &b"tous"[..]),
            ("sw/b.txt", b"watu"),
            ("sw/more/a", b"wote"),
            ("sw/.hidden", b"no"),
            ("xx.txt", b" \n"),
            ("yy.txt", b"ab\xff"),
            ("zz.txt", b"\xef\xbb\xbfzote"),
            ("zy.txt", b"ab\xc3"),
        ] {
            fs::write(at(name), bytes).unwrap();
        }
        let found = Languages::find(folder.path()).unwrap().files;
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["fr", "sw", "xx", "yy", "zy", "zz"]);
        assert_eq!(found["sw"], [at("sw/b.txt"), at("sw/more/a")]);
        assert_eq!(read(&found["fr"][0]).unwrap(), "tous");
        assert_eq!(read(&found["xx"][0]).unwrap_err().reason, "is empty");
        let bad = read(&found["yy"][0]).unwrap_err();
        assert_eq!(bad.reason, "is not UTF-8 from byte 2 on");
        assert_eq!(read(&found["zz"][0]).unwrap(), "zote", "without its mark");
        let torn = read(&found["zy"][0]).unwrap_err();
        assert_eq!(torn.reason, "is cut off after byte 2");
        let one = Languages::find(&at("fr.txt")).unwrap().files;
        assert_eq!(one, [("fr".to_owned(), vec![at("fr.txt")])].into());
        assert!(Languages::find(&at("no")).is_err());
    }
}
