//! The chart of one node: what was seen of it lately, what is raised, and the verdict with its
//! hysteresis. Bounded, whatever the node says; a node that nothing was ever seen of has none.

use super::signal::{Key, Kind, Sign, Signal};
use super::{Action, Finding, Verdict, Windows};
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Events of a node that are remembered.
const SEEN: usize = 32;
/// Levels of a node that can be raised at once.
const RAISED: usize = 64;
/// Withdrawals of a node that are remembered.
const WITHDRAWALS: usize = 16;
/// What is older than this is forgotten, whatever the windows are.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A level that nobody confirmed for this long since the probes began anew is forgotten.
const UNCONFIRMED: Duration = Duration::from_secs(24 * 3600);

/// Something that was seen and may still count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// What it was about.
    pub key: Key,
    /// What was made of it.
    pub findings: Vec<Finding>,
    /// When it was repaired, or over.
    pub repaired: Option<Instant>,
    /// Many units said the same at that time: it is none of theirs, and counts against no unit.
    #[serde(default)]
    pub many_units: bool,
    /// A level that ended with a boot of the node, which is no flicker.
    #[serde(default)]
    pub by_boot: bool,
}

/// A level that is raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// Since when.
    pub since: Instant,
    /// What was last said of it, and when.
    pub told: Instant,
    /// See `told`.
    pub signal: Signal,
    /// What was made of it.
    pub findings: Vec<Finding>,
    /// Since when nobody says so any more: the probes began anew in the same boot.
    #[serde(default)]
    pub unconfirmed: Option<Instant>,
    /// Many nodes raised the same at that time.
    #[serde(default)]
    pub many_nodes: bool,
}

/// What is known of one node's health.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chart {
    /// What is made of it.
    pub verdict: Verdict,
    /// Since when.
    pub since: Instant,
    /// The finding that led to the verdict.
    pub why: Option<Finding>,
    /// It was withdrawn too often: only an admin brings it back.
    pub lemon: bool,
    /// What it would have been withdrawn for, had the breaker allowed it (S8).
    pub held: Option<Finding>,
    /// What was seen, oldest first.
    pub seen: VecDeque<Seen>,
    /// What is raised.
    pub raised: BTreeMap<Key, Raised>,
    /// When it was withdrawn, oldest first.
    pub withdrawn: VecDeque<Instant>,
}

/// What a chart amounts to at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judged {
    /// The worst that is in force.
    pub verdict: Verdict,
    /// The finding it comes from.
    pub finding: Option<Finding>,
    /// When that finding was last supported.
    pub at: Instant,
    /// When something in force ends by itself, at the earliest.
    pub until: Option<Instant>,
}

impl Chart {
    /// Takes in a signal and what was made of it.
    pub(super) fn take(
        &mut self,
        at: Instant,
        signal: &Signal,
        findings: &[Finding],
        rebooted: bool,
    ) {
        self.forget(at);
        let key = signal.key();
        if matches!(signal.sign, Sign::ProbesStarted { .. }) {
            self.begin(at, rebooted);
        } else if signal.cleared {
            self.clear(at, key);
        } else if signal.is_event() {
            self.see(Seen {
                at,
                key,
                findings: findings.to_vec(),
                repaired: None,
                many_units: findings.iter().any(Finding::is_of_many_units),
                by_boot: false,
            });
        } else {
            self.raise(at, key, signal, findings);
        }
    }

    fn raise(&mut self, at: Instant, key: Key, signal: &Signal, findings: &[Finding]) {
        if self.raised.len() >= RAISED && !self.raised.contains_key(&key) {
            self.raised.pop_last();
        }
        let raised = self.raised.entry(key).or_insert_with(|| Raised {
            since: at,
            told: at,
            signal: signal.clone(),
            findings: Vec::new(),
            unconfirmed: None,
            many_nodes: false,
        });
        raised.unconfirmed = None;
        (raised.told, raised.signal) = (at, signal.clone());
        raised.findings = findings.to_vec();
    }

    /// A level is over. What it meant is in force for a clean spell longer.
    fn clear(&mut self, at: Instant, key: Key) {
        self.end(at, key, false);
        if key.kind == Kind::RecoveryAction {
            self.repair(at, |seen, action| {
                seen.key.device == key.device && action == Action::ResetGpu
            });
        }
    }

    fn end(&mut self, at: Instant, key: Key, by_boot: bool) {
        if let Some(raised) = self.raised.remove(&key) {
            self.see(Seen {
                at,
                key,
                findings: raised.findings,
                repaired: Some(at),
                many_units: raised.many_nodes,
                by_boot,
            });
        }
    }

    /// The probes began anew. With a boot every level is over, and what was seen before is repaired
    /// where a reboot does it. An agent that starts again mends nothing, and knows of no level yet.
    fn begin(&mut self, at: Instant, rebooted: bool) {
        if !rebooted {
            for raised in self.raised.values_mut() {
                raised.unconfirmed.get_or_insert(at);
            }
            return;
        }
        let keys: Vec<_> = self.raised.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end(at, key, true));
        self.repair(at, |_, action| action.is_done_by_reboot());
    }

    fn repair(&mut self, at: Instant, does: impl Fn(&Seen, Action) -> bool) {
        for seen in &mut self.seen {
            let faults = seen.findings.iter().filter(|finding| finding.counts());
            let is_done = faults
                .map(|finding| finding.action)
                .all(|action| does(seen, action));
            if seen.repaired.is_none() && is_done {
                seen.repaired = Some(at);
            }
        }
    }

    /// Many units have said this XID since then, so what was seen of it here is the software's. A
    /// withdrawal that came of nothing else never was one.
    pub(super) fn acquit(&mut self, code: u32, since: Instant) {
        let is_it =
            |seen: &Seen| seen.key.kind == Kind::Xid && seen.key.index == code && seen.at >= since;
        let mut first = None;
        for seen in self.seen.iter_mut().filter(|seen| is_it(seen)) {
            seen.many_units = true;
            for finding in &mut seen.findings {
                if finding.acquit() {
                    first = first.or(Some(seen.at));
                }
            }
        }
        if let Some(first) = first {
            self.withdraw_charge(first);
        }
    }

    /// A level is nobody's fault, since many nodes have it; nor is a withdrawal that came of it alone.
    pub(super) fn acquit_level(&mut self, rule: &str) {
        let mut first = None;
        for raised in self.raised.values_mut() {
            let (since, found) = (raised.since, &mut raised.findings);
            for finding in found.iter_mut().filter(|finding| finding.rule == rule) {
                if finding.counts() && finding.verdict.withdraws() {
                    first = first.or(Some(since));
                }
                finding.verdict = Verdict::Healthy;
            }
        }
        if let Some(first) = first {
            self.withdraw_charge(first);
        }
    }

    /// Whether this level was raised, or over, since then.
    pub(super) fn did(&self, kind: Kind, since: Instant) -> bool {
        let mut raised = self.raised.iter();
        let mut seen = self.seen.iter();
        raised.any(|(key, raised)| key.kind == kind && raised.since >= since)
            || seen.any(|seen| seen.key.kind == kind && seen.at >= since)
    }

    /// Many nodes have raised this level since then: that it comes and goes is no fault of this one, nor
    /// is a withdrawal that came of it alone.
    pub(super) fn acquit_flaps(&mut self, kind: Kind, since: Instant) {
        let rule = super::rule::Builtin::Flapping.name();
        let raised = self.raised.iter_mut();
        let raised = raised.filter(|(key, raised)| key.kind == kind && raised.since >= since);
        let raised =
            raised.map(|(_, raised)| (raised.since, &mut raised.many_nodes, &mut raised.findings));
        let seen = self.seen.iter_mut();
        let seen = seen.filter(|seen| seen.key.kind == kind && seen.at >= since);
        let seen = seen.map(|seen| (seen.at, &mut seen.many_units, &mut seen.findings));
        let mut first: Option<Instant> = None;
        for (at, is_many, findings) in raised.chain(seen) {
            *is_many = true;
            for finding in findings.iter_mut().filter(|finding| finding.rule == rule) {
                if finding.counts() && finding.verdict.withdraws() {
                    first = Some(first.map_or(at, |first| first.min(at)));
                }
                finding.verdict = Verdict::Healthy;
            }
        }
        if let Some(first) = first {
            self.withdraw_charge(first);
        }
    }

    /// What it was charged with at `first` is not held against it any more.
    fn withdraw_charge(&mut self, first: Instant) {
        let withdraws = |finding: &&Finding| finding.counts() && finding.verdict.withdraws();
        let raised = self.raised.values().filter(|raised| raised.told >= first);
        let raised = raised.flat_map(|raised| &raised.findings);
        let seen = self
            .seen
            .iter()
            .filter(|seen| seen.repaired.unwrap_or(seen.at) >= first);
        let seen = seen.flat_map(|seen| &seen.findings);
        let other = raised.chain(seen).find(withdraws).cloned();
        if self.withdrawn.back().is_some_and(|at| *at >= first) {
            if other.is_none() {
                self.withdrawn.pop_back();
                self.lemon = false;
            } else if !self.lemon {
                self.why = other;
            }
        }
    }

    fn see(&mut self, seen: Seen) {
        if self.seen.len() >= SEEN {
            // What keeps a node withdrawn until its repair is not pushed out by chatter.
            let chatter = self
                .seen
                .iter()
                .position(|old| !old.waits_for_repair())
                .unwrap_or(0);
            self.seen.remove(chatter);
        }
        self.seen.push_back(seen);
    }

    fn forget(&mut self, now: Instant) {
        let since = now - KEPT;
        self.seen
            .retain(|seen| seen.waits_for_repair() || seen.repaired.unwrap_or(seen.at) >= since);
        self.withdrawn.retain(|at| *at >= since);
        self.raised.retain(|key, raised| {
            key.kind.is_denied_at_once()
                || raised
                    .unconfirmed
                    .is_none_or(|at| now.since(at) < UNCONFIRMED)
        });
    }

    /// Notes a verdict.
    pub(super) fn reach(
        &mut self,
        at: Instant,
        verdict: Verdict,
        why: Option<Finding>,
        lemon: bool,
    ) {
        if verdict.withdraws() && !self.verdict.withdraws() {
            self.withdrawn.push_back(at);
            if self.withdrawn.len() > WITHDRAWALS {
                self.withdrawn.pop_front();
            }
        }
        if verdict != self.verdict {
            self.since = at;
        }
        (self.verdict, self.why, self.lemon) = (verdict, why, lemon);
        if verdict.withdraws() || verdict == Verdict::Healthy {
            self.held = None;
        }
    }

    /// What it amounts to now.
    pub fn judge(&self, now: Instant, w: &Windows) -> Judged {
        let mut judged = Judged::default();
        if self.lemon {
            judged.verdict = self.verdict;
            judged.finding.clone_from(&self.why);
            judged.at = self.since;
            return judged;
        }
        for (key, raised) in &self.raised {
            for finding in raised.findings.iter().filter(|finding| finding.counts()) {
                let until = raised.in_force_until(key.kind, finding.verdict, w);
                if until.is_none_or(|until| until > now) {
                    judged.hold(finding, raised.unconfirmed.unwrap_or(now));
                    judged.until = [judged.until, until].into_iter().flatten().min();
                }
            }
        }
        for seen in &self.seen {
            for finding in seen.findings.iter().filter(|finding| finding.counts()) {
                let until = seen.in_force_until(finding.verdict, w);
                if until.is_none_or(|until| until > now) {
                    judged.hold(finding, seen.at);
                    judged.until = [judged.until, until].into_iter().flatten().min();
                }
            }
        }
        judged
    }

    /// How often it was withdrawn lately.
    pub fn withdrawals(&self, now: Instant, w: &Windows) -> u32 {
        let since = now - w.lemon_within;
        let is_lately = |at: &&Instant| **at >= since && **at <= now;
        let lately = self.withdrawn.iter().filter(is_lately);
        u32::try_from(lately.count()).unwrap_or(u32::MAX)
    }

    /// How often this was seen within `within`, bursts counting once and, with `sticky`, echoes of a
    /// fault that was not repaired not at all.
    pub(super) fn times(
        &self,
        now: Instant,
        within: Duration,
        apart: Duration,
        is_it: impl Fn(&Seen) -> bool,
    ) -> u32 {
        let mut times = 0;
        let mut last: Option<(Instant, Option<Instant>)> = None;
        let since = now - within;
        for seen in self
            .seen
            .iter()
            .filter(|seen| seen.at >= since && seen.at <= now && is_it(seen))
        {
            let is_echo = last.is_some_and(|(at, repaired)| {
                seen.at.since(at) < apart && repaired.is_none_or(|repaired| repaired > seen.at)
            });
            if !is_echo {
                times += 1;
                last = Some((seen.at, seen.repaired));
            }
        }
        times
    }
}

impl Raised {
    /// Until when it is in force; none while it is raised. What nobody confirms is as good as over,
    /// unless the probes would have said so.
    fn in_force_until(&self, kind: Kind, verdict: Verdict, w: &Windows) -> Option<Instant> {
        let from = self.unconfirmed.filter(|_| !kind.is_denied_at_once())?;
        Some(from + w.clean_spell(verdict))
    }
}

impl Seen {
    fn waits_for_repair(&self) -> bool {
        let faulty = |finding: &Finding| finding.counts() && finding.verdict == Verdict::Faulty;
        self.repaired.is_none() && self.findings.iter().any(faulty)
    }

    /// Until when it is in force; none until it is repaired.
    fn in_force_until(&self, verdict: Verdict, w: &Windows) -> Option<Instant> {
        let from = self.repaired.unwrap_or(self.at);
        match verdict {
            Verdict::Healthy => Some(self.at),
            Verdict::Suspect | Verdict::Quarantined => Some(from + w.clean_spell(verdict)),
            Verdict::Faulty => self
                .repaired
                .map(|repaired| repaired + w.clean_spell(verdict)),
        }
    }
}

impl Judged {
    fn hold(&mut self, finding: &Finding, at: Instant) {
        if (finding.verdict, at) > (self.verdict, self.at) || self.finding.is_none() {
            self.verdict = finding.verdict;
            self.finding = Some(finding.clone());
            self.at = at;
        }
    }
}
