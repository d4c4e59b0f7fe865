//! What is known of the health of every node: charts, the log of XIDs that tells software from
//! hardware, rules, and who is withdrawn.
//!
//! A part of the engine's durable state: only facts change it, through the methods that are named
//! after them, and it holds nothing for a node of which nothing was ever seen.

use super::chart::{Chart, Seen};
use super::edited::EditedRule;
use super::rule::Builtin;
use super::signal::{Key, Kind, Sign, Signal};
use super::{Finding, Mode, Verdict, Windows};
use crate::by_name::Register;
use crate::id::{NodeId, Slot};
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// XIDs of the whole fleet that are remembered.
const XIDS: usize = 512;
/// Levels of the whole fleet that came or went, of those that many nodes can have at once.
const FLICKERS: usize = 512;
/// Signals of the whole fleet that are remembered, for trying rules on.
const RECENT: usize = 256;

/// A signal that was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// Of which node.
    pub node: NodeId,
    /// What.
    pub signal: Signal,
}

/// An XID somewhere in the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct XidSeen {
    pub(super) at: Instant,
    pub(super) node: NodeId,
    pub(super) device: Option<Slot>,
    pub(super) code: u32,
    /// Many units said it at that time.
    #[serde(default)]
    pub(super) many_units: bool,
}

/// A level that came or went, of those that many nodes can have at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Flicker {
    at: Instant,
    node: NodeId,
    kind: Kind,
}

/// How often a rule found something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Findings that counted.
    pub enforced: u64,
    /// Findings in shadow mode.
    pub shadowed: u64,
    /// The last one.
    pub last: Instant,
    /// Where that was.
    pub node: Option<NodeId>,
}

/// The health of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fleet {
    charts: Register<NodeId, Chart>,
    pub(super) xids: VecDeque<XidSeen>,
    #[serde(default)]
    flickers: VecDeque<Flicker>,
    pub(super) recent: VecDeque<Heard>,
    pub(super) rules: BTreeMap<String, EditedRule>,
    tallies: BTreeMap<String, Tally>,
    withdrawn: BTreeSet<NodeId>,
    held: BTreeSet<NodeId>,
    /// The boot in which each node is, where that is known.
    pub(super) boots: BTreeMap<NodeId, u64>,
    /// Nodes that cannot use the checkpoints' storage.
    pub(super) stranded: BTreeSet<NodeId>,
}

impl Fleet {
    /// Takes in a signal of a node, what was made of it, and since when the like is held against nobody.
    pub fn heard(
        &mut self,
        at: Instant,
        node: &NodeId,
        signal: &Signal,
        findings: &[Finding],
        acquits: Option<Instant>,
    ) {
        for finding in findings {
            let tally = self.tallies.entry(finding.rule.clone()).or_default();
            match finding.mode {
                Mode::Enforce => tally.enforced += 1,
                Mode::Shadow | Mode::Off => tally.shadowed += 1,
            }
            (tally.last, tally.node) = (at, Some(node.clone()));
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Heard {
            at,
            node: node.clone(),
            signal: signal.clone(),
        });
        if let Sign::Xid { code, .. } = &signal.sign {
            if self.xids.len() >= XIDS {
                self.xids.pop_front();
            }
            self.xids.push_back(XidSeen {
                at,
                node: node.clone(),
                device: signal.device,
                code: *code,
                many_units: findings.iter().any(Finding::is_of_many_units),
            });
            if let Some(since) = acquits {
                self.acquit(*code, since);
            }
        }
        let kind = signal.sign.kind();
        let begins = kind == Kind::ProbesStarted;
        let mut rebooted = false;
        if let Sign::ProbesStarted { boot } = signal.sign {
            let before = self.boots.insert(node.clone(), boot);
            rebooted = before.is_some_and(|before| before != boot);
        }
        let chart = match self.charts.get_mut(node) {
            Some(chart) => chart,
            None if signal.cleared || begins => return,
            None => self.charts.get_or_default(node),
        };
        chart.take(at, signal, findings, rebooted);
        for shared in Kind::SHARED.into_iter().filter(|kind| chart.did(*kind, at)) {
            let of_it = |known: &Flicker| known.kind == shared && known.node == *node;
            self.flickers.retain(|known| !of_it(known));
            if self.flickers.len() >= FLICKERS {
                self.flickers.pop_front();
            }
            self.flickers.push_back(Flicker {
                at,
                node: node.clone(),
                kind: shared,
            });
        }
        if let Some(since) = acquits.filter(|_| kind.is_shared()) {
            self.charts
                .for_each_mut(|chart| chart.acquit_flaps(kind, since));
        }
        if rebooted || kind == Kind::StorageFailing {
            self.storage_failed(
                node,
                kind == Kind::StorageFailing && !signal.cleared,
                findings,
            );
        }
    }

    /// Once so many units have an XID that it is the software, it is held against none of them.
    fn acquit(&mut self, code: u32, since: Instant) {
        let is_it = |xid: &&mut XidSeen| xid.code == code && xid.at >= since;
        let acquitted = self.xids.iter_mut().filter(is_it);
        acquitted.for_each(|xid| xid.many_units = true);
        self.charts.for_each_mut(|chart| chart.acquit(code, since));
    }

    /// The nodes of which the like was seen since then: the same XID, or the same level.
    pub fn with(&self, key: Key, since: Instant) -> Vec<NodeId> {
        let said = |seen: &Seen| {
            seen.key.kind == key.kind && seen.key.index == key.index && seen.at >= since
        };
        let did = |chart: &Chart| {
            chart.seen.iter().any(said) || key.kind.is_shared() && chart.did(key.kind, since)
        };
        let charts = self.charts.iter().filter(|(_, chart)| did(chart));
        charts.map(|(node, _)| node.clone()).collect()
    }

    /// Once so many nodes cannot use the storage that it is the storage, none of them is at fault.
    fn storage_failed(&mut self, node: &NodeId, fails: bool, findings: &[Finding]) {
        if !fails {
            self.stranded.remove(node);
            return;
        }
        self.stranded.insert(node.clone());
        let rule = Builtin::StorageFailing.name();
        let acquits =
            |finding: &Finding| finding.rule == rule && finding.verdict == Verdict::Healthy;
        if !findings.iter().any(acquits) {
            return;
        }
        for node in &self.stranded {
            if let Some(chart) = self.charts.get_mut(node) {
                chart.acquit_level(rule);
            }
        }
    }

    /// Notes a verdict.
    pub fn reached(
        &mut self,
        at: Instant,
        node: &NodeId,
        verdict: Verdict,
        why: Option<&Finding>,
        lemon: bool,
    ) {
        let chart = self.charts.get_or_default(node);
        chart.reach(at, verdict, why.cloned(), lemon);
        if chart.held.is_none() {
            self.held.remove(node);
        }
        if verdict.withdraws() {
            self.withdrawn.insert(node.clone());
        } else {
            self.withdrawn.remove(node);
        }
    }

    /// Notes what a node would have been withdrawn for (S8).
    pub fn held_back(&mut self, node: &NodeId, finding: &Finding) {
        if let Some(chart) = self.charts.get_mut(node) {
            chart.held = Some(finding.clone());
            self.held.insert(node.clone());
        }
    }

    /// An admin says that a node can be used: what was held against it is forgotten (S11). How often it
    /// was withdrawn is not, or one that is lifted after each repair would never be a lemon; a lemon is
    /// pardoned.
    pub fn lifted(&mut self, at: Instant, node: &NodeId) {
        let chart = self.charts.remove(node).filter(|chart| !chart.lemon);
        let withdrawn = chart.map(|chart| chart.withdrawn).unwrap_or_default();
        if !withdrawn.is_empty() {
            let chart = Chart {
                since: at,
                withdrawn,
                ..Chart::default()
            };
            self.charts.insert(node.clone(), chart);
        }
        self.flickers.retain(|flicker| flicker.node != *node);
        for nodes in [&mut self.withdrawn, &mut self.held, &mut self.stranded] {
            nodes.remove(node);
        }
    }

    /// Takes in a rule.
    pub fn set(&mut self, rule: &EditedRule) {
        self.rules.insert(rule.name.clone(), rule.clone());
    }

    /// Removes a rule of an admin's own, or sets one that is built in back to its default.
    pub fn unset(&mut self, name: &str) {
        self.rules.remove(name);
        self.tallies.remove(name);
    }

    /// What is known of a node; none where nothing is.
    pub fn chart(&self, node: &NodeId) -> Option<&Chart> {
        self.charts.get(node)
    }

    /// Whether a signal says that something is over which is not raised.
    pub fn is_over_already(&self, node: &NodeId, signal: &Signal) -> bool {
        let is_raised = |chart: &Chart| chart.raised.contains_key(&signal.key());
        signal.cleared && !self.chart(node).is_some_and(is_raised)
    }

    /// What is made of a node.
    pub fn verdict(&self, node: &NodeId) -> Verdict {
        self.charts
            .get(node)
            .map_or(Verdict::Healthy, |chart| chart.verdict)
    }

    /// Whether a node is withdrawn, and not for good.
    pub fn is_withdrawn_for_now(&self, node: &NodeId) -> bool {
        let chart = self.charts.get(node);
        chart.is_some_and(|chart| chart.verdict.withdraws() && !chart.lemon)
    }

    /// Every node of which something was seen.
    pub fn charts(&self) -> impl Iterator<Item = (&NodeId, &Chart)> {
        self.charts.iter()
    }

    /// The nodes that are withdrawn (S3).
    pub const fn withdrawn(&self) -> &BTreeSet<NodeId> {
        &self.withdrawn
    }

    /// The nodes that would be withdrawn, had the breaker allowed it (S8).
    pub const fn held(&self) -> &BTreeSet<NodeId> {
        &self.held
    }

    /// The nodes that cannot use the checkpoints' storage.
    pub const fn stranded(&self) -> &BTreeSet<NodeId> {
        &self.stranded
    }

    /// The last signals of the fleet, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Heard> {
        self.recent.iter()
    }

    /// What admins said of rules, by name.
    pub const fn rules(&self) -> &BTreeMap<String, EditedRule> {
        &self.rules
    }

    /// How often a rule found something.
    pub fn tally(&self, rule: &str) -> Tally {
        self.tallies.get(rule).cloned().unwrap_or_default()
    }

    /// Whether a rule that is built in acts.
    pub fn mode(&self, rule: Builtin) -> Mode {
        self.rules
            .get(rule.name())
            .map_or(rule.rule().mode, |edited| edited.mode)
    }

    /// On which units this XID was seen within a burst before `at`.
    pub(super) fn units(
        &self,
        at: Instant,
        code: u32,
        burst: Duration,
    ) -> BTreeSet<(&NodeId, Option<Slot>)> {
        let units = self.xids_since(at - burst).filter(|xid| xid.code == code);
        units.map(|xid| (&xid.node, xid.device)).collect()
    }

    /// Nodes whose level of this kind came or went from then on.
    pub(super) fn flickered(&self, kind: Kind, since: Instant) -> impl Iterator<Item = &NodeId> {
        let newest = self.flickers.iter().rev();
        let newest = newest.take_while(move |flicker| flicker.at >= since);
        newest
            .filter(move |flicker| flicker.kind == kind)
            .map(|flicker| &flicker.node)
    }

    /// XIDs from then on, newest first; what is older is not looked at.
    pub(super) fn xids_since(&self, since: Instant) -> impl Iterator<Item = &XidSeen> {
        let newest = self.xids.iter().rev();
        newest.take_while(move |xid| xid.at >= since)
    }

    /// Whether a withdrawal of one more node keeps to the share of the fleet that automation may
    /// withdraw (S8).
    pub fn may_withdraw(&self, nodes: usize, share: f64) -> bool {
        self.withdrawn.len() < most_withdrawn(nodes, share)
    }

    /// Whether a node that is withdrawn for the next time has been too often (a lemon).
    pub fn turns_lemon(&self, now: Instant, node: &NodeId, w: &Windows) -> bool {
        let before = self
            .charts
            .get(node)
            .map_or(0, |chart| chart.withdrawals(now, w));
        self.mode(Builtin::Lemon) == Mode::Enforce && before + 1 >= w.lemon_after
    }
}

/// How many of a fleet of `nodes` automation may withdraw at once (S8).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a number of nodes, rounded down"
)]
pub fn most_withdrawn(nodes: usize, share: f64) -> usize {
    (nodes as f64 * share.clamp(0.0, 1.0)) as usize
}
