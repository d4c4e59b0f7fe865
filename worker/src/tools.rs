//! What `rebloom` starts this binary for beside ranks: converting, generating, evaluating. Each reads weights,
//! works alone in its process, and prints what came of it.

use crate::hf::{self, Kind, TOKENIZER};
use crate::infer::Inference;
use crate::infer::generate::{self, Spelling};
use crate::infer::sample::Sampling;
use crate::infer::text::{self, Languages};
use crate::score::Scorer;
use crate::shim;
use crate::shim::cuda::{self, Choice};
use crate::weights::Weights;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use rebloom_core::spec::Precision;
use rebloom_data::held_out::HeldOut;
use rebloom_data::tokenizer::Tokenizer;
use rebloom_runtime::clock::monotonic;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a long evaluation says how far it has come.
const SAID_EVERY: Duration = Duration::from_secs(1);

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
    /// Most tokens.
    #[arg(long)]
    tokens: usize,
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
    /// A file, or a folder with a file or a folder of files for each language.
    #[arg(long)]
    text: Option<PathBuf>,
    /// An indexed dataset without its `.bin` / `.idx`; may be given more than once.
    #[arg(long, required_unless_present = "text")]
    data: Vec<PathBuf>,
    /// What its figures are called, for each.
    #[arg(long)]
    name: Vec<String>,
    /// The shares of its documents between which it is scored, for each.
    #[arg(long, num_args = 2)]
    documents: Vec<f64>,
    /// Most samples of each dataset.
    #[arg(long, default_value_t = u32::MAX)]
    samples: u32,
    /// Computes in bf16, as a run in bf16 does, and not in fp32.
    #[arg(long)]
    bf16: bool,
}

/// Says what a model expects after each of some tokens.
#[derive(Debug, Args)]
pub struct Logits {
    #[command(flatten)]
    subject: Subject,
    /// The tokens it reads, with commas between.
    #[arg(long, value_delimiter = ',', required = true)]
    read: Vec<u32>,
    /// The safetensors file to write.
    #[arg(long)]
    to: PathBuf,
}

impl Subject {
    /// The model, and the tokenizer that belongs to it where text is to be read or written.
    fn open(&self, is_text: bool) -> Result<(Inference, Option<Tokenizer>)> {
        let weights = Weights::open(&self.from)?;
        let rows = weights.model().vocab;
        let tokenizer = is_text.then(|| self.tokenizer(rows)).transpose()?;
        let device = self.device.take(0)?;
        Ok((Inference::load(&weights, device)?, tokenizer))
    }

    fn tokenizer(&self, rows: u32) -> Result<Tokenizer> {
        let beside = self.from.join(TOKENIZER);
        let path = self.tokenizer.as_deref().unwrap_or(&beside);
        ensure!(
            path.exists(),
            "{} is missing; name the tokenizer that the model was trained with",
            path.display()
        );
        let tokenizer = Tokenizer::load(path)?;
        let known = tokenizer.vocabulary();
        ensure!(
            known <= rows,
            "{} knows {known} tokens, the model {rows}: they do not belong together",
            path.display()
        );
        Ok(tokenizer)
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
    // A folder with a tokenizer that nobody can use would be found out much later.
    let beside = how.from.join(TOKENIZER);
    let beside = Some(beside).filter(|path| path.exists());
    if let Some(path) = how.tokenizer.as_ref().or(beside.as_ref()) {
        Tokenizer::load(path)?;
    }
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
    let (model, tokenizer) = how.subject.open(true)?;
    let tokenizer = tokenizer.context("text needs a tokenizer")?;
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
        if failed.is_none() && !piece.is_empty() {
            let said = if how.json {
                writeln!(out, "{}", json!({"piece": piece}))
            } else {
                out.write_all(piece.as_bytes())
            };
            failed = said.and_then(|()| out.flush()).err();
        }
    };
    let began = monotonic();
    let ids = (end, tokenizer.vocabulary());
    let written = generate::generate(&model, &prompt, ids, how.tokens, sampling, |token| {
        say(&spelling.add(token, &tokenizer));
    });
    say(&spelling.end(&tokenizer));
    if !how.json {
        say("\n");
    }
    if let Some(error) = failed {
        return Err(error).context("cannot print");
    }
    if !how.json {
        return Ok(());
    }
    let seconds = monotonic().since(began).as_secs_f64();
    print(&json!({
        "prompt": how.prompt, "text": text, "prompt_tokens": prompt.len(), "tokens": written.tokens,
        "end": written.end, "seconds": seconds,
    }))
}

/// Writes the logits after each token that is read, `[tokens, vocabulary]`, so that another implementation can be held
/// against them.
pub fn logits(how: &Logits) -> Result<()> {
    setup(how.subject.device)?;
    let (model, _) = how.subject.open(false)?;
    let rows = model.model().vocab;
    let odd = how.read.iter().find(|token| **token >= rows);
    ensure!(odd.is_none(), "the model has {rows} tokens, not {odd:?}");
    let hidden = model.read(&how.read, &mut model.cache());
    let logits = cuda::home(&model.logits(&hidden));
    tch::Tensor::write_safetensors(&[("logits", &logits)], &how.to)
        .with_context(|| format!("cannot write {}", how.to.display()))?;
    print(&json!({"path": how.to, "tokens": how.read.len()}))
}

/// Prints the score of each set on a line, and now and then how far it has come; a file that is left out is
/// named.
pub fn evaluate(how: &Evaluate) -> Result<()> {
    setup(how.subject.device)?;
    let languages = how.text.as_deref().map(|path| {
        Languages::find(path).with_context(|| format!("cannot read {}", path.display()))
    });
    let languages = languages.transpose()?.unwrap_or_default();
    let weights = Weights::open(&how.subject.from)?;
    let is_text = !languages.files.is_empty();
    let shape = weights.model();
    let tokenizer = is_text
        .then(|| how.subject.tokenizer(shape.vocab))
        .transpose()?;
    let precision = if how.bf16 {
        Precision::Bf16
    } else {
        Precision::Fp32
    };
    let model = Scorer::load(&weights, &shape, precision, how.subject.device.take(0)?)?;
    let (mut said, mut scored) = (monotonic(), 0);
    let mut score = |set: &HeldOut| {
        scored += 1;
        let score = model.score(set, |done, of| {
            if monotonic().since(said) > SAID_EVERY {
                said = monotonic();
                // Who listens no more hears nothing of the scores either.
                drop(print(&json!({"set": set.name, "done": done, "of": of})));
            }
        });
        print(&serde_json::to_value(score?)?)
    };
    for (language, files) in languages.files {
        let mut texts = Vec::new();
        for file in files {
            match text::read(&file) {
                Ok(text) => texts.push(text),
                Err(left) => print(&json!({"left_out": left.path, "reason": left.reason}))?,
            }
        }
        if let Some(tokenizer) = tokenizer.as_ref().filter(|_| !texts.is_empty()) {
            score(&HeldOut::of_text(&language, &texts, tokenizer)?)?;
        }
    }
    let mut shares = how.documents.chunks_exact(2);
    let mut names = how.name.iter();
    for prefix in &how.data {
        let shares = shares.next().map_or((0.0, 1.0), |pair| (pair[0], pair[1]));
        let name = prefix.file_name().unwrap_or_default().to_string_lossy();
        let name = names.next().map_or(&*name, String::as_str);
        let much = (shape.sequence, how.samples);
        score(&HeldOut::of_dataset(name, prefix, shares, much)?)?;
    }
    if let Some(path) = how.text.as_ref().filter(|_| scored == 0) {
        bail!("{} has no text that can be used", path.display());
    }
    Ok(())
}
