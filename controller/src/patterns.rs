//! Patterns of log rules: whether agents will be able to match them. Core knows no regular expressions.

use rebloom_core::spec::{Flaw, RunSpec};
use regex::bytes::RegexBuilder;

/// Bytes that a compiled pattern may take; agents allow as much.
const MOST: usize = 1 << 20;

/// Every pattern of the spec that cannot be matched.
pub(crate) fn flaws(spec: &RunSpec) -> Vec<Flaw> {
    let patterns = spec.log_rules.iter().enumerate().flat_map(|(at, rule)| {
        let stop = rule
            .stop_pattern
            .as_ref()
            .map(|pattern| ("stop_pattern", pattern));
        let both = [("pattern", &rule.pattern)].into_iter().chain(stop);
        both.map(move |(name, pattern)| (format!("log_rules.{at}.{name}"), pattern))
    });
    let refused = patterns.filter_map(|(field, pattern)| {
        let mut builder = RegexBuilder::new(pattern);
        let error = builder
            .size_limit(MOST)
            .dfa_size_limit(MOST)
            .build()
            .err()?;
        Some(Flaw {
            field,
            value: format!("`{pattern}`"),
            problem: format!("cannot be matched: {error}"),
            remedy: "use a regular expression as the Rust crate `regex` reads it".to_owned(),
        })
    });
    refused.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_cannot_be_matched_is_named() {
        let text = r#"{"name": "r",
            "model": {"layers": 1, "hidden": 8, "heads": 1, "vocab": 8, "sequence": 8},
            "layout": {"tensor": 1, "pipeline": 1, "data": 1},
            "train": {"steps": 1, "global_batch": 1, "micro_batch": 1},
            "data": {"prefix": "/d"},
            "checkpoint": {"directory": "/c", "every_steps": 1},
            "log_rules": [
                {"name": "a", "pattern": "fine", "expected_start": 1},
                {"name": "b", "pattern": "x", "stop_pattern": "(", "expected_start": 1},
                {"name": "c", "pattern": "(?:x{1000}){1000}", "fault_on_match": true}]}"#;
        let spec: RunSpec = serde_json::from_str(text).unwrap();
        let fields: Vec<_> = flaws(&spec).into_iter().map(|flaw| flaw.field).collect();
        assert_eq!(fields, ["log_rules.1.stop_pattern", "log_rules.2.pattern"]);
    }
}
