//! `model.safetensors.index.json`: which weights are in which file.

use super::{HEAD, INDEX};
use crate::Error;
use crate::json::from_json;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// An index of BLOOM has a thousand lines; one of the deepest model that is read has less.
const LARGEST: u64 = 16 << 20;

/// Which weights are in which file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the one in a model folder.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(INDEX);
        Self::parse(&path, &crate::read(&path, LARGEST)?)
    }

    /// The index in the text of the file `path`.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let index: Self = from_json(text).map_err(|problem| Error::odd(path, problem))?;
        for file in index.files() {
            let mut parts = Path::new(file).components();
            if !matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            ) {
                let problem = format!("weight_map: {file:?} is not a file beside it");
                return Err(Error::odd(path, problem));
            }
        }
        Ok(index)
    }

    /// The files, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Each parameter and its file; a second copy of the embedding, which may be left out, is not among them.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.weight_map.iter().filter(|(name, _)| *name != HEAD);
        all.map(|(name, file)| (name.as_str(), file.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Index, String> {
        let index = Index::parse(Path::new("an-index"), text.as_bytes());
        index.map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_named_once_and_lie_beside_it() {
        let index = parse(
            r#"{"metadata": {"total_size": 9},
                "weight_map": {"a": "1", "b": "2", "c": "1", "lm_head.weight": "1"}}"#,
        );
        let index = index.unwrap();
        assert_eq!(index.files(), BTreeSet::from(["1", "2"]));
        let all: Vec<_> = index.parameters().collect();
        assert_eq!(all, [("a", "1"), ("b", "2"), ("c", "1")]);
        for file in ["../1", "/1", "", "a/b", "."] {
            let error = parse(&format!(r#"{{"weight_map": {{"a": {file:?}}}}}"#)).unwrap_err();
            assert!(error.starts_with("an-index: weight_map: "), "{error}");
        }
        let error = parse(r#"{"weight_map": {"a": 1}}"#).unwrap_err();
        assert!(error.starts_with("an-index: weight_map.a: "), "{error}");
        let error = parse("{}").unwrap_err();
        assert!(error.contains("weight_map"), "{error}");
    }
}
