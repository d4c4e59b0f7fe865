use super::*;
use tempfile::TempDir;

const FILE: &str = "\
languages: [en, fr, sw]
sources:
  - name: novels
    path: novels
    language: en
    licence: CC0-1.0
    permission: public domain, list of authors in novels/rights.md
    contact: library@example.org
  - name: letters
    path: letters.jsonl
    language: fr
    licence: CC-BY-4.0
    permission: written consent of 2024-03-01
    contact: archive@example.org
    field: body
    weight: 0.5
";

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("novels")).unwrap();
    fs::write(at("novels/b.txt"), "two").unwrap();
    fs::write(at("novels/a.txt"), "one").unwrap();
    fs::write(at("novels/.hidden"), "not read").unwrap();
    fs::write(at("letters.jsonl"), "{\"body\": \"three\"}\n").unwrap();
    folder
}

fn opened(folder: &TempDir, text: &str) -> Result<Corpus> {
    let path = folder.path().join("sources.yaml");
    fs::write(&path, text).unwrap();
    Sources::open(&path)
}

fn problems(text: &str) -> Vec<String> {
    let error = opened(&folder(), text).unwrap_err();
    let Error::Sources { problems, .. } = error else {
        panic!("{error}");
    };
    problems
}

#[test]
fn sources_are_found_from_the_folder_of_their_file() {
    let folder = folder();
    let corpus = opened(&folder, FILE).unwrap();
    assert_eq!(corpus.languages, ["en", "fr", "sw"]);
    let found: Vec<_> = corpus
        .sources
        .iter()
        .map(|s| (s.name.as_str(), s.language.as_str(), s.files.len()))
        .collect();
    assert_eq!(found, [("novels", "en", 2), ("letters", "fr", 1)]);
    assert!(corpus.sources[0].files[0].ends_with("novels/a.txt"));
    let texts: Vec<String> = corpus.sources[1].documents().map(|d| d.unwrap()).collect();
    assert_eq!(texts, ["three"]);
    assert_eq!(corpus.sources[1].weight, Some(0.5));
    let written = Sources::parse(Path::new("x"), FILE.as_bytes()).unwrap();
    assert_eq!(
        Sources::parse(Path::new("x"), written.to_yaml().as_bytes()).unwrap(),
        written
    );
}

#[test]
fn the_sources_file_is_no_text_of_its_own_folder() {
    let folder = folder();
    let text = "sources: [{name: all, path: ., language: mul, licence: MIT, permission: ours, contact: me}]";
    let corpus = opened(&folder, text).unwrap();
    assert!(
        corpus.sources[0]
            .files
            .iter()
            .all(|file| !file.ends_with("sources.yaml"))
    );
    assert_eq!(corpus.sources[0].files.len(), 3);
}

#[test]
fn a_source_without_permission_is_refused_by_name() {
    for (from, to) in [
        ("    permission: written consent of 2024-03-01\n", ""),
        (
            "permission: written consent of 2024-03-01",
            "permission: ' '",
        ),
        (
            "permission: written consent of 2024-03-01",
            "permission: Unknown",
        ),
    ] {
        let problems = problems(&FILE.replace(from, to));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("source 2 (`letters`) has no permission"),
            "{problems:?}"
        );
        assert!(problems[0].contains("write who permitted"), "{problems:?}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "sources:\n  - {name: a/b, path: gone}\n  - {name: x, path: novels, language: en, licence: MIT, \
        permission: ours, contact: me, weight: -1, field: f, format: text}\n  - {name: x, path: '', language: en, \
        licence: MIT, permission: ours, contact: me}\n";
    let problems = problems(text).join("\n");
    for part in [
        "source 1 (`a/b`) cannot be called `a/b`",
        "source 1 (`a/b`) has no language",
        "source 1 (`a/b`) has no licence",
        "source 1 (`a/b`) has no permission",
        "source 1 (`a/b`) has no contact",
        "gone: No such file",
        "source 2 (`x`) has the weight -1",
        "source 2 (`x`) has a field",
        "source 3 (`x`) has the name of another one",
        "source 3 (`x`) has no path",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    assert!(self::problems("sources: []")[0].starts_with("there are no sources"));
}

#[test]
fn what_is_no_sources_file_is_refused_with_its_place() {
    let refused = |text: &str| opened(&folder(), text).unwrap_err().to_string();
    assert!(
        refused("sources: [{nome: x}]").contains("unknown field `nome`"),
        "{}",
        refused("sources: [{nome: x}]")
    );
    assert!(refused("hello").contains("sources.yaml: content is"));
    let folder = folder();
    fs::write(folder.path().join("s"), b"sources: \xff").unwrap();
    let error = Sources::open(&folder.path().join("s"))
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("content is byte 9, not UTF-8"), "{error}");
    assert!(Sources::open(&folder.path().join("gone")).is_err());
}

#[test]
fn the_example_of_the_manual_is_right() {
    let manual = include_str!("../../../docs/data.md");
    let example = manual.split("```yaml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let listed = Sources::parse(Path::new("x"), example.as_bytes()).unwrap();
    assert_eq!((listed.sources.len(), listed.flaws()), (2, Vec::new()));
    assert_eq!(listed.sources[1].format, Some(Form::Jsonl));
}
