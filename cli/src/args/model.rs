//! The part of the command line that is about models: in, out, writing, measured.

use super::number::{real, whole};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use rebloom_core::id::RunId;
use rebloom_core::spec::Precision;
use std::path::PathBuf;

/// Which weights are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// A run, of which the newest sealed checkpoint is taken; may be left out where there is only one
    #[arg(value_parser = RunId::new)]
    pub(crate) run: Option<RunId>,
    /// The run's checkpoint at this step instead of the newest
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = whole::<u64>(0, u64::MAX))]
    pub(crate) step: Option<u64>,
    /// A checkpoint's directory or a model folder instead of a run
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    pub(crate) from: Option<PathBuf>,
    /// Its tokenizer, unless it lies beside the weights or the run's dataset
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
}

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// As they are trained
    Fp32,
    /// Half the size, rounded to nearest
    Bf16,
    /// As they are where they come from
    Same,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Check a Hugging Face BLOOM and copy it to where runs can begin with it
    #[command(
        after_help = "Example:\n  rebloom model import ~/bloom-560m --to /shared/models/bloom-560m\n\n\
        It prints the lines of a run spec that begin with it."
    )]
    Import {
        /// A folder with config.json and safetensors
        source: PathBuf,
        /// The folder to make
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// How weights are written
        #[arg(long, value_enum, default_value_t = Dtype::Same)]
        dtype: Dtype,
        /// Most bytes of weights in one file
        #[arg(long, default_value_t = 5_000_000_000, value_name = "BYTES", value_parser = whole::<u64>(1, u64::MAX))]
        file_bytes: u64,
    },
    /// Write a checkpoint as a folder that transformers opens, with a model card
    #[command(
        after_help = "Example:\n  rebloom model export bloom-small --to bloom-small-hf --license bigscience-bloom-rail-1.0\n  \
        rebloom model export --from /checkpoints/night-run/step-00000300.g1 --to out --license apache-2.0"
    )]
    Export {
        #[command(flatten)]
        which: Which,
        /// The folder to make
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// The licence that the model card names
        #[arg(alias = "licence", long, value_name = "NAME")]
        license: String,
        /// How weights are written
        #[arg(long, value_enum, default_value_t = Dtype::Same)]
        dtype: Dtype,
        /// Most bytes of weights in one file
        #[arg(long, default_value_t = 5_000_000_000, value_name = "BYTES", value_parser = whole::<u64>(1, u64::MAX))]
        file_bytes: u64,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The text to go on from
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Most tokens
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = whole::<usize>(1, 1 << 20))]
    pub(crate) tokens: usize,
    /// How bold: 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = real(true, f64::MAX))]
    pub(crate) temperature: f64,
    /// Draw from the N likeliest tokens only; 0 means all
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = whole::<usize>(0, 1 << 22))]
    pub(crate) top_k: usize,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = real(false, 1.0))]
    pub(crate) top_p: f64,
    /// Seed of the draws: the same seed gives the same text
    #[arg(long, default_value_t = 42, value_name = "N", value_parser = whole::<u64>(0, u64::MAX))]
    pub(crate) seed: u64,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub(crate) device: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Held-out text: a file, or a folder with a file or a folder of files for each language, named by it
    #[arg(long, value_name = "PATH")]
    pub(crate) text: Option<PathBuf>,
    /// A dataset without its .bin and .idx; may be given more than once. Without this and --text, what the run
    /// itself is evaluated on
    #[arg(long, value_name = "PREFIX")]
    pub(crate) data: Vec<PathBuf>,
    /// Score only the documents between these shares of each dataset, such as 0.95 1
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2, requires = "data", value_parser = real(true, 1.0))]
    pub(crate) documents: Option<Vec<f64>>,
    /// Most samples of each dataset
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1, u32::MAX.into()))]
    pub(crate) samples: Option<u32>,
    /// The numbers it computes in; unless given those of the run, with --from fp32
    #[arg(long, value_parser = precision())]
    pub(crate) precision: Option<Precision>,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub(crate) device: String,
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(["fp32", "bf16"]).map(|name| match name.as_str() {
        "bf16" => Precision::Bf16,
        _ => Precision::Fp32,
    })
}

/// Whether that names a device; whether it is there only the worker can tell.
fn device(text: &str) -> Result<String, String> {
    let number = text.strip_prefix("cuda:").map(str::parse::<u32>);
    if matches!(text, "cpu" | "cuda") || matches!(number, Some(Ok(_))) {
        Ok(text.to_owned())
    } else {
        Err("a device is cpu, cuda or cuda:N".to_owned())
    }
}
