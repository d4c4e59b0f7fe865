//! What the binary does beside training: converting, generating, evaluating, over a checkpoint with a real
//! tokenizer; and tokens that become text.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, train};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::eval::Score;
use rebloom_core::id::{Generation, Step};
use rebloom_core::spec::RunSpec;
use rebloom_data::indexed::{Width, Writer};
use rebloom_data::tokenizer::Tokenizer;
use rebloom_worker::checkpoint;
use rebloom_worker::data::Samples;
use rebloom_worker::hf::{Config, TOKENIZER};
use rebloom_worker::infer::generate::Spelling;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const VOCAB: u32 = 320;
/// `v h + l (12 h^2 + 13 h) + 4 h`
const PARAMETERS: u64 = 320 * 16 + 12 * 16 * 16 + 13 * 16 + 4 * 16;
const TEXT: &str = "All human beings are born free and equal in dignity and rights. \
                    Tous les \u{ea}tres humains naissent libres et \u{e9}gaux en dignit\u{e9} et en droits. \
                    \u{4eba}\u{4eba}\u{751f}\u{800c}\u{81ea}\u{7531} \u{1f54a}";

fn tokenizer() -> Tokenizer {
    Tokenizer::train([TEXT, TEXT].into_iter(), VOCAB).unwrap()
}

/// A folder with a tokenizer, and a checkpoint of a run that has not begun to learn.
struct Place {
    folder: tempfile::TempDir,
    checkpoint: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = json!({
            "name": "tools",
            "model": {"layers": 1, "hidden": 16, "heads": 2, "vocab": VOCAB, "sequence": 32},
            "layout": {"tensor": 1, "pipeline": 1, "data": 1},
            "train": {"steps": 2, "global_batch": 1, "micro_batch": 1},
            "data": {"prefix": "/made/up"},
            "checkpoint": {"directory": folder.path(), "every_steps": 1},
        });
        let spec: RunSpec = serde_json::from_value(spec).unwrap();
        let id = CheckpointId {
            step: Step(0),
            generation: Generation(1),
        };
        let samples = || -> Box<dyn Samples> { Box::new(MadeUp { vocab: VOCAB }) };
        let shards = train(&spec, samples, |rank, mut trainer| {
            trainer.begin();
            checkpoint::save(&trainer, rank, id).unwrap()
        });
        common::seal(&spec, id, 0, shards);
        tokenizer().save(&folder.path().join(TOKENIZER)).unwrap();
        Self {
            checkpoint: checkpoint::directory(&spec, id),
            folder,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tool of this name over the weights `from`; what it printed, line by line.
    fn run(&self, what: &str, from: &Path, arguments: &[&str]) -> Vec<Value> {
        let ended = self.start(what, from, arguments);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{what} {arguments:?}: {said}");
        let lines = str::from_utf8(&ended.stdout).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn start(&self, what: &str, from: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rebloom-worker"));
        command.arg(what).arg("--from").arg(from).args(arguments);
        command.env("RUST_LOG", "error").output().unwrap()
    }

    fn refusal(&self, what: &str, from: &Path, arguments: &[&str]) -> String {
        let ended = self.start(what, from, arguments);
        assert!(!ended.status.success() && ended.stdout.is_empty());
        String::from_utf8(ended.stderr).unwrap()
    }

    /// A model folder made of the checkpoint.
    fn converted(&self) -> (PathBuf, Value) {
        let (to, tokens) = (self.at("folder"), self.at(TOKENIZER));
        let arguments = [
            "--to",
            to.to_str().unwrap(),
            "--file-bytes",
            "10000",
            "--tokenizer",
            tokens.to_str().unwrap(),
        ];
        let said = self.run("convert", &self.checkpoint, &arguments);
        assert_eq!(said.len(), 1);
        (to, said[0].clone())
    }
}

#[test]
fn a_checkpoint_becomes_a_folder_and_what_is_said_of_it_is_so() {
    let place = Place::new();
    let (folder, said) = place.converted();
    assert_eq!(said["of"]["run"], "tools");
    assert_eq!(
        said["of"]["checkpoint"],
        json!({"step": 0, "generation": 1})
    );
    assert_eq!(
        (&said["tokenizer"], &said["path"]),
        (&json!(true), &json!(folder))
    );
    let written = &said["written"];
    assert_eq!(written["parameters"], PARAMETERS);
    assert_eq!(
        (&written["bytes"], &written["kind"]),
        (&json!(4 * PARAMETERS), &json!("float"))
    );
    let files = std::fs::read_dir(&folder).unwrap().filter(|file| {
        let path = file.as_ref().unwrap().path();
        path.extension().is_some_and(|kind| kind == "safetensors")
    });
    assert_eq!(written["files"], files.count());
    let model = serde_json::to_value(Config::read(&folder).unwrap().model()).unwrap();
    assert_eq!(said["model"], model);
    assert_eq!(
        Tokenizer::load(&folder.join(TOKENIZER)).unwrap().sha256(),
        tokenizer().sha256()
    );

    // Once more, in half the size; it takes its tokenizer along.
    let (half, again) = (place.at("half"), place.at("again"));
    let to = |to: &Path, more: &[&str]| {
        let mut arguments = vec!["--to", to.to_str().unwrap(), "--file-bytes", "1000000"];
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |from: &Path, arguments: Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        place.run("convert", from, &arguments).remove(0)
    };
    let said = run(&folder, to(&half, &["--dtype", "bf16"]));
    assert_eq!(said["written"]["bytes"], 2 * PARAMETERS);
    assert_eq!(
        (&said["of"], &said["tokenizer"]),
        (&Value::Null, &json!(true))
    );
    let same = run(&half, to(&again, &[]));
    assert_eq!(same["written"], said["written"]);
    let bytes = [half, again].map(|at| std::fs::read(at.join("model.safetensors")).unwrap());
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn generation_goes_on_after_a_prompt_and_ends_where_it_is_told_to() {
    let place = Place::new();
    let (folder, _) = place.converted();
    let write = |from: &Path, more: &[&str]| {
        let mut arguments = vec!["--prompt", "Tous les", "--tokens", "6", "--top-k", "0"];
        arguments.extend(["--top-p", "1", "--seed", "3", "--json"]);
        arguments.extend(more);
        let mut said = place.run("generate", from, &arguments).pop().unwrap();
        said.as_object_mut().unwrap().remove("seconds").unwrap();
        said
    };
    let greedy = ["--temperature", "0"];
    let said = write(&folder, &greedy);
    assert_eq!(said["prompt"], "Tous les");
    let tokens: Vec<u32> = serde_json::from_value(said["tokens"].clone()).unwrap();
    let ended = if tokens.len() == 6 {
        "length"
    } else {
        "document"
    };
    assert!(tokens.len() <= 6 && said["end"] == ended, "{said}");
    assert_eq!(said["text"], tokenizer().decode(&tokens).unwrap());
    // The end of the document is no token of the prompt.
    let prompt = tokenizer().encode("Tous les").unwrap();
    assert_eq!(said["prompt_tokens"], prompt.len() - 1);
    // A checkpoint has no tokenizer of its own.
    let tokens = place.at(TOKENIZER);
    let tokens = ["--tokenizer", tokens.to_str().unwrap()];
    assert_eq!(write(&place.checkpoint, &[greedy, tokens].concat()), said);
    assert_eq!(
        write(&folder, &["--temperature", "2"]),
        write(&folder, &["--temperature", "2"])
    );
    let arguments = [
        "--prompt",
        "a",
        "--tokens",
        "1",
        "--temperature",
        "0",
        "--top-k",
        "0",
    ];
    let arguments = [&arguments[..], &["--top-p", "1", "--seed", "1"]].concat();
    let refusal = place.refusal("generate", &place.checkpoint, &arguments);
    assert!(refusal.contains("tokenizer.json is missing"), "{refusal}");
}

#[test]
fn evaluation_scores_each_language_and_names_what_it_left_out() {
    let place = Place::new();
    let (folder, _) = place.converted();
    let texts = place.at("texts");
    std::fs::create_dir_all(texts.join("sw")).unwrap();
    for (name, bytes) in [
        ("en.txt", &b"born free and equal in dignity"[..]),
        ("sw/a", b"watu wote"),
        ("sw/b", b"ab\xff"),
    ] {
        std::fs::write(texts.join(name), bytes).unwrap();
    }
    let said = place.run("evaluate", &folder, &["--text", texts.to_str().unwrap()]);
    let left: Vec<_> = said
        .iter()
        .filter(|line| line.get("left_out").is_some())
        .collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["left_out"], json!(texts.join("sw/b")));
    assert_eq!(left[0]["reason"], "is not UTF-8 from byte 2 on");
    let scores: Vec<Score> = said
        .iter()
        .filter_map(|line| serde_json::from_value(line.clone()).ok())
        .collect();
    let sets: Vec<_> = scores.iter().map(|score| score.set.as_str()).collect();
    assert_eq!(sets, ["en", "sw"]);
    let bytes: u64 = scores.iter().filter_map(|score| score.bytes).sum();
    assert_eq!(bytes, 39);
    for score in &scores {
        // It knows nothing yet: every token is about as likely as any other.
        let off = score.loss() - f64::from(VOCAB).ln();
        assert!(off.abs() < 0.5, "{score:?}");
    }

    // The same text as a dataset, and only half of its documents.
    let prefix = place.at("held");
    let mut writer = Writer::create(&prefix, Width::U16).unwrap();
    for text in ["ignored", "born free and equal in dignity"] {
        writer.push(&tokenizer().encode(text).unwrap()).unwrap();
        writer.end_document();
    }
    writer.finish().unwrap();
    let shares = ["--documents", "0.5", "1", "--name", "half"];
    let data = [&["--data", prefix.to_str().unwrap()][..], &shares].concat();
    let said = place.run("evaluate", &folder, &data);
    let half: Score = serde_json::from_value(said[0].clone()).unwrap();
    assert_eq!(
        (half.set.as_str(), half.bytes, said.len()),
        ("half", None, 1)
    );
    assert_eq!((half.tokens, half.documents), (scores[0].tokens, 1));
    assert_eq!(half.nats.to_bits(), scores[0].nats.to_bits());
    let nothing = place.at("nothing");
    std::fs::create_dir(&nothing).unwrap();
    let refusal = place.refusal("evaluate", &folder, &["--text", nothing.to_str().unwrap()]);
    assert!(
        refusal.contains("has no text that can be used"),
        "{refusal}"
    );
}

/// A letter of several bytes comes whole or not at all, and nothing is lost or said twice.
#[test]
fn text_is_spelled_in_whole_letters() {
    // The bytes and the special tokens alone: every letter beyond ASCII is cut.
    let bytes = Tokenizer::train(["a"].into_iter(), rebloom_data::tokenizer::SMALLEST).unwrap();
    for tokenizer in [tokenizer(), bytes] {
        let mut tokens = tokenizer.encode(TEXT).unwrap();
        assert_eq!(tokens.pop(), Some(tokenizer.end_of_document()));
        let mut spelling = Spelling::default();
        let mut text = String::new();
        let mut silent = 0;
        for &token in &tokens {
            let piece = spelling.add(token, &tokenizer);
            assert!(!piece.contains('\u{fffd}'), "{piece:?} is no whole letter");
            silent += usize::from(piece.is_empty());
            text.push_str(&piece);
            assert!(TEXT.starts_with(&text), "{text:?}");
        }
        assert!(silent > 0, "some letter has more than one token");
        assert_eq!(text, TEXT);
        assert_eq!(spelling.end(&tokenizer), "");

        // One that is cut off is said to be at the end.
        let mut spelling = Spelling::default();
        let dove = tokenizer.encode("a\u{1f54a}").unwrap();
        let cut = &dove[..dove.len() - 2];
        let said: String = cut
            .iter()
            .map(|&token| spelling.add(token, &tokenizer))
            .collect();
        assert_eq!(said, "a");
        assert!(spelling.end(&tokenizer).contains('\u{fffd}'));
        assert_eq!(spelling.end(&tokenizer), "");
    }
}
