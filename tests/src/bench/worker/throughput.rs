//! Tokens a second of one rank against transformers with PyTorch's AdamW: the same weights, the same tokens, in turn.

use super::{STEPS, last_line, met, middle, python, ranks, spec};
use anyhow::Result;
use rebloom_core::spec::RunSpec;
use rebloom_data::Dataset;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What is trained in how many rounds: short samples, where matrix products are nearly everything, and BLOOM's own.
const SIZES: [Size; 2] = [
    Size {
        sequence: 256,
        batch: 4,
        rounds: 7,
    },
    Size {
        sequence: 2048,
        batch: 1,
        rounds: 3,
    },
];
/// As the worker's own.
const WARM_UP: u64 = 5;
/// How much faster than the peer in the fastest step.
const FASTER: f64 = 1.2;
/// How far its loss may be from ours, as a share, after all steps from the same weights.
const LOSS: f64 = 1e-4;

struct Size {
    /// Tokens of a sample.
    sequence: u32,
    /// Samples of a step.
    batch: u32,
    rounds: usize,
}

/// What the peer prints.
#[derive(Debug, Deserialize)]
struct Peer {
    tokens_per_second: f64,
    fastest_step_seconds: f64,
    loss: f64,
    peak_bytes: u64,
}

/// Runs every size and prints a table of each.
pub(super) fn measure(folder: &Path, prefix: &Path) -> Result<()> {
    SIZES.iter().try_for_each(|size| {
        let folder = folder.join(format!("throughput-{}", size.sequence));
        fs::create_dir(&folder)?;
        table(size, &folder, prefix)
    })
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures, and how far it is"
)]
fn table(size: &Size, folder: &Path, prefix: &Path) -> Result<()> {
    let (sequence, rounds) = (size.sequence, size.rounds);
    let mut spec = spec("throughput", prefix, folder)?;
    spec.model.sequence = sequence;
    spec.train.global_batch = size.batch;
    spec.train.micro_batch = size.batch;
    let peer = PeerRun::prepare(&spec, prefix, folder)?;
    spec.init = Some(peer.weights()?.display().to_string());
    let mut programs = [
        Figures::of("rebloom-worker"),
        Figures::of("transformers, AdamW"),
        Figures::of("transformers, AdamW(fused=True)"),
    ];
    for round in 0..rounds {
        eprintln!(
            "throughput, {sequence} tokens: round {} of {rounds}",
            round + 1
        );
        let [ours, plain, fused] = &mut programs;
        let rank = &ranks(&spec, folder, &format!("alone-{round}"), &[])?[0];
        ours.add(
            rank.tokens_per_second,
            rank.fastest_step_seconds,
            (rank.peak_bytes, rank.loss),
        );
        for (is_fused, figures) in [(false, plain), (true, fused)] {
            let peer = peer.run(is_fused)?;
            figures.add(
                peer.tokens_per_second,
                peer.fastest_step_seconds,
                (peer.peak_bytes, peer.loss),
            );
        }
    }
    let tokens = f64::from(spec.train.global_batch * spec.model.sequence);
    println!(
        "| {} x {sequence} tokens, one thread, fp32, {rounds} rounds | tokens/s, median | ours / theirs, median | tokens/s in the fastest step | ours / theirs | peak RSS, MB | loss after {STEPS} steps | goal | met |",
        size.batch
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let [ours, ..] = &programs;
    for figures in &programs {
        let ratio = figures.fastest / ours.fastest;
        let off = (figures.loss / ours.loss - 1.0).abs();
        let goal = if std::ptr::eq(figures, ours) {
            " | ".to_owned()
        } else {
            let is_met = ratio >= FASTER && off <= LOSS;
            format!(">= {FASTER}, loss off by <= {LOSS:e} | {}", met(is_met))
        };
        println!(
            "| {} | {:.0} | {:.2} | {:.0} | **{ratio:.2}** | {:.0} | {:.6} | {goal} |",
            figures.name,
            middle(figures.rates.iter().copied()),
            middle(ours.rates.iter().zip(&figures.rates).map(|(a, b)| a / b)),
            tokens / figures.fastest,
            figures.peak as f64 / 1e6,
            figures.loss
        );
    }
    println!();
    Ok(())
}

/// What the rounds of one program came to.
struct Figures {
    name: &'static str,
    /// Tokens/s of each round.
    rates: Vec<f64>,
    /// Seconds of the fastest step of all rounds: the one that other tenants of the machine held up least.
    fastest: f64,
    /// Bytes.
    peak: u64,
    /// After the last step.
    loss: f64,
}

impl Figures {
    const fn of(name: &'static str) -> Self {
        Self {
            name,
            rates: Vec::new(),
            fastest: f64::INFINITY,
            peak: 0,
            loss: f64::NAN,
        }
    }

    fn add(&mut self, rate: f64, fastest: f64, (peak, loss): (u64, f64)) {
        self.rates.push(rate);
        self.fastest = self.fastest.min(fastest);
        self.peak = self.peak.max(peak);
        self.loss = loss;
    }
}

/// What transformers is given: sizes, and the very tokens of our steps.
struct PeerRun {
    folder: PathBuf,
    ask: serde_json::Value,
    tokens: PathBuf,
}

impl PeerRun {
    fn prepare(spec: &RunSpec, prefix: &Path, folder: &Path) -> Result<Self> {
        let (model, train) = (&spec.model, &spec.train);
        let dataset = Dataset::open(prefix, model.sequence, train.seed, train.samples())?;
        let mut row = vec![0_i32; model.sequence as usize + 1];
        let mut bytes = Vec::new();
        for sample in 0..train.samples() {
            dataset.read(sample, &mut row)?;
            bytes.extend(row.iter().flat_map(|token| token.to_le_bytes()));
        }
        let tokens = folder.join("tokens.raw");
        fs::write(&tokens, bytes)?;
        let ask = serde_json::json!({
            "vocab": model.vocab, "hidden": model.hidden, "layers": model.layers,
            "heads": model.heads, "sequence": model.sequence, "batch": train.global_batch,
            "micro_batch": train.micro_batch, "steps": train.steps, "warm_up": WARM_UP,
            "threads": 1,
        });
        Ok(Self {
            folder: folder.to_owned(),
            ask,
            tokens,
        })
    }

    /// The folder of the weights that the peer begins with.
    fn weights(&self) -> Result<PathBuf> {
        let folder = self.folder.join("weights");
        let mut ask = self.ask.clone();
        ask["weights"] = folder.display().to_string().into();
        let _: serde_json::Value = self.told(&ask)?;
        Ok(folder)
    }

    fn run(&self, fused: bool) -> Result<Peer> {
        let mut ask = self.ask.clone();
        ask["fused"] = fused.into();
        self.told(&ask)
    }

    fn told<T: for<'a> Deserialize<'a>>(&self, ask: &serde_json::Value) -> Result<T> {
        let file = self.folder.join("ask.json");
        fs::write(&file, serde_json::to_vec(ask)?)?;
        let mut python = python("train_bloom.py")?;
        python.arg(&file).arg(&self.tokens);
        last_line(python, &self.folder.join("peer.log"))
    }
}
