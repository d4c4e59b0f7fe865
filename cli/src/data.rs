//! `rebloom data`: datasets from sources, what is in them, and whether one fits a run.

mod check;
mod inspect;

pub(crate) use check::flaws;

use crate::args::{BuildData, DataCommand, Permission};
use crate::failure::Failure;
use crate::format::{self, Output, bytes, count, grouped, line};
use rebloom_data::build::{Meta, Progress, Vocabulary, build, build_separate, source_prefix};
use rebloom_data::corpus::Corpus;
use rebloom_data::sources::{Entry, Sources};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was left out is named up to this many.
const MOST_SKIPPED: usize = 5;

pub(crate) fn run(command: DataCommand, output: Output) -> Result<(), Failure> {
    match command {
        DataCommand::Build(args) => build_command(&args, output),
        DataCommand::Inspect(args) => inspect::run(&args, output),
        DataCommand::Verify { prefix } => check::run(&prefix, output),
    }
}

/// What the data crate refuses is what the user gave it.
fn bad(error: &rebloom_data::Error) -> Failure {
    Failure::BadInput(rebloom_runtime::telemetry::chain(error))
}

/// A dataset as `-o json` shows it.
#[derive(Serialize)]
struct Shown {
    prefix: PathBuf,
    /// Whether it was made now.
    fresh: bool,
    #[serde(flatten)]
    meta: Meta,
}

fn build_command(args: &BuildData, output: Output) -> Result<(), Failure> {
    let corpus = match (&args.sources, &args.text) {
        (Some(file), _) => Sources::open(file).map_err(|error| bad(&error))?,
        (None, Some(text)) => corpus_of_text(text, &args.said)?,
        (None, None) => return Err(Failure::BadInput("neither --sources nor --text".to_owned())),
    };
    if args.dry_run {
        return plan(&corpus, args, output);
    }
    let vocabulary = match &args.tokenizer {
        Some(path) => Vocabulary::Given(path.clone()),
        None => Vocabulary::Train(args.vocab),
    };
    let quiet = output == Output::Json;
    let progress = spoken(move |text| {
        if !quiet {
            line(text);
        }
    });
    folder_of(&args.prefix)?;
    let built = if args.separate {
        build_separate(&corpus, &args.prefix, &vocabulary, progress).map_err(|e| bad(&e))?
    } else {
        let built = build(&corpus, &args.prefix, &vocabulary, progress).map_err(|e| bad(&e))?;
        vec![(args.prefix.clone(), built)]
    };
    if quiet {
        let shown: Vec<Shown> = built
            .into_iter()
            .map(|(prefix, built)| Shown {
                prefix,
                fresh: built.fresh,
                meta: built.meta,
            })
            .collect();
        return if args.separate {
            format::json(&shown)
        } else {
            format::json(&shown.first())
        };
    }
    for (prefix, built) in &built {
        let state = if built.fresh { "" } else { ", as it was" };
        line(&format!("{}{state}:", prefix.display()));
        said(&built.meta)
            .iter()
            .for_each(|text| line(&format!("  {text}")));
    }
    if args.separate {
        line("in a run spec:");
        line(&blend(
            &corpus,
            &built
                .iter()
                .map(|(p, b)| (p.as_path(), b.meta.tokens))
                .collect::<Vec<_>>(),
        ));
    }
    Ok(())
}

/// The block of a run spec that blends datasets: by the weights of the sources file, or where it
/// has none, by size.
fn blend(corpus: &Corpus, built: &[(&Path, u64)]) -> String {
    let mut text = "data:\n  blend:".to_owned();
    for (source, (prefix, tokens)) in corpus.sources.iter().zip(built) {
        let weight = source
            .weight
            .map_or_else(|| tokens.to_string(), |weight| weight.to_string());
        let prefix = std::path::absolute(prefix).unwrap_or_else(|_| prefix.to_path_buf());
        text += &format!(
            "\n    - {{prefix: '{}', weight: {weight}}}",
            prefix.display()
        );
    }
    text
}

/// One source as a dry run shows it.
#[derive(Serialize)]
struct Planned {
    source: String,
    language: String,
    licence: String,
    permission: String,
    contact: String,
    files: usize,
    bytes: u64,
    /// What it would be built into.
    prefix: PathBuf,
}

/// What a build would read and write.
fn plan(corpus: &Corpus, args: &BuildData, output: Output) -> Result<(), Failure> {
    let planned: Vec<Planned> = corpus
        .sources
        .iter()
        .map(|source| Planned {
            source: source.name.clone(),
            language: source.language.clone(),
            licence: source.licence.clone(),
            permission: source.permission.clone(),
            contact: source.contact.clone(),
            files: source.files.len(),
            bytes: source.bytes(),
            prefix: if args.separate {
                source_prefix(&args.prefix, &source.name)
            } else {
                args.prefix.clone()
            },
        })
        .collect();
    if output == Output::Json {
        return format::json(&planned);
    }
    let rows = planned.iter().map(|p| {
        let size = bytes(p.bytes);
        vec![
            p.source.clone(),
            p.language.clone(),
            p.licence.clone(),
            p.files.to_string(),
            size,
            p.permission.clone(),
        ]
    });
    format::table(
        &[
            "SOURCE",
            "LANGUAGE",
            "LICENCE",
            "FILES",
            "SIZE",
            "PERMISSION",
        ],
        rows.collect(),
    );
    let tokenizer = match &args.tokenizer {
        Some(path) => format!("with the tokenizer {}", path.display()),
        None => format!(
            "with a tokenizer of at most {} tokens",
            grouped(args.vocab.into())
        ),
    };
    line(&format!(
        "would be built into {} {tokenizer}; nothing was written",
        args.prefix.display()
    ));
    Ok(())
}

/// The corpus of a folder of text: by its own `sources.yaml`, or by what was said of it.
pub(crate) fn corpus_of_text(text: &Path, said: &Permission) -> Result<Corpus, Failure> {
    let listed = text.join("sources.yaml");
    if listed.exists() && said.permission.is_none() {
        return Sources::open(&listed).map_err(|error| bad(&error));
    }
    let Some(permission) = &said.permission else {
        return Err(Failure::BadInput(format!(
            "--text {}: nobody said that it may be trained on; say who permitted it with \
             --permission \"who, and where that is recorded\", or list its sources in {} \
             (docs/data.md shows how)",
            text.display(),
            listed.display()
        )));
    };
    let entry = Entry {
        name: "text".to_owned(),
        path: std::path::absolute(text).map_err(|error| Failure::of(&error))?,
        language: Some(said.language.clone()),
        licence: Some(said.licence.clone()),
        permission: Some(permission.clone()),
        contact: Some(said.contact.clone()),
        ..Entry::default()
    };
    let sources = Sources {
        sources: vec![entry],
        ..Sources::default()
    };
    sources.corpus(text).map_err(|error| bad(&error))
}

fn folder_of(prefix: &Path) -> Result<(), Failure> {
    match prefix
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        Some(folder) => Ok(rebloom_runtime::files::create_directory(folder)?),
        None => Ok(()),
    }
}

/// Builds a dataset unless it is there, and says how far it is.
pub(crate) fn make(
    corpus: &Corpus,
    prefix: &Path,
    vocab: u32,
    say: impl Fn(&str),
) -> Result<Meta, Failure> {
    folder_of(prefix)?;
    let built = build(corpus, prefix, &Vocabulary::Train(vocab), spoken(say));
    Ok(built.map_err(|error| bad(&error))?.meta)
}

/// Progress as lines: what begins, and every tenth of what takes long.
fn spoken(say: impl Fn(&str)) -> impl FnMut(Progress) {
    let mut last = (0, 0);
    move |progress| {
        let (stage, done, all, what) = match progress {
            Progress::Reading { done, all } => (1, done, all, format!("reading {}", bytes(all))),
            Progress::Training { bytes: size } => {
                say(&format!("training a tokenizer on {} of text", bytes(size)));
                return;
            }
            Progress::Encoding { done, all } => {
                (2, done, all, format!("encoding {}", count(all, "document")))
            }
            Progress::Writing => return,
        };
        let tenth = done.saturating_mul(10) / all.max(1);
        if (stage, tenth) == last {
            return;
        }
        if last.0 != stage {
            say(&what);
        } else if all >= LONG && tenth < 10 {
            say(&format!("{what}: {tenth}0 %"));
        }
        last = (stage, tenth);
    }
}

/// So many bytes or documents take long enough to hear of them again.
const LONG: u64 = 100_000;

/// What is in a dataset.
pub(crate) fn said(meta: &Meta) -> Vec<String> {
    let mut lines = vec![format!(
        "{} tokens in {} of {}, vocabulary {}",
        grouped(meta.tokens),
        count(meta.documents, "document"),
        count(meta.sources.len() as u64, "source"),
        grouped(meta.vocabulary.into()),
    )];
    if !meta.lacking.is_empty() {
        let names: Vec<&str> = meta.lacking.iter().map(|(_, name)| name.as_str()).collect();
        lines.push(format!("languages without text: {}", names.join(", ")));
    }
    for source in &meta.sources {
        let counts = source.left_out.counts.iter();
        let counts: Vec<String> = counts.map(|(kind, n)| format!("{n} {kind}")).collect();
        if !counts.is_empty() {
            lines.push(format!(
                "left out of {}: {}",
                source.name,
                counts.join(", ")
            ));
        }
        for skipped in source.left_out.named.iter().take(MOST_SKIPPED) {
            lines.push(format!("  {skipped}"));
        }
    }
    lines
}
