use super::*;
use crate::sources::{Entry, Sources};
use crate::tokenizer::END_OF_DOCUMENT;
use crate::verify::{Unfit, Wanted, examine, verify};
use tempfile::TempDir;

const WANTED: Wanted = Wanted {
    vocabulary: 320,
    sequence: 16,
    samples: 100,
};

const TEXTS: [(&str, &[&str]); 2] = [
    ("one", &["the quick brown fox ", "jumps over the lazy dog "]),
    ("two", &["the five boxing wizards jump quickly "]),
];

/// Two sources, and a file that cannot be used.
fn corpus(folder: &Path) -> Corpus {
    let mut listed = Sources {
        languages: vec!["en".to_owned(), "as".to_owned()],
        sources: Vec::new(),
    };
    for (name, texts) in TEXTS {
        fs::create_dir_all(folder.join(name)).unwrap();
        for (at, text) in texts.iter().enumerate() {
            fs::write(folder.join(format!("{name}/{at}.txt")), text.repeat(5)).unwrap();
        }
        let said = |said: &str| Some(said.to_owned());
        listed.sources.push(Entry {
            name: name.to_owned(),
            path: name.into(),
            language: said("en"),
            licence: said("MIT"),
            permission: said("ours"),
            contact: said("me@example.org"),
            ..Entry::default()
        });
    }
    fs::write(folder.join("two/blank.txt"), " ").unwrap();
    listed.corpus(&folder.join("sources.yaml")).unwrap()
}

fn built() -> (TempDir, PathBuf, Meta) {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("data");
    let built = build(&corpus(folder.path()), &prefix, &SIZE, |_| {}).unwrap();
    assert!(built.fresh);
    (folder, prefix, built.meta)
}

const SIZE: Vocabulary = Vocabulary::Train(300);

#[test]
fn a_dataset_decodes_to_its_text() {
    let (_folder, prefix, meta) = built();
    let indexed = Indexed::open(&prefix).unwrap();
    let tokenizer = Tokenizer::load(&tokenizer_path(&prefix)).unwrap();
    let texts: Vec<String> = TEXTS
        .iter()
        .flat_map(|(_, texts)| texts.iter().map(|text| text.repeat(5)))
        .collect();
    assert_eq!(indexed.sequences(), texts.len());
    for (at, text) in texts.iter().enumerate() {
        let mut tokens = vec![0; indexed.size(at) as usize];
        indexed.read(at, 0, &mut tokens);
        let tokens: Vec<u32> = tokens
            .into_iter()
            .map(|token| u32::try_from(token).unwrap())
            .collect();
        assert_eq!(tokens.last(), Some(&END_OF_DOCUMENT));
        assert_eq!(tokenizer.decode(&tokens).unwrap(), *text);
    }
    assert_eq!((meta.documents, meta.tokens), (3, indexed.tokens()));
    let tokens: u64 = meta.sources.iter().map(|source| source.tokens).sum();
    assert_eq!(tokens, meta.tokens);
    assert_eq!(meta.sources[1].bytes, texts[2].len() as u64);
    assert_eq!(meta.sources[1].permission.as_deref(), Some("ours"));
    assert_eq!(meta.lacking, [("as".to_owned(), "Assamese".to_owned())]);
    assert_eq!(meta.left_out(), 1);
    assert_eq!(meta.sources[1].left_out.counts["empty"], 1);
    assert!(
        meta.sources[1].left_out.named[0]
            .path
            .ends_with("two/blank.txt")
    );
    assert_eq!(Meta::read(&prefix).unwrap(), Some(meta));
}

#[test]
fn the_same_inputs_are_not_built_twice_and_others_are() {
    let (folder, prefix, meta) = built();
    let corpus = corpus(folder.path());
    let fresh = |size: u32| {
        build(&corpus, &prefix, &Vocabulary::Train(size), |_| {})
            .unwrap()
            .fresh
    };
    let again = build(&corpus, &prefix, &SIZE, |step| {
        assert!(matches!(step, Progress::Reading { .. }), "{step:?}");
    });
    assert_eq!(again.unwrap(), Built { meta, fresh: false });
    assert!(fresh(299));
    fs::write(folder.path().join("one/0.txt"), "another text").unwrap();
    assert!(fresh(299));
    assert!(fresh(300));
    for path in [
        bin_path(&prefix),
        tokenizer_path(&prefix),
        meta_path(&prefix),
    ] {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(fresh(300), "{}", path.display());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn progress_goes_from_reading_to_writing() {
    let folder = TempDir::new().unwrap();
    let mut steps = Vec::new();
    let corpus = corpus(folder.path());
    build(&corpus, &folder.path().join("x"), &SIZE, |step| {
        steps.push(step)
    })
    .unwrap();
    assert!(matches!(steps[2], Progress::Reading { done, all } if done + 1 == all));
    assert!(matches!(steps[3], Progress::Training { bytes } if bytes > 300));
    assert_eq!(steps[4], Progress::Encoding { done: 1, all: 3 });
    assert_eq!(steps[6], Progress::Encoding { done: 3, all: 3 });
    assert_eq!(steps[7..], [Progress::Writing]);
}

#[test]
fn parts_of_a_blend_share_the_tokenizer_of_the_whole() {
    let (folder, prefix, whole) = built();
    let corpus = corpus(folder.path());
    let parts = build_separate(&corpus, &folder.path().join("mix"), &SIZE, |_| {}).unwrap();
    let names: Vec<_> = parts
        .iter()
        .map(|(prefix, _)| prefix.file_name().unwrap())
        .collect();
    assert_eq!(names, ["mix-one", "mix-two"]);
    let metas: Vec<&Meta> = parts.iter().map(|(_, built)| &built.meta).collect();
    assert!(
        metas
            .iter()
            .all(|meta| meta.tokenizer_sha256 == whole.tokenizer_sha256)
    );
    assert_eq!(
        metas.iter().map(|meta| meta.tokens).sum::<u64>(),
        whole.tokens
    );
    // A tokenizer that is given is used as it is, and encodes the same.
    let given = Vocabulary::Given(tokenizer_path(&prefix));
    let again = build(&corpus, &folder.path().join("again"), &given, |_| {}).unwrap();
    assert_eq!(again.meta.bin_sha256, whole.bin_sha256);
}

#[test]
fn a_corpus_without_text_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut corpus = corpus(folder.path());
    corpus.sources.remove(0);
    fs::write(folder.path().join("two/0.txt"), "").unwrap();
    let error = build(&corpus, &folder.path().join("x"), &SIZE, |_| {}).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("none of its 2 files can be used; "),
        "{error}"
    );
    assert!(error.ends_with("two/0.txt is empty"), "{error}");
}

/// What examining says, without the folder.
fn damage(prefix: &Path) -> Vec<String> {
    damage_below(prefix, None)
}

fn damage_below(prefix: &Path, vocabulary: Option<u32>) -> Vec<String> {
    let found = examine(prefix, vocabulary, |_, _| ()).damage;
    let folder = format!("{}/", prefix.parent().unwrap().display());
    found
        .iter()
        .map(|d| d.to_string().replace(&folder, ""))
        .collect()
}

#[test]
fn every_damage_is_found_and_named() {
    let (_folder, prefix, meta) = built();
    let mut heard = (0, 0);
    let whole = examine(&prefix, None, |done, all| heard = (done, all));
    assert_eq!(
        (whole.damage, whole.documents, whole.page),
        (Vec::new(), 3, Some(meta))
    );
    assert!(
        whole
            .largest
            .is_some_and(|largest| (256..300).contains(&largest))
    );
    assert!(heard.0 == heard.1 && heard.0 > 100);
    let (bin, idx) = (bin_path(&prefix), idx_path(&prefix));
    let (tokens, index) = (fs::read(&bin).unwrap(), fs::read(&idx).unwrap());
    let mut flipped = tokens.clone();
    flipped[1] = 0xff;
    fs::write(&bin, &flipped).unwrap();
    let found = damage(&prefix);
    assert!(found[0].starts_with("data.bin: sha256 is "), "{found:?}");
    assert!(
        found[1].starts_with("data.bin: tokens are outside the vocabulary of 300 in 1 places"),
        "{found:?}"
    );
    fs::write(&bin, &tokens[..tokens.len() - 2]).unwrap();
    let found = damage(&prefix);
    assert!(
        found[1].starts_with("data.idx: pointers[2] is "),
        "{found:?}"
    );
    fs::write(&bin, [tokens.as_slice(), &[0; 6]].concat()).unwrap();
    assert!(damage(&prefix)[1].ends_with("has 6 bytes that belong to no document"));
    fs::write(&bin, &tokens).unwrap();
    fs::write(&idx, &index[..50]).unwrap();
    assert!(
        damage(&prefix)[1].starts_with("data.idx: length is 50"),
        "{:?}",
        damage(&prefix)
    );
    fs::write(&idx, &index).unwrap();
    fs::write(tokenizer_path(&prefix), "{}").unwrap();
    assert!(
        damage(&prefix)[0].starts_with("data.tokenizer.json: content is"),
        "{:?}",
        damage(&prefix)
    );
    fs::remove_file(tokenizer_path(&prefix)).unwrap();
    assert!(damage(&prefix)[0].starts_with("data.tokenizer.json: file cannot be read"));
    fs::write(meta_path(&prefix), "{").unwrap();
    assert!(damage(&prefix)[0].starts_with("data.json: content is"));
    fs::write(meta_path(&prefix), r#"{"vocabulary": "many"}"#).unwrap();
    let found = damage(&prefix);
    assert!(
        found[0].starts_with("data.json: vocabulary is `invalid type"),
        "{found:?}"
    );
}

#[test]
fn a_page_that_tells_of_another_dataset_is_damage() {
    let (_folder, prefix, meta) = built();
    let other = Meta {
        documents: 4,
        ..meta.clone()
    };
    other.write(&prefix).unwrap();
    let tokens = meta.tokens;
    assert_eq!(
        damage(&prefix),
        [format!(
            "data.json: tokens is {tokens} tokens in 4 documents, but the index has {tokens} in 3"
        )]
    );
    meta.write(&prefix).unwrap();
    let other = Tokenizer::train(["another text ".repeat(9)].into_iter(), 280).unwrap();
    other.save(&tokenizer_path(&prefix)).unwrap();
    let (found, was) = (other.sha256(), meta.tokenizer_sha256);
    assert_eq!(
        damage(&prefix),
        [format!(
            "data.tokenizer.json: sha256 is {found}, and was {was} when the dataset was built"
        )]
    );
}

/// As Megatron leaves one: nothing lies beside its two files.
#[test]
fn every_token_of_a_dataset_without_a_page_is_read() {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("data");
    let mut writer = Writer::create(&prefix, Width::I32).unwrap();
    for document in [&[5, 9, 7][..], &[2], &[40, 8, 39]] {
        writer.push(document).unwrap();
        writer.end_document();
    }
    writer.finish().unwrap();
    let mut heard = (0, 0);
    let whole = examine(&prefix, None, |done, all| heard = (done, all));
    assert_eq!(
        (whole.documents, whole.tokens, whole.largest),
        (3, 7, Some(40))
    );
    assert_eq!((whole.page, whole.damage, heard), (None, vec![], (28, 28)));
    assert!(damage_below(&prefix, Some(41)).is_empty());
    let outside = "data.bin: tokens are outside the vocabulary of 39 in 2 places of documents 2; \
                   the first is token 40 at 0 of document 2";
    assert_eq!(damage_below(&prefix, Some(39)), [outside]);
    let mut tokens = fs::read(bin_path(&prefix)).unwrap();
    for at in [1, 3, 6] {
        tokens[4 * at..4 * at + 4].copy_from_slice(&(-3_i32).to_le_bytes());
    }
    fs::write(bin_path(&prefix), tokens).unwrap();
    let negative = "data.bin: tokens are negative in 3 places of documents 0, 1, 2; \
                    the first is token -3 at 1 of document 0";
    assert_eq!(damage(&prefix), [negative]);
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
    let (other_folder, other, _) = built();
    let mut shorter = corpus(other_folder.path());
    shorter.sources.pop();
    build(&shorter, &other, &SIZE, |_| {}).unwrap();
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
