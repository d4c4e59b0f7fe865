//! A run spec in a YAML file: read, judged, and every objection tied to its line.

use rebloom_core::spec::{Flaw, RunSpec, largest};
use std::path::{Path, PathBuf};

/// The largest file that is taken for a spec.
const MOST_BYTES: u64 = 1 << 20;

/// Why a file is no spec that can run, in lines for whoever wrote it; each names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSpec(String);

/// A file and the text in it.
#[derive(Debug)]
pub struct SpecFile {
    path: PathBuf,
    text: String,
}

fn unread(path: &Path, problem: &str) -> BadSpec {
    let path = path.display();
    BadSpec(format!("cannot read the run spec {path}: {problem}"))
}

impl SpecFile {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, BadSpec> {
        let refuse = |problem: String| unread(path, &problem);
        let facts = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
        if !facts.is_file() {
            return Err(refuse("it is not a file".to_owned()));
        }
        if facts.len() > MOST_BYTES {
            return Err(refuse(format!(
                "{} bytes are too many for a spec",
                facts.len()
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        Self::of(path, bytes)
    }

    /// What was read from the file `path`.
    pub fn of(path: &Path, bytes: Vec<u8>) -> Result<Self, BadSpec> {
        let text = String::from_utf8(bytes).map_err(|_| unread(path, "it is not text"))?;
        Ok(Self {
            path: path.to_owned(),
            text,
        })
    }

    /// The spec in it, judged by itself; whether it fits the cluster is the controller's to say.
    pub fn spec(&self) -> Result<RunSpec, BadSpec> {
        let spec: RunSpec =
            serde_norway::from_str(&self.text).map_err(|error| self.unreadable(&error))?;
        let flaws = spec.flaws();
        if flaws.is_empty() {
            Ok(spec)
        } else {
            Err(self.refuse(&flaws))
        }
    }

    /// Every flaw, with the line of its field.
    pub fn refuse(&self, flaws: &[Flaw]) -> BadSpec {
        let say = |flaw: &Flaw| match self.line_of(&flaw.field) {
            Some(line) => format!("{}:{line}: {flaw}", self.path.display()),
            None => format!("{}: {flaw}", self.path.display()),
        };
        BadSpec(flaws.iter().map(say).collect::<Vec<_>>().join("\n"))
    }

    fn unreadable(&self, error: &serde_norway::Error) -> BadSpec {
        let mut message = error.to_string();
        let path = self.path.display();
        let Some(at) = error.location() else {
            return BadSpec(format!("{path}: {}", plain(&message)));
        };
        if let Some(cut) = message.rfind(" at line ") {
            message.truncate(cut);
        }
        if message.starts_with('`')
            && let Some(key) = self.key_at(at.line())
        {
            message = format!("{key}: {message}");
        }
        let (line, column) = (at.line(), at.column());
        let shown = self
            .text
            .lines()
            .nth(line.saturating_sub(1))
            .unwrap_or_default();
        let mark = " ".repeat(column.saturating_sub(1));
        BadSpec(format!(
            "{path}:{line}: {}\n{line:>5} | {shown}\n      | {mark}^",
            plain(&message)
        ))
    }

    /// The field on a line, where it is one of the outermost.
    fn key_at(&self, line: usize) -> Option<&str> {
        let (key, _) = self
            .text
            .lines()
            .nth(line.checked_sub(1)?)?
            .split_once(':')?;
        let outermost = !key.is_empty() && !key.starts_with([' ', '\t', '-', '#', '{']);
        outermost.then_some(key)
    }

    /// The line of a field such as `layout.tensor`, counted from 1, in a file written in blocks.
    fn line_of(&self, field: &str) -> Option<usize> {
        let mut parts = field.split('.').peekable();
        let mut outer = None;
        for (at, line) in self.text.lines().enumerate() {
            let key = line.trim_start();
            let indent = line.len() - key.len();
            let deep_already = outer.is_none() && indent > 0;
            if key.is_empty() || key.starts_with('#') || deep_already {
                continue;
            }
            if outer.is_some_and(|outer| indent <= outer) {
                return None;
            }
            if key
                .split_once(':')
                .is_some_and(|(key, _)| Some(&key) == parts.peek())
            {
                parts.next();
                outer = Some(indent);
                if parts.peek().is_none() {
                    return Some(at + 1);
                }
            }
        }
        None
    }
}

/// What serde says, in words for someone who does not know Rust.
fn plain(message: &str) -> String {
    let field = message.split_once(": ").map_or("", |(field, _)| field);
    let size = match largest(field) {
        Some(most) => format!("use a whole number from 1 to {most}"),
        None => format!("use a whole number from 0 to {}", u32::MAX),
    };
    let words = [
        ("expected u32", size.as_str()),
        ("expected u64", "use a whole number, 0 or more"),
        ("expected f64", "use a number"),
        ("expected a string", "use text"),
        (
            "expected struct RunSpec",
            "use the fields of a run spec (docs/run-spec.md)",
        ),
        (
            "expected struct",
            "use indented fields below it; it should hold",
        ),
    ];
    let mut text = message.to_owned();
    for (from, to) in words {
        text = text.replace(from, to);
    }
    if text.contains("missing field") {
        text.push_str("; add it (docs/run-spec.md explains every field)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
name: small
model: {layers: 4, hidden: 64, heads: 4, vocab: 2048, sequence: 64}
layout:
  tensor: 2   # TP
  pipeline: 2
  data: 2
train:
  steps: 10
  global_batch: 8
  micro_batch: 2
data:
  prefix: /data/x
checkpoint:
  directory: /checkpoints
  every_steps: 5
";

    fn refused(text: &str) -> String {
        let file = SpecFile {
            path: "run.yaml".into(),
            text: text.to_owned(),
        };
        match file.spec() {
            Err(bad) => bad.to_string(),
            Ok(_) => "accepted".to_owned(),
        }
    }

    #[test]
    fn a_good_spec_is_taken() {
        assert_eq!(refused(GOOD), "accepted");
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line_and_what_would_do() {
        let message = refused(&GOOD.replace("tensor: 2", "tensors: 2"));
        assert!(
            message.starts_with("run.yaml:4: layout: unknown field `tensors`"),
            "{message}"
        );
        assert!(
            message.contains("`tensor`, `pipeline`, `data`"),
            "{message}"
        );
        assert!(message.contains("    4 |   tensors: 2"), "{message}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let message = refused(&GOOD.replace("  steps: 10\n", ""));
        assert!(
            message.contains("train: missing field `steps`; add it"),
            "{message}"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_value() {
        let message = refused(&GOOD.replace("steps: 10", "steps: many"));
        let expected = "run.yaml:8: train.steps: invalid type: string \"many\", use a whole number";
        assert!(message.starts_with(expected), "{message}");
        let message = refused(&GOOD.replace("micro_batch: 2", "micro_batch: -2"));
        assert!(
            message.contains("integer `-2`, use a whole number from 1 to 65536"),
            "{message}"
        );
        let message = refused(&GOOD.replace("name: small", "name: Not A Name"));
        assert!(
            message.starts_with("run.yaml:1: name: `Not A Name` is not a name"),
            "{message}"
        );
    }

    #[test]
    fn a_flaw_is_tied_to_its_line() {
        let message = refused(&GOOD.replace("tensor: 2", "tensor: 3"));
        let expected = "run.yaml:4: layout.tensor: 3 does not divide model.heads (4), model.hidden (64); \
                        use one of 1, 2, 4";
        assert_eq!(message, expected);
        // Inside braces a line is not looked for.
        let message = refused(&GOOD.replace("layers: 4", "layers: 0"));
        assert!(
            message.starts_with("run.yaml: model.layers: 0 is out of range"),
            "{message}"
        );
    }

    #[test]
    fn what_is_no_spec_at_all_is_refused() {
        for text in ["", "just text", "- a\n- b", "a: [", "\u{0}"] {
            assert_ne!(refused(text), "accepted", "{text:?}");
        }
        let missing = SpecFile::read(Path::new("/no/such/file.yaml")).unwrap_err();
        let wanted = "cannot read the run spec /no/such/file.yaml: ";
        assert!(missing.to_string().starts_with(wanted));
        let folder = SpecFile::read(Path::new("/")).unwrap_err().to_string();
        assert!(folder.ends_with("it is not a file"), "{folder}");
        let other = SpecFile::of(Path::new("it"), vec![0xff]).unwrap_err();
        assert!(other.to_string().ends_with("it: it is not text"));
    }
}
