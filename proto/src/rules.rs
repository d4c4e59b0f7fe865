//! Log rules: what is watched, what matched, and how a rule was broken.

use crate::check::{Malformed, code, maybe, nanos, same_names, text};
use crate::wire;
use crate::wire::breach::How;
use rebloom_core::hang::rules::{Breach, LogRule, Match, Metric, Operator};
use rebloom_core::id::Generation;
use rebloom_core::time::Duration;

same_names!(LogOperator <=> Operator { Greater, AtLeast, Less, AtMost });

impl From<Metric> for wire::log_rule::Metric {
    fn from(metric: Metric) -> Self {
        Self {
            operator: wire::LogOperator::from(metric.operator).into(),
            threshold: metric.threshold,
            points: metric.points,
        }
    }
}

impl TryFrom<wire::log_rule::Metric> for Metric {
    type Error = Malformed;
    fn try_from(metric: wire::log_rule::Metric) -> Result<Self, Malformed> {
        Ok(Self {
            operator: code::<wire::LogOperator, _>(metric.operator, "operator")?,
            threshold: metric.threshold,
            points: metric.points,
        })
    }
}

impl From<LogRule> for wire::LogRule {
    fn from(rule: LogRule) -> Self {
        let LogRule {
            name,
            pattern,
            expected_start,
            expected_recurrence,
            stop_pattern,
            fault_on_match,
            metric,
        } = rule;
        Self {
            name,
            pattern,
            expected_start,
            expected_recurrence,
            stop_pattern,
            fault_on_match,
            metric: metric.map(Into::into),
        }
    }
}

impl TryFrom<wire::LogRule> for LogRule {
    type Error = Malformed;
    fn try_from(rule: wire::LogRule) -> Result<Self, Malformed> {
        let stop = rule
            .stop_pattern
            .map(|pattern| text(pattern, "stop_pattern"));
        Ok(Self {
            name: text(rule.name, "name")?,
            pattern: text(rule.pattern, "pattern")?,
            expected_start: rule.expected_start,
            expected_recurrence: rule.expected_recurrence,
            stop_pattern: stop.transpose()?,
            fault_on_match: rule.fault_on_match,
            metric: maybe(rule.metric, "metric")?,
        })
    }
}

impl From<Match> for wire::pages::Match {
    fn from(found: Match) -> Self {
        Self {
            generation: found.generation.0,
            rule: found.rule,
            lines: found.lines,
            stopped: found.stopped,
        }
    }
}

impl TryFrom<wire::pages::Match> for Match {
    type Error = Malformed;
    fn try_from(found: wire::pages::Match) -> Result<Self, Malformed> {
        Ok(Self {
            generation: Generation(found.generation),
            rule: found.rule,
            lines: found.lines,
            stopped: found.stopped,
        })
    }
}

impl From<Breach> for wire::Breach {
    fn from(breach: Breach) -> Self {
        let how = match breach {
            Breach::NotStarted { within } => How::NotStartedNanos(nanos(within)),
            Breach::Ceased { within } => How::CeasedNanos(nanos(within)),
            Breach::Written { line } => How::Written(line),
        };
        Self { how: Some(how) }
    }
}

impl TryFrom<wire::Breach> for Breach {
    type Error = Malformed;
    fn try_from(breach: wire::Breach) -> Result<Self, Malformed> {
        let within = Duration::from_nanos;
        match breach.how.ok_or_else(|| Malformed::missing("how"))? {
            How::NotStartedNanos(nanos) => Ok(Self::NotStarted {
                within: within(nanos),
            }),
            How::CeasedNanos(nanos) => Ok(Self::Ceased {
                within: within(nanos),
            }),
            How::Written(line) => Ok(Self::Written {
                line: text(line, "written")?,
            }),
        }
    }
}
