//! What a run spec says of its samples: one dataset or a blend of several, and what does not fit of it.

use super::flaws::Flaws;
use serde::{Deserialize, Serialize};

/// What to train on: one dataset, or several in a blend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Path of a Megatron indexed dataset without its `.bin` / `.idx`, as the nodes see it; empty
    /// where there is a blend.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Datasets that take turns by weight; empty where there is a prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blend: Vec<DataPart>,
}

/// One dataset of a blend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPart {
    /// Its path, as [`Data::prefix`].
    pub prefix: String,
    /// Its weight; weights need not add up to 1.
    pub weight: f64,
    /// The shares of its documents between which it is used; all where it is left out.
    #[serde(default = "all_documents")]
    pub documents: [f64; 2],
}

const fn all_documents() -> [f64; 2] {
    [0.0, 1.0]
}

/// Most datasets of a blend: Megatron keeps their numbers in a byte, and needs one value for none.
const MOST_PARTS: usize = 254;

impl Data {
    /// The path of the dataset, or of each of the blend.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        let parts = self.blend.iter().map(|part| part.prefix.as_str());
        let one = Some(self.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        one.into_iter().chain(parts)
    }

    pub(super) fn check(&self, flaws: &mut Flaws) {
        if self.blend.is_empty() {
            return flaws.path("data.prefix", &self.prefix);
        }
        if !self.prefix.is_empty() {
            let value = format!("`{}`", self.prefix);
            flaws.add(
                "data.prefix",
                value,
                "stands beside data.blend",
                "keep one of the two",
            );
        }
        if self.blend.len() > MOST_PARTS {
            let remedy = format!("use at most {MOST_PARTS}");
            flaws.add(
                "data.blend",
                self.blend.len(),
                "datasets are too many",
                &remedy,
            );
            return;
        }
        for (at, part) in self.blend.iter().enumerate() {
            let field = |name: &str| format!("data.blend[{at}].{name}");
            flaws.path(&field("prefix"), &part.prefix);
            flaws.within(&field("weight"), part.weight, 1e-12, 1e18);
            flaws.shares(&field("documents"), part.documents);
        }
    }
}
