//! docs/health.md says what the tables in the code say, line by line.

use rebloom_core::health::rule::{Builtin, RULES};
use rebloom_core::health::xid::catalogue;
use rebloom_core::health::{Action, Verdict};
use std::collections::BTreeSet;

const DOCS: &str = include_str!("../../../docs/health.md");

/// The rows of the table under a heading, without its head.
fn rows(heading: &str) -> BTreeSet<&'static str> {
    let part = DOCS
        .split_once(&format!("\n## {heading}\n"))
        .expect(heading)
        .1;
    let part = part.split("\n## ").next().unwrap_or_default();
    part.lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect()
}

fn same(heading: &str, code: impl Iterator<Item = String>) {
    let code: BTreeSet<String> = code.collect();
    let docs: BTreeSet<String> = rows(heading).into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = code.difference(&docs).collect();
    let surplus: Vec<_> = docs.difference(&code).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "docs/health.md, {heading}: lacks {missing:#?}, has {surplus:#?}"
    );
}

#[test]
fn verdicts() {
    let row = |verdict: Verdict| format!("| `{}` | {} |", verdict.name(), verdict.meaning());
    same("Verdicts", Verdict::ALL.into_iter().map(row));
}

#[test]
fn actions() {
    let row = |action: Action| format!("| `{}` | {} |", action.name(), action.meaning());
    same("Actions", Action::ALL.into_iter().map(row));
}

#[test]
fn rules() {
    let row = |rule: &rebloom_core::health::rule::Rule| {
        let (name, sees, source) = (rule.name, rule.sees, rule.source);
        let (verdict, mode) = (rule.verdict.name(), rule.mode.name());
        format!("| `{name}` | {sees} | {verdict} | {mode} | {source} |")
    };
    same("Rules", RULES.iter().map(row));
}

#[test]
fn xids() {
    let row = |entry: &rebloom_core::health::xid::Entry| {
        let (code, meaning) = (entry.code, entry.meaning);
        format!(
            "| {code} | {meaning} | {} | {} | `{}` |",
            entry.source,
            entry.bucket.name(),
            entry.action.name()
        )
    };
    same("XIDs", catalogue().entries.iter().map(row));
}

#[test]
fn what_each_rule_asks_for() {
    let mut left: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    for row in rows("What each rule asks for") {
        let mut cells = row.trim_matches('|').split(" | ");
        let (rules, action) = (cells.next().unwrap(), cells.next().unwrap());
        let words = |cell: &'static str| cell.split('`').skip(1).step_by(2);
        let said: BTreeSet<&str> = words(action).collect();
        for rule in words(rules) {
            assert!(left.remove(rule), "`{rule}` is no rule, or there twice");
            let asks = Builtin::from_name(rule).unwrap().rule().actions;
            let asks: BTreeSet<&str> = asks.iter().map(|action| action.name()).collect();
            assert_eq!(said, asks, "{row}");
        }
    }
    assert!(
        left.is_empty(),
        "docs/health.md lacks the actions of {left:?}"
    );
}
