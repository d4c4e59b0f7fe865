//! The worker: one rank of a gang that trains BLOOM, as a process that lives through generations.
//!
//! `tch` and the C++ shim are used here only. What a worker does next is decided by
//! `rebloom_core::member`, which `rebloom_rank` drives; everything in here carries that out.

pub mod checkpoint;
pub mod comm;
pub mod data;
pub mod hf;
pub mod infer;
pub mod model;
pub mod optim;
pub mod pipeline;
pub mod score;
pub mod shim;
pub mod solo;
pub mod tools;
pub mod trainer;
pub mod weights;
pub mod work;

pub use shim::setup;
