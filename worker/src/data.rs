//! Which samples a rank trains on, and their tokens.
//!
//! Sample numbers go up with the samples consumed, whatever the layout: a step takes the next
//! `global_batch` of them, micro-batch by micro-batch, data rank by data rank. So a restart needs to
//! know one number, and neither repeats nor skips a sample.

use crate::shim::cuda;
use rebloom_core::eval::{Eval, EvalSet};
use rebloom_core::skips::Skips;
use rebloom_core::spec::{Data, DataPart, RunSpec};
use rebloom_data::dataset::{Dataset, Weighted};
use rebloom_data::held_out::HeldOut;
use rebloom_data::order::passes;
use rebloom_runtime::telemetry::chain;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Tensor};

/// Tokens by the number of their sample.
pub trait Samples: Send {
    /// Reads sample `k`: as many tokens as `into` has room for, one more than the sequence.
    fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String>;

    /// How many there are; none where there is no end of them.
    fn count(&self) -> Option<u64> {
        None
    }
}

impl Samples for Arc<Dataset> {
    fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
        Dataset::read(self, k, into).map_err(|error| chain(&error))
    }

    fn count(&self) -> Option<u64> {
        Some(self.samples())
    }
}

/// The data of a run, kept from one generation to the next: its order of samples takes seconds to
/// make for a long run, and a survivor that re-forms has it already.
#[derive(Debug, Default)]
pub struct Shelf {
    dataset: Option<(Asked, Arc<Dataset>)>,
    held_out: Option<(Eval, u32, Arc<[HeldOut]>)>,
}

/// What makes two orders of samples the same: data, sequence, seed, and samples of the whole run.
type Asked = (Data, u32, u64, u64);

impl Shelf {
    /// The dataset of a run, opened unless it is at hand.
    pub fn open(&mut self, spec: &RunSpec) -> Result<Box<dyn Samples>, String> {
        let (train, model) = (&spec.train, &spec.model);
        let all = train.samples();
        let asked = (spec.data.clone(), model.sequence, train.seed, all);
        if let Some((_, dataset)) = self.dataset.as_ref().filter(|(known, _)| *known == asked) {
            return Ok(Box::new(Arc::clone(dataset)));
        }
        let dataset = match spec.data.blend.as_slice() {
            [] => Dataset::open(
                Path::new(&spec.data.prefix),
                model.sequence,
                train.seed,
                all,
            ),
            parts => {
                let parts: Vec<Weighted> = parts.iter().map(weighted).collect();
                Dataset::blended(&parts, model.sequence, train.seed, all)
            }
        };
        let dataset = Arc::new(dataset.map_err(|error| chain(&error))?);
        self.dataset = Some((asked, Arc::clone(&dataset)));
        Ok(Box::new(dataset))
    }

    /// What a run is evaluated on, opened unless it is at hand; nothing where it never is.
    pub fn held_out(&mut self, spec: &RunSpec) -> Result<Arc<[HeldOut]>, String> {
        let (Some(eval), sequence) = (&spec.eval, spec.model.sequence) else {
            return Ok(Arc::default());
        };
        if let Some((known, length, sets)) = &self.held_out
            && (known, *length) == (eval, sequence)
        {
            return Ok(Arc::clone(sets));
        }
        let open = |set: &EvalSet| {
            let [from, to] = set.documents;
            let prefix = Path::new(&set.prefix);
            let much = (sequence, eval.samples);
            let held = HeldOut::of_dataset(&set.name, prefix, (from, to), much);
            let held = held.map_err(|error| chain(&error))?;
            match held.outside(spec.model.vocab) {
                Some(odd) => Err(format!(
                    "{} holds token {odd}; model.vocab is {}",
                    set.prefix, spec.model.vocab
                )),
                None => Ok(held),
            }
        };
        let sets: Arc<[HeldOut]> = eval.sets.iter().map(open).collect::<Result<_, _>>()?;
        self.held_out = Some((eval.clone(), sequence, Arc::clone(&sets)));
        Ok(sets)
    }
}

fn weighted(part: &DataPart) -> Weighted {
    let [from, to] = part.documents;
    Weighted {
        prefix: part.prefix.clone().into(),
        weight: part.weight,
        documents: (from, to),
    }
}

/// The samples of micro-batch `micro` of data rank `rank` in the step that begins with `consumed`,
/// as counts of consumed samples; [`Reader::read`] passes over what is skipped.
pub fn numbers(spec: &RunSpec, consumed: u64, rank: u32, micro: u32) -> Range<u64> {
    let each = u64::from(spec.train.micro_batch);
    let before = u64::from(micro) * u64::from(spec.layout.data) + u64::from(rank);
    let from = consumed + before * each;
    from..from + each
}

/// Reads micro-batches into words and targets.
pub struct Reader {
    samples: Box<dyn Samples>,
    skips: Skips,
    vocab: i32,
    device: Device,
    tokens: Vec<i32>,
    words: Vec<i64>,
    targets: Vec<i64>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader for the model of `spec`.
    pub fn new(spec: &RunSpec, samples: Box<dyn Samples>) -> Self {
        let room = spec.model.sequence as usize + 1;
        Self {
            samples,
            skips: Skips::default(),
            vocab: i32::try_from(spec.model.vocab).unwrap_or(i32::MAX),
            device: Device::Cpu,
            tokens: vec![0; room],
            words: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// The same reader, passing over what was recorded.
    pub fn skipping(self, skips: Skips) -> Self {
        Self { skips, ..self }
    }

    /// The same reader, for a model that computes on `device`.
    pub fn onto(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// The sample that comes after `consumed` others. A run that passes over samples reaches beyond those it asked
    /// for, and then goes through the others again.
    fn number(&self, consumed: u64) -> Result<u64, String> {
        let number = self.skips.number(consumed);
        let Some(count) = self.samples.count() else {
            return Ok(number);
        };
        passes::sample(number, count, self.skips.ranges()).ok_or_else(|| {
            format!(
                "guard.skip: all of the {count} samples are passed over; leave some to train on"
            )
        })
    }

    /// Words and their targets, one after the other over the samples that are consumed while the
    /// count goes through `consumed`.
    pub fn read(&mut self, consumed: Range<u64>) -> Result<(Tensor, Tensor), String> {
        self.words.clear();
        self.targets.clear();
        for consumed in consumed {
            let number = self.number(consumed)?;
            self.samples.read(number, &mut self.tokens)?;
            if let Some(odd) = self
                .tokens
                .iter()
                .find(|token| !(0..self.vocab).contains(*token))
            {
                let vocab = self.vocab;
                return Err(format!(
                    "sample {number} holds token {odd}; model.vocab is {vocab}"
                ));
            }
            let tokens = self.tokens.iter().map(|&token| i64::from(token));
            self.words
                .extend(tokens.clone().take(self.tokens.len() - 1));
            self.targets.extend(tokens.skip(1));
        }
        let bring = |words: &[i64]| {
            cuda::bring(Tensor::from_slice(words), self.device).map_err(|error| error.to_string())
        };
        Ok((bring(&self.words)?, bring(&self.targets)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_core::layout::Layout;

    fn spec(data: u32, micro_batch: u32) -> RunSpec {
        let text = format!(
            r#"{{"name": "a", "model": {{"layers": 2, "hidden": 8, "heads": 2, "vocab": 16, "sequence": 4}},
            "layout": {{"tensor": 1, "pipeline": 1, "data": {data}}},
            "train": {{"steps": 2, "global_batch": 24, "micro_batch": {micro_batch}}},
            "data": {{"prefix": "/d"}}, "checkpoint": {{"directory": "/c", "every_steps": 1}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_layout_consumes_the_same_samples_in_a_step() {
        for data in [1, 2, 3, 4] {
            for micro_batch in [1, 2, 3, 6] {
                let spec = spec(data, micro_batch);
                if !spec.flaws().is_empty() {
                    continue;
                }
                let mut all: Vec<u64> = (0..spec.micro_batches(24))
                    .flat_map(|micro| (0..data).map(move |rank| (rank, micro)))
                    .flat_map(|(rank, micro)| numbers(&spec, 48, rank, micro))
                    .collect();
                assert_eq!(all, (48..72).collect::<Vec<_>>());
                all.dedup();
                assert_eq!(all.len(), 24);
            }
        }
        assert_eq!(
            spec(2, 3).layout,
            Layout {
                tensor: 1,
                pipeline: 1,
                data: 2
            }
        );
    }

    struct Counting;
    impl Samples for Counting {
        fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
            let first = i32::try_from(k).unwrap();
            into.iter_mut()
                .zip(first..)
                .for_each(|(slot, token)| *slot = token);
            Ok(())
        }
    }

    #[test]
    fn targets_are_the_words_one_further() {
        let mut reader = Reader::new(&spec(1, 1), Box::new(Counting));
        let (words, targets) = reader.read(3..5).unwrap();
        assert_eq!(
            Vec::<i64>::try_from(words).unwrap(),
            [3, 4, 5, 6, 4, 5, 6, 7]
        );
        assert_eq!(
            Vec::<i64>::try_from(targets).unwrap(),
            [4, 5, 6, 7, 5, 6, 7, 8]
        );
    }

    #[test]
    fn what_is_skipped_is_never_read() {
        let reader = Reader::new(&spec(1, 1), Box::new(Counting));
        let mut reader = reader.skipping(Skips::from(vec![1..3, 4..7]));
        let (words, _) = reader.read(0..4).unwrap();
        let words = Vec::<i64>::try_from(words).unwrap();
        let numbers: Vec<i64> = words.chunks(4).map(|sample| sample[0]).collect();
        assert_eq!(numbers, [0, 3, 7, 8]);
    }

    /// So many samples, and no more.
    struct Finite(u64);
    impl Samples for Finite {
        fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
            assert!(k < self.0, "sample {k} of {}", self.0);
            into.fill(i32::try_from(k).unwrap());
            Ok(())
        }

        fn count(&self) -> Option<u64> {
            Some(self.0)
        }
    }

    fn finite(
        samples: u64,
        skips: &[(u64, u64)],
        consumed: Range<u64>,
    ) -> Result<Vec<i64>, String> {
        let skips: Vec<_> = skips.iter().map(|(from, to)| *from..*to).collect();
        let reader = Reader::new(&spec(1, 1), Box::new(Finite(samples)));
        let (words, _) = reader.skipping(Skips::from(skips)).read(consumed)?;
        let words = Vec::<i64>::try_from(words).unwrap();
        Ok(words.chunks(4).map(|sample| sample[0]).collect())
    }

    /// A run of twelve samples of which eight are skipped needs all that it has left three times.
    #[test]
    fn what_is_skipped_is_not_read_when_the_samples_begin_again() {
        let named = finite(12, &[(0, 8)], 0..12).unwrap();
        assert_eq!(named, [8, 9, 10, 11].repeat(3));
        // A spike in the second pass skips its samples there and from then on.
        let named = finite(12, &[(0, 8), (13, 14)], 0..10).unwrap();
        assert_eq!(named, [8, 9, 10, 11, 8, 10, 11, 8, 10, 11]);
        // Without skips, the order is the data's, over and over.
        let named = finite(5, &[], 0..12).unwrap();
        assert_eq!(named, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
    }

    #[test]
    fn data_of_which_all_is_skipped_is_refused() {
        let error = finite(12, &[(0, 12)], 0..1).unwrap_err();
        assert!(
            error.starts_with("guard.skip: all of the 12 samples"),
            "{error}"
        );
        assert_eq!(finite(12, &[(0, 11)], 0..2).unwrap(), [11, 11]);
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_refused_by_name() {
        let mut reader = Reader::new(&spec(1, 1), Box::new(Counting));
        let error = reader.read(12..13).unwrap_err();
        assert_eq!(error, "sample 12 holds token 16; model.vocab is 16");
    }
}
