use super::*;
use crate::args::Permission;
use crate::data::{corpus_of_text, make};
use rebloom_core::eval::Eval;
use std::fs;

/// A spec whose dataset is made of this text.
fn spec(folder: &Path, vocab: u32) -> RunSpec {
    let prefix = folder.join("data");
    let text = format!(
        "name: r\nmodel: {{layers: 1, hidden: 8, heads: 2, vocab: {vocab}, sequence: 8}}\n\
         layout: {{tensor: 1, pipeline: 1, data: 1}}\n\
         train: {{steps: 2, global_batch: 2, micro_batch: 1}}\n\
         data: {{prefix: {}}}\ncheckpoint: {{directory: /c, every_steps: 1}}\n",
        prefix.display()
    );
    serde_norway::from_str(&text).unwrap()
}

fn built(folder: &Path) {
    fs::create_dir(folder.join("text")).unwrap();
    fs::write(
        folder.join("text/a.txt"),
        "all human beings are born free ".repeat(20),
    )
    .unwrap();
    let said = Permission {
        permission: Some("ours".to_owned()),
        ..Permission::default()
    };
    let corpus = corpus_of_text(&folder.join("text"), &said).unwrap();
    make(&corpus, &folder.join("data"), 300, |_| ()).unwrap();
}

#[test]
fn a_dataset_that_fits_has_no_flaws() {
    let folder = tempfile::tempdir().unwrap();
    built(folder.path());
    assert_eq!(flaws(&spec(folder.path(), 300), true), []);
    assert!(run(&folder.path().join("data"), None, Output::Table).is_ok());
}

#[test]
fn a_set_that_cannot_be_scored_is_named() {
    let folder = tempfile::tempdir().unwrap();
    built(folder.path());
    let mut run = spec(folder.path(), 300);
    let set = |name: &str, documents| EvalSet {
        name: name.to_owned(),
        prefix: folder.path().join(name).display().to_string(),
        documents,
    };
    let eval = Eval {
        every_steps: 1,
        samples: 4,
        sets: vec![
            set("data", [0.0, 1.0]),
            set("data", [0.1, 0.2]),
            set("no", [0.0, 1.0]),
        ],
    };
    run.eval = Some(eval);
    let found = flaws(&run, true);
    let fields: Vec<_> = found.iter().map(|flaw| flaw.field.as_str()).collect();
    assert_eq!(fields, ["eval.sets[1].prefix", "eval.sets[2].prefix"]);
    assert!(found[0].problem.contains("too few to predict"), "{found:?}");
    assert_eq!(flaws(&run, false).len(), 1, "the nodes may see the other");
}

#[test]
fn weights_of_another_shape_are_named_before_a_rank_loads_them() {
    let folder = tempfile::tempdir().unwrap();
    built(folder.path());
    let mut run = spec(folder.path(), 300);
    run.init = Some(folder.path().join("model").display().to_string());
    let found = flaws(&run, true);
    assert_eq!(
        (found[0].field.as_str(), found[0].problem.as_str()),
        ("init", "does not exist")
    );
    assert_eq!(flaws(&run, false), []);
    let config = |layers: u32| {
        let text = format!(
            r#"{{"model_type": "bloom", "hidden_size": 8, "n_layer": {layers}, "n_head": 2, "vocab_size": 300}}"#
        );
        fs::create_dir_all(folder.path().join("model")).unwrap();
        fs::write(folder.path().join("model/config.json"), text).unwrap();
    };
    config(3);
    assert_eq!(flaws(&run, false)[0].problem, "is a model with layers 3");
    config(1);
    assert_eq!(flaws(&run, true), []);
}

#[test]
fn a_vocabulary_that_is_too_small_is_the_models_fault() {
    let folder = tempfile::tempdir().unwrap();
    built(folder.path());
    let flaws = flaws(&spec(folder.path(), 100), true);
    assert_eq!(flaws[0].field, "model.vocab");
}

#[test]
fn a_dataset_that_is_cut_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    built(folder.path());
    let bin = folder.path().join("data.bin");
    let file = fs::OpenOptions::new().write(true).open(&bin).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    assert_eq!(
        flaws(&spec(folder.path(), 300), false)[0].field,
        "data.prefix"
    );
    assert_eq!(
        run(&folder.path().join("data"), None, Output::Table)
            .unwrap_err()
            .code(),
        1
    );
}

#[test]
fn a_missing_dataset_is_refused_where_the_nodes_are_here() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path(), 300);
    assert_eq!(flaws(&spec, true)[0].field, "data.prefix");
    assert_eq!(flaws(&spec, false), []);
    assert_eq!(
        run(&folder.path().join("data"), None, Output::Table)
            .unwrap_err()
            .code(),
        3
    );
}
