//! Model folders as Hugging Face writes them: `config.json`, weights as safetensors (one file, or several
//! with an index), a tokenizer beside them.
//!
//! Reading believes nothing that it has not checked: names, shapes and lengths are those of the model, or the
//! error names the file and the field. Whole files are never held in memory.

mod read;
mod write;

pub use read::Folder;
pub use rebloom_format::Error as HfError;
pub use rebloom_format::hf::{CONFIG, Config};
pub use write::{Kind, Written, write};

/// File of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// What else belongs to a tokenizer and is taken along.
pub const TOKENIZER_ALONGSIDE: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
