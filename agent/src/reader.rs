//! Reads what ranks write, by the log rules of their run.
//!
//! Each beat it takes the lines that are new and says which rules they match; what that means the engine
//! decides. Bounded in all it does: bytes a look, length of a line, memory of a pattern. Output of before
//! this life of the agent, or of an older generation, is not read.

use crate::logs::{self, From};
use rebloom_core::hang::rules::{LogRule, Match};
use rebloom_core::id::{Generation, Rank, RunId};
use regex::bytes::{Regex, RegexBuilder};
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of one rank that are read a look; a rank that writes more is read later.
const MOST_BYTES: u64 = 256 << 10;
/// Longer lines are cut in pieces.
const MOST_LINE: usize = 4096;
/// Bytes of a line that a report holds.
const MOST_SHOWN: usize = 200;
/// Bytes that a compiled pattern may take.
const MOST_PATTERN: usize = 1 << 20;

/// A rule that can be matched.
#[derive(Debug)]
struct Compiled {
    rule: LogRule,
    pattern: Option<Regex>,
    stop: Option<Regex>,
}

/// How far the output of one process was read.
#[derive(Debug)]
struct Place {
    pid: u32,
    generation: Generation,
    offset: u64,
    /// A line whose end is not there yet.
    partial: Vec<u8>,
    /// Numbers in a row that broke the limit of each rule.
    breaches: Vec<u32>,
    /// Whether a fault was found in this generation: one is enough.
    is_broken: bool,
}

/// One rank whose output is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its run.
    pub run: &'a RunId,
    /// Which rank.
    pub rank: Rank,
    /// Its process.
    pub pid: u32,
    /// Whether this life of the agent started it.
    pub is_mine: bool,
    /// The generation it is in.
    pub generation: Generation,
    /// Where it writes.
    pub path: &'a Path,
}

/// What was read of one rank.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// Rules that matched.
    pub matches: Vec<Match>,
    /// The rule that a line broke, and the line.
    pub broken: Option<(String, String)>,
}

/// Everything that is read on this node.
#[derive(Debug, Default)]
pub struct Reader {
    rules: BTreeMap<RunId, Vec<Compiled>>,
    places: BTreeMap<(RunId, Rank), Place>,
}

impl Reader {
    /// Reads what is new; none where nothing matched.
    pub fn read(&mut self, source: Source<'_>, rules: &[LogRule]) -> Option<Reading> {
        let compiled = self.rules.entry(source.run.clone()).or_default();
        if !compiled.iter().map(|known| &known.rule).eq(rules) {
            *compiled = rules.iter().map(Compiled::new).collect();
        }
        let place = self
            .places
            .entry((source.run.clone(), source.rank))
            .or_insert_with(|| Place::at_the_end_of(source));
        match place.advance(source, compiled) {
            Ok(reading) => (reading != Reading::default()).then_some(reading),
            Err(error) => {
                let (run, rank) = (source.run, source.rank);
                tracing::warn!(%run, %rank, %error, "cannot read what a rank wrote");
                None
            }
        }
    }

    /// Forgets ranks that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&(RunId, Rank)) -> bool) {
        self.places.retain(|rank, _| is_there(rank));
        let places = &self.places;
        self.rules
            .retain(|run, _| places.keys().any(|(of, _)| of == run));
    }
}

impl Compiled {
    fn new(rule: &LogRule) -> Self {
        let compile = |pattern: &str| match compile(pattern) {
            Ok(regex) => Some(regex),
            Err(error) => {
                let name = &rule.name;
                tracing::warn!(name, error, "a log rule has no pattern that can be matched");
                None
            }
        };
        Self {
            pattern: compile(&rule.pattern),
            stop: rule.stop_pattern.as_deref().and_then(compile),
            rule: rule.clone(),
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder
        .size_limit(MOST_PATTERN)
        .dfa_size_limit(MOST_PATTERN);
    builder.build().map_err(|error| error.to_string())
}

impl Place {
    fn at_the_end_of(source: Source<'_>) -> Self {
        let written = source.path.metadata().map_or(0, |facts| facts.len());
        Self {
            pid: source.pid,
            generation: source.generation,
            offset: if source.is_mine { 0 } else { written },
            partial: Vec::new(),
            breaches: Vec::new(),
            is_broken: false,
        }
    }

    fn advance(&mut self, source: Source<'_>, rules: &[Compiled]) -> std::io::Result<Reading> {
        if self.pid != source.pid {
            *self = Self::at_the_end_of(source);
        } else if self.generation != source.generation {
            // What it wrote up to now is of the generation before.
            *self = Self::at_the_end_of(Source {
                is_mine: false,
                ..source
            });
        }
        self.breaches.resize(rules.len(), 0);
        let part = logs::read(source.path, From::Offset(self.offset), MOST_BYTES)?;
        if part.offset != self.offset {
            self.partial.clear();
        }
        self.offset = part.offset + part.data.len() as u64;
        let mut reading = Reading::default();
        for piece in part.data.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() >= MOST_LINE {
                let line = std::mem::take(&mut self.partial);
                self.judge(line.trim_ascii_end(), rules, &mut reading);
            }
        }
        Ok(reading)
    }

    fn judge(&mut self, line: &[u8], rules: &[Compiled], reading: &mut Reading) {
        for (at, compiled) in (0..).zip(rules) {
            let stopped = compiled
                .stop
                .as_ref()
                .is_some_and(|stop| stop.is_match(line));
            let found = compiled
                .pattern
                .as_ref()
                .and_then(|pattern| pattern.captures(line));
            if !stopped && found.is_none() {
                continue;
            }
            let lines = u32::from(found.is_some());
            match reading.matches.iter_mut().find(|known| known.rule == at) {
                Some(known) => {
                    known.lines += lines;
                    known.stopped |= stopped;
                }
                None => reading.matches.push(Match {
                    generation: self.generation,
                    rule: at,
                    lines,
                    stopped,
                }),
            }
            let Some(found) = found else { continue };
            let breaches = &mut self.breaches[at as usize];
            let is_fault = match compiled.rule.metric {
                None => compiled.rule.fault_on_match,
                Some(metric) => {
                    let number = found
                        .get(1)
                        .and_then(|group| std::str::from_utf8(group.as_bytes()).ok()?.parse().ok());
                    let is_breach = number.is_some_and(|number| metric.is_breach(number));
                    *breaches = if is_breach { *breaches + 1 } else { 0 };
                    *breaches >= metric.points
                }
            };
            if is_fault && !self.is_broken {
                self.is_broken = true;
                let shown = &line[..line.len().min(MOST_SHOWN)];
                let shown = String::from_utf8_lossy(shown).into_owned();
                reading.broken = Some((compiled.rule.name.clone(), shown));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    fn rules(text: &str) -> Vec<LogRule> {
        serde_json::from_str(text).unwrap()
    }

    struct Bench {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        run: RunId,
        reader: Reader,
        rules: Vec<LogRule>,
        pid: u32,
        generation: u64,
    }

    impl Bench {
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self {
                path: folder.path().join("rank-000.log"),
                _folder: folder,
                run: RunId::new("run").unwrap(),
                reader: Reader::default(),
                rules: rules(text),
                pid: 1,
                generation: 1,
            }
        }

        fn write(&self, text: &str) {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).open(&self.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn read(&mut self) -> Reading {
            let source = Source {
                run: &self.run,
                rank: Rank(0),
                pid: self.pid,
                is_mine: true,
                generation: Generation(self.generation),
                path: &self.path,
            };
            self.reader.read(source, &self.rules).unwrap_or_default()
        }

        fn lines(&mut self) -> u32 {
            self.read().matches.iter().map(|found| found.lines).sum()
        }
    }

    #[test]
    fn each_line_is_matched_once_also_when_it_comes_in_pieces() {
        let text = r#"[{"name": "beat", "pattern": "^iteration +\\d+", "expected_start": 60}]"#;
        let mut bench = Bench::new(text);
        assert_eq!(bench.lines(), 0);
        bench.write("iteration 1\nnoise\niter");
        assert_eq!(bench.lines(), 1);
        bench.write("ation 2\n");
        assert_eq!(bench.lines(), 1);
        assert_eq!(bench.lines(), 0);
    }

    #[test]
    fn what_an_older_generation_wrote_is_not_read() {
        let text = r#"[{"name": "oom", "pattern": "out of memory", "fault_on_match": true}]"#;
        let mut bench = Bench::new(text);
        bench.write("out of memory\n");
        let broken = bench.read().broken;
        assert_eq!(broken, Some(("oom".to_owned(), "out of memory".to_owned())));
        bench.write("out of memory\n");
        assert_eq!(bench.read().broken, None, "once a generation");
        bench.write("out of memory\n");
        bench.generation = 2;
        assert_eq!(bench.read(), Reading::default());
        bench.write("out of memory\n");
        assert!(bench.read().broken.is_some());
    }

    #[test]
    fn a_number_must_break_its_limit_several_times_in_a_row() {
        let text = r#"[{"name": "loss", "pattern": "loss=(\\S+)",
            "metric": {"operator": "greater", "threshold": 5.0, "points": 2}}]"#;
        let mut bench = Bench::new(text);
        bench.write("loss=5.1\nloss=2.0\nloss=NaN\n");
        assert_eq!(bench.read().broken, None);
        bench.write("loss=5.10\n");
        assert_eq!(bench.read().broken.unwrap().1, "loss=5.10");
    }

    #[test]
    fn a_flood_is_read_in_bounded_parts() {
        let text = r#"[{"name": "x", "pattern": "x", "expected_recurrence": 1}]"#;
        let mut bench = Bench::new(text);
        bench.write(&"x\n".repeat(200_000));
        assert_eq!(bench.lines(), u32::try_from(MOST_BYTES / 2).unwrap());
        assert_eq!(
            bench.lines(),
            200_000 - u32::try_from(MOST_BYTES / 2).unwrap()
        );
    }

    #[test]
    fn a_pattern_that_cannot_be_matched_matches_nothing() {
        let text = r#"[{"name": "bad", "pattern": "(", "expected_start": 1}]"#;
        let mut bench = Bench::new(text);
        bench.write("(\n");
        assert_eq!(bench.lines(), 0);
    }
}
