//! A gang whose ranks are threads of the test: real groups over 127.0.0.1, an in-memory store.

#![allow(dead_code, reason = "each test file uses a part of it")]

use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use rebloom_core::id::{Generation, Rank};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_runtime::flight::{Recorder, Tower};
use rebloom_worker::checkpoint;
use rebloom_worker::comm::{Device, Groups, MemoryStore, Store, Watch};
use rebloom_worker::data::Samples;
use rebloom_worker::shim::cuda::Choice;
use rebloom_worker::trainer::Trainer;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const CONNECT: Duration = Duration::from_secs(30);

/// A page that no agent reads; it lives for ever, as a worker's does.
pub(crate) fn page() -> &'static Recorder {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page");
    Tower::create(&path).unwrap();
    Box::leak(Box::new(Recorder::open(&path).unwrap()))
}

pub(crate) const LAYOUTS: [Layout; 6] = [
    Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    },
    Layout {
        tensor: 2,
        pipeline: 1,
        data: 1,
    },
    Layout {
        tensor: 1,
        pipeline: 2,
        data: 1,
    },
    Layout {
        tensor: 1,
        pipeline: 1,
        data: 2,
    },
    Layout {
        tensor: 2,
        pipeline: 2,
        data: 1,
    },
    Layout {
        tensor: 2,
        pipeline: 2,
        data: 2,
    },
];

/// The device of this test's process: the CPU, or what `REBLOOM_TEST_DEVICE` names.
pub(crate) fn device() -> tch::Device {
    let named = std::env::var("REBLOOM_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    named.parse::<Choice>().unwrap().take(0).unwrap()
}

/// Runs `work` on every rank of `layout` at once; answers in rank order.
pub(crate) fn on_every_rank<T: Send>(
    layout: Layout,
    work: impl Fn(Rank, Groups) -> T + Sync,
) -> Vec<T> {
    device();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let (store, work) = (&store, &work);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = layout
            .ranks()
            .map(|rank| {
                scope.spawn(move || {
                    let watch = Watch {
                        recorder: page(),
                        generation: Generation(1),
                    };
                    let device = Arc::new(Device::open("127.0.0.1").unwrap());
                    let store = Arc::clone(store);
                    let groups =
                        Groups::form(layout, rank, store, &device, watch, CONNECT).unwrap();
                    work(rank, groups)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Runs `work` with a trainer on every rank of `spec`.
pub(crate) fn train<T: Send>(
    spec: &RunSpec,
    samples: impl Fn() -> Box<dyn Samples> + Sync,
    work: impl Fn(Rank, Trainer) -> T + Sync,
) -> Vec<T> {
    on_every_rank(spec.layout, |rank, groups| {
        work(
            rank,
            Trainer::new(spec.clone(), rank, groups, samples()).unwrap(),
        )
    })
}

/// Seals a checkpoint: writes the manifest of what every rank of `spec` saved, in rank order.
pub(crate) fn seal(spec: &RunSpec, id: CheckpointId, samples: u64, shards: Vec<Shard>) {
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        run: spec.name.clone(),
        id,
        layout: spec.layout,
        samples,
        shards,
    };
    assert!(manifest.is_whole());
    let path = checkpoint::directory(spec, id).join("manifest.json");
    std::fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// Text of numbers that only the number of the sample decides.
pub(crate) struct MadeUp {
    pub(crate) vocab: u32,
}

impl Samples for MadeUp {
    fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
        let mut state = k.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66;
        for token in into {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // Skewed, so that there is something to learn.
            let word = (state >> 33) % u64::from(self.vocab);
            *token = i32::try_from(word * word / u64::from(self.vocab)).unwrap();
        }
        Ok(())
    }
}
