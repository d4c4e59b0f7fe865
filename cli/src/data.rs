//! `rebloom data`: datasets from sources, what is in them, and whether one fits a run.

mod check;
mod inspect;

pub(crate) use check::flaws;

use crate::args::{BuildData, DataCommand, Permission};
use crate::failure::Failure;
use crate::format::{self, Output, bytes, count, grouped, line};
use rebloom_core::time::{Duration, Instant};
use rebloom_data::build::{Meta, Progress, Vocabulary, build, build_separate, source_prefix};
use rebloom_data::corpus::Corpus;
use rebloom_data::sources::{Entry, Sources};
use rebloom_runtime::clock::monotonic;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was left out is named up to this many.
const MOST_SKIPPED: usize = 5;

pub(crate) fn run(command: DataCommand, output: Output) -> Result<(), Failure> {
    match command {
        DataCommand::Build(args) => build_command(&args, output),
        DataCommand::Inspect(args) => inspect::run(&args, output),
        DataCommand::Verify { prefix, vocab } => check::run(&prefix, vocab, output),
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
        let documents: Vec<u64> = built.iter().map(|(_, b)| b.meta.documents).collect();
        if let Some(text) = without_text(&corpus.lacking(&documents)) {
            line(&text);
        }
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

/// The block of a run spec that blends datasets: by the weights of the sources file, 1 where a source has
/// none, or by size where it has none at all.
fn blend(corpus: &Corpus, built: &[(&Path, u64)]) -> String {
    let mut text = "data:\n  blend:".to_owned();
    let by_hand = corpus.sources.iter().any(|source| source.weight.is_some());
    for (source, (prefix, tokens)) in corpus.sources.iter().zip(built) {
        let weight = match source.weight {
            Some(weight) => weight.to_string(),
            None if by_hand => "1".to_owned(),
            None => tokens.to_string(),
        };
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

/// Refuses a file where a directory of text is asked for.
pub(crate) fn is_directory(text: &Path) -> Result<(), Failure> {
    if text.is_dir() {
        return Ok(());
    }
    Err(Failure::BadInput(format!(
        "--text {} is no directory; give the one that holds the text files",
        text.display()
    )))
}

/// The corpus of a folder of text: by its own `sources.yaml`, or by what was said of it.
pub(crate) fn corpus_of_text(text: &Path, said: &Permission) -> Result<Corpus, Failure> {
    is_directory(text)?;
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

/// Progress as lines: what begins, and how far it is every few seconds of what takes long.
fn spoken(say: impl Fn(&str)) -> impl FnMut(Progress) {
    let mut spoken = Spoken::default();
    move |progress| {
        spoken
            .take(progress, monotonic())
            .iter()
            .for_each(|text| say(text))
    }
}

/// How long one that waits is content with what was said last.
const CONTENT: Duration = Duration::from_secs(5);

/// What was said of a build so far.
#[derive(Default)]
struct Spoken {
    /// What is being done, when that was last said, and whether with its share.
    now: Option<(String, Instant, bool)>,
}

impl Spoken {
    /// What is to be said now. Bytes that are left out are never done, so that what follows ends it.
    fn take(&mut self, progress: Progress, now: Instant) -> Vec<String> {
        let (what, share) = match progress {
            Progress::Reading { done, all } => {
                (format!("reading {}", bytes(all)), Some((done, all)))
            }
            Progress::Training { bytes: size } => {
                let size = bytes(size);
                (format!("training a tokenizer on {size} of text"), None)
            }
            Progress::Encoding { done, all } => {
                let what = format!("encoding {}", count(all, "document"));
                (what, Some((done, all)))
            }
            Progress::Writing => ("writing".to_owned(), None),
        };
        match &mut self.now {
            Some((known, said, shared)) if *known == what => {
                let Some((done, all)) = share.filter(|_| now.since(*said) >= CONTENT) else {
                    return Vec::new();
                };
                (*said, *shared) = (now, true);
                let percent = done.saturating_mul(100) / all.max(1);
                vec![format!("{what}: {percent} %")]
            }
            before => {
                let ended = before
                    .take_if(|(.., shared)| *shared)
                    .map(|(known, ..)| format!("{known}: 100 %"));
                let begun = (progress != Progress::Writing).then(|| what.clone());
                *before = Some((what, now, false));
                ended.into_iter().chain(begun).collect()
            }
        }
    }
}

/// Names languages that a corpus shall have and has not, if there are any.
fn without_text(lacking: &[(String, String)]) -> Option<String> {
    let names: Vec<&str> = lacking.iter().map(|(_, name)| name.as_str()).collect();
    (!names.is_empty()).then(|| format!("languages without text: {}", names.join(", ")))
}

/// What is in a dataset.
pub(crate) fn said(meta: &Meta) -> Vec<String> {
    let mut lines = vec![format!(
        "{} tokens in {} of {}, vocabulary {}",
        grouped(meta.tokens),
        count(meta.documents, "document"),
        count(meta.sources.len() as u64, "source"),
        grouped(meta.vocabulary.into()),
    )];
    lines.extend(without_text(&meta.lacking));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_takes_weights_from_one_place() {
        let weights = |weights: [Option<f64>; 2]| {
            let sources = weights.map(|weight| rebloom_data::corpus::Source {
                name: "novels".to_owned(),
                language: "fr".to_owned(),
                licence: "CC0-1.0".to_owned(),
                permission: "public domain".to_owned(),
                contact: "us".to_owned(),
                weight,
                files: Vec::new(),
                form: None,
                field: "text".to_owned(),
            });
            let corpus = Corpus {
                sources: sources.into(),
                languages: Vec::new(),
            };
            let (one, other) = (Path::new("/one"), Path::new("/other"));
            let text = blend(&corpus, &[(one, 70), (other, 30)]);
            let weights = text.lines().filter_map(|line| line.split_once("weight: "));
            let weights = weights.map(|(_, weight)| weight.trim_end_matches('}').to_owned());
            weights.collect::<Vec<_>>()
        };
        assert_eq!(weights([None, None]), ["70", "30"]);
        assert_eq!(weights([Some(2.5), None]), ["2.5", "1"]);
    }

    #[test]
    fn what_takes_long_is_told_now_and_then_and_ends_at_100() {
        let mut spoken = Spoken::default();
        let mut said = Vec::new();
        for second in 0..8 {
            let reading = Progress::Reading {
                done: second * 100,
                all: 1024,
            };
            said.extend(spoken.take(reading, Instant::from_nanos(second * 1_000_000_000)));
        }
        let end = Instant::from_nanos(8_000_000_000);
        said.extend(spoken.take(Progress::Training { bytes: 700 }, end));
        said.extend(spoken.take(Progress::Writing, end));
        assert_eq!(
            said,
            [
                "reading 1.0 KiB",
                "reading 1.0 KiB: 48 %",
                "reading 1.0 KiB: 100 %",
                "training a tokenizer on 700 B of text"
            ]
        );
    }
}
