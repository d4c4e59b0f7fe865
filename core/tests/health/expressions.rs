//! Expressions of admins: what they see, what is refused, and that nothing breaks the reader.

use super::{facts, on, xid};
use proptest::prelude::*;
use rebloom_core::health::edited::{BadRule, EditedRule, OwnRule};
use rebloom_core::health::expression::{
    BadExpression, Expression, NodeFields, Scene, SignalFields,
};
use rebloom_core::health::signal::{Headroom, Sign, Signal};
use rebloom_core::health::{Action, Mode, Verdict};

fn fires(when: &str, signal: &Signal) -> bool {
    let facts = facts("n1");
    let expression = Expression::new(when).unwrap_or_else(|error| panic!("{when}: {error}"));
    let scene = Scene {
        signal: SignalFields::of(signal),
        node: NodeFields::of(&facts),
    };
    expression.fires(&scene).unwrap()
}

#[test]
fn a_field_that_is_named_is_that_of_the_map() {
    let facts = facts("n1");
    let signal = SignalFields {
        kind: "storage",
        device: 1,
        code: 2,
        value: 3.5,
        total: 4.5,
        share: 0.5,
        detail: "inodes",
        cleared: true,
    };
    let node = NodeFields {
        name: "n1",
        host: "n1.cluster",
        slots: 5,
        gpus: &facts.gpus,
        cores: 6,
        memory: 7.5,
        verdict: "suspect",
        cordoned: true,
        withdrawals: 8,
        again: 9,
    };
    let scene = Scene { signal, node };
    let json = serde_json::json!({ "signal": signal, "node": node });
    let mut fields = 0;
    for (of, values) in json.as_object().unwrap() {
        for field in values.as_object().unwrap().keys() {
            let when = format!(
                "{of}.{field} == {of}['{field}'] && has({of}.{field}) && type({of}.{field}) == type({of}['{field}'])"
            );
            let expression = Expression::new(&when).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(expression.fires(&scene), Ok(true), "{when}");
            fields += 1;
        }
    }
    assert_eq!(fields, 18);
}

#[test]
fn what_an_expression_sees() {
    let seen = xid(3, 79, "GPU has fallen off the bus");
    let cases = [
        ("signal.kind == 'xid' && signal.code == 79", true),
        ("signal.kind == 'xid' && signal.code in [13, 31]", false),
        ("signal.device == 3 && node.name.startsWith('n')", true),
        ("signal.detail.contains('fallen off')", true),
        ("node.slots == 8 && node.host.endsWith('.cluster')", true),
        ("node.gpus[0].contains('A100')", true),
        ("size(node.gpus) > 8", false),
        (
            "node.verdict == 'healthy' && !node.cordoned && node.again == 1",
            true,
        ),
        ("signal.cleared ? false : true", true),
    ];
    for (when, expected) in cases {
        // `node.gpus[0]` fails on a node without GPUs, and says so when it is set.
        if when.contains("[0]") {
            assert!(matches!(
                Expression::new(when),
                Err(BadExpression::Fails(..))
            ));
        } else {
            assert_eq!(fires(when, &seen), expected, "{when}");
        }
    }
    let storage = Sign::Storage {
        of: Headroom::Inodes,
        left: 5,
        total: 100,
    };
    let storage = Signal::raised(None, storage);
    assert!(fires(
        "signal.kind == 'storage' && signal.detail == 'inodes' && signal.share < 0.1",
        &storage
    ));
    assert!(fires("signal.device == -1", &storage));
    let skew = Signal::raised(
        None,
        Sign::ClockSkew {
            nanos: -2_500_000_000,
        },
    );
    assert!(fires("signal.value < -2.0 && signal.value > -3.0", &skew));
    let replays = on(0, Sign::PcieReplays { per_minute: 100 });
    assert!(fires(
        "signal.kind == 'pcie_replays' && signal.value > 50.0",
        &replays
    ));
}

#[test]
fn what_is_refused() {
    let deep = format!("{}true{}", "(".repeat(9), ")".repeat(9));
    let long = format!("signal.kind == '{}'", "x".repeat(600));
    let nots = format!("{}true", "!".repeat(200));
    let refused = |text: &str| Expression::new(text).map(|_| ()).unwrap_err();
    assert_eq!(refused(&deep), BadExpression::Complex);
    assert_eq!(refused(&nots), BadExpression::Complex);
    assert!(matches!(refused(&long), BadExpression::Long(_)));
    assert!(matches!(
        refused("signal.kind =="),
        BadExpression::Syntax(_)
    ));
    assert!(matches!(refused(""), BadExpression::Syntax(_)));
    assert!(matches!(
        refused("signal.device"),
        BadExpression::NotBool(_)
    ));
    assert!(matches!(
        refused("signal.colour == 'red'"),
        BadExpression::Fails(..)
    ));
    assert!(matches!(
        refused("weather == 'fine'"),
        BadExpression::Fails(..)
    ));
    assert!(matches!(
        refused("1 / signal.code == 1"),
        BadExpression::Fails(..)
    ));
    for looping in [
        "node.gpus.exists(gpu, gpu == 'x')",
        "[1, 2, 3].all(n, n > 0)",
        "size([1, 2].map(n, n * 2)) == 2",
        "true || [[1].filter(n, n > 0)] == []",
    ] {
        assert_eq!(refused(looping), BadExpression::Loop, "{looping}");
    }
}

#[test]
fn what_is_just_accepted() {
    let accepted = |text: &str| Expression::new(text).map(|_| ());
    let comment = |bytes: usize| format!("true //{}", "x".repeat(bytes - 7));
    assert_eq!(accepted(&comment(512)), Ok(()));
    assert_eq!(accepted(&comment(513)), Err(BadExpression::Long(513)));
    let deep = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(accepted(&deep(8)), Ok(()));
    assert_eq!(accepted(&deep(9)), Err(BadExpression::Complex));
    let row = ["(true)"; 20].join(" && ");
    assert_eq!(accepted(&row), Ok(()), "brackets that are closed again");
    let choices = |many: usize| format!("{}true", "true ? true : ".repeat(many));
    assert_eq!(accepted(&choices(4)), Ok(()));
    assert_eq!(accepted(&choices(5)), Err(BadExpression::Complex));
    let ands = |many: usize| format!("true{}", "&&true".repeat(many));
    assert_eq!(accepted(&ands(48)), Ok(()));
    assert_eq!(accepted(&ands(49)), Err(BadExpression::Complex));
}

#[test]
fn what_is_a_share_of_nothing_is_whole() {
    assert!(fires(
        "signal.share == 1.0 && signal.total == 0.0",
        &xid(3, 79, "")
    ));
}

#[test]
fn the_deepest_that_is_accepted_fits_a_small_stack() {
    let deep = format!("{}true{}", "(".repeat(8), ")".repeat(8));
    let nots = format!("{}true", "!(".repeat(8)) + &")".repeat(8);
    let chain = ["true"; 5].join(" ? true : ");
    let dots = format!("{}.x == 1 || true", vec!["a"; 40].join("."));
    let worst = format!("{}true{}", "(true ? (".repeat(4), ") : true)".repeat(4));
    for text in [deep, nots, chain, dots, worst] {
        // Whether it is taken is not the question: that it comes back is.
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let read = small.spawn(move || drop(Expression::new(&text))).unwrap();
        read.join().unwrap();
    }
}

#[test]
fn rules_have_names_and_the_built_in_ones_keep_theirs() {
    let rule = |name: &str, when: Option<&str>| EditedRule {
        name: name.to_owned(),
        mode: Mode::Shadow,
        own: when.map(|when| OwnRule {
            when: when.to_owned(),
            verdict: Verdict::Suspect,
            action: Action::None,
        }),
    };
    assert!(
        rule("hot-node_1", Some("signal.kind == 'throttled'"))
            .check()
            .unwrap()
            .is_some()
    );
    assert!(rule("xid_fatal", None).check().unwrap().is_none());
    assert!(matches!(
        rule("xid_fatal", Some("true")).check(),
        Err(BadRule::BuiltIn(_))
    ));
    assert!(matches!(
        rule("mine", None).check(),
        Err(BadRule::Unknown(_))
    ));
    let longest = "x".repeat(63);
    assert!(rule(&longest, Some("true")).check().is_ok());
    for name in ["", "Mine", "a b", "a\n", &"x".repeat(64)] {
        assert!(
            matches!(rule(name, Some("true")).check(), Err(BadRule::Name(_))),
            "{name:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in ".{0,120}") {
        drop(Expression::new(&text));
    }

    #[test]
    fn no_text_that_looks_like_a_rule_breaks_the_reader(
        text in "((signal|node)\\.(kind|code|device|gpus|name)|[0-9]{1,20}|'[a-z\\\\]{0,3}'?|==|&&|\\|\\||!|-|\\(|\\)|\\[|\\]|\\{|\\}|\\?|:|,|in| |\\.){0,24}"
    ) {
        if let Ok(expression) = Expression::new(&text) {
            let (signal, facts) = (xid(1, 31, "x"), facts("n1"));
            let (signal, node) = (SignalFields::of(&signal), NodeFields::of(&facts));
            drop(expression.fires(&Scene { signal, node }));
        }
    }

    /// What is known of the kind alone comes out as if all of it were worked out, as it is under a `?`.
    #[test]
    fn a_kind_that_is_demanded_changes_nothing(
        parts in prop::collection::vec(
            "!?\\((signal\\.kind (==|!=) '(xid|storage)'|'(xid|storage)' == signal\\.kind|signal\\.code == 79|node\\.name == 'xid'|true|false)\\)",
            1..6,
        ),
        joins in prop::collection::vec("&&|&&|\\|\\|", 5),
    ) {
        let mut text = parts[0].clone();
        for (join, part) in joins.iter().zip(&parts[1..]) {
            text = format!("{text} {join} {part}");
        }
        let whole = format!("({text}) ? true : false");
        for code in [31, 79] {
            let seen = xid(1, code, "x");
            prop_assert_eq!(fires(&text, &seen), fires(&whole, &seen), "{}", text);
        }
    }
}
