//! `manifest.json`, the seal of a checkpoint: of a version that this build reads, and whole.

use crate::Error;
use crate::json::from_json;
use rebloom_core::checkpoint::{MANIFEST_VERSION, Manifest, OLDEST_MANIFEST};
use serde::Deserialize;
use std::path::{Component, Path};

/// Name of the file that seals a checkpoint.
pub const MANIFEST: &str = "manifest.json";

/// The manifest of the largest gang has less.
const LARGEST: u64 = 64 << 20;

/// The one field that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Refuses a version that is not from `oldest` to `newest`, before anything else of a file is believed: its
/// other fields may mean something else there.
pub(crate) fn known_version(text: &[u8], oldest: u32, newest: u32) -> Result<u32, String> {
    let Version { version } = from_json(text)?;
    if (oldest..=newest).contains(&version) {
        return Ok(version);
    }
    Err(format!(
        "version: {version} is not known; this build reads {oldest} to {newest}"
    ))
}

/// Reads the manifest in a checkpoint's directory.
pub fn read(directory: &Path) -> Result<Manifest, Error> {
    let path = directory.join(MANIFEST);
    parse(&path, &crate::read(&path, LARGEST)?)
}

/// The manifest in the text of the file `path`.
pub fn parse(path: &Path, text: &[u8]) -> Result<Manifest, Error> {
    of_text(text).map_err(|problem| Error::odd(path, problem))
}

/// The manifest in a text, or the field and what is wrong with it.
fn of_text(text: &[u8]) -> Result<Manifest, String> {
    known_version(text, OLDEST_MANIFEST, MANIFEST_VERSION)?;
    let manifest: Manifest = from_json(text)?;
    if !manifest.is_whole() {
        let (layout, found) = (manifest.layout, manifest.shards.len());
        return Err(format!(
            "shards: {found} that are not one for each rank of {layout}, in order"
        ));
    }
    let is_beside = |file: &str| {
        let mut parts = Path::new(file).components();
        matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        )
    };
    for (at, shard) in manifest.shards.iter().enumerate() {
        if !is_beside(&shard.file) {
            let file = &shard.file;
            return Err(format!(
                "shards[{at}].file: {file:?} is not a file beside it"
            ));
        }
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shard(rank: u32) -> Value {
        json!({"rank": rank, "file": format!("rank-{rank}"), "bytes": 8, "hash": "00".repeat(32)})
    }

    fn good() -> Value {
        json!({
            "version": MANIFEST_VERSION, "run": "small", "id": {"step": 3, "generation": 1},
            "layout": {"tensor": 2, "pipeline": 1, "data": 1}, "samples": 24,
            "shards": [shard(0), shard(1)],
        })
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut manifest = good();
        change(&mut manifest);
        of_text(manifest.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn every_version_from_the_oldest_on_is_read() {
        for version in OLDEST_MANIFEST..=MANIFEST_VERSION {
            let mut manifest = good();
            manifest["version"] = version.into();
            let read = of_text(manifest.to_string().as_bytes()).unwrap();
            assert_eq!((read.version, read.shards.len()), (version, 2));
        }
        // The oldest called its hash otherwise.
        let before = good().to_string().replace("\"hash\"", "\"sha256\"");
        let before = before.replace("\"version\":2", "\"version\":1");
        let read = parse(Path::new("manifest.json"), before.as_bytes()).unwrap();
        assert_eq!((read.version, read.shards.len()), (1, 2));
    }

    #[test]
    fn another_version_is_refused_by_its_number_whatever_else_it_holds() {
        for version in [0, MANIFEST_VERSION + 1, u32::MAX] {
            let wanted = format!("version: {version} is not known; this build reads 1 to 2");
            assert_eq!(refused(|m| m["version"] = version.into()), wanted);
            let other = json!({"version": version, "pieces": {"other": "words"}});
            assert_eq!(of_text(other.to_string().as_bytes()).unwrap_err(), wanted);
        }
        let error = refused(|m| m["version"] = json!("two"));
        assert!(error.starts_with("version: invalid type"), "{error}");
        let error = refused(|m| drop(m.as_object_mut().unwrap().remove("version")));
        assert!(error.starts_with("missing field `version`"), "{error}");
    }

    #[test]
    fn what_is_not_whole_is_refused_by_field() {
        let error = refused(|m| drop(m["shards"].as_array_mut().unwrap().pop()));
        assert!(error.starts_with("shards: 1 that are not one"), "{error}");
        let error = refused(|m| m["layout"]["data"] = json!(u32::MAX));
        assert!(error.starts_with("shards: 2 that are not one"), "{error}");
        for file in ["../rank-1", "/rank-1", "a/b", "", "."] {
            let error = refused(|m| m["shards"][1]["file"] = json!(file));
            assert!(error.starts_with("shards[1].file: "), "{error}");
        }
        let error = refused(|m| m["shards"][1]["bytes"] = json!(-1));
        assert!(error.starts_with("shards[1].bytes: "), "{error}");
    }

    #[test]
    fn an_error_of_a_file_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(MANIFEST), "{}").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        let path = folder.path().join(MANIFEST);
        assert!(error.starts_with(&format!("{}: missing", path.display())));
    }
}
