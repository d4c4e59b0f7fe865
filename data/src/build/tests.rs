use super::*;
use crate::corpus::{LANGUAGES, Source};
use crate::indexed::{bin_path, idx_path};
use crate::tokenizer::END_OF_DOCUMENT;
use crate::verify::{Unfit, Wanted, verify};
use tempfile::TempDir;

const WANTED: Wanted = Wanted {
    vocabulary: 320,
    sequence: 16,
    samples: 100,
};

fn corpus() -> Corpus {
    let source = |name: &str, documents: &[&str]| Source {
        name: name.to_owned(),
        language: Some("en".to_owned()),
        licence: Some("MIT".to_owned()),
        documents: documents.iter().map(|text| text.repeat(5)).collect(),
    };
    Corpus {
        sources: vec![
            source("one", &["the quick brown fox ", "jumps over the lazy dog "]),
            source("two", &["the five boxing wizards jump quickly "]),
        ],
        lacking: vec![&LANGUAGES[2]],
        skipped: Vec::new(),
    }
}

fn built() -> (TempDir, PathBuf, Meta) {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("data");
    let built = build(&corpus(), &prefix, 300, |_| {}).unwrap();
    assert!(built.fresh);
    (folder, prefix, built.meta)
}

#[test]
fn a_dataset_decodes_to_its_text() {
    let (_folder, prefix, meta) = built();
    let indexed = Indexed::open(&prefix).unwrap();
    let tokenizer = Tokenizer::load(&tokenizer_path(&prefix)).unwrap();
    let corpus = corpus();
    let documents: Vec<&String> = corpus
        .sources
        .iter()
        .flat_map(|source| &source.documents)
        .collect();
    assert_eq!(indexed.sequences(), documents.len());
    for (at, document) in documents.into_iter().enumerate() {
        let mut tokens = vec![0; indexed.size(at) as usize];
        indexed.read(at, 0, &mut tokens);
        let tokens: Vec<u32> = tokens
            .into_iter()
            .map(|token| u32::try_from(token).unwrap())
            .collect();
        assert_eq!(tokens.last(), Some(&END_OF_DOCUMENT));
        assert_eq!(tokenizer.decode(&tokens).unwrap(), *document);
    }
    assert_eq!((meta.documents, meta.tokens), (3, indexed.tokens()));
    assert_eq!(
        meta.sources.iter().map(|source| source.tokens).sum::<u64>(),
        meta.tokens
    );
    assert_eq!(
        meta.sources[1].bytes,
        corpus.sources[1].documents[0].len() as u64
    );
    assert_eq!(meta.lacking, [("as".to_owned(), "Assamese".to_owned())]);
    assert_eq!(Meta::read(&prefix).unwrap(), Some(meta));
}

#[test]
fn the_same_inputs_are_not_built_twice_and_others_are() {
    let (_folder, prefix, meta) = built();
    let again = build(&corpus(), &prefix, 300, |step| panic!("{step:?}")).unwrap();
    assert_eq!(again, Built { meta, fresh: false });
    assert!(build(&corpus(), &prefix, 299, |_| {}).unwrap().fresh);
    let mut other = corpus();
    other.sources[0].documents[0].push('!');
    assert!(build(&other, &prefix, 299, |_| {}).unwrap().fresh);
    assert!(build(&corpus(), &prefix, 300, |_| {}).unwrap().fresh);
    for path in [
        bin_path(&prefix),
        tokenizer_path(&prefix),
        meta_path(&prefix),
    ] {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(
            build(&corpus(), &prefix, 300, |_| {}).unwrap().fresh,
            "{}",
            path.display()
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn progress_goes_from_training_to_writing() {
    let folder = TempDir::new().unwrap();
    let mut steps = Vec::new();
    build(&corpus(), &folder.path().join("x"), 300, |step| {
        steps.push(step)
    })
    .unwrap();
    assert!(matches!(steps[0], Progress::Training { bytes } if bytes > 300));
    assert_eq!(steps[1], Progress::Encoding { done: 1, all: 3 });
    assert_eq!(steps[3], Progress::Encoding { done: 3, all: 3 });
    assert_eq!(steps[4..], [Progress::Writing]);
}

fn refused(prefix: &Path, wanted: Wanted) -> Unfit {
    verify(prefix, wanted).unwrap_err()
}

#[test]
fn a_dataset_that_fits_passes_with_and_without_its_page() {
    let (_folder, prefix, meta) = built();
    assert_eq!(verify(&prefix, WANTED).unwrap(), Some(meta));
    fs::remove_file(meta_path(&prefix)).unwrap();
    assert_eq!(verify(&prefix, WANTED).unwrap(), None);
}

#[test]
fn a_missing_or_damaged_dataset_is_refused() {
    let (_folder, prefix, _) = built();
    let gone = refused(&prefix.with_file_name("gone"), WANTED);
    assert_eq!(gone.field, "data.prefix");
    assert!(gone.problem.ends_with("gone.idx is missing"), "{gone}");
    let bin = fs::read(bin_path(&prefix)).unwrap();
    fs::write(bin_path(&prefix), &bin[..bin.len() - 2]).unwrap();
    assert!(
        refused(&prefix, WANTED).problem.starts_with("is damaged: "),
        "{}",
        refused(&prefix, WANTED)
    );
    let mut flipped = bin;
    flipped[1] = 0xff;
    fs::write(bin_path(&prefix), flipped).unwrap();
    let unfit = refused(&prefix, WANTED);
    assert!(
        unfit
            .problem
            .starts_with("is damaged: document 0 has token 65"),
        "{unfit}"
    );
    fs::remove_file(bin_path(&prefix)).unwrap();
    assert!(
        refused(&prefix, WANTED)
            .problem
            .ends_with("data.bin is missing")
    );
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (_folder, prefix, _) = built();
    let (_other_folder, other, _) = built();
    let mut shorter = corpus();
    shorter.sources.pop();
    build(&shorter, &other, 300, |_| {}).unwrap();
    fs::copy(meta_path(&other), meta_path(&prefix)).unwrap();
    assert!(refused(&prefix, WANTED).problem.contains("its .json says"));
    fs::write(meta_path(&prefix), "{}").unwrap();
    assert!(
        refused(&prefix, WANTED)
            .problem
            .contains("not a page of a dataset")
    );
}

#[test]
fn a_vocabulary_that_does_not_match_names_what_would() {
    let (_folder, prefix, meta) = built();
    let small = Wanted {
        vocabulary: 260,
        ..WANTED
    };
    let unfit = refused(&prefix, small);
    assert_eq!((unfit.field, unfit.value.as_str()), ("model.vocab", "260"));
    assert_eq!(unfit.remedy, format!("use at least {}", meta.vocabulary));
    fs::remove_file(meta_path(&prefix)).unwrap();
    let unfit = refused(&prefix, small);
    assert_eq!(unfit.field, "model.vocab");
    assert!(
        unfit
            .problem
            .starts_with("is too small: document 0 has token"),
        "{unfit}"
    );
    assert!(idx_path(&prefix).exists());
}

#[test]
fn a_run_beyond_all_measure_is_refused() {
    let (_folder, prefix, _) = built();
    let unfit = refused(
        &prefix,
        Wanted {
            samples: u64::MAX,
            ..WANTED
        },
    );
    assert!(
        unfit.problem.starts_with("cannot serve the run: "),
        "{unfit}"
    );
}
