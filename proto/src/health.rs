//! Signals, findings and rules of health.

use crate::check::{Malformed, code, list, list_by, maybe, node_id, part, same_names, text};
use crate::wire;
use crate::wire::signal as w;
use rebloom_core::engine::{Ask, HealthRuleView, NodeHealth, RuleHit};
use rebloom_core::health::edited::{EditedRule, OwnRule};
use rebloom_core::health::expression::MOST_BYTES;
use rebloom_core::health::fleet::Tally;
use rebloom_core::health::signal::{Headroom, Probe, Recovery, Sign, Signal, Throttle};
use rebloom_core::health::{Action, Finding, Mode, Verdict};
use rebloom_core::id::Slot;
use rebloom_core::time::Instant;

same_names!(Recovery <=> Recovery {
    Reset, Reboot, DrainPeers, DrainAndReset, RecoverDomain, ResetBus, RebootSystem,
});
same_names!(Throttle <=> Throttle { Thermal, SoftThermal, PowerBrake });
same_names!(Headroom <=> Headroom { Space, Inodes, Quota });
same_names!(Probe <=> Probe { Gpu, Kernel, Host, Storage });
same_names!(Verdict <=> Verdict { Healthy, Suspect, Quarantined, Faulty });
same_names!(Action <=> Action {
    None, RestartApp, ResetGpu, RebootNode, ReplaceNode, RunDiagnostics, CheckLinks, CheckHardware,
    CheckCooling, UpdateSoftware, FreeMemory, FreeStorage, MendStorage, SetClock, ContactSupport,
});
same_names!(RuleMode <=> Mode { Enforce, Shadow, Off });

impl From<Signal> for wire::Signal {
    fn from(
        Signal {
            device,
            sign,
            cleared,
        }: Signal,
    ) -> Self {
        let sign = match sign {
            Sign::Xid { code, detail } => w::Sign::Xid(w::Xid { code, detail }),
            Sign::RecoveryAction { action } => {
                w::Sign::RecoveryAction(wire::Recovery::from(action).into())
            }
            Sign::GpuLost => w::Sign::GpuLost(w::GpuLost {}),
            Sign::EccUncorrected { volatile, sram } => {
                w::Sign::EccUncorrected(w::EccUncorrected { volatile, sram })
            }
            Sign::RowRemap {
                rows,
                pending,
                failed,
            } => w::Sign::RowRemap(w::RowRemap {
                rows,
                pending,
                failed,
            }),
            Sign::Throttled { reason, nanos } => w::Sign::Throttled(w::Throttled {
                reason: wire::Throttle::from(reason).into(),
                nanos,
            }),
            Sign::PcieReplays { per_minute } => w::Sign::PcieReplays(per_minute),
            Sign::NvLinkErrors { link, per_minute } => {
                w::Sign::NvlinkErrors(w::NvLinkErrors { link, per_minute })
            }
            Sign::NvLinkDown { link } => w::Sign::NvlinkDown(link),
            Sign::HostMemory { available, total } => {
                w::Sign::HostMemory(w::HostMemory { available, total })
            }
            Sign::Storage { of, left, total } => w::Sign::Storage(w::Storage {
                of: wire::Headroom::from(of).into(),
                left,
                total,
            }),
            Sign::StorageFailing { error } => w::Sign::StorageFailing(error),
            Sign::ClockSkew { nanos } => w::Sign::ClockSkew(nanos),
            Sign::ProbeHung { probe, nanos } => w::Sign::ProbeHung(w::ProbeHung {
                probe: wire::Probe::from(probe).into(),
                nanos,
            }),
            Sign::ProbesStarted { boot } => w::Sign::ProbesStarted(boot),
        };
        Self {
            device: device.map(|slot| slot.0),
            cleared,
            sign: Some(sign),
        }
    }
}

impl TryFrom<wire::Signal> for Signal {
    type Error = Malformed;
    fn try_from(signal: wire::Signal) -> Result<Self, Malformed> {
        let sign = match signal.sign.ok_or_else(|| Malformed::missing("sign"))? {
            w::Sign::Xid(w::Xid { code, detail }) => Sign::Xid {
                code,
                detail: text(detail, "xid.detail")?,
            },
            w::Sign::RecoveryAction(action) => Sign::RecoveryAction {
                action: code::<wire::Recovery, _>(action, "recovery_action")?,
            },
            w::Sign::GpuLost(w::GpuLost {}) => Sign::GpuLost,
            w::Sign::EccUncorrected(w::EccUncorrected { volatile, sram }) => {
                Sign::EccUncorrected { volatile, sram }
            }
            w::Sign::RowRemap(w::RowRemap {
                rows,
                pending,
                failed,
            }) => Sign::RowRemap {
                rows,
                pending,
                failed,
            },
            w::Sign::Throttled(w::Throttled { reason, nanos }) => Sign::Throttled {
                reason: code::<wire::Throttle, _>(reason, "throttled.reason")?,
                nanos,
            },
            w::Sign::PcieReplays(per_minute) => Sign::PcieReplays { per_minute },
            w::Sign::NvlinkErrors(w::NvLinkErrors { link, per_minute }) => {
                Sign::NvLinkErrors { link, per_minute }
            }
            w::Sign::NvlinkDown(link) => Sign::NvLinkDown { link },
            w::Sign::HostMemory(w::HostMemory { available, total }) => {
                Sign::HostMemory { available, total }
            }
            w::Sign::Storage(w::Storage { of, left, total }) => Sign::Storage {
                of: code::<wire::Headroom, _>(of, "storage.of")?,
                left,
                total,
            },
            w::Sign::StorageFailing(error) => Sign::StorageFailing {
                error: text(error, "storage_failing")?,
            },
            w::Sign::ClockSkew(nanos) => Sign::ClockSkew { nanos },
            w::Sign::ProbeHung(w::ProbeHung { probe, nanos }) => Sign::ProbeHung {
                probe: code::<wire::Probe, _>(probe, "probe_hung.probe")?,
                nanos,
            },
            w::Sign::ProbesStarted(boot) => Sign::ProbesStarted { boot },
        };
        let signal = Self {
            device: signal.device.map(Slot),
            sign,
            cleared: signal.cleared,
        };
        signal
            .check()
            .map_err(|bad| Malformed::new(bad.kind, bad.problem))?;
        Ok(signal)
    }
}

impl From<Finding> for wire::Finding {
    fn from(
        Finding {
            rule,
            device,
            verdict,
            action,
            mode,
            what,
        }: Finding,
    ) -> Self {
        Self {
            rule,
            device: device.map(|slot| slot.0),
            verdict: wire::Verdict::from(verdict).into(),
            action: wire::Action::from(action).into(),
            mode: wire::RuleMode::from(mode).into(),
            what,
        }
    }
}

impl TryFrom<wire::Finding> for Finding {
    type Error = Malformed;
    fn try_from(finding: wire::Finding) -> Result<Self, Malformed> {
        Ok(Self {
            rule: text(finding.rule, "rule")?,
            device: finding.device.map(Slot),
            verdict: code::<wire::Verdict, _>(finding.verdict, "verdict")?,
            action: code::<wire::Action, _>(finding.action, "action")?,
            mode: code::<wire::RuleMode, _>(finding.mode, "mode")?,
            what: text(finding.what, "what")?,
        })
    }
}

impl From<NodeHealth> for wire::NodeHealth {
    fn from(
        NodeHealth {
            verdict,
            since,
            why,
            is_lemon,
            held,
            findings,
        }: NodeHealth,
    ) -> Self {
        let found = |(at, finding): (Instant, Finding)| wire::node_health::Found {
            at: at.as_nanos(),
            finding: Some(finding.into()),
        };
        Self {
            verdict: wire::Verdict::from(verdict).into(),
            since: since.map(Instant::as_nanos),
            why: why.map(Into::into),
            is_lemon,
            held: held.map(Into::into),
            findings: findings.into_iter().map(found).collect(),
        }
    }
}

impl TryFrom<wire::NodeHealth> for NodeHealth {
    type Error = Malformed;
    fn try_from(health: wire::NodeHealth) -> Result<Self, Malformed> {
        Ok(Self {
            verdict: code::<wire::Verdict, _>(health.verdict, "verdict")?,
            since: health.since.map(Instant::from_nanos),
            why: maybe(health.why, "why")?,
            is_lemon: health.is_lemon,
            held: maybe(health.held, "held")?,
            findings: list_by(health.findings, "findings", |found| {
                Ok((
                    Instant::from_nanos(found.at),
                    part(found.finding, "finding")?,
                ))
            })?,
        })
    }
}

impl From<HealthRuleView> for wire::HealthRule {
    fn from(
        HealthRuleView {
            name,
            is_builtin,
            fires,
            verdict,
            mode,
            tally,
            source,
        }: HealthRuleView,
    ) -> Self {
        Self {
            name,
            is_builtin,
            fires,
            verdict: wire::Verdict::from(verdict).into(),
            mode: wire::RuleMode::from(mode).into(),
            enforced: tally.enforced,
            shadowed: tally.shadowed,
            last: tally.node.is_some().then_some(tally.last.as_nanos()),
            node: tally.node.map(String::from).unwrap_or_default(),
            source,
        }
    }
}

impl TryFrom<wire::HealthRule> for HealthRuleView {
    type Error = Malformed;
    fn try_from(rule: wire::HealthRule) -> Result<Self, Malformed> {
        let node = (!rule.node.is_empty()).then_some(rule.node);
        Ok(Self {
            name: text(rule.name, "name")?,
            is_builtin: rule.is_builtin,
            fires: text(rule.fires, "fires")?,
            verdict: code::<wire::Verdict, _>(rule.verdict, "verdict")?,
            mode: code::<wire::RuleMode, _>(rule.mode, "mode")?,
            tally: Tally {
                enforced: rule.enforced,
                shadowed: rule.shadowed,
                last: Instant::from_nanos(rule.last.unwrap_or_default()),
                node: node.map(|node| node_id(node, "node")).transpose()?,
            },
            source: text(rule.source, "source")?,
        })
    }
}

impl From<Vec<HealthRuleView>> for wire::ListHealthRulesReply {
    fn from(rules: Vec<HealthRuleView>) -> Self {
        Self {
            rules: rules.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::ListHealthRulesReply> for Vec<HealthRuleView> {
    type Error = Malformed;
    fn try_from(reply: wire::ListHealthRulesReply) -> Result<Self, Malformed> {
        list(reply.rules, "rules")
    }
}

impl From<OwnRule> for wire::OwnRule {
    fn from(
        OwnRule {
            when,
            verdict,
            action,
        }: OwnRule,
    ) -> Self {
        Self {
            when,
            verdict: wire::Verdict::from(verdict).into(),
            action: wire::Action::from(action).into(),
        }
    }
}

/// An expression, no longer than core will read.
pub fn expression(when: String, field: &str) -> Result<String, Malformed> {
    if when.len() > MOST_BYTES {
        let problem = format!("has {} bytes, the limit is {MOST_BYTES}", when.len());
        return Err(Malformed::new(field, problem));
    }
    Ok(when)
}

impl TryFrom<wire::SetHealthRuleRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::SetHealthRuleRequest) -> Result<Self, Malformed> {
        let name = text(request.name, "name")?;
        let mode = code::<wire::RuleMode, _>(request.mode, "mode")?;
        let Some(own) = request.own else {
            return Ok(Self::SetRuleMode { name, mode });
        };
        let own = OwnRule {
            when: expression(own.when, "own.when")?,
            verdict: code::<wire::Verdict, _>(own.verdict, "own.verdict")?,
            action: code::<wire::Action, _>(own.action, "own.action")?,
        };
        let own = Some(own);
        Ok(Self::SetRule {
            rule: EditedRule { name, mode, own },
        })
    }
}

impl TryFrom<wire::UnsetHealthRuleRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::UnsetHealthRuleRequest) -> Result<Self, Malformed> {
        Ok(Self::UnsetRule {
            name: text(request.name, "name")?,
        })
    }
}

impl From<Vec<RuleHit>> for wire::TestHealthRuleReply {
    fn from(hits: Vec<RuleHit>) -> Self {
        let hit = |hit: RuleHit| wire::test_health_rule_reply::Hit {
            at: hit.at.as_nanos(),
            node: hit.node.into(),
            signal: hit.signal,
            fires: hit.fires == Ok(true),
            error: hit.fires.err().unwrap_or_default(),
        };
        Self {
            hits: hits.into_iter().map(hit).collect(),
        }
    }
}

impl TryFrom<wire::TestHealthRuleReply> for Vec<RuleHit> {
    type Error = Malformed;
    fn try_from(reply: wire::TestHealthRuleReply) -> Result<Self, Malformed> {
        list_by(reply.hits, "hits", |hit| {
            let error = text(hit.error, "error")?;
            Ok(RuleHit {
                at: Instant::from_nanos(hit.at),
                node: node_id(hit.node, "node")?,
                signal: text(hit.signal, "signal")?,
                fires: if error.is_empty() {
                    Ok(hit.fires)
                } else {
                    Err(error)
                },
            })
        })
    }
}
