use super::*;
use tempfile::TempDir;

fn source(path: &Path, form: Option<Form>) -> Source {
    Source {
        name: "s".to_owned(),
        language: "en".to_owned(),
        licence: "MIT".to_owned(),
        permission: "ours".to_owned(),
        contact: "me".to_owned(),
        weight: None,
        files: gathered(path, Path::new("")).unwrap(),
        form,
        field: "text".to_owned(),
    }
}

/// Documents, and what was left out as it is shown, by name of the file.
fn read_all(source: &Source) -> (Vec<String>, Vec<String>) {
    let (mut texts, mut skipped) = (Vec::new(), Vec::new());
    for found in source.documents() {
        match found {
            Ok(text) => texts.push(text),
            Err(found) => {
                let shown = found.to_string();
                skipped.push(shown.rsplit('/').next().unwrap().to_owned());
            }
        }
    }
    (texts, skipped)
}

#[test]
fn a_folder_is_read_in_order_and_what_is_left_out_is_named() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("b.txt"), "\u{feff}zwei").unwrap();
    fs::write(at("a.txt"), "eins\n").unwrap();
    fs::write(at("sub/c"), "drei").unwrap();
    fs::write(at("blank"), " \n\t").unwrap();
    fs::write(at("latin1"), b"caf\xe9 noir").unwrap();
    fs::write(at("torn"), b"caf\xc3").unwrap();
    fs::write(at(".hidden"), "not read").unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    let (texts, skipped) = read_all(&source(folder.path(), None));
    assert_eq!(texts, ["eins\n", "zwei", "drei"]);
    assert_eq!(
        skipped,
        [
            "blank is empty",
            "dangling cannot be read: No such file or directory (os error 2)",
            "latin1 is not UTF-8 from byte 3 on",
            "torn is cut off after byte 3",
        ]
    );
}

#[test]
fn lines_of_json_are_named_by_number() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.jsonl");
    let lines = b"{\"text\": \"one\\ntwo\", \"id\": 1}\r\n\n{\"text\": \" \"}\n{\"body\": \"b\"}\n[1]\n{oops}\n\
        {\"text\": \"caf\xe9\"}\n{\"text\": \"three\"}\n{\"text\": \"fo";
    fs::write(&path, lines).unwrap();
    let (texts, skipped) = read_all(&source(&path, None));
    assert_eq!(texts, ["one\ntwo", "three"]);
    assert_eq!(
        skipped,
        [
            "x.jsonl:2 is empty",
            "x.jsonl:3 is empty",
            "x.jsonl:4 has no text in the field `text`",
            "x.jsonl:5 has no text in the field `text`",
            "x.jsonl:6 is not JSON: key must be a string at line 1 column 2",
            "x.jsonl:7 is not UTF-8 from byte 13 on",
            "x.jsonl:9 is cut off after byte 12",
        ]
    );
}

#[test]
fn every_line_is_a_document_where_the_source_says_so() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.txt");
    fs::write(&path, "one\ntwo\r\n\nthree").unwrap();
    let (texts, skipped) = read_all(&source(&path, Some(Form::Lines)));
    assert_eq!(texts, ["one", "two", "three"]);
    assert_eq!(skipped, ["x.txt:3 is empty"]);
    assert_eq!(read_all(&source(&path, None)).0, ["one\ntwo\r\n\nthree"]);
    assert_eq!(source(&path, None).bytes(), 15);
}

#[test]
fn all_that_is_left_out_is_counted() {
    let mut tally = Tally::default();
    for line in 0..1500 {
        tally.add(Skipped {
            source: "s".to_owned(),
            path: PathBuf::from("x"),
            line: Some(line),
            reason: Reason::Empty,
        });
    }
    assert_eq!(
        (tally.all(), tally.counts["empty"], tally.named.len()),
        (1500, 1500, 1000)
    );
}
