//! Signals, findings and rules.

use super::node as name;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{HealthRuleView, NodeHealth, RuleHit};
use rebloom_core::health::fleet::Tally;
use rebloom_core::health::signal::{Headroom, Probe, Recovery, Sign, Signal, Throttle};
use rebloom_core::health::{Action, Finding, Mode, Verdict};
use rebloom_core::id::Slot;
use rebloom_core::time::Instant;

pub(crate) fn signals() -> Vec<Signal> {
    let text = || "it broke".to_owned();
    let of_device = [
        Sign::Xid {
            code: 79,
            detail: text(),
        },
        Sign::RecoveryAction {
            action: Recovery::DrainAndReset,
        },
        Sign::GpuLost,
        Sign::EccUncorrected {
            volatile: 1,
            sram: 5,
        },
        Sign::RowRemap {
            rows: 3,
            pending: true,
            failed: false,
        },
        Sign::Throttled {
            reason: Throttle::PowerBrake,
            nanos: 7,
        },
        Sign::PcieReplays { per_minute: 9 },
        Sign::NvLinkErrors {
            link: 2,
            per_minute: 4,
        },
        Sign::NvLinkDown { link: 3 },
    ];
    let of_node = [
        Sign::HostMemory {
            available: 1,
            total: 2,
        },
        Sign::Storage {
            of: Headroom::Quota,
            left: 3,
            total: 9,
        },
        Sign::StorageFailing { error: text() },
        Sign::ClockSkew { nanos: -5 },
        Sign::ProbeHung {
            probe: Probe::Storage,
            nanos: 6,
        },
        Sign::ProbesStarted { boot: u64::MAX },
    ];
    let of_device = of_device.map(|sign| Signal::raised(Some(Slot(3)), sign));
    let of_node = of_node.map(|sign| Signal::raised(None, sign));
    let mut signals: Vec<_> = of_device.into_iter().chain(of_node).collect();
    let over = signals.iter().filter(|signal| !signal.is_event()).cloned();
    let over: Vec<_> = over
        .map(|signal| Signal {
            cleared: true,
            ..signal
        })
        .collect();
    signals.extend(over);
    signals
}

fn finding(verdict: Verdict, mode: Mode) -> Finding {
    Finding {
        rule: "xid_fatal".to_owned(),
        device: Some(Slot(3)),
        verdict,
        action: Action::RebootNode,
        mode,
        what: "GPU 3: XID 79".to_owned(),
    }
}

pub(crate) fn node() -> NodeHealth {
    NodeHealth {
        verdict: Verdict::Faulty,
        since: Some(Instant::from_nanos(4)),
        why: Some(finding(Verdict::Faulty, Mode::Enforce)),
        is_lemon: true,
        held: Some(finding(Verdict::Quarantined, Mode::Enforce)),
        findings: vec![(
            Instant::from_nanos(5),
            finding(Verdict::Suspect, Mode::Shadow),
        )],
    }
}

pub(crate) fn causes() -> Vec<Cause> {
    let (rule, what) = (|| "lemon".to_owned(), || "too often".to_owned());
    vec![
        Cause::NodeFaulty {
            node: name(),
            rule: rule(),
            what: what(),
            action: Action::ReplaceNode,
        },
        Cause::NodeQuarantined {
            node: name(),
            rule: rule(),
            what: what(),
        },
    ]
}

pub(crate) fn rules() -> Vec<HealthRuleView> {
    let rule = |mode, node: Option<_>| HealthRuleView {
        name: "remaps".to_owned(),
        is_builtin: node.is_some(),
        fires: "signal.code == 63".to_owned(),
        verdict: Verdict::Quarantined,
        mode,
        tally: Tally {
            enforced: 1,
            shadowed: 2,
            last: Instant::from_nanos(if node.is_some() { 8 } else { 0 }),
            node,
        },
        source: "set by an admin".to_owned(),
    };
    vec![rule(Mode::Off, None), rule(Mode::Shadow, Some(name()))]
}

pub(crate) fn hits() -> Vec<RuleHit> {
    let hit = |fires| RuleHit {
        at: Instant::from_nanos(3),
        node: name(),
        signal: "GPU 3: XID 63".to_owned(),
        fires,
    };
    vec![
        hit(Ok(true)),
        hit(Ok(false)),
        hit(Err("no such key".to_owned())),
    ]
}
