//! Signals that no probe can have seen, those that just can be, and what each of them says.

use super::{of_node, on, over, xid};
use rebloom_core::health::signal::{
    Headroom, MOST_TEXT, Probe, Recovery, Sign, Signal, Throttle, shortened,
};
use rebloom_core::health::{Action, Finding, Mode, Verdict};

#[test]
fn signals_that_cannot_be() {
    let bad = [
        xid(0, 0, ""),
        xid(0, 10_000, ""),
        xid(0, 79, &"x".repeat(241)),
        over(xid(0, 79, "")),
        Signal::raised(None, Sign::GpuLost),
        on(0, Sign::ClockSkew { nanos: 5 }),
        on(0, Sign::NvLinkDown { link: 64 }),
        Signal::raised(
            None,
            Sign::HostMemory {
                available: 2,
                total: 1,
            },
        ),
        Signal::raised(
            None,
            Sign::Storage {
                of: Headroom::Space,
                left: 2,
                total: 1,
            },
        ),
    ];
    for signal in bad {
        assert!(signal.check().is_err(), "{signal:?}");
    }
}

#[test]
fn signals_that_just_can_be() {
    let good = [
        xid(0, 1, ""),
        xid(0, 9999, ""),
        xid(0, 79, &"x".repeat(MOST_TEXT)),
        of_node(xid(0, 79, "").sign),
        on(0, Sign::NvLinkDown { link: 63 }),
        of_node(Sign::HostMemory {
            available: 1,
            total: 1,
        }),
        of_node(Sign::Storage {
            of: Headroom::Space,
            left: 1,
            total: 1,
        }),
    ];
    for signal in good {
        assert_eq!(signal.check(), Ok(()), "{signal:?}");
    }
}

#[test]
fn text_is_shortened_at_a_character() {
    let short = "x".repeat(MOST_TEXT);
    assert_eq!(shortened(&short), short);
    assert_eq!(shortened(&format!("{short}y")), short);
    let cut = "x".repeat(MOST_TEXT - 1);
    assert_eq!(shortened(&format!("{cut}\u{fc}y")), cut);
}

/// Operators read these in the chronicle, in `explain` and in the log.
#[test]
fn what_signals_say() {
    let second = 1_000_000_000;
    let rows = |pending, failed| {
        let rows = 3;
        on(
            1,
            Sign::RowRemap {
                rows,
                pending,
                failed,
            },
        )
    };
    let throttled = |reason| {
        let nanos = 31 * second;
        on(1, Sign::Throttled { reason, nanos })
    };
    let asks = |action| on(1, Sign::RecoveryAction { action });
    let storage = |of| {
        of_node(Sign::Storage {
            of,
            left: 5,
            total: 100,
        })
    };
    let hung = |probe| {
        let nanos = 45 * second;
        of_node(Sign::ProbeHung { probe, nanos })
    };
    let cases = [
        (xid(3, 79, "off the bus"), "GPU 3: XID 79, off the bus"),
        (
            asks(Recovery::Reset),
            "GPU 1: the driver asks to reset the GPU",
        ),
        (
            asks(Recovery::Reboot),
            "GPU 1: the driver asks to reboot the node",
        ),
        (
            asks(Recovery::DrainPeers),
            "GPU 1: the driver asks to drain its peers",
        ),
        (
            asks(Recovery::DrainAndReset),
            "GPU 1: the driver asks to drain and reset the GPU",
        ),
        (
            asks(Recovery::RecoverDomain),
            "GPU 1: the driver asks to recover the IMEX domain",
        ),
        (
            asks(Recovery::ResetBus),
            "GPU 1: the driver asks to reset the bus",
        ),
        (
            asks(Recovery::RebootSystem),
            "GPU 1: the driver asks to reboot the system",
        ),
        (over(on(2, Sign::GpuLost)), "GPU 2: lost, over now"),
        (
            on(
                1,
                Sign::EccUncorrected {
                    volatile: 2,
                    sram: 5,
                },
            ),
            "GPU 1: 2 uncorrected ECC errors, 5 ever in SRAM",
        ),
        (rows(false, false), "GPU 1: 3 rows remapped"),
        (
            rows(true, false),
            "GPU 1: 3 rows remapped, one waits for a reset",
        ),
        (
            rows(true, true),
            "GPU 1: 3 rows remapped, one waits for a reset, one failed",
        ),
        (
            throttled(Throttle::Thermal),
            "GPU 1: thermal slowdown for 31 s",
        ),
        (
            throttled(Throttle::SoftThermal),
            "GPU 1: software thermal slowdown for 31 s",
        ),
        (
            throttled(Throttle::PowerBrake),
            "GPU 1: power brake for 31 s",
        ),
        (
            on(1, Sign::PcieReplays { per_minute: 9 }),
            "GPU 1: 9 PCIe replays a minute",
        ),
        (
            on(
                1,
                Sign::NvLinkErrors {
                    link: 4,
                    per_minute: 7,
                },
            ),
            "GPU 1: 7 errors a minute on NVLink 4",
        ),
        (
            on(1, Sign::NvLinkDown { link: 4 }),
            "GPU 1: NVLink 4 is down",
        ),
        (
            of_node(Sign::HostMemory {
                available: 2,
                total: 100,
            }),
            "2 of 100 bytes of host memory left",
        ),
        (
            storage(Headroom::Space),
            "5 of 100 left of the checkpoints' space",
        ),
        (
            storage(Headroom::Inodes),
            "5 of 100 left of the checkpoints' inodes",
        ),
        (
            storage(Headroom::Quota),
            "5 of 100 left of the checkpoints' quota",
        ),
        (
            of_node(Sign::StorageFailing {
                error: "stale handle".to_owned(),
            }),
            "checkpoint storage: stale handle",
        ),
        (
            of_node(Sign::ClockSkew {
                nanos: -3 * second as i64 / 2,
            }),
            "the clock is off by 1.5 s",
        ),
        (hung(Probe::Gpu), "the GPU probe has not answered for 45 s"),
        (
            hung(Probe::Kernel),
            "the kernel log probe has not answered for 45 s",
        ),
        (
            hung(Probe::Host),
            "the host probe has not answered for 45 s",
        ),
        (
            hung(Probe::Storage),
            "the storage probe has not answered for 45 s",
        ),
        (
            of_node(Sign::ProbesStarted { boot: 0xbeef }),
            "the probes began anew in boot 000000000000beef",
        ),
    ];
    for (signal, said) in cases {
        assert_eq!(signal.to_string(), said);
    }
}

#[test]
fn what_nvml_s_numbers_ask_for() {
    let asks = (0..9).map(Recovery::from_nvml);
    let known = [
        Recovery::Reset,
        Recovery::Reboot,
        Recovery::DrainPeers,
        Recovery::DrainAndReset,
        Recovery::RecoverDomain,
        Recovery::ResetBus,
        Recovery::RebootSystem,
    ];
    let known = known.map(Some).into_iter();
    assert!(asks.eq([None].into_iter().chain(known).chain([None])));
}

#[test]
fn words_are_found_by_their_names() {
    for verdict in Verdict::ALL {
        assert_eq!(Verdict::from_name(verdict.name()), Some(verdict));
        assert_eq!(verdict.to_string(), verdict.name());
    }
    for mode in Mode::ALL {
        assert_eq!(Mode::from_name(mode.name()), Some(mode));
    }
    for action in Action::ALL {
        assert_eq!(Action::from_name(action.name()), Some(action));
    }
    assert_eq!(Verdict::from_name("ill"), None);
    assert_eq!(Mode::from_name("ill"), None);
    assert_eq!(Action::from_name("ill"), None);
}

#[test]
fn what_counts_is_enforced_and_worse_than_healthy() {
    let finding = |verdict, mode| Finding {
        rule: "hot".to_owned(),
        device: None,
        verdict,
        action: Action::CheckCooling,
        mode,
        what: "it glows".to_owned(),
    };
    for verdict in Verdict::ALL {
        let counts = finding(verdict, Mode::Enforce).counts();
        assert_eq!(counts, verdict != Verdict::Healthy);
        assert!(!finding(verdict, Mode::Shadow).counts());
    }
    let said = finding(Verdict::Suspect, Mode::Shadow).to_string();
    assert_eq!(said, "hot: it glows");
}
