//! What the rules infer from a signal and from what came before it.

use super::chart::{Raised, Seen};
use super::expression::{Expression, NodeFields, Scene, SignalFields};
use super::fleet::Fleet;
use super::rule::{Builtin, limit};
use super::signal::{Kind, Recovery, Sign, Signal};
use super::xid::{self, Bucket, LinkFault};
use super::{Action, Finding, Mode, Verdict, Windows};
use crate::id::NodeId;
use crate::report::NodeFacts;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// What was made of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// It says what is known already, or that nothing is over which was not raised.
    Repeat,
    /// It is news.
    News {
        /// What was inferred.
        findings: Vec<Finding>,
        /// Many units have this XID, or many nodes raise this level: since when it is held against none of
        /// them. None where those who said it before are acquitted already.
        acquits: Option<Instant>,
        /// Rules of admins that failed on it.
        failed: u32,
    },
}

/// A finding before it is known whether its rule acts.
type Found = (Builtin, Verdict, Action);

impl Fleet {
    /// Asks every rule about a signal. `programs` are the expressions of admins' rules, by name.
    pub fn examine(
        &self,
        now: Instant,
        (facts, cordoned): (&NodeFacts, bool),
        signal: &Signal,
        w: &Windows,
        programs: &BTreeMap<String, Expression>,
    ) -> Examined {
        let node = &facts.node;
        if self.is_repeat(now, node, signal, w) {
            return Examined::Repeat;
        }
        let mut findings = Vec::new();
        if !signal.cleared {
            let mut found = self.infer(now, node, signal, w);
            found.extend(self.flaps(now, node, signal, &found, w));
            for (rule, verdict, action) in found {
                let mode = self.mode(rule);
                if mode != Mode::Off {
                    findings.push(finding(rule.name(), (verdict, action), mode, signal));
                }
            }
        }
        let about = (facts, cordoned);
        let failed = self.ask_own(now, about, signal, (w, programs), &mut findings);
        Examined::News {
            acquits: self.acquits(now, (&facts.node, signal), &findings, w),
            findings,
            failed,
        }
    }

    /// Asks the rules of admins; how many of them failed.
    fn ask_own(
        &self,
        now: Instant,
        about: (&NodeFacts, bool),
        signal: &Signal,
        (w, programs): (&Windows, &BTreeMap<String, Expression>),
        findings: &mut Vec<Finding>,
    ) -> u32 {
        let kind = signal.sign.kind();
        let asked = programs
            .iter()
            .filter(|(_, program)| program.may_fire(kind));
        let acting = asked.filter_map(|(name, program)| {
            let edited = self.rules.get(name)?;
            let own = edited.own.as_ref().filter(|_| edited.mode != Mode::Off)?;
            Some((name, program, edited.mode, own))
        });
        let acting: Vec<_> = acting.collect();
        if acting.is_empty() {
            return 0;
        }
        let scene = Scene {
            signal: SignalFields::of(signal),
            node: self.node_fields(now, about, signal, w),
        };
        let mut failed = 0;
        for (name, program, mode, own) in acting {
            match program.fires(&scene) {
                Ok(true) => {
                    let made = (own.verdict, own.action);
                    findings.push(finding(name, made, mode, signal));
                }
                Ok(false) => {}
                Err(_) => failed += 1,
            }
        }
        failed
    }

    fn acquits(
        &self,
        now: Instant,
        (node, signal): (&NodeId, &Signal),
        findings: &[Finding],
        w: &Windows,
    ) -> Option<Instant> {
        let (code, since) = (signal.key().index, now - w.burst);
        if self.many_flicker(now, node, signal, w) {
            return Some(since);
        }
        let is_many = findings.iter().any(Finding::is_of_many_units);
        let mut others = self.xids_since(since);
        (is_many && others.any(|xid| xid.code == code && !xid.many_units)).then_some(since)
    }

    /// What an expression sees of a node.
    pub fn node_fields<'a>(
        &self,
        now: Instant,
        (facts, cordoned): (&'a NodeFacts, bool),
        signal: &Signal,
        w: &Windows,
    ) -> NodeFields<'a> {
        let mut fields = NodeFields::of(facts);
        fields.cordoned = cordoned;
        if let Some(chart) = self.chart(&facts.node) {
            let key = signal.key();
            fields.verdict = chart.verdict.name();
            fields.withdrawals = i64::from(chart.withdrawals(now, w));
            fields.again += i64::from(chart.times(now, w.history, w.burst, |seen| seen.key == key));
        }
        fields
    }

    fn is_repeat(&self, now: Instant, node: &NodeId, signal: &Signal, w: &Windows) -> bool {
        let key = signal.key();
        let chart = self.chart(node);
        if let Sign::ProbesStarted { boot } = &signal.sign {
            let raised = chart.into_iter().flat_map(|chart| chart.raised.values());
            let is_known = |raised: &Raised| raised.unconfirmed.is_some();
            return self.boots.get(node) == Some(boot) && raised.into_iter().all(is_known);
        }
        if let Sign::Xid { .. } = &signal.sign {
            let mut near = self.xids_since(now - w.burst);
            return near.any(|xid| {
                let is_same = xid.code == key.index && xid.device == key.device;
                is_same && now.since(xid.at) < w.burst && xid.node == *node
            });
        }
        let Some(raised) = chart.and_then(|chart| chart.raised.get(&key)) else {
            return signal.cleared;
        };
        // A value that moves is news now and then; what asks for an action, at once.
        let asks = [Kind::RecoveryAction, Kind::RowRemap, Kind::Throttled].contains(&key.kind);
        let is_news = asks || now.since(raised.told) >= w.burst;
        let is_known = raised.unconfirmed.is_none() && (raised.signal == *signal || !is_news);
        !signal.cleared && is_known
    }

    fn infer(&self, now: Instant, node: &NodeId, signal: &Signal, w: &Windows) -> Vec<Found> {
        let one = |rule: Builtin, action| vec![(rule, rule.rule().verdict, action)];
        match &signal.sign {
            Sign::Xid { code, detail } => self.xid(now, node, signal, (*code, detail), w),
            Sign::RecoveryAction { action } => match action {
                Recovery::DrainPeers => one(Builtin::RecoveryDrain, Action::CheckLinks),
                Recovery::Reset | Recovery::DrainAndReset | Recovery::ResetBus => {
                    one(Builtin::RecoveryAction, Action::ResetGpu)
                }
                Recovery::Reboot | Recovery::RebootSystem | Recovery::RecoverDomain => {
                    one(Builtin::RecoveryAction, Action::RebootNode)
                }
            },
            Sign::GpuLost => one(Builtin::GpuLost, Action::RebootNode),
            Sign::EccUncorrected { sram, .. } if *sram > limit::ECC_SRAM => {
                one(Builtin::EccSram, Action::ReplaceNode)
            }
            Sign::EccUncorrected { .. } => one(Builtin::EccUncorrected, Action::ResetGpu),
            Sign::RowRemap { failed: true, .. } => {
                one(Builtin::RowRemapFailed, Action::ReplaceNode)
            }
            Sign::RowRemap { pending: true, .. } => one(Builtin::RowRemapPending, Action::ResetGpu),
            Sign::RowRemap { .. } | Sign::ProbesStarted { .. } => Vec::new(),
            Sign::Throttled { nanos, .. } => {
                // An agent that starts again counts from its start.
                let raised = self
                    .chart(node)
                    .and_then(|chart| chart.raised.get(&signal.key()));
                let lasts = raised.map_or(Duration::ZERO, |raised| now.since(raised.since));
                let is_long = lasts.max(Duration::from_nanos(*nanos)) >= w.throttled_for;
                let rule = if is_long {
                    Builtin::ThrottledLong
                } else {
                    Builtin::Throttled
                };
                one(rule, Action::CheckCooling)
            }
            Sign::PcieReplays { .. } => one(Builtin::PcieReplays, Action::CheckHardware),
            Sign::NvLinkErrors { .. } => one(Builtin::NvlinkErrors, Action::CheckLinks),
            Sign::NvLinkDown { .. } => one(Builtin::NvlinkDown, Action::CheckLinks),
            Sign::HostMemory { .. } => one(Builtin::HostMemory, Action::FreeMemory),
            Sign::Storage { .. } => one(Builtin::StorageLow, Action::FreeStorage),
            Sign::StorageFailing { .. } => {
                let others = self.stranded.iter().filter(|other| *other != node);
                let others = others
                    .filter(|other| self.is_stranded(now, other, w))
                    .count();
                let is_storage = others + 1 >= w.many_units as usize;
                let verdict = if is_storage {
                    Verdict::Healthy
                } else {
                    Verdict::Quarantined
                };
                vec![(Builtin::StorageFailing, verdict, Action::MendStorage)]
            }
            Sign::ClockSkew { .. } => one(Builtin::ClockSkew, Action::SetClock),
            Sign::ProbeHung { .. } => one(Builtin::ProbeHung, Action::RebootNode),
        }
    }

    fn xid(
        &self,
        now: Instant,
        node: &NodeId,
        signal: &Signal,
        (code, detail): (u32, &str),
        w: &Windows,
    ) -> Vec<Found> {
        let entry = xid::look_up(code);
        let (chart, device) = (self.chart(node), signal.device);
        // How often before, bursts and echoes aside.
        let before = |apart, is_it: &dyn Fn(&Seen) -> bool| {
            chart.map_or(0, |chart| {
                let of_device = |seen: &Seen| {
                    seen.key.kind == Kind::Xid && seen.key.device == device && is_it(seen)
                };
                chart.times(now, w.history, apart, of_device)
            })
        };
        let same = |seen: &Seen| seen.key.index == code && !seen.many_units;
        let again = before(w.burst, &same) + 1 >= w.again;
        let once = (Builtin::XidOnce, Verdict::Healthy, entry.action);
        match entry.bucket {
            Bucket::Ignore | Bucket::Follow => Vec::new(),
            Bucket::Cleanup if self.is_echo(now, node, signal, w) => Vec::new(),
            Bucket::RestartApp | Bucket::Cleanup => {
                let mut units = self.units(now, code, w.burst);
                units.insert((node, device));
                let (many, mut found) = (Builtin::XidManyUnits, Vec::new());
                let is_many = units.len() >= w.many_units as usize;
                if is_many {
                    found.push((many, Verdict::Healthy, Action::RestartApp));
                }
                // A rule that does not act acquits nobody.
                if !is_many || self.mode(many) != Mode::Enforce {
                    let verdict = Verdict::Quarantined;
                    let repeated = (Builtin::XidAgain, verdict, Action::RunDiagnostics);
                    found.push(if again { repeated } else { once });
                }
                found
            }
            Bucket::UpdateSoftware | Bucket::CheckUvm => {
                vec![(Builtin::XidSoftware, Verdict::Suspect, entry.action)]
            }
            Bucket::NvLink => match xid::link_fault(detail) {
                LinkFault::Hardware => fatal_link(),
                LinkFault::HardwareIfAgain if again => fatal_link(),
                LinkFault::HardwareIfAgain | LinkFault::Signal | LinkFault::Unclear => link(again),
            },
            Bucket::NvLink5 if xid::is_called_fatal(detail) => fatal_link(),
            Bucket::NvLink5 => link(again),
            Bucket::ResetGpu
            | Bucket::RebootNode
            | Bucket::RestartVm
            | Bucket::DoubleBit
            | Bucket::CheckMechanicals
            | Bucket::Support => {
                let fatal = |seen: &Seen| xid::look_up(seen.key.index).bucket.is_fatal();
                let mut found = vec![(Builtin::XidFatal, Verdict::Faulty, entry.action)];
                if before(w.sticky, &fatal) + 1 >= w.repeated {
                    found.push((Builtin::XidRepeated, Verdict::Faulty, Action::ReplaceNode));
                }
                found
            }
        }
    }

    /// Whether a node still cannot use the storage, as far as anybody knows.
    fn is_stranded(&self, now: Instant, node: &NodeId, w: &Windows) -> bool {
        let raised = self.chart(node).into_iter();
        let mut raised = raised.flat_map(|chart| &chart.raised);
        let spell = w.quarantine_for;
        raised.any(|(key, raised)| {
            let is_fresh = raised.unconfirmed.is_none_or(|at| now.since(at) < spell);
            key.kind == Kind::StorageFailing && is_fresh
        })
    }

    /// Whether another XID of the same unit came within the burst: then 45 only cleans up after it.
    fn is_echo(&self, now: Instant, node: &NodeId, signal: &Signal, w: &Windows) -> bool {
        let key = signal.key();
        let mut near = self.xids_since(now - w.burst);
        near.any(|xid| xid.device == key.device && xid.code != key.index && xid.node == *node)
    }

    /// Whether so many nodes raise a level at the same time that it is none of theirs.
    fn many_flicker(&self, now: Instant, node: &NodeId, signal: &Signal, w: &Windows) -> bool {
        let kind = signal.sign.kind();
        if signal.cleared || !kind.is_shared() {
            return false;
        }
        let flickered = self.flickered(kind, now - w.burst);
        let others = flickered.filter(|other| *other != node);
        others.count() + 1 >= w.many_units as usize
    }

    /// A level that makes a node suspect and is raised again and again.
    fn flaps(
        &self,
        now: Instant,
        node: &NodeId,
        signal: &Signal,
        found: &[Found],
        w: &Windows,
    ) -> Option<Found> {
        let (_, _, action) = found
            .iter()
            .find(|(_, verdict, _)| *verdict == Verdict::Suspect)?;
        let (chart, key) = (self.chart(node)?, signal.key());
        if signal.is_event() || chart.raised.contains_key(&key) {
            return None;
        }
        if self.many_flicker(now, node, signal, w) {
            return None;
        }
        let ended = |seen: &Seen| seen.key == key && !seen.by_boot && !seen.many_units;
        let before = chart.times(now, w.flaps_within, Duration::ZERO, ended);
        (before + 1 >= w.flaps).then_some((Builtin::Flapping, Verdict::Quarantined, *action))
    }
}

fn fatal_link() -> Vec<Found> {
    vec![(Builtin::NvlinkXidFatal, Verdict::Faulty, Action::ResetGpu)]
}

fn link(again: bool) -> Vec<Found> {
    vec![if again {
        (
            Builtin::NvlinkXidAgain,
            Verdict::Quarantined,
            Action::CheckLinks,
        )
    } else {
        (Builtin::NvlinkXid, Verdict::Suspect, Action::CheckLinks)
    }]
}

fn finding(
    rule: &str,
    (verdict, action): (Verdict, Action),
    mode: Mode,
    signal: &Signal,
) -> Finding {
    Finding {
        rule: rule.to_owned(),
        device: signal.device,
        verdict,
        action,
        mode,
        what: signal.to_string(),
    }
}
