//! The house rules that no compiler checks.
//!
//! Every file is compiled and short; every crate takes the workspace's lints; nothing unfinished
//! stays behind; every cause that a user can meet is explained, and every invariant is in the map
//! and in the simulator.

use crate::checkout::Checkout;
use crate::source::{Source, code, files, has_word};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

/// Lines that one file may have. The list of exceptions is empty and stays so: find the seam.
const LINES: usize = 500;

/// Ids of the invariants.
const INVARIANTS: [&str; 16] = [
    "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "L1", "L2", "L3", "L4",
    "T1",
];

/// Checks the rules; prints every breach.
pub(crate) fn run(checkout: &Checkout) -> Result<ExitCode> {
    let root = &checkout.root;
    let metadata = checkout.metadata()?;
    let sources = files(root, &["rs", "cpp", "hpp", "h"])?;
    let mut broken = short(&sources);
    broken.extend(finished(&sources));
    let roots = [roots(&metadata, root), targets(&sources)].concat();
    broken.extend(reachable(&sources, &roots));
    broken.extend(linted(&metadata)?);
    broken.extend(explained(
        &read(root, "core/src/cause.rs")?,
        &read(root, "docs/operating.md")?,
    ));
    let simulator: String = sources
        .iter()
        .filter(|source| source.path.starts_with("sim"))
        .map(|source| source.text.as_str())
        .collect();
    broken.extend(cited("ARCHITECTURE.md", &read(root, "ARCHITECTURE.md")?));
    broken.extend(cited("sim/", &simulator));
    for line in &broken {
        eprintln!("tidy: {line}");
    }
    if broken.is_empty() {
        println!("tidy: {} files keep the house rules", sources.len());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// A page of the checkout; one that is not there has nothing in it, and each rule says what it lacks.
fn read(root: &Path, name: &str) -> Result<String> {
    match fs::read_to_string(root.join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| format!("cannot read {name}")),
    }
}

fn short(sources: &[Source]) -> Vec<String> {
    let long = sources
        .iter()
        .map(|source| (source, source.text.lines().count()));
    long.filter(|(_, lines)| *lines > LINES)
        .map(|(source, lines)| {
            format!(
                "{} has {lines} lines; {LINES} at most",
                source.path.display()
            )
        })
        .collect()
}

/// Marks of unfinished work, spelled so that this file does not match itself.
const UNFINISHED: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];
const LEFT_BEHIND: [&str; 3] = ["dbg!", "todo!", "unimplemented!"];

fn finished(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let code = code(&source.text);
        let marks = UNFINISHED
            .iter()
            .filter(|mark| has_word(&source.text, mark));
        for mark in marks.chain(LEFT_BEHIND.iter().filter(|mark| code.contains(**mark))) {
            broken.push(format!("{} has {mark}", source.path.display()));
        }
    }
    broken
}

/// The files that cargo compiles by itself: libraries, binaries, tests, benches, build scripts.
fn roots(metadata: &Value, root: &Path) -> Vec<PathBuf> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter_map(|target| {
            Path::new(target["src_path"].as_str()?)
                .strip_prefix(root)
                .ok()
        })
        .map(Path::to_owned)
        .collect()
}

/// Where compilation begins in the workspace of the fuzz targets, which is one of its own.
fn targets(sources: &[Source]) -> Vec<PathBuf> {
    let targets = sources
        .iter()
        .filter(|source| source.path.starts_with("fuzz/fuzz_targets"));
    targets.map(|source| source.path.clone()).collect()
}

/// A path without `..` in it.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// Files that no `mod` leads to: they look like code and are not.
fn reachable(sources: &[Source], roots: &[PathBuf]) -> Vec<String> {
    let mut reached: BTreeSet<PathBuf> = BTreeSet::new();
    let mut open: Vec<(PathBuf, PathBuf)> = roots
        .iter()
        .map(|file| (file.clone(), parent(file)))
        .collect();
    while let Some((file, folder)) = open.pop() {
        let Some(source) = sources.iter().find(|source| source.path == file) else {
            continue;
        };
        if !reached.insert(file) {
            continue;
        }
        for module in modules(source) {
            let at = match module.path {
                Some(path) => plain(&parent(&source.path).join(path)),
                None => folder.join(format!("{}.rs", module.name)),
            };
            let inside = folder.join(&module.name);
            open.push((inside.join("mod.rs"), inside.clone()));
            open.push((at, inside));
        }
    }
    let rust = sources
        .iter()
        .filter(|source| source.path.extension().is_some_and(|e| e == "rs"));
    rust.filter(|source| !reached.contains(&source.path))
        .map(|source| format!("{} is in no module tree", source.path.display()))
        .collect()
}

fn parent(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// A module that a file declares and keeps in a file of its own.
struct Module {
    name: String,
    /// What `#[path]` on the line before says.
    path: Option<String>,
}

fn modules(source: &Source) -> Vec<Module> {
    let code = code(&source.text);
    let mut modules = Vec::new();
    let mut before = "";
    for (line, raw) in code.lines().zip(source.text.lines()) {
        if let Some(name) = declared(line) {
            let path = before.trim().strip_prefix("#[path = \"");
            let path = path.and_then(|path| path.strip_suffix("\"]"));
            modules.push(Module {
                name: name.to_owned(),
                path: path.map(str::to_owned),
            });
        }
        before = raw;
    }
    modules
}

/// The name in `mod name;`, whatever its visibility and attributes.
fn declared(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("mod ")?;
    let before = before.trim();
    let name = after.trim().strip_suffix(';')?.trim();
    (before.is_empty() || before.starts_with("pub") || before.ends_with(']')).then_some(name)
}

/// Crates that do not take the workspace's lints.
fn linted(metadata: &Value) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let text =
            fs::read_to_string(manifest).with_context(|| format!("cannot read {manifest}"))?;
        if !takes_lints(&text) {
            broken.push(format!(
                "{manifest} lacks `[lints]` with `workspace = true`"
            ));
        }
    }
    Ok(broken)
}

fn takes_lints(manifest: &str) -> bool {
    let Some((_, section)) = manifest.split_once("\n[lints]\n") else {
        return false;
    };
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .any(|line| line.trim() == "workspace = true")
}

/// Causes that no heading of the operators' page explains.
fn explained(causes: &str, page: &str) -> Vec<String> {
    let labels = labels(causes);
    if labels.is_empty() {
        return vec!["core/src/cause.rs: found no labels in `fn label`".to_owned()];
    }
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
    let missing = labels
        .into_iter()
        .filter(|label| !headings.iter().any(|line| has_word(line, label)));
    missing
        .map(|label| format!("docs/operating.md has no heading for the cause {label}"))
        .collect()
}

/// The strings that `Cause::label` returns.
fn labels(causes: &str) -> Vec<&str> {
    let Some((_, function)) = causes.split_once("fn label(") else {
        return Vec::new();
    };
    let body = function.split("\n    }\n").next().unwrap_or_default();
    let arms = body.lines().filter_map(|line| line.split_once("=> \""));
    arms.filter_map(|(_, right)| right.split('"').next())
        .collect()
}

/// Invariants that a place does not mention; those that are not in force it must not.
fn cited(place: &str, text: &str) -> Vec<String> {
    let missing = INVARIANTS.iter().filter(|id| !has_word(text, id));
    missing
        .map(|id| format!("{place} does not mention the invariant {id}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_file_that_no_module_leads_to_is_named() {
        let sources = [
            source(
                "a/src/lib.rs",
                "pub mod one;\n#[cfg(test)] mod tests;\n// mod three;\nmod inline {}",
            ),
            source("a/src/one.rs", "pub(crate) mod two;"),
            source("a/src/one/two.rs", ""),
            source("a/src/tests.rs", ""),
            source("a/src/three.rs", ""),
            source(
                "a/tests/t.rs",
                "#[path = \"common/shared.rs\"]\nmod common;",
            ),
            source("a/tests/common/shared.rs", ""),
            source(
                "a/tests/u/main.rs",
                "#[path = \"../common/other.rs\"]\nmod common;",
            ),
            source("a/tests/common/other.rs", ""),
        ];
        assert_eq!(
            reachable(
                &sources,
                &["a/src/lib.rs", "a/tests/t.rs", "a/tests/u/main.rs"].map(PathBuf::from)
            ),
            ["a/src/three.rs is in no module tree"]
        );
    }

    #[test]
    fn a_long_file_is_named() {
        let found = short(&[
            source("a.rs", &"\n".repeat(501)),
            source("b.rs", &"\n".repeat(500)),
        ]);
        assert_eq!(found, ["a.rs has 501 lines; 500 at most"]);
    }

    #[test]
    fn unfinished_work_is_named_and_a_sentence_is_not() {
        let mark = UNFINISHED[0];
        let found = finished(&[
            source("a.rs", &format!("// {mark} later")),
            source("b.rs", "fn f() { todo!() }"),
            source("c.rs", "// no todo! here"),
        ]);
        assert_eq!(
            found,
            [format!("a.rs has {mark}"), "b.rs has todo!".to_owned()]
        );
    }

    #[test]
    fn lints_are_taken_in_their_own_section() {
        assert!(takes_lints("[package]\n\n[lints]\nworkspace = true\n"));
        assert!(!takes_lints(
            "[package]\n\n[lints]\n\n[dependencies]\nworkspace = true\n"
        ));
        assert!(!takes_lints("[package]\nname = \"a\"\n"));
    }

    #[test]
    fn a_cause_without_a_heading_is_named() {
        let causes = "pub const fn label(&self) -> &'static str {\n match self {\n Self::A => \"Alpha\",\n Self::B { .. } => \"Beta\",\n        }\n    }\n other => \"Gamma\"";
        assert_eq!(labels(causes), ["Alpha", "Beta"]);
        assert_eq!(
            explained(
                causes,
                "# Causes\n### `Alpha`\nBeta is mentioned\n## Betamax\n"
            ),
            ["docs/operating.md has no heading for the cause Beta"]
        );
        assert_eq!(explained("", "").len(), 1);
    }

    #[test]
    fn an_invariant_that_nobody_cites_is_named() {
        let all = INVARIANTS.join(" ");
        assert_eq!(cited("p", &all), [""; 0]);
        assert_eq!(
            cited("p", &all.replace("S1 ", "")),
            ["p does not mention the invariant S1"]
        );
    }
}
