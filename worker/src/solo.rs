//! A rank started by hand, without controller and agents: for measuring what those cost.

pub mod save;

use crate::checkpoint::begin_with;
use crate::comm::spent::{self, Part};
use crate::comm::{Device, FileStore, Groups, Watch};
use crate::data::Shelf;
use crate::optim::BUCKET;
use crate::shim::cuda::{self, Choice};
use crate::trainer::{Figures, How, Trainer};
use crate::weights::Weights;
use anyhow::{Context, Result, ensure};
use clap::Args;
use rebloom_core::flight::Channel;
use rebloom_core::flops::Flops;
use rebloom_core::id::{Generation, Rank};
use rebloom_core::spec::{RunSpec, seconds};
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::flight::Recorder;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Steps that are not measured: memory is mapped, files are read.
const WARM_UP: u64 = 5;

/// How gradients are reduced, for measuring what each way costs.
#[derive(Debug, Clone, Copy, Args)]
pub struct Reduce {
    /// Elements of a bucket of gradients.
    #[arg(long, default_value_t = BUCKET)]
    bucket_elements: i64,
    /// Whether buckets are reduced beside the backward pass: true or false, or what suits the device.
    #[arg(long)]
    overlaps: Option<bool>,
}

/// Trains `steps` steps as `rank` of the spec in `file`, and prints what they took as a line of JSON. All ranks name
/// the same `store`, a directory that is empty or absent when the first one starts.
pub fn run(
    file: &Path,
    rank: Rank,
    store: &Path,
    steps: Option<u64>,
    (interface, device): (&str, Choice),
    reduce: Reduce,
) -> Result<()> {
    let spec = read(file)?;
    ensure!(
        rank.0 < spec.layout.world(),
        "the layout has {} ranks",
        spec.layout.world()
    );
    let steps = steps.unwrap_or(spec.train.steps).min(spec.train.steps);
    ensure!(steps > WARM_UP, "at least {} steps are needed", WARM_UP + 1);

    let how = |device| {
        let how = How::of(device);
        How {
            bucket: reduce.bucket_elements,
            overlaps: reduce.overlaps.unwrap_or(how.overlaps),
            ..how
        }
    };
    let mut trainer = begin(&spec, rank, store, (interface, device), how)?;
    let device = trainer.flat().device;

    let mut began = (monotonic(), 0);
    let mut fastest = Duration::MAX;
    let mut figures = None;
    for step in 0..steps {
        if step == WARM_UP {
            spent::take().for_each(drop);
            spent::take_computed().for_each(drop);
            cuda::synchronize(device)?;
            began = (monotonic(), trainer.samples());
        }
        let step_began = monotonic();
        figures = Some(trainer.step(false)?);
        if step >= WARM_UP {
            fastest = fastest.min(monotonic().since(step_began));
        }
    }
    cuda::synchronize(device)?;
    let took = monotonic().since(began.0).as_secs_f64();
    let samples = trainer.samples() - began.1;
    let measured = (steps - WARM_UP) as f64;
    let waits: BTreeMap<_, _> = spent::take()
        .map(|(channel, span)| (channel, span.as_secs_f64() / measured))
        .collect();
    let computed = spent::take_computed()
        .map(|(part, span)| (part, span.as_secs_f64() / measured))
        .collect();
    trainer.farewell();
    let flops = Flops::of(&spec.model, samples, spec.train.numerics.recompute);
    let teraflops = flops.rate(took, spec.layout.world());
    let report = Report {
        rank: rank.0,
        model_teraflops: teraflops.model,
        hardware_teraflops: teraflops.hardware,
        device_peak_bytes: cuda::peak_bytes(device)?,
        step_seconds: took / measured,
        fastest_step_seconds: fastest.as_secs_f64(),
        tokens_per_second: (samples * u64::from(spec.model.sequence)) as f64 / took,
        loss: figures.map_or(f64::NAN, |figures: Figures| figures.loss),
        computed,
        waits,
        peak_bytes: peak_bytes()?,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What a rank that was started by hand prints.
#[derive(Debug, Serialize)]
struct Report {
    rank: u32,
    /// TFLOP/s of each rank that the model needs.
    model_teraflops: f64,
    /// TFLOP/s of each rank that are done.
    hardware_teraflops: f64,
    /// Most memory of its GPU that tensors ever took.
    device_peak_bytes: Option<u64>,
    step_seconds: f64,
    /// The same of the step that nothing else on the machine held up.
    fastest_step_seconds: f64,
    /// Of the whole gang.
    tokens_per_second: f64,
    loss: f64,
    /// Seconds of each step that this rank computed, or waited for a core.
    computed: BTreeMap<Part, f64>,
    /// Seconds of each step that this rank waited for others.
    waits: BTreeMap<Channel, f64>,
    /// Most memory that the process ever had.
    peak_bytes: u64,
}

/// The most memory that this process ever had (`VmHWM`).
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("failed to read /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.context("/proc says nothing of VmHWM")?.parse()?;
    Ok(kilobytes << 10)
}

/// Reads and checks a run spec in JSON.
pub fn read(file: &Path) -> Result<RunSpec> {
    let text = std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let spec: RunSpec = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a run spec", file.display()))?;
    let flaws: Vec<_> = spec.flaws().iter().map(ToString::to_string).collect();
    ensure!(flaws.is_empty(), "{}", flaws.join("; "));
    Ok(spec)
}

/// A trainer at step 0 that met its peers in `store`.
fn begin(
    spec: &RunSpec,
    rank: Rank,
    store: &Path,
    (interface, device): (&str, Choice),
    how: impl FnOnce(tch::Device) -> How,
) -> Result<Trainer> {
    // By hand each rank is on this node, so that its number is its slot.
    device.take(rank.0)?;
    let store = FileStore::open(store).context("failed to open the store")?;
    let watch = Watch {
        recorder: Box::leak(Box::new(Recorder::unread()?)),
        generation: Generation(1),
    };
    let device = Arc::new(Device::open(interface)?);
    let connect = seconds(spec.deadlines.init);
    let groups = Groups::form(spec.layout, rank, Arc::new(store), &device, watch, connect)?;
    let samples = Shelf::default().open(spec).map_err(anyhow::Error::msg)?;
    let how = how(groups.device());
    let mut trainer = Trainer::with(how, spec.clone(), rank, groups, samples)?;
    match &spec.init {
        Some(path) => begin_with(&mut trainer, rank, &Weights::open(Path::new(path))?)?,
        None => trainer.begin(),
    }
    Ok(trainer)
}
