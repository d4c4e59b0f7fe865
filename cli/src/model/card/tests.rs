use super::*;
use crate::model::{Of, Written};
use crate::view::sample::{checkpoint, run, run_with_incident};
use rebloom_data::build::Origin;
use rebloom_data::verify::meta_path;
use serde_norway::Value;

/// What the worker says of an export of this checkpoint of [`run`].
fn made(step: Option<u64>) -> Made {
    let view = run(0);
    Made {
        path: "/out".into(),
        model: view.spec.model,
        written: Written {
            files: 1,
            parameters: 330_560,
            bytes: 661_120,
            kind: "bfloat16".to_owned(),
        },
        of: step.map(|step| Of {
            run: view.spec.name.clone(),
            checkpoint: checkpoint(step).0,
            layout: view.spec.layout,
            samples: step * 16,
        }),
        tokenizer: false,
    }
}

/// The rows of a card, and the YAML at its head as a program reads it.
fn read(card: &str) -> (Vec<(String, String)>, Value) {
    let (head, body) = card
        .strip_prefix("---\n")
        .and_then(|card| card.split_once("---\n"))
        .unwrap();
    let rows = body.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
    });
    (rows.collect(), serde_norway::from_str(head).unwrap())
}

fn row<'a>(rows: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = rows.iter().filter(|(field, _)| field == name);
    let (Some((_, value)), None) = (found.next(), found.next()) else {
        panic!("one row is to be {name}: {rows:?}");
    };
    value
}

#[test]
fn a_card_has_the_facts_of_the_ledger_and_the_licence() {
    let mut run = run_with_incident();
    run.step = checkpoint(50).0.step;
    let text = text(&made(Some(50)), Some(&run), "bigscience-bloom-rail-1.0");
    let (rows, head) = read(&text);
    for (name, value) in [
        ("parameters", "330 560"),
        ("weights", "bf16"),
        ("licence", "bigscience-bloom-rail-1.0"),
        ("checkpoint", "step-00000050.g1"),
        ("steps", "50"),
        // 50 steps of 16 samples of 64 tokens.
        ("tokens", "51 200"),
        ("layout", "TP 2 x PP 2 x DP 2"),
        ("data", "unknown"),
        ("batch", "16 samples"),
        // 50 s of 8 devices.
        ("hardware hours", "0.11"),
        ("productive share of the time", "90.0 %"),
        // 400 W for 400 s, at 57 g/kWh.
        ("energy", "0.04 kWh, 0.00 kg CO2e at 57 g/kWh"),
        ("incidents", "1, recovered from 1"),
    ] {
        assert_eq!(row(&rows, name), value, "{name}");
    }
    assert!(
        text.contains("\n1. rank 3 on node-2 ended with SIGKILL (7 steps done again)\n"),
        "{text}"
    );
    assert_eq!(head["license"], "bigscience-bloom-rail-1.0");
    assert_eq!(head["library_name"], "transformers");
    assert!(head.get("language").is_none() && head.get("license_name").is_none());
}

#[test]
fn a_card_of_an_older_checkpoint_says_whose_costs_it_has() {
    let run = run(50);
    let text = text(&made(Some(40)), Some(&run), "mit");
    let (rows, _) = read(&text);
    assert_eq!(row(&rows, "steps"), "40");
    for name in [
        "hardware hours",
        "productive share of the time",
        "energy",
        "incidents",
    ] {
        let name = format!("{name} (of the whole run, to step 50)");
        assert!(!row(&rows, &name).is_empty());
    }
    let (rows, _) = read(&super::text(&made(Some(50)), Some(&run), "mit"));
    assert_eq!(row(&rows, "incidents"), "none");
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let (rows, _) = read(&text(&made(Some(40)), None, "mit"));
    assert!(row(&rows, "hardware hours").starts_with("unknown"));
    assert_eq!(row(&rows, "energy"), "unknown");
    assert_eq!(row(&rows, "incidents"), "unknown");
    let (rows, _) = read(&text(&made(None), None, "mit"));
    assert!(row(&rows, "origin").contains("nothing is known of its training"));
    let mut unmetered = run(40);
    unmetered.tariff.watts = None;
    let (rows, _) = read(&text(&made(Some(40)), Some(&unmetered), "mit"));
    assert!(row(&rows, "energy").starts_with("unknown"));
}

#[test]
fn a_licence_that_hugging_face_does_not_know_is_another_with_its_name() {
    let head = |name: &str| read(&text(&made(None), None, name)).1;
    assert_eq!(head("Apache-2.0")["license"], "apache-2.0");
    assert_eq!(head("CC-BY-SA-4.0")["license"], "cc-by-sa-4.0");
    for name in ["our-terms-1.0", "all: \"rights\" \\ reserved", "Apache"] {
        let head = head(name);
        assert_eq!(head["license"], "other");
        assert_eq!(head["license_name"], name);
    }
    assert!(KNOWN.is_sorted());
}

#[test]
fn languages_are_those_of_the_data_and_no_unknown_one() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("data");
    let source = |language: &str| Origin {
        name: language.to_owned(),
        language: Some(language.to_owned()),
        licence: None,
        permission: None,
        contact: None,
        documents: 1,
        bytes: 10,
        tokens: 5,
        left_out: rebloom_data::corpus::Tally::default(),
    };
    let mut meta = Meta {
        tokens: 20,
        sources: ["sw", "fr", "und", "sw"].map(source).to_vec(),
        ..Meta::default()
    };
    let mut run = run(40);
    run.spec.data.prefix = prefix.display().to_string();
    let card = |meta: &Meta| {
        std::fs::write(meta_path(&prefix), serde_json::to_vec(meta).unwrap()).unwrap();
        read(&text(&made(Some(40)), Some(&run), "mit"))
    };
    let (rows, head) = card(&meta);
    assert_eq!(row(&rows, "data"), "20 tokens of 4 sources");
    let wanted: Value = serde_norway::from_str("[fr, sw]").unwrap();
    assert_eq!(head["language"], wanted);
    meta.sources = vec![source("und")];
    assert!(card(&meta).1.get("language").is_none());
}
