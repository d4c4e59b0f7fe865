//! What a step of several ranks is made of, and what it costs to reduce gradients in one way or another.

use super::{Rank, Seconds, met, middle, ranks, spec};
use anyhow::Result;
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use std::path::Path;

const ROUNDS: usize = 7;
const EIGHT: Layout = Layout {
    tensor: 2,
    pipeline: 2,
    data: 2,
};
/// Part of a step of eight ranks that may belong to nothing that was timed.
const OTHER: f64 = 0.05;

/// Elements of a bucket here: a dozen of them in a model of 17 million, as BLOOM has of its own size.
const BUCKET: &str = "2000000";
/// Ranks of a data group.
const DATA: [u32; 3] = [2, 4, 8];
/// What each way takes in terms of the first, at most.
const STEP: f64 = 1.0;

/// The ways in which gradients are reduced, and what a rank is told.
const WAYS: [(&str, [&str; 4]); 3] = [
    (
        "all at once, after backward",
        ["--overlaps", "false", "--bucket-elements", "2000000000"],
    ),
    (
        "in buckets, after backward",
        ["--overlaps", "false", "--bucket-elements", BUCKET],
    ),
    (
        "in buckets, beside backward",
        ["--overlaps", "true", "--bucket-elements", BUCKET],
    ),
];

fn mean(ranks: &[Rank], of: impl Fn(&Rank) -> f64) -> f64 {
    ranks.iter().map(of).sum::<f64>() / ranks.len() as f64
}

fn peak(ranks: &[Rank]) -> f64 {
    let peaks = ranks.iter().map(|rank| rank.peak_bytes);
    peaks.max().unwrap_or_default() as f64 / 1e6
}

/// A step of eight ranks, and what each of them computes and waits for in it.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub(super) fn eight(folder: &Path, prefix: &Path) -> Result<()> {
    let mut spec = spec("eight", prefix, folder)?;
    spec.layout = EIGHT;
    spec.train.micro_batch = 1;
    let ranks = ranks(&spec, folder, "eight", &[])?;
    let step = mean(&ranks, |rank| rank.step_seconds);
    println!(
        "| a step of eight ranks (TP 2 x PP 2 x DP 2), mean of all ranks | ms | part | goal | met |"
    );
    println!("|---|---|---|---|---|");
    let line = |name: &str, seconds: f64, goal: &str| {
        println!(
            "| {name} | {:.1} | {:.2} | {goal} |",
            seconds * 1e3,
            seconds / step
        );
    };
    line("whole step", step, "|");
    let mut named = 0.0;
    for (verb, of) in [("", COMPUTED), ("waiting: ", WAITS)] {
        for name in of(&ranks[0]).keys() {
            let seconds = mean(&ranks, |rank| of(rank).get(name).copied().unwrap_or(0.0));
            named += seconds;
            line(&format!("{verb}{}", name.replace('_', " ")), seconds, "|");
        }
    }
    let other = step - named;
    let goal = format!("<= {OTHER} | {}", met(other / step <= OTHER));
    line("anything else", other, &goal);
    println!("\nPeak RSS of a rank: {:.0} MB.\n", peak(&ranks));
    Ok(())
}

type Of = fn(&Rank) -> &Seconds;
const COMPUTED: Of = |rank| &rank.computed;
const WAITS: Of = |rank| &rank.waits;

/// The same gang with its gradients reduced in each way, in turn.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures, and how far it is"
)]
pub(super) fn reducing(folder: &Path, prefix: &Path) -> Result<()> {
    println!(
        "| gradients of a data group | ranks | step, ms | by all at once | in the fastest step | waiting: data, ms | peak RSS, MB | goal | met |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for data in DATA {
        let mut spec = spec("reducing", prefix, folder)?;
        spec.layout.data = data;
        spec.model.sequence = 64;
        spec.train.global_batch = DATA[DATA.len() - 1];
        spec.train.micro_batch = 1;
        let mut taken = WAYS.map(|_| Taken::default());
        for round in 0..ROUNDS.min(3) {
            eprintln!("reducing: {data} ranks, round {}", round + 1);
            for ((nth, taken), (_, how)) in taken.iter_mut().enumerate().zip(WAYS) {
                taken.add(
                    &spec,
                    folder,
                    &format!("reducing-{data}-{nth}-{round}"),
                    how,
                )?;
            }
        }
        let [first, ..] = &taken;
        let (step, memory) = (middle(first.steps.iter().copied()), first.peak);
        for (taken, (name, _)) in taken.iter().zip(WAYS) {
            let own = middle(taken.steps.iter().copied());
            let goal = if std::ptr::eq(taken, first) {
                " | ".to_owned()
            } else {
                let is_met = own / step <= STEP && taken.peak < memory;
                format!("step <= {STEP:.2}, less memory | {}", met(is_met))
            };
            println!(
                "| {name} | {data} | {:.1} | {:.2} | {:.2} | {:.1} | {:.0} | {goal} |",
                own * 1e3,
                own / step,
                taken.fastest / first.fastest,
                middle(taken.waits.iter().copied()) * 1e3,
                taken.peak,
            );
        }
    }
    println!();
    Ok(())
}

/// What the rounds of one way came to, in seconds and MB.
struct Taken {
    steps: Vec<f64>,
    waits: Vec<f64>,
    fastest: f64,
    peak: f64,
}

impl Default for Taken {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            waits: Vec::new(),
            fastest: f64::INFINITY,
            peak: 0.0,
        }
    }
}

impl Taken {
    fn add(&mut self, spec: &RunSpec, folder: &Path, name: &str, how: [&str; 4]) -> Result<()> {
        let ranks = ranks(spec, folder, name, &how)?;
        self.steps.push(mean(&ranks, |rank| rank.step_seconds));
        let data = |rank: &Rank| rank.waits.get("data").copied().unwrap_or(0.0);
        self.waits.push(mean(&ranks, data));
        let fastest = ranks.iter().map(|rank| rank.fastest_step_seconds);
        self.fastest = fastest.fold(self.fastest, f64::min);
        self.peak = self.peak.max(peak(&ranks));
        Ok(())
    }
}
