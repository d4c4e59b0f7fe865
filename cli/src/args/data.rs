//! What `rebloom data` takes, and what is said of text.

use super::number::whole;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is said of a folder of text that has no sources.yaml.
#[derive(Debug, Clone, Args)]
pub(crate) struct Permission {
    /// Who permitted training on the text, and where that is recorded
    #[arg(long, value_name = "TEXT", requires = "text")]
    pub(crate) permission: Option<String>,
    /// Code of its language
    #[arg(long, value_name = "CODE", default_value = "und")]
    pub(crate) language: String,
    /// Its licence
    #[arg(
        alias = "license",
        long,
        value_name = "SPDX",
        default_value = "see permission"
    )]
    pub(crate) licence: String,
    /// Whom to ask about it
    #[arg(long, value_name = "WHO", default_value = "see permission")]
    pub(crate) contact: String,
}

#[cfg(test)]
impl Default for Permission {
    fn default() -> Self {
        Self {
            permission: None,
            language: "und".to_owned(),
            licence: "see permission".to_owned(),
            contact: "see permission".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BuildData {
    /// The sources file
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "text",
        conflicts_with = "text"
    )]
    pub(crate) sources: Option<PathBuf>,
    /// Directory with text files instead, for one source with --permission
    #[arg(long, value_name = "DIR")]
    pub(crate) text: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) said: Permission,
    /// Path of the dataset without .bin / .idx
    #[arg(long, value_name = "PATH")]
    pub(crate) prefix: PathBuf,
    /// Size of the tokenizer's vocabulary
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = whole::<u32>(1, 1 << 22))]
    pub(crate) vocab: u32,
    /// A tokenizer.json to use instead of training one
    #[arg(long, value_name = "FILE", conflicts_with = "vocab")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// One dataset for each source, PATH-NAME, for a blend with weights
    #[arg(long)]
    pub(crate) separate: bool,
    /// Only say what would be read and written
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct InspectData {
    /// A sources file (.yaml), or the path of a dataset without .bin / .idx
    pub(crate) target: PathBuf,
    /// Where to write the web page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Texts shown of each source
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = whole::<usize>(0, 10_000))]
    pub(crate) samples: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Train a tokenizer on sources and write them as a dataset (docs/data.md explains how)
    #[command(
        after_help = "Example:\n  rebloom data build --sources sources.yaml --prefix /data/corpus --vocab 32768\n  \
        rebloom data build --sources sources.yaml --prefix /data/corpus --dry-run\n  \
        rebloom data build --text ~/novels --permission \"written by me\" --prefix /data/novels"
    )]
    Build(BuildData),
    /// Show sizes, languages, samples and duplicates of each source, and write them as a web page
    #[command(
        after_help = "Example:\n  rebloom data inspect sources.yaml --html corpus.html\n  \
        rebloom data inspect /data/corpus   # a dataset that was built"
    )]
    Inspect(InspectData),
    /// Read a dataset whole, name every damage, and say what is in it
    #[command(after_help = "Example:\n  rebloom data verify /data/novels\n  \
        rebloom data verify /data/novels -o json | jq .damage\n  \
        rebloom data verify /data/megatron --vocab 250880   # one that has no page beside it")]
    Verify {
        /// Path of the dataset without .bin / .idx
        prefix: PathBuf,
        /// Tokens have to be below this, too: the model's `vocab`
        #[arg(long, value_name = "N", value_parser = whole::<u32>(1, 1 << 22))]
        vocab: Option<u32>,
    },
}
