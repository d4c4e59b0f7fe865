//! Hard worlds: every parameter of the world itself is drawn from the seed, within what an admin may
//! configure, there are more kinds of faults, and they strike where it hurts.
//!
//! They come from a stream of chance of their own, so that the plain worlds stay what they are.

use super::{Fault, Options};
use crate::random::{Random, mix};
use rebloom_core::engine::Limits;
use rebloom_core::hang::deadline::Learn;
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Elastic, RunSpec};
use rebloom_core::time::Duration;

/// What faults wait for, or how they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    /// The recovery from another fault.
    Recovery,
    /// A checkpoint that is being saved, sealed or removed.
    Seal,
    /// Two in the same instant.
    Pair,
    /// A node that is free, or was until just now.
    Spare,
    /// A controller that has just come back.
    Takeover,
    /// A journal write during a recovery: the controller dies after it.
    Journal,
}

impl Bias {
    const ALL: [Self; 6] = [
        Self::Recovery,
        Self::Seal,
        Self::Pair,
        Self::Spare,
        Self::Takeover,
        Self::Journal,
    ];
}

impl Options {
    /// The hard world of this seed.
    pub fn hard(seed: u64) -> Self {
        let mut options = Self::draw(seed);
        let mut random = Random::new(mix(seed) ^ 0x0bad_c0de);
        let r = &mut random;
        options.nodes = (0..r.within(1, 9))
            .map(|_| r.pick(&[1, 2, 2, 4, 4, 8]).unwrap_or(2))
            .collect();
        options.latency = r.micros(100, 2000) * r.small(1, 60);
        options.step_time = r.millis(10, 300) * r.small(1, 4);
        options.shard_time = r.millis(5, 400) * r.small(1, 5);
        options.leave_within = r.millis(100, 5000);
        options.outage = r.millis(100, 3000) * r.small(1, 10);
        let largest = options.nodes.iter().copied().max().unwrap_or(1);
        let (step, shard) = (options.step_time, options.shard_time);
        let many = r.within(1, 3);
        let mut runs: Vec<RunSpec> = (0..many)
            .map(|at| super::draw_run(r, at, u32::MAX))
            .collect();
        for run in &mut runs {
            run.layout = draw_layout(r, &options.nodes, largest);
            run.train.global_batch = run.layout.data * r.small(1, 4);
            run.train.steps = r.within(1, 20) * r.within(1, 20);
            run.checkpoint.every_steps = r.within(1, 8) * r.within(1, 8);
            run.deadlines.step += 2.0 * step.as_secs_f64();
            run.deadlines.load += 2.0 * shard.as_secs_f64();
            run.deadlines.save += 3.0 * shard.as_secs_f64();
            // Orders and words cross links ten times as slow as most.
            run.deadlines.init += 40.0 * options.latency.as_secs_f64();
        }
        options.runs = runs;
        options.limits = draw_limits(r, options.latency);
        options.keepalive = r.millis(300, 5000).min(options.limits.silent_after);
        options.storm = r.millis(10_000, 150_000);
        options.fault_every = r.millis(100, 300) * r.small(1, 30);
        let density = r.within(1, 4);
        options.faults = Fault::HARD
            .into_iter()
            .filter(|_| r.within(0, 4) < density)
            .collect();
        options.biases = Bias::ALL.into_iter().filter(|_| r.once_in(2)).collect();
        options.draw_more(&mut Random::new(mix(seed) ^ 0x1ea2_4ed5));
        options
    }

    /// What came later has a stream of its own again, so that a seed means the world that it meant.
    fn draw_more(&mut self, r: &mut Random) {
        // Longer than anything takes where nothing is amiss.
        let (step, shard) = (self.step_time * 3, self.shard_time * 3);
        let longest = step.max(shard).max(self.latency * 40).as_secs_f64();
        for run in &mut self.runs {
            run.deadlines.learn = r.once_in(2).then(|| Learn {
                factor: 1.5 + f64::from(r.small(0, 6)),
                skip: u64::from(r.small(0, 6)),
                least: longest + f64::from(r.small(2, 40)) / 10.0,
            });
            run.recovery.unsealed = r.small(4, 24);
            run.recovery.hangs = r.small(0, 3);
            run.elastic = r.once_in(2).then(|| Elastic {
                min_data: 1,
                wait: f64::from(r.small(5, 200)) / 10.0,
            });
        }
        if r.once_in(4) {
            self.faults.push(Fault::LoseStorage);
        }
    }
}

/// Within what the controller lets an admin configure.
fn draw_limits(r: &mut Random, latency: Duration) -> Limits {
    let beat_every = r.millis(50, 400) * r.small(1, 5);
    // Nothing that is slower than this counts as silence where all is well.
    let silent_after = beat_every * r.small(2, 8) + latency * 12 + r.millis(0, 2000);
    let rejoin_within = r.millis(300, 6000);
    Limits {
        beat_every,
        silent_after,
        rejoin_within,
        orphan_after: silent_after.max(rejoin_within) * 2 + r.millis(2000, 30_000),
        ..Limits::default()
    }
}

/// A layout of at most 12 ranks that still fits when the largest node is gone, where there is more
/// than one.
fn draw_layout(r: &mut Random, nodes: &[u32], largest: u32) -> Layout {
    let mut left = nodes.to_vec();
    if let Some(at) = nodes.iter().position(|slots| *slots == largest)
        && nodes.len() > 1
    {
        left.remove(at);
    }
    for _ in 0..20 {
        let layout = Layout {
            tensor: r.pick(&[1, 2, 4]).unwrap_or(1),
            pipeline: r.small(1, 3),
            data: r.small(1, 3),
        };
        if layout.world() <= 12 && fits(layout, left.iter().copied()) {
            return layout;
        }
    }
    Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    }
}

/// Whether a gang fits into nodes with this many slots.
pub(crate) fn fits(layout: Layout, slots: impl Iterator<Item = u32>) -> bool {
    slots.map(|slots| slots / layout.tensor).sum::<u32>() >= layout.pipeline * layout.data
}
