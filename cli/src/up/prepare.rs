//! What has to be there before anything starts: certificates, data, the run spec. Each is made once.

use super::home::Home;
use crate::args;
use crate::data;
use crate::failure::Failure;
use crate::format::line;
use crate::tls;
use rebloom_core::id::NodeId;
use rebloom_data::corpus::{Corpus, udhr};
use rebloom_data::indexed::{bin_path, idx_path};
use rebloom_data::sources::Sources;
use rebloom_format::spec_file::SpecFile;
use rebloom_runtime::files;
use std::fs;
use std::path::{Path, PathBuf};

/// Tokens of the tokenizer and rows of the embedding.
const VOCAB: u32 = 4096;
const STEPS: u64 = 400;

/// Makes what is missing; the spec is checked against its data.
pub(super) fn all(home: &Home, args: &args::Up) -> Result<SpecFile, Failure> {
    if !home.path("tls").join("admin-local.pem").exists() {
        let admin = NodeId::new("local").expect("it is a name");
        tls::make(&home.path("tls"), &Home::nodes(), &[admin])?;
    }
    let path = home.spec();
    if path.exists() {
        matches_wish(home, args)?;
    } else {
        let prefix = dataset(home, args)?;
        files::write(
            &path,
            spec(home, &prefix, args.steps.unwrap_or(STEPS)).as_bytes(),
        )?;
        line(&format!("wrote {}; edit it as you like", path.display()));
    }
    let file = SpecFile::read(&path)?;
    let spec = file.spec()?;
    rebuild(home, args, Path::new(&spec.data.prefix))?;
    let flaws = data::flaws(&spec, true);
    if flaws.is_empty() {
        Ok(file)
    } else {
        Err(file.refuse(&flaws).into())
    }
}

/// Refuses wishes that an earlier `up` has decided otherwise.
fn matches_wish(home: &Home, args: &args::Up) -> Result<(), Failure> {
    let path = home.spec();
    let spec = SpecFile::read(&path)?.spec()?;
    let refuse = |what: String| {
        let path = path.display();
        Err(Failure::BadInput(format!(
            "{what}; edit {path}, or begin anew with --fresh"
        )))
    };
    if let Some(steps) = args.steps
        && steps != spec.train.steps
    {
        return refuse(format!(
            "--steps {steps}: the run has {} steps already",
            spec.train.steps
        ));
    }
    if let Some(text) = &args.text
        && text_prefix(home, text)? != Path::new(&spec.data.prefix)
    {
        let wish = text.display();
        return refuse(format!(
            "--text {wish}: the run trains on {} already",
            spec.data.prefix
        ));
    }
    Ok(())
}

/// Builds the dataset that a new run trains on.
fn dataset(home: &Home, args: &args::Up) -> Result<PathBuf, Failure> {
    let (corpus, prefix) = match &args.text {
        Some(text) => (
            data::corpus_of_text(text, &args.said)?,
            text_prefix(home, text)?,
        ),
        None => {
            line("data: the Universal Declaration of Human Rights, in the languages of ROOTS");
            (roots(home)?, home.path("data").join("roots"))
        }
    };
    let meta = data::make(&corpus, &prefix, VOCAB, |text| {
        line(&format!("data: {text}"))
    })?;
    data::said(&meta)
        .iter()
        .for_each(|text| line(&format!("data: {text}")));
    Ok(prefix)
}

/// The built-in corpus, with the sources file that lists it.
fn roots(home: &Home) -> Result<Corpus, Failure> {
    let bad = |error| Failure::BadInput(rebloom_runtime::telemetry::chain(&error));
    let sources = udhr::sources(&corpus_folder(home)?).map_err(bad)?;
    let path = home.path("data").join("roots.sources.yaml");
    files::create_directory(&home.path("data"))?;
    let head = "# What `rebloom up` trains on; docs/data.md explains the fields.\n";
    files::write(&path, format!("{head}{}", sources.to_yaml()).as_bytes())?;
    line(&format!(
        "data: its sources are listed in {}",
        path.display()
    ));
    Sources::open(&path).map_err(bad)
}

/// Builds a dataset of ours again if its files are gone. One that is there stays as it is, even if
/// the text has changed: a run that goes on must find what it began with.
fn rebuild(home: &Home, args: &args::Up, prefix: &Path) -> Result<(), Failure> {
    let there = idx_path(prefix).exists() && bin_path(prefix).exists();
    let ours = match args.text.as_deref() {
        Some(text) => text_prefix(home, text)?,
        None => home.path("data").join("roots"),
    };
    if !there && prefix == ours {
        dataset(home, args)?;
    }
    Ok(())
}

/// A dataset of the user's text is named by where the text is.
fn text_prefix(home: &Home, text: &Path) -> Result<PathBuf, Failure> {
    let path = fs::canonicalize(text)
        .map_err(|error| Failure::BadInput(format!("--text {}: {error}", text.display())))?;
    data::is_directory(&path)?;
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    let name: String = path.to_string_lossy().chars().map(plain).collect();
    let tail = name.len().saturating_sub(120);
    Ok(home.path("data").join(format!("text{}", &name[tail..])))
}

/// Where set-up put the corpus.
fn corpus_folder(home: &Home) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::of(&error))?;
    let above = home.state().ancestors().chain(here.ancestors());
    let mut candidates = above.map(|above| above.join(".rebloom/corpus/udhr"));
    candidates.find(|folder| folder.is_dir()).ok_or_else(|| {
        Failure::Failed(
            "the corpus is not there (.rebloom/corpus/udhr); `cargo xtask setup` fetches it, \
             or train on text of your own with --text DIR --permission WHOSE"
                .to_owned(),
        )
    })
}

fn spec(home: &Home, prefix: &Path, steps: u64) -> String {
    let (prefix, checkpoints) = (quoted(prefix), quoted(&home.path("checkpoints")));
    format!(
        "\
# The run that `rebloom up` trains. Edit it as you like before the first start, or begin anew with
# `rebloom up --fresh` (which writes it anew as well). docs/run-spec.md explains every field.
name: bloom-small
model:
  layers: 4
  hidden: 64
  heads: 4
  vocab: {VOCAB}            # at least the tokenizer's
  sequence: 64
layout:                  # 2 x 2 x 2 ranks: four nodes with two slots each; the fifth is spare
  tensor: 2
  pipeline: 2
  data: 2
train:
  steps: {steps}
  global_batch: 16
  micro_batch: 2
  seed: 42
  optimizer:
    learning_rate: 0.004
    min_learning_rate: 0.0004
    warmup_samples: 320
data:
  prefix: {prefix}
checkpoint:
  directory: {checkpoints}
  every_steps: 20
  keep: 3
deadlines:               # seconds; short, so that a hang shows soon
  init: 60
  load: 60
  step: 15
  save: 60
  exit: 30
"
    )
}

/// A path as a YAML string.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(state: &Path, text: Option<&Path>) -> args::Up {
        let (state, text) = (Some(state.to_owned()), text.map(Path::to_owned));
        let said = args::Permission {
            permission: Some("ours".to_owned()),
            ..args::Permission::default()
        };
        args::Up {
            text,
            said,
            steps: None,
            state,
            keep: false,
            fresh: false,
            plain: true,
        }
    }

    /// The whole preparation, with odd letters in the path.
    #[test]
    fn what_is_made_once_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("it's text");
        fs::create_dir(&text).unwrap();
        fs::write(
            text.join("a"),
            "born free and equal in dignity and rights ".repeat(200),
        )
        .unwrap();
        let args = args(&folder.path().join("state: one"), Some(&text));
        let home = Home::open(&args).unwrap();
        let first = all(&home, &args).unwrap().spec().unwrap();
        assert_eq!(first.layout.world(), 8);
        let written = fs::read(home.spec()).unwrap();
        assert_eq!(all(&home, &args).unwrap().spec().unwrap(), first);
        assert_eq!(fs::read(home.spec()).unwrap(), written);
        // The dataset comes back if it is lost.
        fs::remove_file(bin_path(Path::new(&first.data.prefix))).unwrap();
        all(&home, &args).unwrap();
        assert!(bin_path(Path::new(&first.data.prefix)).exists());
        // A file is no directory of text.
        let file = args::Up {
            text: Some(text.join("a")),
            ..args.clone()
        };
        let refused = dataset(&home, &file).unwrap_err();
        assert!(refused.to_string().contains("is no directory"), "{refused}");
        // Other wishes are refused and nothing is changed.
        let steps = args::Up {
            steps: Some(7),
            ..args.clone()
        };
        assert!(matches!(all(&home, &steps), Err(Failure::BadInput(_))));
        let other = args::Up {
            text: Some(folder.path().to_owned()),
            ..args
        };
        assert!(matches!(all(&home, &other), Err(Failure::BadInput(_))));
        assert_eq!(fs::read(home.spec()).unwrap(), written);
    }
}
