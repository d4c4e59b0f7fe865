use super::*;
use crate::build::{Vocabulary, build};
use crate::indexed::{Width, Writer, bin_path};
use crate::sources::Sources;
use std::fs;

const LISTED: &str = "\
languages: [en, fr]
sources:
  - {name: a, path: a.jsonl, language: en, licence: MIT, permission: <ours>, contact: me}
  - {name: b, path: b.jsonl, language: en, licence: CC0-1.0, permission: ours, contact: me}
";

/// Source a has a text twice; source b has one of a, and one that is much like one of a.
fn listed() -> (tempfile::TempDir, Corpus) {
    let folder = tempfile::tempdir().unwrap();
    let long = |n: u32| {
        (0..300)
            .map(|k| format!("{} ", (k * (n + 3) * 7919 + n) % 9973))
            .collect::<String>()
    };
    let lines = |texts: &[String]| -> String {
        let line = |text: &String| format!("{}\n", serde_json::json!({"text": text}));
        texts.iter().map(line).collect()
    };
    let a = [long(1), long(2), long(1), "<script>".to_owned()];
    let b = [long(2), format!("{} and more", long(1)), long(3)];
    fs::write(
        folder.path().join("a.jsonl"),
        lines(&a) + "{\"text\": \"torn",
    )
    .unwrap();
    fs::write(folder.path().join("b.jsonl"), lines(&b)).unwrap();
    let listed = Sources::parse(Path::new("s"), LISTED.as_bytes()).unwrap();
    let corpus = listed.corpus(&folder.path().join("s.yaml")).unwrap();
    (folder, corpus)
}

#[test]
fn sizes_duplicates_and_samples_are_told_by_source() {
    let (_folder, listed) = listed();
    let mut heard = 0;
    let report = corpus(&listed, 2, |bytes| heard = bytes);
    let (a, b) = (&report.sources[0], &report.sources[1]);
    assert_eq!(
        (a.all.documents, a.repeated.documents, a.near.documents),
        (4, 1, 0)
    );
    assert_eq!(
        (b.all.documents, b.elsewhere.documents, b.near.documents),
        (3, 1, 1)
    );
    assert_eq!(
        (b.repeated, a.elsewhere),
        (Amount::default(), Amount::default())
    );
    assert_eq!(a.left_out.all(), 1);
    assert_eq!(heard, a.all.bytes + b.all.bytes);
    assert_eq!(a.sizes.iter().sum::<u64>(), 4);
    assert_eq!(a.sizes[3], 1, "eight bytes");
    assert_eq!(a.samples.len(), 2);
    assert_eq!(
        report.compared, 4,
        "exact duplicates and the short text are not compared"
    );
    assert_eq!(report.lacking, [("fr".to_owned(), "French".to_owned())]);
    assert_eq!(report.languages()["en"].documents, 7);
    assert_eq!(report, corpus(&listed, 2, |_| ()));
}

#[test]
fn a_dataset_tells_the_same_as_its_sources() {
    let (folder, listed) = listed();
    let prefix = folder.path().join("data");
    build(&listed, &prefix, &Vocabulary::Train(400), |_| ()).unwrap();
    let built = dataset(&prefix, 2, |_| ()).unwrap();
    let mut expected = corpus(&listed, 2, |_| ());
    for (source, built) in expected.sources.iter_mut().zip(&built.sources) {
        assert!(built.tokens > Some(0));
        source.tokens = built.tokens;
    }
    assert_eq!(built, expected);
    fs::remove_file(folder.path().join("data.json")).unwrap();
    let error = dataset(&prefix, 2, |_| ()).unwrap_err().to_string();
    assert!(error.contains("its sources are not known"), "{error}");
}

/// A fourth document that the page does not know of, and two tokens in the second that no tokenizer writes.
#[test]
fn what_a_dataset_has_beyond_its_page_and_its_words_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("a.txt"),
        "born free\nand equal\nin dignity",
    )
    .unwrap();
    let text = "sources: [{name: a, path: a.txt, language: en, licence: MIT, permission: ours, contact: me, \
                format: lines}]";
    let listed = Sources::parse(Path::new("s"), text.as_bytes()).unwrap();
    let corpus = listed.corpus(&folder.path().join("s.yaml")).unwrap();
    let prefix = folder.path().join("data");
    build(&corpus, &prefix, &Vocabulary::Train(300), |_| ()).unwrap();
    let sound = dataset(&prefix, 9, |_| ()).unwrap();
    assert_eq!(sound.left_aside(), Vec::<String>::new());
    let indexed = Indexed::open(&prefix).unwrap();
    let mut documents: Vec<Vec<i32>> = Vec::new();
    for (document, size) in indexed.sizes().enumerate() {
        let mut tokens = vec![0; size as usize];
        indexed.read(document, 0, &mut tokens);
        documents.push(tokens);
    }
    documents[1].splice(1..1, [-7, 300]);
    documents.push(documents[0].clone());
    write(&prefix, &documents);
    let report = dataset(&prefix, 9, |_| ()).unwrap();
    assert_eq!((report.unlisted, report.outside), (1, 2));
    assert_eq!(report.sources[0].samples, sound.sources[0].samples);
    let told = [
        "1 documents at the end belong to no source of the page and were not inspected",
        "2 tokens have no text:",
        "document 1 of a has 2 tokens without text, the first of them -7",
    ];
    assert_eq!(report.left_aside(), told);
    let page = page("a", &report);
    assert!(told.iter().all(|told| page.contains(told)));
}

/// Replaces the tokens of a dataset, and leaves its page as it was.
fn write(prefix: &Path, documents: &[Vec<i32>]) {
    let mut writer = Writer::create(prefix, Width::I32).unwrap();
    for document in documents {
        writer.push(&vec![0; document.len()]).unwrap();
        writer.end_document();
    }
    writer.finish().unwrap();
    let tokens = documents.iter().flatten();
    let bytes: Vec<u8> = tokens.flat_map(|token| token.to_le_bytes()).collect();
    fs::write(bin_path(prefix), bytes).unwrap();
}

/// Source a has four texts, one of them twice, and one torn: of five, three are its own. Source b has three: one is
/// of a, one is much like one of a.
#[test]
fn bars_are_as_long_as_what_they_stand_for() {
    let (_folder, listed) = listed();
    let page = page("a", &corpus(&listed, 0, |_| ()));
    let charts: Vec<&str> = page.split("<svg").skip(1).collect();
    let bars = |chart: &str| -> Vec<(String, f64)> {
        let attribute = |bar: &str, name: &str| {
            let from = bar.split_once(&format!("{name}=\"")).unwrap().1;
            from.split_once('"').unwrap().0.to_owned()
        };
        let bars = chart.split("<rect ").skip(1);
        bars.map(|bar| {
            (
                attribute(bar, "class"),
                attribute(bar, "width").parse().unwrap(),
            )
        })
        .collect()
    };
    let expected = |shares: [[f64; 4]; 2]| {
        let classes = ["one", "two", "three", "four"].map(str::to_owned);
        let rows = shares.map(|row| {
            classes
                .clone()
                .into_iter()
                .zip(row.map(|share| 540.0 * share))
        });
        rows.into_iter().flatten().collect::<Vec<_>>()
    };
    let rounded = |bars: Vec<(String, f64)>| {
        let bars = bars.into_iter();
        bars.map(|(class, width)| (class, format!("{width:.1}")))
            .collect::<Vec<_>>()
    };
    let third = 1.0 / 3.0;
    assert_eq!(
        rounded(bars(charts[2])),
        rounded(expected([[0.6, 0.0, 0.2, 0.2], [third, third, third, 0.0]]))
    );
    // One document has eight bytes, six have a thousand or two.
    let sizes = bars(charts[1]);
    assert_eq!(sizes.first().unwrap().1, 90.0, "{sizes:?}");
    assert_eq!(sizes.last().unwrap().1, 540.0, "{sizes:?}");
    assert_eq!(bars(charts[0]), [("one".to_owned(), 540.0)]);
}

#[test]
fn the_page_stands_alone_and_escapes_what_is_not_its_own() {
    let (_folder, listed) = listed();
    let page = page("a <title>", &corpus(&listed, 9, |_| ()));
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("a &lt;title&gt;") && page.contains("&lt;script&gt;"));
    assert!(
        !page.contains("<script") && !page.contains("http"),
        "nothing runs, nothing is fetched"
    );
    assert!(page.matches("<svg").count() >= 3);
    for name in ["CC0-1.0", "&lt;ours&gt;", "French", "cut off"] {
        assert!(page.contains(name), "{name}");
    }
}
