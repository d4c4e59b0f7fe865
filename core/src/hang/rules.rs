//! Log rules: what the output of a run should say, and when. The names of HyperPod's log monitoring are read
//! as well.
//!
//! Lines are matched where they are written, by the agent; here it is only judged what matches mean. A
//! rule speaks of the gang: it is enough that one rank says what is expected, and nothing is expected of a
//! gang that evaluates or saves. Never reads a pattern.

use crate::flight::Phase;
use crate::id::{Generation, Rank};
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The longest pattern that is taken, in bytes.
pub const MOST_PATTERN: usize = 1000;
/// The most rules of one run.
pub const MOST_RULES: usize = 32;

/// One rule about the output of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRule {
    /// Its name, in incidents and metrics.
    pub name: String,
    /// A regular expression for one line.
    #[serde(alias = "logPattern")]
    pub pattern: String,
    /// Seconds after the gang was loaded by which a line must have matched, without those in which it
    /// evaluated or saved.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        alias = "expectedStartCutOffInSeconds"
    )]
    pub expected_start: Option<f64>,
    /// Seconds after a match within which the next must come, counted alike.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        alias = "expectedRecurringFrequencyInSeconds"
    )]
    pub expected_recurrence: Option<f64>,
    /// A line that ends the watch until the next generation.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        alias = "stopPattern"
    )]
    pub stop_pattern: Option<String>,
    /// Whether a match is itself a fault of the rank that wrote it.
    #[serde(default, alias = "faultOnMatch")]
    pub fault_on_match: bool,
    /// A limit on the number in the pattern's first group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
}

/// A limit on a number that the output names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// The number is a breach when it is...
    pub operator: Operator,
    /// ...than this.
    pub threshold: f64,
    /// Breaches in a row that make a fault.
    #[serde(default = "one")]
    pub points: u32,
}

const fn one() -> u32 {
    1
}

/// How a number is compared with its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
}

impl Metric {
    /// Whether a number is on the wrong side. What is no number is.
    pub fn is_breach(&self, value: f64) -> bool {
        match self.operator {
            Operator::Greater => value.is_nan() || value > self.threshold,
            Operator::AtLeast => value.is_nan() || value >= self.threshold,
            Operator::Less => value.is_nan() || value < self.threshold,
            Operator::AtMost => value.is_nan() || value <= self.threshold,
        }
    }
}

/// What the output of one rank said since the last beat, by one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The generation of the rank that wrote it.
    pub generation: Generation,
    /// Position of the rule in the spec.
    pub rule: u32,
    /// Lines that matched.
    pub lines: u32,
    /// Whether a line matched the stop pattern.
    pub stopped: bool,
}

/// What is known of one rule in one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Heard {
    /// When a line matched last.
    pub last: Option<Instant>,
    /// For how long the gang had paused by then.
    #[serde(default)]
    pub paused: Duration,
    /// Whether the watch is over.
    pub stopped: bool,
}

impl Heard {
    /// Takes in what came with a beat.
    pub fn hear(&mut self, what: &Match, pause: &Pause, now: Instant) {
        if what.lines > 0 {
            self.last = Some(now);
            self.paused = pause.by(now);
        }
        self.stopped |= what.stopped;
    }
}

/// How a rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// No line matched in time.
    NotStarted {
        /// Within which it should have.
        within: Duration,
    },
    /// Matches ceased.
    Ceased {
        /// Within which the next should have come.
        within: Duration,
    },
    /// A line that must not come.
    Written {
        /// The line, cut where it is long.
        line: String,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted { within } => {
                write!(f, "no line matched it within {:.1} s", within.as_secs_f64())
            }
            Self::Ceased { within } => {
                write!(f, "no line matched it for {:.1} s", within.as_secs_f64())
            }
            Self::Written { line } => write!(f, "it matched `{line}`"),
        }
    }
}

/// For how long the ranks of a gang evaluated or saved, when nobody expects it to say anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pause {
    /// Ranks that do.
    ranks: BTreeSet<Rank>,
    /// Since when any does.
    since: Option<Instant>,
    /// All pauses that are over.
    past: Duration,
}

impl Pause {
    /// Takes in where a rank is; says whether a pause has ended.
    pub fn look(&mut self, rank: Rank, phase: Phase, now: Instant) -> bool {
        if matches!(phase, Phase::Eval | Phase::Save) {
            self.ranks.insert(rank);
            self.since.get_or_insert(now);
            return false;
        }
        self.ranks.remove(&rank);
        let over = self.since.take_if(|_| self.ranks.is_empty());
        self.past += over.map_or(Duration::ZERO, |since| now.since(since));
        over.is_some()
    }

    /// For how long it has paused by now.
    pub fn by(&self, now: Instant) -> Duration {
        self.past + self.since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Begins anew: another generation.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// When a rule is broken if nothing more is heard, and how; `since` is when the gang was loaded. None while it
/// pauses.
pub fn due(
    rule: &LogRule,
    heard: Heard,
    since: Instant,
    pause: &Pause,
) -> Option<(Instant, Breach)> {
    if heard.stopped || pause.since.is_some() {
        return None;
    }
    let paused = pause.past.saturating_sub(heard.paused);
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    match heard.last {
        None => rule.expected_start.map(|start| {
            let within = seconds(start);
            (since + within + paused, Breach::NotStarted { within })
        }),
        Some(last) => rule.expected_recurrence.map(|recurrence| {
            let within = seconds(recurrence);
            // What was heard before the gang was in sight again is no reason to judge it.
            let by = last.max(since) + within + paused;
            (by, Breach::Ceased { within })
        }),
    }
}
