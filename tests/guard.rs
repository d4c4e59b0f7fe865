//! The loss guard on real processes: a sample of a dataset is poisoned, the run goes back and passes over it, and ends with the
//! bits of a run that was told to pass over it from the start.

use anyhow::{Context, Result, ensure};
use rebloom_core::cause::Cause;
use rebloom_core::engine::RunView;
use rebloom_core::guard::{GuardAction, LossGuard, Samples};
use rebloom_core::id::{Generation, Step};
use rebloom_core::spec::{Precision, RunSpec};
use rebloom_data::indexed::{Width, Writer};
use rebloom_data::order::{LAST_EPOCH, Order};
use rebloom_tests::cluster::Cluster;
use rebloom_tests::training::STEPS;
use rebloom_tests::weights::{self, Weights};
use std::path::Path;

const SEQUENCE: u32 = 32;
const DOCUMENTS: usize = 64;
/// Tokens of each.
const SIZE: u32 = 200;
const BATCH: u64 = 8;
/// The samples of step 27.
const SKIPPED: Samples = Samples {
    from: 26 * BATCH,
    until: 27 * BATCH,
};
/// The poisoned one among them.
const BAD: u64 = SKIPPED.from + 3;

/// Documents that are easy to learn, but for what sample [`BAD`] of this run holds.
fn poisoned(prefix: &Path, seed: u64) -> Result<()> {
    let mut documents: Vec<Vec<u32>> = (0..DOCUMENTS)
        .map(|document| {
            let first = u32::try_from(document).unwrap_or_default();
            (first..first + SIZE).map(|token| token % 2).collect()
        })
        .collect();
    let order = Order::new(
        &[SIZE; DOCUMENTS],
        SEQUENCE,
        seed,
        STEPS * BATCH,
        LAST_EPOCH,
    )?;
    for (document, offset, tokens) in order.pieces(BAD)? {
        let (from, until) = (offset as usize, (offset + tokens) as usize);
        let document = documents.get_mut(document as usize).context("a document")?;
        // What it shares with the samples before and behind it stays as it is.
        for (at, token) in document[from..until].iter_mut().enumerate().skip(1) {
            *token = 511 - u32::try_from(at)? * 7;
        }
    }
    let mut writer = Writer::create(prefix, Width::U16)?;
    for document in documents {
        writer.push(&document)?;
        writer.end_document();
    }
    writer.finish()?;
    Ok(())
}

fn spec(cluster: &Cluster, name: &str, skip: &[Samples]) -> Result<RunSpec> {
    let mut spec = cluster.spec(name)?;
    spec.data.prefix = cluster.folder().join("poisoned").display().to_string();
    spec.train.optimizer.learning_rate = 1e-2;
    // As BLOOM was trained.
    spec.train.numerics.precision = Precision::Bf16;
    spec.train.numerics.hidden_dropout = 0.1;
    spec.train.numerics.attention_dropout = 0.1;
    spec.guard = LossGuard {
        action: GuardAction::RollBack,
        window: 16,
        least: 10,
        // It has learned for some steps only, and the window still shows the way down.
        loss_deviations: 4.0,
        skip: skip.to_vec(),
        ..LossGuard::default()
    };
    Ok(spec)
}

fn ends(cluster: &Cluster, name: &str, skip: &[Samples]) -> Result<(RunView, Weights)> {
    let run = cluster.submit(&spec(cluster, name, skip)?)?;
    let end = cluster.until_completed(&run)?;
    let (weights, manifest) = weights::of(&cluster.checkpoints(), &run, STEPS)?;
    ensure!(manifest.samples == STEPS * BATCH, "{}", manifest.samples);
    Ok((end, weights))
}

#[test]
fn a_poisoned_sample_is_skipped_and_the_bits_are_those_of_a_run_without_it() -> Result<()> {
    let cluster = Cluster::start(4)?;
    let seed = cluster.spec("seed")?.train.seed;
    poisoned(&cluster.folder().join("poisoned"), seed)?;

    let (end, recovered) = ends(&cluster, "poisoned", &[])?;
    let [incident] = &end.incidents[..] else {
        anyhow::bail!("{:#?}", end.incidents);
    };
    let Cause::LossSpiked {
        step,
        samples,
        reading,
        rolls_back,
    } = &incident.cause
    else {
        anyhow::bail!("{incident:#?}");
    };
    ensure!((*step, *samples) == (Step(27), SKIPPED), "{incident:#?}");
    ensure!(*rolls_back && reading.contains("deviations"), "{reading}");
    let resumed = incident.resumed_from.map(|id| id.step);
    ensure!(resumed == Some(Step(25)), "{resumed:?}");
    ensure!(end.generation == Generation(2) && incident.closed.is_some());

    let (told, wanted) = ends(&cluster, "told", &[SKIPPED])?;
    ensure!(told.incidents.is_empty(), "{:#?}", told.incidents);
    ensure!(!wanted.is_empty() && recovered == wanted, "other bits");
    Ok(())
}
