//! The run that faults happen to, and how it must end: as if nothing had happened.

use crate::cluster::Cluster;
use crate::training::{EVERY, STEPS};
use crate::weights::{self, Weights};
use anyhow::{Result, ensure};
use rebloom_core::engine::RunView;
use rebloom_core::eval::{Eval, EvalSet, Evaluation};
use rebloom_core::id::{Generation, RunId};
use rebloom_core::spec::RunSpec;
use std::sync::OnceLock;

/// What each of these tests trains: the same run, evaluated now and then.
///
/// # Errors
/// Where its data cannot be written.
pub fn night(cluster: &Cluster) -> Result<RunSpec> {
    let mut spec = cluster.spec("night")?;
    let set = |name: &str, documents| EvalSet {
        name: name.to_owned(),
        prefix: spec.data.prefix.clone(),
        documents,
    };
    spec.eval = Some(Eval {
        every_steps: 2 * EVERY,
        samples: 6,
        sets: vec![set("last", [0.9, 1.0]), set("one", [0.5, 0.52])],
    });
    Ok(spec)
}

/// How a run ends.
#[derive(Debug)]
pub struct End {
    /// Hashes of its final tensors.
    pub weights: Weights,
    /// What its evaluations gave.
    pub evaluations: Vec<Evaluation>,
}

/// The end of a run that nothing happens to; trained once.
///
/// # Panics
/// Where it does not come to its end.
pub fn undisturbed() -> &'static End {
    static UNDISTURBED: OnceLock<End> = OnceLock::new();
    UNDISTURBED.get_or_init(|| {
        let cluster = Cluster::start(4).expect("a cluster");
        let run = cluster
            .submit(&night(&cluster).expect("a spec"))
            .expect("submitted");
        let end = cluster.until_completed(&run).expect("completed");
        assert!(
            end.incidents.is_empty(),
            "nothing happened: {:#?}",
            end.incidents
        );
        assert_eq!(end.generation, Generation(1));
        let evaluations = evaluations(&end);
        let steps: Vec<_> = evaluations.iter().map(|it| it.step.0).collect();
        assert_eq!(steps, [10, 20, 30]);
        let loss = |at: usize| evaluations[at].scores[0].loss();
        assert!(loss(2) < loss(0), "it learned: {evaluations:?}");
        End {
            weights: final_weights(&cluster, &run).expect("weights"),
            evaluations,
        }
    })
}

fn evaluations(view: &RunView) -> Vec<Evaluation> {
    let known = view.evaluations.iter();
    known.map(|(_, evaluation)| evaluation.clone()).collect()
}

fn final_weights(cluster: &Cluster, run: &RunId) -> Result<Weights> {
    let (weights, manifest) = weights::of(&cluster.checkpoints(), run, STEPS)?;
    // No sample was skipped or repeated: the order is a function of this count alone.
    ensure!(
        manifest.samples == STEPS * 8,
        "{} samples were consumed",
        manifest.samples
    );
    Ok(weights)
}

/// The run ends by itself, with the weights and the evaluations of the undisturbed run.
///
/// # Errors
/// What differs.
pub fn ends_as_if_nothing_had_happened(cluster: &Cluster, run: &RunId) -> Result<RunView> {
    let end = cluster.until_completed(run)?;
    let weights = final_weights(cluster, run)?;
    let reference = &undisturbed().weights;
    ensure!(
        weights.keys().eq(reference.keys()),
        "other tensors than in the undisturbed run"
    );
    let differing: Vec<_> = weights
        .iter()
        .filter(|(key, hash)| reference.get(*key) != Some(hash))
        .collect();
    ensure!(
        differing.is_empty(),
        "{} tensors differ: {differing:?}",
        differing.len()
    );
    ensure!(
        evaluations(&end) == undisturbed().evaluations,
        "other evaluations than in the undisturbed run: {:?}",
        end.evaluations
    );
    Ok(end)
}
