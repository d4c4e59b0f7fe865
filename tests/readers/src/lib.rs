//! Everything that reads bytes from outside, behind one function of bytes each: what is fuzzed.
//!
//! The short run ([`short`]) and the cargo-fuzz targets in `fuzz/` call the same functions over the
//! same kept corpus; inputs between them are changed by [`mutate`]. A reader may refuse anything, naming what it refuses; it must never panic, and
//! never take memory out of proportion to what it is given.

mod files;
pub mod mutate;
pub mod short;
mod wire;

use std::path::PathBuf;

/// What a reader said of some bytes: an error is the message that a user would see.
pub type Outcome = Result<(), String>;

/// One reader of bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// Its name; the folder of its corpus has the same.
    pub name: &'static str,
    /// Reads.
    pub read: fn(&[u8]) -> Outcome,
    /// How often the short run calls it.
    pub runs: u32,
}

/// A reader of its name, what it reads with, and how often the short run calls it.
pub const fn reader(name: &'static str, read: fn(&[u8]) -> Outcome, runs: u32) -> Reader {
    Reader { name, read, runs }
}

/// All of them. Those that read files are called less often.
pub const READERS: [Reader; 13] = [
    reader("run_spec", files::run_spec, 40_000),
    reader("sources", files::sources, 40_000),
    reader("tokenizer", files::tokenizer, 5_000),
    reader("indexed", files::indexed, 100_000),
    reader("page", files::page, 40_000),
    reader("manifest", files::manifest, 100_000),
    reader("shard", files::shard, 40_000),
    reader("config", files::config, 60_000),
    reader("index", files::index, 60_000),
    reader("weights", files::weights, 40_000),
    reader("journal", files::journal, 60_000),
    reader("flight", files::flight, 10_000),
    reader("wire", wire::message, 200_000),
];

/// The reader of this name.
pub fn named(name: &str) -> Option<Reader> {
    READERS.into_iter().find(|reader| reader.name == name)
}

/// Where the kept corpus of a reader lies.
pub fn corpus(reader: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(reader)
}

/// Calls the reader of this name, for the targets of cargo-fuzz.
///
/// # Panics
/// Where there is none, or where an error says nothing.
pub fn fuzz_one(name: &str, bytes: &[u8]) {
    let reader = named(name).unwrap_or_else(|| panic!("there is no reader {name}"));
    if let Err(said) = (reader.read)(bytes) {
        assert!(!said.is_empty(), "{name} refuses without a word");
    }
}
