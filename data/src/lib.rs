//! Training data: from text to tokens on disk, and from tokens on disk to the samples of a run.
//!
//! - [`sources`]: the file that names where text comes from, and by whose permission
//! - [`corpus`]: the text of these sources, document by document
//! - [`tokenizer`]: a byte-level BPE trained on it
//! - [`indexed`]: Megatron's `.bin` / `.idx` pair, read by mapping, written byte for byte
//! - [`order`]: Megatron's index maps: which tokens are sample k of a run
//! - [`dataset`]: the two together, as a worker reads them
//! - [`held_out`]: what was kept from training, as the samples that a model is scored on
//! - [`inspect`]: what is in a corpus, as a report and as a web page
//! - [`build`]: all of it from end to end, and [`verify`]: whether a dataset fits a model
//!
//! The order of samples is a function of the seed and of how many the run asked for, nothing
//! else; no file is ever changed in place, and nothing here knows of ranks or of time.

mod aside;
pub mod build;
pub mod corpus;
pub mod dataset;
pub mod error;
pub mod held_out;
pub mod indexed;
pub mod inspect;
pub mod order;
pub mod sources;
pub mod tokenizer;
pub mod verify;

pub use dataset::Dataset;
pub use error::{Error, Result};
