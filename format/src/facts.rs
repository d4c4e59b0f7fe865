//! What a shard says of itself, and what the version before said.

use crate::head::{self, Head};
use crate::json::from_json;
use crate::manifest::known_version;
use crate::shape::{Parameter, Stage};
use crate::slice::Slice;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::guard::Figures;
use rebloom_core::id::{Rank, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::skips::Skips;
use rebloom_core::spec::{Model, largest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

/// What stands in front of the names of weights and moments in a shard.
pub const KINDS: [&str; 3] = ["weight", "exp_avg", "exp_avg_sq"];

/// The key under which [`Facts`] lie in a shard's metadata.
pub const FACTS: &str = "rebloom";

/// The version of [`Facts`] that is written. Since 2 a slice says where in the whole parameter it lies, since 3 a shard says
/// which samples were passed over.
pub const VERSION: u32 = 3;

/// The oldest version that is still read.
pub const OLDEST: u32 = 1;

/// What a shard says of itself; `S` is how it says which slice of a parameter it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts<S = Slice> {
    /// Its version.
    pub version: u32,
    /// Whose state it is of.
    pub run: RunId,
    /// Which checkpoint.
    pub id: CheckpointId,
    /// Who wrote it.
    pub rank: Rank,
    /// The layout that wrote it.
    pub layout: Layout,
    /// Shape of the model.
    pub model: Model,
    /// Seed of the run.
    pub seed: u64,
    /// Samples consumed by the whole gang.
    pub samples: u64,
    /// Figures of the last steps, which the loss guard goes on from; the same in every shard.
    #[serde(default)]
    pub recent: Vec<Figures>,
    /// What was passed over among the samples so far; unknown before version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Skips>,
    /// By name of the parameter.
    pub slices: BTreeMap<String, S>,
}

/// Version 1 counted elements from the first of the part that the rank's place in its layout holds.
type Before = Facts<Range<i64>>;

/// A shape beyond all bounds would have tables made that no memory holds.
fn possible(model: &Model) -> Result<(), String> {
    let Model {
        layers,
        hidden,
        heads,
        vocab,
        sequence,
        residual_after_layernorm: _,
    } = *model;
    bounded(&[
        ("model.layers", layers),
        ("model.hidden", hidden),
        ("model.heads", heads),
        ("model.vocab", vocab),
        ("model.sequence", sequence),
    ])
}

/// Sizes as a run spec may have them.
fn bounded(sizes: &[(&str, u32)]) -> Result<(), String> {
    for (field, value) in sizes {
        let most = largest(field).unwrap_or(u32::MAX);
        if !(1..=most).contains(value) {
            return Err(format!("{field}: {value} is out of range; 1 to {most}"));
        }
    }
    Ok(())
}

/// Reads the head of a shard that has `length` bytes.
pub fn read(input: &mut impl Read, length: u64) -> Result<(Head, Facts), String> {
    let head = head::read(input, length)?;
    let about = head.metadata.metadata().as_ref();
    let facts = about.and_then(|about| about.get(FACTS));
    let facts = facts.ok_or_else(|| format!("head: __metadata__ has no {FACTS:?}"))?;
    let facts = Facts::parse(facts).map_err(|problem| format!("head: {FACTS}: {problem}"))?;
    Ok((head, facts))
}

impl Facts {
    /// The facts in a text, or the field and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.as_bytes();
        let facts = if known_version(text, OLDEST, VERSION)? == 1 {
            Self::of_before(from_json(text)?)?
        } else {
            from_json(text)?
        };
        possible(&facts.model)?;
        facts.seat()?;
        Ok(facts)
    }

    fn of_before(before: Before) -> Result<Self, String> {
        possible(&before.model)?;
        before.seat()?;
        let Facts {
            version,
            run,
            id,
            rank,
            layout,
            model,
            seed,
            samples,
            recent,
            skipped,
            slices,
        } = before;
        let at = layout.coordinates(rank);
        let parameters = Stage::of(&model, layout.pipeline, at.stage).parameters(&model);
        let named = parameters.iter().map(|p| (p.name.as_str(), p));
        let known: BTreeMap<&str, &Parameter> = named.collect();
        let slices = slices.into_iter().map(|(name, range)| {
            let parameter = known
                .get(name.as_str())
                .ok_or_else(|| format!("slices: {name} is no parameter of rank {rank}"))?;
            let slice = Slice::of(parameter, (at.tensor, layout.tensor), range);
            Ok((name, slice))
        });
        Ok(Self {
            slices: slices.collect::<Result<_, String>>()?,
            version,
            run,
            id,
            rank,
            layout,
            model,
            seed,
            samples,
            recent,
            skipped,
        })
    }
}

impl<S> Facts<S> {
    /// The layout is one that the model has stages for, and the rank is of it.
    fn seat(&self) -> Result<(), String> {
        let Layout {
            tensor,
            pipeline,
            data,
        } = self.layout;
        bounded(&[
            ("layout.tensor", tensor),
            ("layout.pipeline", pipeline),
            ("layout.data", data),
        ])?;
        let (layout, layers, rank) = (self.layout, self.model.layers, self.rank);
        if pipeline > layers {
            return Err(format!(
                "layout: {layout} has more stages than {layers} layers"
            ));
        }
        if rank.0 >= layout.world() {
            return Err(format!("rank: {rank} is not of {layout}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::file;
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({
            "version": VERSION, "run": "small", "id": {"step": 3, "generation": 1}, "rank": 1,
            "layout": {"tensor": 2, "pipeline": 1, "data": 1},
            "model": {"layers": 2, "hidden": 8, "heads": 2, "vocab": 16, "sequence": 4},
            "seed": 7, "samples": 24,
            "slices": {"ln_f.bias": {"shape": [8, 1], "rows": {"start": 0, "end": 8},
                       "columns": {"start": 0, "end": 1}, "range": {"start": 0, "end": 8}}},
        })
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut facts = good();
        change(&mut facts);
        Facts::parse(&facts.to_string()).unwrap_err()
    }

    #[test]
    fn all_versions_say_the_same() {
        let mut new = good();
        new["skipped"] = json!([{"start": 4, "end": 8}]);
        let new = Facts::parse(&new.to_string()).unwrap();
        let skipped = new.skipped.clone().unwrap();
        assert_eq!(skipped.ranges(), std::slice::from_ref(&(4..8)));
        let mut second = good();
        second["version"] = 2.into();
        let second = Facts::parse(&second.to_string()).unwrap();
        assert_eq!((&second.slices, second.skipped), (&new.slices, None));
        let mut old = good();
        old["version"] = 1.into();
        old["slices"]["ln_f.bias"] = json!({"start": 0, "end": 8});
        let old = Facts::parse(&old.to_string()).unwrap();
        assert_eq!(old.slices, new.slices);
        let again = serde_json::to_string(&new).unwrap();
        assert_eq!(Facts::parse(&again).unwrap(), new);
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        for version in [0, VERSION + 1] {
            let error = refused(|facts| facts["version"] = version.into());
            let wanted = format!("version: {version} is not known; this build reads 1 to 3");
            assert_eq!(error, wanted);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        for version in [1, 2, VERSION] {
            for (part, field, value, wanted) in [
                ("model", "vocab", json!(u32::MAX), "model.vocab: "),
                ("model", "layers", json!(0), "model.layers: "),
                ("model", "heads", json!(-1), "model.heads: "),
                ("layout", "tensor", json!(0), "layout.tensor: "),
                ("layout", "data", json!(u32::MAX), "layout.data: "),
                ("layout", "pipeline", json!(3), "layout: "),
                ("id", "step", json!("x"), "id.step: "),
            ] {
                let error = refused(|facts| {
                    facts["version"] = version.into();
                    facts["slices"] = json!({});
                    facts[part][field] = value;
                });
                assert!(error.starts_with(wanted), "{wanted} {error}");
            }
            let error = refused(|facts| {
                facts["version"] = version.into();
                facts["slices"] = json!({});
                facts["rank"] = json!(2);
            });
            assert!(error.starts_with("rank: 2 is not of"), "{error}");
        }
        let error = refused(|facts| {
            facts["version"] = 1.into();
            facts["slices"] = json!({"h.9.mlp.dense_h_to_4h.bias": {"start": 0, "end": 1}});
        });
        assert!(error.starts_with("slices: h.9."), "{error}");
    }

    #[test]
    fn a_shard_without_facts_is_refused() {
        let json = json!({"__metadata__": {FACTS: good().to_string()}}).to_string();
        let bytes = file(&json, 0);
        let (_, facts) = read(&mut &bytes[..], bytes.len() as u64).unwrap();
        assert_eq!(facts.rank, Rank(1));
        for (json, wanted) in [
            (
                json!({"__metadata__": {"format": "pt"}}),
                "head: __metadata__ has no",
            ),
            (json!({}), "head: __metadata__ has no"),
            (
                json!({"__metadata__": {FACTS: "{}"}}),
                "head: rebloom: missing field",
            ),
        ] {
            let bytes = file(&json.to_string(), 0);
            let error = read(&mut &bytes[..], bytes.len() as u64).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
