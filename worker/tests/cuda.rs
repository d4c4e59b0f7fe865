//! What a GPU takes: without one, that the part for it is whole and that asking for it is one clear error; with
//! one (`cargo xtask gpu`), what only happens there.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, train};
use rebloom_core::spec::RunSpec;
use rebloom_worker::checkpoint::{Saver, directory, state_hash};
use rebloom_worker::comm::MemoryStore;
use rebloom_worker::shim::{self, cuda};
use rebloom_worker::trainer::Trainer;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

fn nm(arguments: &[&str], file: &Path) -> BTreeSet<String> {
    let output = Command::new("nm").args(arguments).arg(file).output();
    let output = output.expect("nm comes with the C++ compiler");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect()
}

/// The file of a library that this test runs on.
fn library(name: &str) -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let mut found = paths
        .map(Path::new)
        .filter(|path| path.file_name().is_some_and(|file| file == name));
    found.next().expect(name).canonicalize().unwrap()
}

/// Loading resolves every name at once, so that one which nobody has would only show on a machine with a GPU.
#[test]
fn everything_that_the_cuda_part_names_is_in_libtorch() {
    rebloom_worker::setup().unwrap();
    let part = cuda::part();
    assert!(nm(&["-D", "--defined-only"], &part).contains("rebloom_cuda_part"));
    let named = nm(&["-D", "--undefined-only"], &part);
    assert!(named.iter().any(|name| name.contains("ProcessGroupNCCL")));
    let libtorch = library("libtorch_cpu.so");
    let plain = |name: &String| name.split('@').next().unwrap_or_default().to_owned();
    let mut held = BTreeSet::new();
    for name in [
        "libtorch_cuda.so",
        "libc10_cuda.so",
        "libtorch_cpu.so",
        "libc10.so",
    ] {
        held.extend(nm(
            &["-D", "--defined-only"],
            &libtorch.with_file_name(name),
        ));
    }
    // The CPU part of libtorch brings CUDA's runtime; its names carry their version.
    let runtime = nm(&["-D", "--defined-only"], &library("libcudart.so.13"));
    held.extend(runtime.iter().map(plain));
    // What the C and C++ libraries hold carries their version; what begins so is the linker's own.
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !held.contains(*name) && !name.contains('@'))
        .filter(|name| !name.starts_with("_ITM_") && *name != "__gmon_start__")
        .collect();
    assert!(missing.is_empty(), "nobody has {missing:?}");
}

#[test]
fn a_gpu_that_is_not_there_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("spec.json");
    std::fs::write(
        &spec,
        serde_json::to_vec(&run("fp32", folder.path())).unwrap(),
    )
    .unwrap();
    // Beside this program where it was packed for another machine.
    let beside = std::env::current_exe()
        .unwrap()
        .with_file_name("rebloom-worker");
    let beside = Some(beside).filter(|path| path.exists());
    let worker = beside.unwrap_or_else(|| env!("CARGO_BIN_EXE_rebloom-worker").into());
    let output = Command::new(worker)
        .args(["solo", "--rank", "0", "--device", "cuda:4095", "--spec"])
        .arg(&spec)
        .arg("--store")
        .arg(folder.path().join("store"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{text}");
    let errors: Vec<_> = text.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    // With a driver, either CUDA's libraries are missing or the GPU of that number is.
    let expected = if Path::new("/dev/nvidiactl").exists() {
        [
            "cuda:4095 was asked for",
            "a GPU was asked for and cannot be used: lib",
        ]
    } else {
        ["a GPU was asked for and cannot be used: this machine has no NVIDIA driver"; 2]
    };
    assert!(
        expected.iter().any(|text| errors[0].contains(text)),
        "{text}"
    );
}

fn run(precision: &str, folder: &Path) -> RunSpec {
    serde_json::from_value(serde_json::json!({
        "name": "gpu",
        "model": {"layers": 3, "hidden": 128, "heads": 4, "vocab": 512, "sequence": 256},
        "layout": {"tensor": 1, "pipeline": 1, "data": 1},
        "train": {"steps": 8, "global_batch": 8, "micro_batch": 4,
                  "numerics": {"precision": precision, "hidden_dropout": 0.1, "attention_dropout": 0.1}},
        "data": {"prefix": "/in/memory"},
        "checkpoint": {"directory": folder, "every_steps": 8},
    }))
    .unwrap()
}

/// Runs one rank on the GPU.
fn alone<T: Send>(spec: &RunSpec, work: impl Fn(Trainer) -> T + Sync) -> T {
    assert!(matches!(common::device(), Device::Cuda(_)), "needs a GPU");
    let samples = || Box::new(MadeUp { vocab: 512 }) as Box<_>;
    let mut ranks = train(spec, samples, |_, mut trainer| {
        trainer.begin();
        work(trainer)
    });
    ranks.remove(0)
}

#[test]
#[ignore = "needs a GPU: cargo xtask gpu"]
fn steps_on_a_gpu_repeat_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for precision in ["fp32", "bf16"] {
        let spec = run(precision, folder.path());
        let once = || {
            alone(&spec, |mut trainer| {
                let losses: Vec<_> = (0..6).map(|_| trainer.step(false).unwrap().loss).collect();
                (losses, state_hash(&trainer))
            })
        };
        let (losses, state) = once();
        assert_eq!((losses.clone(), state), once(), "{precision}");
        assert!(
            losses[5] < losses[0],
            "{precision} learns nothing: {losses:?}"
        );
    }
}

#[test]
#[ignore = "needs a GPU: cargo xtask gpu"]
fn bf16_on_a_gpu_stays_near_fp32() {
    let folder = tempfile::tempdir().unwrap();
    let [wide, narrow] = ["fp32", "bf16"].map(|precision| {
        let mut spec = run(precision, folder.path());
        spec.train.numerics.attention_dropout = 0.0;
        spec.train.numerics.hidden_dropout = 0.0;
        alone(&spec, |mut trainer| trainer.step(false).unwrap().loss)
    });
    assert!((wide - narrow).abs() < 2e-2, "{wide} and {narrow}");
}

#[test]
#[ignore = "needs a GPU: cargo xtask gpu"]
fn a_snapshot_is_of_its_moment_and_loads_again() {
    use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest};
    use rebloom_core::id::{Generation, Rank, Step};
    let folder = tempfile::tempdir().unwrap();
    let spec = run("bf16", folder.path());
    alone(&spec, |mut trainer| {
        let (tell, told) = std::sync::mpsc::channel();
        let saver = Saver::start(move |saved| tell.send(saved).unwrap()).unwrap();
        for step in 1..=3 {
            trainer.step(false).unwrap();
            let id = CheckpointId {
                step: Step(step),
                generation: Generation(1),
            };
            let state = state_hash(&trainer);
            saver.save(&trainer, Rank(0), id).unwrap();
            // The copy is on its way while the state moves on.
            let samples = trainer.samples();
            let later = (0..2).map(|_| trainer.step(false).unwrap().loss).last();
            let shard = told.recv().unwrap().outcome().unwrap();
            let manifest = Manifest {
                version: MANIFEST_VERSION,
                run: spec.name.clone(),
                id,
                layout: spec.layout,
                samples,
                shards: vec![shard],
            };
            let manifest = serde_json::to_vec(&manifest).unwrap();
            std::fs::write(directory(&spec, id).join("manifest.json"), manifest).unwrap();
            rebloom_worker::checkpoint::load(&mut trainer, Rank(0), id).unwrap();
            assert_eq!(state_hash(&trainer), state, "step {step}");
            let again = (0..2).map(|_| trainer.step(false).unwrap().loss).last();
            assert_eq!(again, later, "step {step} goes on otherwise");
            rebloom_worker::checkpoint::load(&mut trainer, Rank(0), id).unwrap();
        }
    });
}

#[test]
#[ignore = "needs a GPU: cargo xtask gpu"]
fn nccl_forms_and_carries_what_lies_on_the_gpu() {
    let device = common::device();
    assert!(matches!(device, Device::Cuda(_)), "needs a GPU");
    let store = Arc::new(MemoryStore::default());
    let group = shim::Group::form_on_device(store, "alone", 0, 1, device).unwrap();
    let tensor = Tensor::arange(1 << 20, (Kind::Float, device));
    let sum = tensor.copy();
    group.sum(&sum).unwrap().wait().unwrap();
    assert!(sum.equal(&tensor));
    for begin in [shim::Group::all_to_all, shim::Group::all_gather] {
        let out = tensor.zeros_like();
        begin(&group, &out, &tensor).unwrap().order().unwrap();
        assert!(out.equal(&tensor));
    }
    group.abort();
    assert!(group.sum(&sum).and_then(shim::Work::wait).is_err());
}
