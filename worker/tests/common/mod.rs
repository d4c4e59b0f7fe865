//! A gang whose ranks are threads of the test: real groups over 127.0.0.1, an in-memory store.

#![allow(dead_code, reason = "each test file uses a part of it")]

use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use rebloom_core::id::{Generation, Rank};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_runtime::flight::Recorder;
use rebloom_worker::checkpoint;
use rebloom_worker::checkpoint::slice::Slice;
use rebloom_worker::comm::{Device, Groups, MemoryStore, Store, Watch};
use rebloom_worker::data::Samples;
use rebloom_worker::shim::cuda::Choice;
use rebloom_worker::trainer::{How, Trainer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const CONNECT: Duration = Duration::from_secs(30);

/// A page that no agent reads; it lives for ever, as a worker's does.
pub(crate) fn page() -> &'static Recorder {
    Box::leak(Box::new(Recorder::unread().unwrap()))
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

/// Every layout of at most eight ranks.
pub(crate) fn layouts() -> impl Iterator<Item = Layout> {
    let all = (1..=8).flat_map(|tensor| {
        (1..=8).flat_map(move |pipeline| {
            (1..=8).map(move |data| Layout {
                tensor,
                pipeline,
                data,
            })
        })
    });
    all.filter(|layout| layout.world() <= 8)
}

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
    train_in(How::of(device()), spec, samples, work)
}

/// The same in these ways.
pub(crate) fn train_in<T: Send>(
    how: How,
    spec: &RunSpec,
    samples: impl Fn() -> Box<dyn Samples> + Sync,
    work: impl Fn(Rank, Trainer) -> T + Sync,
) -> Vec<T> {
    on_every_rank(spec.layout, |rank, groups| {
        let trainer = Trainer::with(how, spec.clone(), rank, groups, samples());
        work(rank, trainer.unwrap())
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

/// Bits of weights and moments of every parameter, element by element.
pub(crate) type Whole = BTreeMap<String, [Vec<Option<u32>>; 3]>;

/// Adds what a rank owns; what two ranks hold must be the same.
pub(crate) fn gather(into: &Mutex<Whole>, trainer: &Trainer, rank: Rank) {
    let layout = trainer.spec().layout;
    let place = (layout.coordinates(rank).tensor, layout.tensor);
    let mut whole = into.lock().unwrap();
    for own in trainer.optimizer().own(&trainer.flat().plan) {
        let parameter = &own.slot.parameter;
        let all = usize::try_from(parameter.shape.iter().product::<i64>()).unwrap();
        let entry = whole.entry(parameter.name.clone());
        let held = entry.or_insert_with(|| [0; 3].map(|_| vec![None; all]));
        let slice = Slice::of(parameter, place, own.range);
        for (held, tensor) in held.iter_mut().zip(&own.tensors) {
            let values = Vec::<f32>::try_from(tensor).unwrap();
            for stretch in slice.stretches() {
                for i in 0..stretch.length {
                    let [from, to] =
                        [stretch.local + i, stretch.whole + i].map(|n| usize::try_from(n).unwrap());
                    let bits = values[from].to_bits();
                    assert_eq!(*held[to].get_or_insert(bits), bits, "{}", parameter.name);
                }
            }
        }
    }
}
