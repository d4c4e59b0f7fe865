//! The worker's training step against others': throughput of one rank against transformers with PyTorch's
//! AdamW, saving against `torch.save` and `torch.distributed.checkpoint`, what eight ranks wait for, and how
//! gradients are best reduced.

mod gang;
mod throughput;

use super::checkpoint::{self, ROUNDS as SAVES, Round};
use super::median;
use crate::cluster::PATIENCE;
use crate::process::{Process, binary};
use crate::training;
use anyhow::{Context, Result, ensure};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_data::indexed::{Width, Writer};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const STEPS: u64 = 10;
/// Weights that are updated and saved at a time where memory is short.
const SUB_GROUP: u64 = 5_000_000;

const ALONE: Layout = Layout {
    tensor: 1,
    pipeline: 1,
    data: 1,
};
/// How fast a save is against PyTorch's, at least.
const NO_SLOWER: f64 = 1.0;
/// How fast a save is against the disk's own limit, at least.
const BY_DISK: f64 = 0.8;

/// What a rank that was started by hand prints.
#[derive(Debug, Deserialize)]
struct Rank {
    step_seconds: f64,
    fastest_step_seconds: f64,
    tokens_per_second: f64,
    loss: f64,
    peak_bytes: u64,
    computed: Seconds,
    waits: Seconds,
}

/// Of each step, by name.
type Seconds = BTreeMap<String, f64>;

/// Runs the bench, or one part of it, and prints its tables.
pub fn run(part: Option<&str>) -> Result<()> {
    let disk = crate::process::binaries()?;
    let folder = tempfile::TempDir::with_prefix_in("rebloom-bench-", disk)?;
    let prefix = dataset(folder.path())?;
    let parts: [(_, Part); 4] = [
        ("throughput", throughput::measure),
        ("saving", saving),
        ("eight", gang::eight),
        ("reducing", gang::reducing),
    ];
    let wanted = parts
        .iter()
        .filter(|(name, _)| part.is_none_or(|part| part == *name));
    let wanted: Vec<_> = wanted.collect();
    ensure!(
        !wanted.is_empty(),
        "no such part: use throughput, saving, eight or reducing"
    );
    wanted
        .into_iter()
        .try_for_each(|(_, part)| part(folder.path(), &prefix))
}

type Part = fn(&Path, &Path) -> Result<()>;

/// Four blocks, 512 wide, with 8192 words and 256 tokens a sample.
fn spec(name: &str, prefix: &Path, folder: &Path) -> Result<RunSpec> {
    let mut spec = training::spec(name, prefix, &folder.join("checkpoints"))?;
    spec.layout = ALONE;
    spec.model.hidden = 512;
    spec.model.heads = 8;
    spec.model.vocab = 8192;
    spec.model.sequence = 256;
    spec.train.global_batch = 4;
    spec.train.micro_batch = 4;
    spec.train.steps = STEPS;
    // The same rate in all steps, as the peer's.
    spec.train.optimizer.min_learning_rate = spec.train.optimizer.learning_rate;
    spec.deadlines.init = 60.0;
    Ok(spec)
}

/// Tokens that nothing is to be learned from: what is measured does not depend on them.
fn dataset(folder: &Path) -> Result<PathBuf> {
    let prefix = folder.join("tokens");
    let mut writer = Writer::create(&prefix, Width::U16)?;
    let mut noise = 7_u32;
    for _ in 0..100 {
        let tokens: Vec<u32> = (0..2000)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 16) % 8192
            })
            .collect();
        writer.push(&tokens)?;
        writer.end_document();
    }
    writer.finish()?;
    Ok(prefix)
}

const fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

fn middle(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A script of `tests/peers` in the environment that `cargo xtask peers` makes, on one thread.
fn python(script: &str) -> Result<Command> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a checkout")?;
    let python = checkout.join(".rebloom/peers/bin/python");
    ensure!(
        python.exists(),
        "transformers is missing: run `cargo xtask peers` first"
    );
    let mut command = Command::new(python);
    command
        .arg(checkout.join("tests/peers").join(script))
        .env("OMP_NUM_THREADS", "1");
    Ok(command)
}

/// Runs a command and reads the last line that it prints.
fn last_line<T: for<'a> Deserialize<'a>>(command: Command, log: &Path) -> Result<T> {
    let mut process = Process::start(command, log)?;
    let code = process.wait(PATIENCE * 10)?;
    let text = fs::read_to_string(log)?;
    ensure!(code == Some(0), "{text}");
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    Ok(serde_json::from_str(line.with_context(|| text.clone())?)?)
}

/// Runs every rank of `spec` by hand at once; what each printed.
fn ranks(spec: &RunSpec, folder: &Path, name: &str, how: &[&str]) -> Result<Vec<Rank>> {
    let file = folder.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec(spec)?)?;
    let store = folder.join(format!("{name}.store"));
    let mut processes = Vec::new();
    for rank in 0..spec.layout.world() {
        let log = folder.join(format!("{name}-{rank}.log"));
        let mut command = Command::new(binary("rebloom-worker")?);
        command.args(["solo", "--rank", &rank.to_string(), "--spec"]);
        command.arg(&file).arg("--store").arg(&store).args(how);
        processes.push((Process::start(command, &log)?, log));
    }
    processes
        .into_iter()
        .map(|(mut process, log)| {
            let code = process.wait(PATIENCE * 10)?;
            let text = fs::read_to_string(&log)?;
            ensure!(code == Some(0), "{text}");
            let line = text.lines().rev().find(|line| line.starts_with('{'));
            Ok(serde_json::from_str(line.with_context(|| text.clone())?)?)
        })
        .collect()
}

/// Bytes a second of saving and loading one shard: ours, the operating system's alone, and PyTorch's.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn saving(folder: &Path, _: &Path) -> Result<()> {
    let rounds = checkpoint::measure(folder, None)?;
    let bytes = rounds[0].bytes;
    let mut peers = peers_save(folder, bytes, SAVES)?;
    let mut peer = |name: &str| {
        let span = peers.remove(name);
        span.with_context(|| format!("the peer measured no {name}"))
    };
    let ours = |of: fn(&Round) -> f64| median(&checkpoint::times(&rounds, of));
    let rate = |span: Duration| bytes as f64 / 1e6 / span.as_secs_f64();
    let rows = [
        (
            "rebloom-worker, hashed",
            [ours(|r| r.write_seconds), ours(|r| r.load_seconds)],
        ),
        (
            "the operating system alone",
            [ours(|r| r.plain_seconds), ours(|r| r.plain_load_seconds)],
        ),
        (
            "torch.save",
            [peer("torch_save_write")?, peer("torch_save_load")?],
        ),
        (
            "torch.distributed.checkpoint",
            [peer("dcp_write")?, peer("dcp_load")?],
        ),
    ];
    println!(
        "| {:.0} MB, synced, median of {SAVES} | save, MB/s | load, MB/s | our save against it | our load against it | goal | met |",
        bytes as f64 / 1e6
    );
    println!("|---|---|---|---|---|---|---|");
    let [write, load] = rows[0].1.map(rate);
    for (name, spans) in rows {
        let [save, read] = spans.map(rate);
        let goal = match name {
            "rebloom-worker, hashed" => None,
            "the operating system alone" => Some(BY_DISK),
            _ => Some(NO_SLOWER),
        };
        let goal = goal.map_or_else(
            || " | ".to_owned(),
            |goal| format!("save >= {goal:.1} | {}", met(write / save >= goal)),
        );
        println!(
            "| {name} | {save:.0} | {read:.0} | {:.2} | {:.2} | {goal} |",
            write / save,
            load / read
        );
    }
    println!();
    save_memory(folder, rounds)
}

/// What a save takes beside training, with the whole state as one sub-group and in small ones.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn save_memory(folder: &Path, whole: Vec<Round>) -> Result<()> {
    let parts = folder.join("parts");
    fs::create_dir(&parts)?;
    let parts = checkpoint::measure(&parts, Some(SUB_GROUP))?;
    println!(
        "| sub-group, MB | peak RSS in training, MB | more with a save, MB | training stands still, ms | whole save, ms | goal | met |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (mega, milli) = (1e-6, 1e3);
    let state = whole[0].bytes as f64;
    // Weights and two moments, in fp32.
    let sub_group = SUB_GROUP as f64 * 12.0;
    for (group, rounds) in [(state, whole), (sub_group, parts)] {
        let first = &rounds[0];
        let more = first.saving_bytes.saturating_sub(first.training_bytes);
        let middle = |of| median(&checkpoint::times(&rounds, of)).as_secs_f64() * milli;
        let is_met = more as f64 <= group;
        println!(
            "| {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | no more than a sub-group | {} |",
            group * mega,
            first.training_bytes as f64 * mega,
            more as f64 * mega,
            middle(|r| r.stall_seconds),
            middle(|r| r.stall_seconds + r.write_seconds),
            met(is_met)
        );
    }
    println!();
    Ok(())
}

/// Seconds that saving and loading `bytes` bytes takes PyTorch, medians of `rounds`: `torch.save`,
/// `torch.load`, and the same of `torch.distributed.checkpoint`.
fn peers_save(folder: &Path, bytes: u64, rounds: u32) -> Result<BTreeMap<String, Duration>> {
    let log = folder.join("save-peer.log");
    let mut command = python("save_tensors.py")?;
    command
        .arg(folder.join("peer-files"))
        .args([bytes.to_string(), rounds.to_string()]);
    let mut process = Process::start(command, &log)?;
    let code = process.wait(PATIENCE * 10)?;
    let text = fs::read_to_string(&log)?;
    ensure!(code == Some(0), "{text}");
    let mut spans: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let figures: BTreeMap<String, f64> = serde_json::from_str(line)?;
        for (name, seconds) in figures {
            let span = Duration::from_secs_f64(seconds);
            spans.entry(name).or_default().push(span);
        }
    }
    Ok(spans
        .into_iter()
        .map(|(name, spans)| (name, median(&spans)))
        .collect())
}
