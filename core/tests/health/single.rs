//! One signal alone: which rule speaks, what it asks for, and what becomes of the node.

use super::{Bench, REG0_HARDWARE, failing, of_node, on, throttled, xid};
use rebloom_core::health::signal::{Headroom, Kind, Probe, Recovery, Sign, Signal};
use rebloom_core::health::{Action, Verdict};

/// One signal alone: the rule, and what becomes of the node.
#[test]
fn a_single_signal() {
    let ecc = |volatile, sram| on(0, Sign::EccUncorrected { volatile, sram });
    let rows = |pending, failed| {
        on(
            0,
            Sign::RowRemap {
                rows: 1,
                pending,
                failed,
            },
        )
    };
    let storage = |of| {
        of_node(Sign::Storage {
            of,
            left: 1,
            total: 100,
        })
    };
    let action = |action| on(0, Sign::RecoveryAction { action });
    let second = 1_000_000_000;
    let cases: Vec<(Signal, &[&str], Action, Verdict)> = vec![
        (
            xid(0, 79, ""),
            &["xid_fatal"],
            Action::RebootNode,
            Verdict::Faulty,
        ),
        (
            xid(0, 48, ""),
            &["xid_fatal"],
            Action::ResetGpu,
            Verdict::Faulty,
        ),
        (
            xid(0, 54, ""),
            &["xid_fatal"],
            Action::CheckHardware,
            Verdict::Faulty,
        ),
        (
            xid(0, 61, ""),
            &["xid_fatal"],
            Action::ContactSupport,
            Verdict::Faulty,
        ),
        (
            xid(0, 151, ""),
            &["xid_fatal"],
            Action::RebootNode,
            Verdict::Faulty,
        ),
        (
            xid(0, 31, ""),
            &["xid_once"],
            Action::RestartApp,
            Verdict::Healthy,
        ),
        (
            xid(0, 94, ""),
            &["xid_once"],
            Action::RestartApp,
            Verdict::Healthy,
        ),
        (
            xid(0, 45, ""),
            &["xid_once"],
            Action::RestartApp,
            Verdict::Healthy,
        ),
        (xid(0, 63, ""), &[], Action::None, Verdict::Healthy),
        (xid(0, 154, ""), &[], Action::None, Verdict::Healthy),
        (
            xid(0, 78, ""),
            &["xid_software"],
            Action::UpdateSoftware,
            Verdict::Suspect,
        ),
        (
            xid(0, 159, ""),
            &["xid_software"],
            Action::UpdateSoftware,
            Verdict::Suspect,
        ),
        (
            xid(0, 74, REG0_HARDWARE),
            &["nvlink_xid"],
            Action::CheckLinks,
            Verdict::Suspect,
        ),
        (
            xid(0, 74, "link 1(0x2, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"),
            &["nvlink_xid_fatal"],
            Action::ResetGpu,
            Verdict::Faulty,
        ),
        (
            xid(0, 145, "RLW Nonfatal XC1"),
            &["nvlink_xid"],
            Action::CheckLinks,
            Verdict::Suspect,
        ),
        (
            xid(0, 145, "RLW Fatal XC1"),
            &["nvlink_xid_fatal"],
            Action::ResetGpu,
            Verdict::Faulty,
        ),
        (
            action(Recovery::Reset),
            &["recovery_action"],
            Action::ResetGpu,
            Verdict::Faulty,
        ),
        (
            action(Recovery::Reboot),
            &["recovery_action"],
            Action::RebootNode,
            Verdict::Faulty,
        ),
        (
            action(Recovery::DrainAndReset),
            &["recovery_action"],
            Action::ResetGpu,
            Verdict::Faulty,
        ),
        (
            action(Recovery::RecoverDomain),
            &["recovery_action"],
            Action::RebootNode,
            Verdict::Faulty,
        ),
        (
            action(Recovery::ResetBus),
            &["recovery_action"],
            Action::ResetGpu,
            Verdict::Faulty,
        ),
        (
            action(Recovery::RebootSystem),
            &["recovery_action"],
            Action::RebootNode,
            Verdict::Faulty,
        ),
        (
            action(Recovery::DrainPeers),
            &["recovery_drain"],
            Action::CheckLinks,
            Verdict::Quarantined,
        ),
        (
            on(0, Sign::GpuLost),
            &["gpu_lost"],
            Action::RebootNode,
            Verdict::Faulty,
        ),
        (
            ecc(1, 0),
            &["ecc_uncorrected"],
            Action::ResetGpu,
            Verdict::Suspect,
        ),
        (
            ecc(0, 4),
            &["ecc_uncorrected"],
            Action::ResetGpu,
            Verdict::Suspect,
        ),
        (
            ecc(0, 5),
            &["ecc_sram"],
            Action::ReplaceNode,
            Verdict::Faulty,
        ),
        (
            rows(true, false),
            &["row_remap_pending"],
            Action::ResetGpu,
            Verdict::Suspect,
        ),
        (
            rows(true, true),
            &["row_remap_failed"],
            Action::ReplaceNode,
            Verdict::Faulty,
        ),
        (
            throttled(30 * second),
            &["throttled"],
            Action::CheckCooling,
            Verdict::Suspect,
        ),
        (
            throttled(600 * second),
            &["throttled_long"],
            Action::CheckCooling,
            Verdict::Quarantined,
        ),
        (
            on(0, Sign::PcieReplays { per_minute: 9 }),
            &["pcie_replays"],
            Action::CheckHardware,
            Verdict::Suspect,
        ),
        (
            on(
                0,
                Sign::NvLinkErrors {
                    link: 1,
                    per_minute: 1,
                },
            ),
            &["nvlink_errors"],
            Action::CheckLinks,
            Verdict::Suspect,
        ),
        (
            on(0, Sign::NvLinkDown { link: 1 }),
            &["nvlink_down"],
            Action::CheckLinks,
            Verdict::Faulty,
        ),
        (
            of_node(Sign::HostMemory {
                available: 1,
                total: 100,
            }),
            &["host_memory"],
            Action::FreeMemory,
            Verdict::Suspect,
        ),
        (
            storage(Headroom::Space),
            &["storage_low"],
            Action::FreeStorage,
            Verdict::Healthy,
        ),
        (
            storage(Headroom::Inodes),
            &["storage_low"],
            Action::FreeStorage,
            Verdict::Healthy,
        ),
        (
            storage(Headroom::Quota),
            &["storage_low"],
            Action::FreeStorage,
            Verdict::Healthy,
        ),
        (
            failing(),
            &["storage_failing"],
            Action::MendStorage,
            Verdict::Quarantined,
        ),
        (
            of_node(Sign::ClockSkew { nanos: -2 }),
            &["clock_skew"],
            Action::SetClock,
            Verdict::Suspect,
        ),
        (
            // In shadow mode: found, and counted for nothing.
            of_node(Sign::ProbeHung {
                probe: Probe::Gpu,
                nanos: 60 * second,
            }),
            &["probe_hung"],
            Action::RebootNode,
            Verdict::Healthy,
        ),
    ];
    let mut kinds: Vec<_> = cases
        .iter()
        .map(|(signal, ..)| signal.sign.kind())
        .collect();
    kinds.push(Kind::ProbesStarted);
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), Kind::ALL.len(), "a case for every kind");
    for (signal, rules, action, verdict) in cases {
        let mut bench = Bench::new();
        let found = bench.tell("n1", &signal).unwrap();
        let named: Vec<_> = found.iter().map(|finding| &finding.rule).collect();
        assert_eq!(named, rules, "{signal}");
        let asks = found.first().map_or(Action::None, |found| found.action);
        assert_eq!(asks, action, "{signal}");
        assert_eq!(bench.verdict("n1"), verdict, "{signal}");
    }
}
