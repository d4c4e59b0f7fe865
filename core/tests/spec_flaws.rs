//! What is wrong with a spec is said by field, value and remedy.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use rebloom_core::eval::{Eval, EvalSet};
use rebloom_core::guard::LossGuard;
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use rebloom_core::spec::{
    Checkpoint, Data, DataPart, Deadlines, Model, Numerics, Optimizer, Precision, Recovery,
    RunSpec, Train,
};

fn small() -> RunSpec {
    RunSpec {
        eval: None,
        name: RunId::new("bloom").unwrap(),
        priority: 0,
        model: Model {
            layers: 4,
            hidden: 64,
            heads: 4,
            vocab: 1024,
            sequence: 128,
            residual_after_layernorm: false,
        },
        init: None,
        layout: Layout {
            tensor: 2,
            pipeline: 2,
            data: 2,
        },
        train: Train {
            steps: 100,
            global_batch: 16,
            micro_batch: 2,
            seed: 1,
            optimizer: Optimizer::default(),
            ramp_up: None,
            numerics: Numerics::default(),
        },
        data: Data {
            prefix: "/data/text".to_owned(),
            ..Data::default()
        },
        checkpoint: Checkpoint {
            directory: "/checkpoints".to_owned(),
            every_steps: 10,
            auto: None,
            keep: 3,
            snapshot: None,
        },
        deadlines: Deadlines::default(),
        recovery: Recovery::default(),
        elastic: None,
        guard: LossGuard::default(),
        log_rules: Vec::new(),
    }
}

fn eval(every_steps: u64, documents: [f64; 2]) -> Eval {
    let (name, prefix) = ("fr".to_owned(), "/data/fr".to_owned());
    Eval {
        every_steps,
        samples: 8,
        sets: vec![EvalSet {
            name,
            prefix,
            documents,
        }],
    }
}

#[test]
fn a_set_is_named_once() {
    let mut spec = small();
    let sets = &mut spec.eval.insert(eval(5, [0.0, 1.0])).sets;
    sets.extend_from_within(..);
    let flaws = spec.flaws();
    assert_eq!(flaws.len(), 1);
    assert_eq!(flaws[0].field, "eval.sets[1].name");
}

#[test]
fn a_sound_spec_has_no_flaw() {
    assert_eq!(small().flaws(), []);
    assert_eq!(small().micro_batches(16), 4);
}

#[test]
fn each_flaw_names_the_field_the_value_and_what_would_do() {
    type Spoil = fn(&mut RunSpec);
    let table: [(Spoil, &str, &str, &str); 22] = [
        (
            |s| s.eval = Some(eval(0, [0.0, 1.0])),
            "eval.every_steps",
            "0",
            "1 to",
        ),
        (
            |s| s.eval = Some(eval(5, [0.95, 0.9])),
            "eval.sets[0].documents",
            "[0.95, 0.9]",
            "use such as",
        ),
        (
            |s| s.eval.insert(eval(5, [0.0, 1.0])).sets.clear(),
            "eval.sets",
            "0",
            "name 1 to 256",
        ),
        (
            |s| s.init = Some("model".to_owned()),
            "init",
            "`model`",
            "a path from / on",
        ),
        (
            |s| s.model.heads = 3,
            "model.heads",
            "3",
            "1, 2, 4, 8, 16, 32, 64",
        ),
        (|s| s.layout.tensor = 3, "layout.tensor", "3", "1, 2, 4"),
        (|s| s.model.vocab = 1, "layout.tensor", "2", "use fewer"),
        (
            |s| s.layout.pipeline = 5,
            "layout.pipeline",
            "5",
            "at most 4 stages",
        ),
        (
            |s| s.layout.pipeline = 0,
            "layout.pipeline",
            "0",
            "1 to 1024",
        ),
        (
            |s| s.train.global_batch = 15,
            "train.global_batch",
            "15",
            "use 16",
        ),
        (
            |s| s.train.micro_batch = 0,
            "train.micro_batch",
            "0",
            "1 to 65536",
        ),
        (|s| s.train.steps = 0, "train.steps", "0", "1 to 1000000000"),
        (
            |s| s.checkpoint.every_steps = 0,
            "checkpoint.every_steps",
            "0",
            "1 to",
        ),
        (
            |s| s.checkpoint.keep = 0,
            "checkpoint.keep",
            "0",
            "1 to 10000",
        ),
        (
            |s| s.checkpoint.directory = "here".to_owned(),
            "checkpoint.directory",
            "`here`",
            "/",
        ),
        (
            |s| s.data.prefix = String::new(),
            "data.prefix",
            "``",
            "from / on",
        ),
        (
            |s| s.deadlines.step = -1.0,
            "deadlines.step",
            "-1",
            "0.1 to 86400",
        ),
        (
            |s| s.deadlines.save = f64::NAN,
            "deadlines.save",
            "NaN",
            "0.1 to 86400",
        ),
        (
            |s| s.train.optimizer.clip = 0.0,
            "train.optimizer.clip",
            "0",
            "use",
        ),
        (
            |s| s.train.optimizer.learning_rate = f64::INFINITY,
            "train.optimizer.learning_rate",
            "inf",
            "0 to 10",
        ),
        (
            |s| s.model.layers = u32::MAX,
            "model.layers",
            "4294967295",
            "1 to 1024",
        ),
        (
            |spec| {
                spec.model.sequence = (1 << 16) + 1;
                spec.train.numerics.precision = Precision::Bf16;
            },
            "model.sequence",
            "65537",
            "use at most 65536",
        ),
    ];
    for (spoil, field, value, remedy) in table {
        let mut spec = small();
        spoil(&mut spec);
        let flaws = spec.flaws();
        let flaw = flaws.iter().find(|flaw| flaw.field == field);
        let flaw = flaw.unwrap_or_else(|| panic!("{field}: {flaws:?}"));
        assert_eq!(flaw.value, value, "{flaw}");
        assert!(flaw.remedy.contains(remedy), "{flaw}");
    }
}

#[test]
fn any_tensor_group_takes_any_vocabulary() {
    let mut spec = small();
    spec.model.vocab = 1023;
    assert_eq!(spec.flaws(), []);
}

#[test]
fn only_bf16_bounds_the_positions() {
    let mut spec = small();
    spec.model.sequence = 1 << 16;
    spec.train.numerics.precision = Precision::Bf16;
    assert_eq!(spec.flaws(), []);
    spec.model.sequence = 1 << 20;
    spec.train.numerics.precision = Precision::Fp32;
    assert_eq!(spec.flaws(), []);
}

#[test]
fn sizes_whose_product_overflows_are_refused_and_not_multiplied() {
    let mut spec = small();
    spec.model = Model {
        layers: 1024,
        hidden: 64,
        heads: 64,
        vocab: 1024,
        sequence: 1,
        residual_after_layernorm: false,
    };
    spec.layout = Layout {
        tensor: 64,
        pipeline: 1024,
        data: 4096,
    };
    spec.train.micro_batch = 1 << 16;
    let flaws = spec.flaws();
    assert!(flaws.iter().any(|flaw| flaw.field == "layout"), "{flaws:?}");
}

fn part(prefix: &str, weight: f64, documents: [f64; 2]) -> DataPart {
    DataPart {
        prefix: prefix.to_owned(),
        weight,
        documents,
    }
}

#[test]
fn a_blend_stands_for_the_prefix_and_each_part_is_judged() {
    let mut spec = small();
    spec.data = Data {
        prefix: String::new(),
        blend: vec![part("/a", 2.0, [0.0, 1.0]), part("/b", 0.5, [0.0, 0.95])],
    };
    assert_eq!(spec.flaws(), []);
    spec.data.prefix = "/data/text".to_owned();
    spec.data.blend.push(part("c", 0.0, [0.5, 0.5]));
    let fields: Vec<String> = spec.flaws().into_iter().map(|flaw| flaw.field).collect();
    let below = |name: &str| format!("data.blend[2].{name}");
    let expected = [
        "data.prefix".to_owned(),
        below("prefix"),
        below("weight"),
        below("documents"),
    ];
    assert_eq!(fields, expected);
    spec.data = Data {
        prefix: String::new(),
        blend: vec![part("/a", 1.0, [0.0, 1.0]); 255],
    };
    assert_eq!(spec.flaws()[0].field, "data.blend");
}

#[test]
fn a_spec_without_a_blend_is_written_as_it_always_was() {
    let text = serde_json::to_string(&small().data).unwrap();
    assert_eq!(text, r#"{"prefix":"/data/text"}"#);
    let read: Data = serde_json::from_str(r#"{"blend":[{"prefix":"/a","weight":1.5}]}"#).unwrap();
    assert_eq!(read.blend, [part("/a", 1.5, [0.0, 1.0])]);
}
