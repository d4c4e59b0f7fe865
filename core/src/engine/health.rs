//! Health in the engine: signals become facts, facts become verdicts, verdicts become causes.
//!
//! What is made of a signal is for [`crate::health`] to say. Here it is written down, kept to the
//! share of the fleet that automation may withdraw (S8), and carried to the runs on the node: off a
//! faulty node at once, off a quarantined one at a step boundary once there is room elsewhere. What
//! an admin lifts is forgotten (S11); a node that was clean for a while comes back by itself (L2).

use super::{Answer, Engine, Fact, HealthRuleView, NodeHealth, Refusal, RuleHit, RunState};
use crate::by_name::ByName;
use crate::cause::Cause;
use crate::health::edited::{BadRule, EditedRule, MOST_RULES};
use crate::health::expression::{BadExpression, Expression, Scene, SignalFields};
use crate::health::fleet::Heard;
use crate::health::rule::{Builtin, RULES};
use crate::health::signal::{Kind, Signal};
use crate::health::{Examined, Finding, Mode, Verdict};
use crate::id::{NodeId, RunId};
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// Most signals of one node that are listened to within a burst window.
const MOST_SIGNALS: u32 = 256;
/// How long to wait before looking again for room for a run on a quarantined node.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Findings of a node that are shown.
const SHOWN: usize = 16;

/// What this life of the engine keeps beside the durable state: all of it follows from that.
#[derive(Debug, Default)]
pub(super) struct Ward {
    /// Expressions of admins' rules, compiled.
    programs: BTreeMap<String, Expression>,
    /// When a verdict may change by itself.
    due: BTreeSet<(Instant, NodeId)>,
    due_of: ByName<NodeId, Instant>,
    /// Withdrawn nodes that runs may still be on, and when to look.
    leaving: BTreeMap<NodeId, Instant>,
    /// Signals by node, since the window began.
    rates: ByName<NodeId, (Instant, u32)>,
    /// Whether the last event withdrew a node, for the audit.
    pub(super) withdrew: bool,
}

impl Ward {
    fn set_due(&mut self, node: &NodeId, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.due_of.insert(node.clone(), at),
            None => self.due_of.remove(node),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, node.clone()));
        }
        self.due.extend(at.map(|at| (at, node.clone())));
    }

    fn listens(&mut self, now: Instant, node: &NodeId, window: Duration) -> bool {
        let known = self.rates.get(node).copied();
        let known = known.filter(|(began, _)| now.since(*began) < window);
        let (began, before) = known.unwrap_or((now, 0));
        self.rates.insert(node.clone(), (began, before + 1));
        before < MOST_SIGNALS
    }

    /// The next moment at which something may have to be decided.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| *at);
        due.into_iter().chain(self.leaving.values().copied()).min()
    }
}

impl Engine {
    /// Takes up the state that a journal left: expressions are compiled again, and verdicts that
    /// were reached but not carried out are carried out.
    pub(super) fn open_ward(&mut self) {
        let own = self.state.health.rules().values();
        let compiled = own.filter_map(|rule| Some((rule.name.clone(), rule.check().ok()??)));
        self.ward.programs = compiled.collect();
        let charted = self.state.health.charts().map(|(node, _)| node.clone());
        let charted: Vec<_> = charted.collect();
        for node in charted {
            self.ward.set_due(&node, Some(self.now));
        }
        let withdrawn = self.state.health.withdrawn().iter();
        self.ward.leaving = withdrawn.map(|node| (node.clone(), self.now)).collect();
    }

    /// An agent's probe saw something.
    pub(super) fn signal(&mut self, node: &NodeId, signal: Signal) {
        let Some(known) = self.state.nodes.get(node) else {
            return self.count("unknown_node");
        };
        let devices = known
            .facts
            .slots
            .max(u32::try_from(known.facts.gpus.len()).unwrap_or(u32::MAX));
        if signal.check().is_err() || signal.device.is_some_and(|slot| slot.0 >= devices) {
            return self.count("bad_signal");
        }
        let windows = self.limits.health;
        // Probes that begin anew say at once what is not so.
        if self.state.health.is_over_already(node, &signal) {
            return self.count("repeated_signal");
        }
        if !self.ward.listens(self.now, node, windows.burst) {
            return self.count("too_many_signals");
        }
        let about = (&*known.facts, known.cordoned);
        let examined =
            self.state
                .health
                .examine(self.now, about, &signal, &windows, &self.ward.programs);
        let Examined::News {
            findings,
            acquits,
            failed,
        } = examined
        else {
            return self.count("repeated_signal");
        };
        (0..failed).for_each(|_| self.count("rule_failed"));
        let key = signal.key();
        self.tell(Fact::SignalHeard {
            node: node.clone(),
            signal,
            findings,
            acquits,
        });
        if let Some(since) = acquits {
            let acquitted = self.state.health.with(key, since);
            acquitted.iter().for_each(|node| self.rejudge(node));
        }
        if key.kind == Kind::StorageFailing {
            let stranded: Vec<_> = self.state.health.stranded().iter().cloned().collect();
            stranded.iter().for_each(|node| self.rejudge(node));
        }
        self.rejudge(node);
    }

    /// Decides anew what is made of a node.
    fn rejudge(&mut self, node: &NodeId) {
        let windows = self.limits.health;
        let Some(chart) = self.state.health.chart(node) else {
            return self.ward.set_due(node, None);
        };
        let judged = chart.judge(self.now, &windows);
        let (was, was_lemon) = (chart.verdict, chart.lemon);
        let is_held = chart.held.is_some();
        self.ward.set_due(node, judged.until);
        let (mut verdict, mut lemon, mut finding) = (judged.verdict, was_lemon, judged.finding);
        if let Some(reason) = finding
            .clone()
            .filter(|_| verdict.withdraws() && !was.withdraws())
        {
            if self.now.since(judged.at) > windows.act_within {
                // A breaker that opens again must not replay the past (S10).
                self.count("stale_finding");
                verdict = Verdict::Suspect;
            } else if !self.may_withdraw() {
                if !is_held {
                    let node = node.clone();
                    self.tell(Fact::VerdictHeld {
                        node,
                        finding: reason,
                    });
                }
                verdict = Verdict::Suspect;
            } else if self.state.health.turns_lemon(self.now, node, &windows) {
                (verdict, lemon) = (Verdict::Faulty, true);
                finding = Some(lemon_of(&reason));
            }
        }
        if verdict == was && lemon == was_lemon {
            return;
        }
        if verdict.withdraws() {
            self.ward.leaving.insert(node.clone(), self.now);
            self.ward.withdrew |= !was.withdraws();
        }
        self.tell(Fact::VerdictReached {
            node: node.clone(),
            verdict,
            finding,
            lemon,
        });
        if was.withdraws() && !verdict.withdraws() {
            self.room_in_breaker();
        }
    }

    /// A node came back: those that the breaker held may be withdrawn now, if they still deserve it.
    pub(super) fn room_in_breaker(&mut self) {
        let held: Vec<_> = self.state.health.held().iter().cloned().collect();
        for node in &held {
            if !self.may_withdraw() {
                break;
            }
            self.rejudge(node);
        }
    }

    fn may_withdraw(&self) -> bool {
        let nodes = self.state.nodes.len();
        self.state
            .health
            .may_withdraw(nodes, self.limits.withdraw_share)
    }

    /// Looks at verdicts that may have changed by themselves, and gets runs off withdrawn nodes.
    pub(super) fn check_health(&mut self) {
        while let Some((at, node)) = self.ward.due.first().cloned() {
            if at > self.now {
                break;
            }
            self.ward.set_due(&node, None);
            self.rejudge(&node);
        }
        let due = self.ward.leaving.iter().filter(|(_, at)| **at <= self.now);
        let due: Vec<_> = due.map(|(node, _)| node.clone()).collect();
        for node in due {
            if self.is_left(&node) {
                self.ward.leaving.remove(&node);
            } else {
                self.ward.leaving.insert(node, self.now + LOOK_AGAIN);
            }
        }
    }

    /// Gets runs off a node, as its verdict asks; whether none is left to get off.
    fn is_left(&mut self, node: &NodeId) -> bool {
        let Some(chart) = self.state.health.chart(node) else {
            return true;
        };
        let verdict = chart.verdict;
        let finding = chart.why.clone().filter(|_| verdict.withdraws());
        let Some(finding) = finding else { return true };
        // Asked of the floor, which knows: a fleet has thousands of runs.
        let mut on_it = self.floor.on(node);
        on_it.sort();
        let stays = |id: &RunId| {
            let run = self.state.runs.get(id)?;
            let mut here = run.gang.as_ref()?.on(node);
            let stays = run.broken.is_none() && here.any(|(_, it)| it.finished.is_none());
            stays.then_some(run.state)
        };
        let on_it: Vec<_> = on_it
            .into_iter()
            .filter_map(|id| stays(&id).map(|state| (id, state)))
            .collect();
        let mut is_left = true;
        for (id, state) in on_it {
            let goes_on = matches!(
                state,
                RunState::Starting | RunState::Running | RunState::Recovering
            );
            if goes_on && verdict == Verdict::Faulty {
                self.fault(&id, cause_of(node, &finding), self.now);
            } else if goes_on {
                is_left = false;
                self.move_off(&id, node, &finding);
            }
        }
        is_left
    }

    /// Asks a run to stop at a step boundary and go on without a quarantined node, where it can.
    fn move_off(&mut self, id: &RunId, node: &NodeId, finding: &Finding) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        if run.gang.is_none() || run.moving.is_some() {
            return;
        }
        let has_room = self
            .find_place(id, run.spec.layout, &[], &BTreeSet::new())
            .is_some();
        if run.state == RunState::Running && has_room {
            self.tell(Fact::MoveAsked {
                run: id.clone(),
                node: node.clone(),
                cause: cause_of(node, finding),
            });
        }
    }

    /// An admin sets a rule.
    pub(super) fn set_rule(&mut self, rule: EditedRule) -> Result<Answer, Refusal> {
        let refused = |error| {
            if let BadRule::Unknown(name) = error {
                Refusal::NoSuchRule(name)
            } else {
                Refusal::BadRule(error.to_string())
            }
        };
        let program = rule.check().map_err(refused)?;
        let own = self
            .state
            .health
            .rules()
            .values()
            .filter(|rule| rule.own.is_some());
        let is_known = self.state.health.rules().contains_key(&rule.name);
        if rule.own.is_some() && !is_known && own.count() >= MOST_RULES {
            return Err(refused(BadRule::TooMany));
        }
        if let Some(program) = program {
            self.ward.programs.insert(rule.name.clone(), program);
        }
        let message = match rule.mode {
            Mode::Enforce => format!("rule {} acts from the next signal on", rule.name),
            Mode::Shadow => format!("rule {} records what it would do", rule.name),
            Mode::Off => format!("rule {} is off", rule.name),
        };
        self.tell(Fact::HealthRuleSet { rule });
        Ok(self.done(message, None))
    }

    /// An admin changes only whether a rule acts.
    pub(super) fn set_rule_mode(&mut self, name: String, mode: Mode) -> Result<Answer, Refusal> {
        let own = self
            .state
            .health
            .rules()
            .get(&name)
            .and_then(|rule| rule.own.clone());
        self.set_rule(EditedRule { name, mode, own })
    }

    /// An admin removes a rule, or sets one that is built in back to its default.
    pub(super) fn unset_rule(&mut self, name: &str) -> Result<Answer, Refusal> {
        let is_builtin = Builtin::from_name(name).is_some();
        let is_known = self.state.health.rules().contains_key(name);
        if !is_known && !is_builtin {
            return Err(Refusal::NoSuchRule(name.to_owned()));
        }
        self.ward.programs.remove(name);
        if is_known {
            let name = name.to_owned();
            self.tell(Fact::HealthRuleUnset { name });
        }
        let what = if is_builtin {
            "is as it was built in"
        } else {
            "is removed"
        };
        Ok(self.done(format!("rule {name} {what}"), None))
    }

    /// Every rule, built in ones first.
    pub fn health_rules(&self) -> Vec<HealthRuleView> {
        let fleet = &self.state.health;
        let builtin = RULES.iter().map(|rule| HealthRuleView {
            name: rule.name.to_owned(),
            is_builtin: true,
            fires: rule.sees.to_owned(),
            verdict: rule.verdict,
            mode: fleet.mode(rule.id),
            tally: fleet.tally(rule.name),
            source: rule.source.to_owned(),
        });
        let own = fleet.rules().values().filter_map(|rule| {
            let own = rule.own.as_ref()?;
            Some(HealthRuleView {
                name: rule.name.clone(),
                is_builtin: false,
                fires: own.when.clone(),
                verdict: own.verdict,
                mode: rule.mode,
                tally: fleet.tally(&rule.name),
                source: "set by an admin".to_owned(),
            })
        });
        builtin.chain(own).collect()
    }

    /// What a rule with this expression would have found in the signals of late, and whether it fires on
    /// each. Nothing is changed by it.
    pub fn test_rule(&self, when: &str) -> Result<Vec<RuleHit>, BadExpression> {
        let program = Expression::new(when)?;
        let hits = self.state.health.recent().filter_map(|heard| {
            let Heard { at, node, signal } = heard;
            let known = self.state.nodes.get(node)?;
            let windows = &self.limits.health;
            // As it was just before: what came after, and the signal itself, is in the charts by now.
            let before = *at - Duration::from_nanos(1);
            let about = (&*known.facts, known.cordoned);
            let health = &self.state.health;
            let scene = Scene {
                signal: SignalFields::of(signal),
                node: health.node_fields(before, about, signal, windows),
            };
            Some(RuleHit {
                at: *at,
                node: node.clone(),
                signal: signal.to_string(),
                fires: program.fires(&scene).map_err(|error| error.to_string()),
            })
        });
        Ok(hits.collect())
    }

    /// What is made of a node's health.
    pub(super) fn node_health(&self, node: &NodeId) -> NodeHealth {
        let Some(chart) = self.state.health.chart(node) else {
            return NodeHealth::default();
        };
        let raised = chart.raised.values().rev();
        let raised = raised.flat_map(|raised| raised.findings.iter().map(|f| (raised.since, f)));
        let seen = chart.seen.iter().rev();
        let seen = seen.flat_map(|seen| seen.findings.iter().map(|f| (seen.at, f)));
        NodeHealth {
            verdict: chart.verdict,
            since: Some(chart.since),
            why: chart.why.clone(),
            is_lemon: chart.lemon,
            held: chart.held.clone(),
            findings: raised
                .chain(seen)
                .take(SHOWN)
                .map(|(at, finding)| (at, finding.clone()))
                .collect(),
        }
    }
}

fn cause_of(node: &NodeId, finding: &Finding) -> Cause {
    let (node, rule, what) = (node.clone(), finding.rule.clone(), finding.what.clone());
    if finding.verdict == Verdict::Faulty {
        let action = finding.action;
        Cause::NodeFaulty {
            node,
            rule,
            what,
            action,
        }
    } else {
        Cause::NodeQuarantined { node, rule, what }
    }
}

fn lemon_of(reason: &Finding) -> Finding {
    let rule = Builtin::Lemon;
    Finding {
        rule: rule.name().to_owned(),
        device: reason.device,
        verdict: rule.rule().verdict,
        action: crate::health::Action::ReplaceNode,
        mode: Mode::Enforce,
        what: format!("withdrawn too often, the last time for {reason}"),
    }
}
