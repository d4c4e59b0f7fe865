//! The simulator: the three machines of `rebloom-core` in one made-up world, from one seed.
//!
//! Everything that could differ between two runs of a world comes from its seed, so a seed that
//! found something finds it again. Safety is checked after every event; then all faults end, and
//! every run must come to the very state it would have had in a world without any.

mod agent;
mod ambush;
mod checks;
mod controller;
mod faults;
mod gang;
mod memory;
mod options;
mod random;
pub mod replay;
mod show;
mod storage;
mod trace;
mod training;
mod verdict;
mod wire;
mod worker;
mod world;

pub use options::{Options, Planted};
pub use random::{Random, mix};
pub use trace::Trace;
pub use verdict::{Failure, Verdict};
pub use world::World;

/// The world of a seed, from beginning to end.
pub fn simulate(seed: u64) -> Result<Verdict, Failure> {
    World::new(Options::draw(seed), false).run()
}

/// The hard world of a seed in which every run keeps snapshots, from beginning to end.
pub fn simulate_snapping(seed: u64) -> Result<Verdict, Failure> {
    World::new(Options::hard(seed).snapping(), false).run()
}

/// The hard world of a seed, from beginning to end.
pub fn simulate_hard(seed: u64) -> Result<Verdict, Failure> {
    World::new(Options::hard(seed), false).run()
}

/// The wide world of a seed, from beginning to end.
pub fn simulate_wide(seed: u64) -> Result<Verdict, Failure> {
    World::new(Options::wide(seed), false).run()
}
