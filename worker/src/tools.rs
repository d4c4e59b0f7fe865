//! What `rebloom` starts this binary for beside ranks: converting, generating, evaluating. Each reads weights,
//! works alone in its process, and prints what came of it.

use crate::hf::{self, Kind, TOKENIZER};
use crate::infer::Inference;
use crate::infer::generate::{self, Spelling};
use crate::infer::held_out::{self, HeldOut};
use crate::infer::perplexity::{self, Score};
use crate::infer::sample::Sampling;
use crate::shim;
use crate::shim::cuda::Choice;
use crate::weights::Weights;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use rebloom_data::tokenizer::Tokenizer;
use rebloom_runtime::clock::monotonic;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// How the weights of a model folder are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// As they are trained.
    Fp32,
    /// Half the size.
    Bf16,
    /// As they are where they come from.
    Same,
}

/// Makes a model folder.
#[derive(Debug, Args)]
pub struct Convert {
    /// A model folder or a checkpoint.
    #[arg(long)]
    pub from: PathBuf,
    /// The folder to make.
    #[arg(long)]
    pub to: PathBuf,
    /// How weights are written.
    #[arg(long, value_enum, default_value_t = Dtype::Same)]
    pub dtype: Dtype,
    /// Most bytes of weights in one file.
    #[arg(long)]
    pub file_bytes: u64,
    /// The tokenizer, unless it lies beside the weights.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
}

/// Weights and the tokenizer that belongs to them.
#[derive(Debug, Args)]
pub struct Subject {
    /// A model folder or a checkpoint.
    #[arg(long)]
    pub from: PathBuf,
    /// The tokenizer, unless it lies beside the weights.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: Choice,
}

/// Goes on after a prompt.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    subject: Subject,
    /// What comes before.
    #[arg(long)]
    prompt: String,
    /// Most words.
    #[arg(long)]
    words: usize,
    /// 0 is greedy.
    #[arg(long)]
    temperature: f64,
    /// 0 is all.
    #[arg(long)]
    top_k: usize,
    /// 1 is all.
    #[arg(long)]
    top_p: f64,
    /// Of the draws.
    #[arg(long)]
    seed: u64,
    /// One object at the end instead of text as it comes.
    #[arg(long)]
    json: bool,
}

/// Scores held-out text.
#[derive(Debug, Args)]
pub struct Evaluate {
    #[command(flatten)]
    subject: Subject,
    /// A folder of text: a file or a folder of files for each language.
    #[arg(long)]
    text: PathBuf,
}

impl Subject {
    fn open(&self) -> Result<(Inference, Tokenizer)> {
        let weights = Weights::open(&self.from)?;
        let beside = self.from.join(TOKENIZER);
        let path = self.tokenizer.as_deref().unwrap_or(&beside);
        ensure!(
            path.exists(),
            "{} is missing; name the tokenizer that the model was trained with",
            path.display()
        );
        let tokenizer = Tokenizer::load(path)?;
        let (known, rows) = (tokenizer.vocabulary(), weights.model().vocab);
        ensure!(
            known <= rows,
            "{} knows {known} words, the model {rows}: they do not belong together",
            path.display()
        );
        let device = self.device.take(0)?;
        Ok((Inference::load(&weights, device)?, tokenizer))
    }
}

/// Lets libtorch use the whole machine, which a rank of a gang must not.
fn setup(device: Choice) -> Result<()> {
    device.load()?;
    shim::setup()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tch::set_num_threads(i32::try_from(cores).unwrap_or(1));
    Ok(())
}

/// Prints one JSON object on one line.
fn print(value: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{value}").context("cannot print")
}

/// Makes a model folder, and prints what it holds.
pub fn convert(how: &Convert) -> Result<()> {
    setup(Choice::Cpu)?;
    let weights = Weights::open(&how.from)?;
    let kind = match how.dtype {
        Dtype::Fp32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::Same if weights.is_bf16() => Kind::BFloat16,
        Dtype::Same => Kind::Float,
    };
    let written = hf::write(
        &weights,
        &how.to,
        kind,
        how.file_bytes,
        how.tokenizer.as_deref(),
    )?;
    let manifest = weights.checkpoint().map(|stored| stored.manifest());
    let of = manifest.map(|manifest| {
        json!({"run": manifest.run, "checkpoint": manifest.id, "layout": manifest.layout, "samples": manifest.samples})
    });
    print(&json!({
        "path": how.to, "model": weights.model(), "written": written, "of": of,
        "tokenizer": has_tokenizer(&how.to),
    }))
}

fn has_tokenizer(folder: &Path) -> bool {
    folder.join(TOKENIZER).exists()
}

/// Prints what the model writes after a prompt.
pub fn generate(how: &Generate) -> Result<()> {
    setup(how.subject.device)?;
    let (model, tokenizer) = how.subject.open()?;
    let mut prompt = tokenizer.encode(&how.prompt)?;
    let end = tokenizer.end_of_document();
    if prompt.last() == Some(&end) {
        prompt.pop();
    }
    let sampling = Sampling {
        temperature: how.temperature,
        top_k: how.top_k,
        top_p: how.top_p,
        seed: how.seed,
    };
    let mut spelling = Spelling::default();
    let mut text = String::new();
    let mut out = std::io::stdout();
    let mut failed = None;
    let mut say = |piece: &str| {
        text.push_str(piece);
        if !how.json && failed.is_none() {
            let said = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
            failed = said.err();
        }
    };
    let began = monotonic();
    let written = generate::generate(&model, &prompt, end, how.words, sampling, |word| {
        say(&spelling.add(word, &tokenizer));
    });
    say(&spelling.end(&tokenizer));
    if !how.json {
        say("\n");
        return failed.map_or(Ok(()), |error| Err(error).context("cannot print"));
    }
    let seconds = monotonic().since(began).as_secs_f64();
    print(&json!({
        "prompt": how.prompt, "text": text, "prompt_words": prompt.len(), "words": written.words,
        "end": written.end, "seconds": seconds,
    }))
}

fn scored(language: Option<&str>, score: &Score) -> Value {
    json!({
        "language": language, "documents": score.documents, "bytes": score.bytes, "words": score.words,
        "loss": score.loss(), "perplexity": score.perplexity(), "bits_per_byte": score.bits_per_byte(),
    })
}

/// Prints the perplexity of each language on a line, and then of all together; a file that is left out is
/// named.
pub fn evaluate(how: &Evaluate) -> Result<()> {
    setup(how.subject.device)?;
    let text = how.text.display();
    let held_out = HeldOut::find(&how.text).with_context(|| format!("cannot list {text}"))?;
    let (model, tokenizer) = how.subject.open()?;
    let mut all = Score::default();
    for (language, files) in held_out.languages {
        let mut documents = Vec::new();
        for file in files {
            match held_out::read(&file) {
                Ok(text) => documents.push(text),
                Err(left) => print(&json!({"left_out": left.path, "reason": left.reason}))?,
            }
        }
        if !documents.is_empty() {
            let score = perplexity::evaluate(&model, &tokenizer, &documents);
            let score = score.map_err(anyhow::Error::msg)?;
            print(&scored(Some(&language), &score))?;
            all = all.and(&score);
        }
    }
    ensure!(all.words > 0, "{text} has no text that can be used");
    print(&scored(None, &all))
}
