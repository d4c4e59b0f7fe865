//! Shapes that a run may shrink to: fewer copies of the model, everything else as it is.
//!
//! What must stay the same is what the training sees: the global batch, the order of samples and the
//! samples consumed. So only copies that divide the batch are allowed, each then runs more micro-batches
//! a step, and the learning rate needs no change. Tensor and pipeline parallelism never change here.

use crate::layout::Layout;
use crate::spec::RunSpec;

/// The layouts with fewer copies than `now` that the spec allows, largest first.
pub fn smaller(spec: &RunSpec, now: Layout) -> Vec<Layout> {
    between(spec, now.data).rev().collect()
}

/// The layouts with more copies than `now`, up to `full`, largest first.
pub fn larger(spec: &RunSpec, now: Layout, full: Layout) -> Vec<Layout> {
    let above = between(spec, full.data).filter(|layout| layout.data > now.data);
    let mut larger = vec![full];
    larger.extend(above.rev());
    larger
}

/// Allowed layouts with fewer than `data` copies, smallest first.
fn between(spec: &RunSpec, data: u32) -> impl DoubleEndedIterator<Item = Layout> {
    let least = spec.elastic.map_or(data, |elastic| elastic.min_data.max(1));
    let (train, layout) = (spec.train, spec.layout);
    let micro = train.micro_batch.max(1);
    let keeps_batch = move |data: &u32| train.has_whole(micro * *data);
    (least..data)
        .filter(keeps_batch)
        .map(move |data| Layout { data, ..layout })
}
