//! What a model folder of Hugging Face says of its weights: `config.json`, the index where they lie in several
//! files, and the head of each file.

mod config;
mod index;
mod places;

pub use config::Config;
pub use index::Index;
pub use places::{HEAD, PREFIX, Place, places, plain, width};

/// File of the shape.
pub const CONFIG: &str = "config.json";
/// File that says which weights are in which other file.
pub const INDEX: &str = "model.safetensors.index.json";
/// File of all weights.
pub const SINGLE: &str = "model.safetensors";
