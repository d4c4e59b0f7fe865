//! From readings to signals: edges, gaps, windows, bursts, and how much may be said.

use super::minutes;
use proptest::prelude::*;
use rebloom_core::health::gauge::{Gauge, GpuReading, MOST_A_MINUTE, Reading};
use rebloom_core::health::kernel_log;
use rebloom_core::health::signal::{Headroom, Key, Kind, Probe, Recovery, Sign, Signal, Throttle};
use rebloom_core::id::Slot;
use rebloom_core::time::{Duration, Instant};
use std::collections::BTreeSet;

pub(super) struct Bench {
    pub(super) gauge: Gauge,
    pub(super) now: Instant,
    /// What is raised, as far as was told.
    raised: BTreeSet<Key>,
    /// What was told to be over without having been raised.
    pub(super) denied: Vec<Key>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut gauge = Gauge::default();
        let first = gauge.begin(99);
        assert_eq!(first.sign, Sign::ProbesStarted { boot: 99 });
        let now = Instant::ZERO + Duration::from_secs(5000);
        Self {
            gauge,
            now,
            raised: BTreeSet::new(),
            denied: Vec::new(),
        }
    }

    /// Reads every 15 seconds.
    pub(super) fn read(&mut self, reading: Reading) -> Vec<Signal> {
        self.now = self.now + Duration::from_secs(15);
        self.read_now(reading)
    }

    /// What is told, without what is denied at a first look.
    pub(super) fn read_now(&mut self, reading: Reading) -> Vec<Signal> {
        let mut signals = self.gauge.read(self.now, reading);
        signals.retain(|signal| {
            signal.check().unwrap();
            let key = signal.key();
            let is_denied = signal.cleared && !self.raised.remove(&key);
            if is_denied {
                assert!(key.kind.is_denied_at_once(), "{signal} was not raised");
                assert!(!self.denied.contains(&key), "{signal}, for the second time");
                self.denied.push(key);
            } else if !signal.cleared {
                self.raised.insert(key);
            }
            !is_denied
        });
        signals
    }

    /// What is told, as kinds and whether it is over.
    pub(super) fn kinds(&mut self, reading: Reading) -> Vec<(Kind, bool)> {
        let signals = self.read(reading);
        signals
            .iter()
            .map(|signal| (signal.sign.kind(), signal.cleared))
            .collect()
    }
}

pub(super) fn gpu(reading: GpuReading) -> Reading {
    Reading::Gpu {
        device: Slot(3),
        reading,
    }
}

pub(super) fn lost(is_lost: bool) -> Reading {
    gpu(GpuReading {
        is_lost,
        ..GpuReading::default()
    })
}

pub(super) const RAISED: bool = false;
pub(super) const OVER: bool = true;

#[test]
fn a_gap_lies_between_the_edges_and_one_reading_alone_is_none() {
    let mut bench = Bench::new();
    let memory = |available| Reading::Memory {
        available,
        total: 100,
    };
    assert!(bench.kinds(memory(2)).is_empty(), "once is chance");
    assert_eq!(bench.kinds(memory(2)), [(Kind::HostMemory, RAISED)]);
    assert!(bench.kinds(memory(4)).is_empty(), "better, not good");
    assert!(bench.kinds(memory(2)).is_empty());
    assert_eq!(bench.kinds(memory(7)), [(Kind::HostMemory, OVER)]);
    assert!(bench.kinds(memory(2)).is_empty(), "once again");
    let clock = |ahead| Reading::Clock { ahead };
    bench.read(clock(-1_500_000_000));
    assert_eq!(
        bench.kinds(clock(-1_500_000_000)),
        [(Kind::ClockSkew, RAISED)]
    );
    assert!(bench.kinds(clock(-700_000_000)).is_empty());
    assert_eq!(bench.kinds(clock(100_000_000)), [(Kind::ClockSkew, OVER)]);
}

#[test]
fn storage_by_each_of_its_limits() {
    let mut bench = Bench::new();
    let left = |space, inodes| {
        Reading::Storage(Ok(vec![
            (Headroom::Space, space, 100),
            (Headroom::Inodes, inodes, 100),
            (Headroom::Quota, 0, 0),
        ]))
    };
    assert!(
        bench.read(left(50, 50)).is_empty(),
        "a quota of nothing is none"
    );
    assert_eq!(bench.kinds(left(9, 9)).len(), 2);
    assert_eq!(bench.kinds(left(12, 16)), [(Kind::Storage, OVER)]);
    let gone = || Reading::Storage(Err("Transport endpoint is not connected".to_owned()));
    assert!(bench.read(gone()).is_empty());
    assert_eq!(bench.kinds(gone()), [(Kind::StorageFailing, RAISED)]);
    assert_eq!(bench.kinds(left(12, 16)), [(Kind::StorageFailing, OVER)]);
}

#[test]
fn counters_by_what_they_grew_within_a_minute() {
    let mut bench = Bench::new();
    let replays = |total| {
        gpu(GpuReading {
            pcie_replays: Some(total),
            ..GpuReading::default()
        })
    };
    assert!(
        bench.read(replays(1_000_000)).is_empty(),
        "where it stands at first says nothing"
    );
    assert!(bench.read(replays(1_000_004)).is_empty());
    let told = bench.read(replays(1_000_012));
    assert_eq!(told[0].sign, Sign::PcieReplays { per_minute: 12 });
    // It stays where it is, and a minute later nothing grew.
    let after: Vec<_> = (0..6)
        .flat_map(|_| bench.kinds(replays(1_000_012)))
        .collect();
    assert_eq!(after, [(Kind::PcieReplays, OVER)]);
    assert!(
        bench.read(replays(3)).is_empty(),
        "a counter that went back began anew"
    );
    assert!(!bench.read(replays(50)).is_empty());
}

#[test]
fn links_that_were_never_up_are_not_wired() {
    let mut bench = Bench::new();
    let links = |zero, one, errors| {
        gpu(GpuReading {
            links: vec![(0, zero, Some(errors)), (1, one, Some(0))],
            ..GpuReading::default()
        })
    };
    assert!(bench.read(links(true, false, 7)).is_empty());
    assert_eq!(
        bench.kinds(links(false, false, 8)),
        [(Kind::NvLinkDown, RAISED), (Kind::NvLinkErrors, RAISED)]
    );
    assert_eq!(
        bench.kinds(links(true, false, 8)),
        [(Kind::NvLinkDown, OVER)]
    );
}

#[test]
fn gpus_that_are_lost_hot_or_ask_for_something() {
    let mut bench = Bench::new();
    assert_eq!(bench.kinds(lost(true)), [(Kind::GpuLost, RAISED)]);
    assert_eq!(bench.kinds(lost(false)), [(Kind::GpuLost, OVER)]);
    let hot = |is_hot: bool| {
        gpu(GpuReading {
            throttles: Some(is_hot.then_some(Throttle::Thermal).into_iter().collect()),
            ..GpuReading::default()
        })
    };
    assert!(bench.read(hot(true)).is_empty());
    assert!(bench.read(hot(true)).is_empty(), "15 s are not 30");
    assert_eq!(bench.kinds(hot(true)), [(Kind::Throttled, RAISED)]);
    // It is said again as it goes on, so that the controller learns when it is long.
    let later: Vec<_> = (0..40).flat_map(|_| bench.read(hot(true))).collect();
    let longest = later.iter().filter_map(|signal| match signal.sign {
        Sign::Throttled { nanos, .. } => Some(Duration::from_nanos(nanos)),
        _ => None,
    });
    assert!(
        (2..=4).contains(&later.len()),
        "{} times in 10 min",
        later.len()
    );
    assert!(longest.max().unwrap() >= minutes(9));
    assert_eq!(bench.kinds(hot(false)), [(Kind::Throttled, OVER)]);
    let vote = |vote| {
        gpu(GpuReading {
            recovery: Some(vote),
            ecc: Some(0),
            sram: Some(3),
            rows: Some((1, false, false)),
            ..GpuReading::default()
        })
    };
    assert!(bench.read(vote(None)).is_empty());
    assert_eq!(
        bench.kinds(vote(Some(Recovery::Reset))),
        [(Kind::RecoveryAction, RAISED)]
    );
    assert_eq!(
        bench.kinds(vote(Some(Recovery::Reboot))),
        [(Kind::RecoveryAction, RAISED)]
    );
    assert_eq!(bench.kinds(vote(None)), [(Kind::RecoveryAction, OVER)]);
}

#[test]
fn the_kernel_log() {
    let mut bench = Bench::new();
    let xid = |code: u32, rest: &str| Reading::Xid {
        device: Some(Slot(1)),
        line: kernel_log::xid(&format!("NVRM: Xid (PCI:0000:3b:00): {code}, {rest}")).unwrap(),
    };
    assert_eq!(bench.kinds(xid(31, "a")), [(Kind::Xid, RAISED)]);
    assert!(bench.read(xid(31, "b")).is_empty(), "a burst is told once");
    assert_eq!(bench.kinds(xid(13, "a")), [(Kind::Xid, RAISED)]);
    let vote = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)";
    assert_eq!(
        bench.kinds(xid(154, vote)),
        [(Kind::RecoveryAction, RAISED)]
    );
    let none = "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)";
    assert_eq!(bench.kinds(xid(154, none)), [(Kind::RecoveryAction, OVER)]);
    assert_eq!(bench.kinds(xid(154, "unreadable")), [(Kind::Xid, RAISED)]);
}

#[test]
fn a_probe_that_does_not_return() {
    let mut bench = Bench::new();
    bench.gauge.asked(bench.now, Probe::Gpu);
    bench
        .gauge
        .asked(bench.now + Duration::from_secs(30), Probe::Gpu);
    assert!(
        bench
            .gauge
            .watch(bench.now + Duration::from_secs(44))
            .is_empty()
    );
    let hung = bench.gauge.watch(bench.now + Duration::from_secs(45));
    assert_eq!(hung[0].sign.kind(), Kind::ProbeHung);
    let back = bench
        .gauge
        .returned(bench.now + Duration::from_secs(50), Probe::Gpu, false);
    assert!(back[0].cleared);
    assert!(bench.gauge.watch(bench.now + minutes(60)).is_empty());
}

#[test]
fn a_probe_that_returns_blind_has_not_answered() {
    let mut bench = Bench::new();
    let looks = |bench: &mut Bench, is_blind| {
        bench.gauge.asked(bench.now, Probe::Gpu);
        let mut told = bench.gauge.returned(bench.now, Probe::Gpu, is_blind);
        bench.now = bench.now + Duration::from_secs(15);
        told.extend(bench.gauge.watch(bench.now));
        let told = told
            .iter()
            .map(|signal| (signal.key().index, signal.cleared));
        told.collect::<Vec<_>>()
    };
    let gpu = Probe::Gpu as u32;
    // Twice is chance, and one look that sees ends it.
    for is_blind in [true, true, false, true, true, false] {
        assert!(looks(&mut bench, is_blind).is_empty());
    }
    for _ in 0..2 {
        assert!(looks(&mut bench, true).is_empty());
    }
    assert_eq!(looks(&mut bench, true), [(gpu, RAISED)], "45 s");
    for _ in 0..10 {
        assert!(looks(&mut bench, true).is_empty(), "it was told");
    }
    assert_eq!(looks(&mut bench, false), [(gpu, OVER)]);
    assert!(looks(&mut bench, false).is_empty());
}

#[test]
fn no_more_is_said_than_may_be_and_levels_are_made_up_for() {
    let mut bench = Bench::new();
    let mut told = 0;
    for code in 1..=100 {
        let line = kernel_log::xid(&format!("NVRM: Xid (PCI:0000:3b:00): {code}, x")).unwrap();
        told += bench
            .gauge
            .read(bench.now, Reading::Xid { device: None, line })
            .len();
    }
    assert_eq!(told, MOST_A_MINUTE);
    assert_eq!(bench.gauge.dropped(), 100 - MOST_A_MINUTE as u64);
    let lost = || {
        gpu(GpuReading {
            is_lost: true,
            ..GpuReading::default()
        })
    };
    assert!(bench.gauge.read(bench.now, lost()).is_empty());
    bench.now = bench.now + minutes(1);
    assert_eq!(bench.kinds(lost()), [(Kind::GpuLost, RAISED)]);
}

#[test]
fn a_new_life_says_at_its_first_look_what_is_not_so() {
    let mut bench = Bench::new();
    let reading = |is_up| {
        gpu(GpuReading {
            recovery: Some(None),
            ecc: Some(0),
            sram: Some(0),
            rows: Some((3, false, false)),
            links: (0..18).map(|link| (link, is_up, Some(0))).collect(),
            ..GpuReading::default()
        })
    };
    assert!(bench.read(reading(false)).is_empty());
    let kinds: Vec<_> = bench.denied.iter().map(|key| key.kind).collect();
    let whole = [
        Kind::GpuLost,
        Kind::RecoveryAction,
        Kind::EccUncorrected,
        Kind::RowRemap,
    ];
    assert_eq!(kinds, whole, "nobody knows of a link that was never up");
    assert!(bench.read(reading(true)).is_empty());
    assert_eq!(bench.denied.len(), 4 + 18);
    assert!(bench.read(reading(true)).is_empty(), "once is enough");
    assert_eq!(bench.denied.len(), 4 + 18);
    // It takes nothing of what may be said, and what is so is not denied.
    let line = |code| kernel_log::xid(&format!("NVRM: Xid (PCI:0000:3b:00): {code}, x")).unwrap();
    let told: usize = (1..=100)
        .map(|code| {
            let (device, line) = (None, line(code));
            bench.read_now(Reading::Xid { device, line }).len()
        })
        .sum();
    assert_eq!(told, MOST_A_MINUTE);
    let mut bench = Bench::new();
    assert_eq!(bench.kinds(lost(true)), [(Kind::GpuLost, RAISED)]);
    assert_eq!(bench.kinds(lost(false)), [(Kind::GpuLost, OVER)]);
    assert!(bench.denied.is_empty());
}

proptest! {
    /// Whatever is read, what is told can be, alternates by its edges, and is bounded.
    #[test]
    fn what_is_told_can_be(readings in prop::collection::vec((0_u32..3, any::<u64>(), any::<u64>(), 0_u8..8), 0..200)) {
        let mut bench = Bench::new();
        let mut raised = BTreeSet::new();
        for (which, a, b, bits) in readings {
            let reading = match which {
                0 => Reading::Memory { available: a, total: b },
                1 => Reading::Storage(if bits == 0 { Err("x".repeat(1000)) } else { Ok(vec![(Headroom::Space, a, b)]) }),
                _ => gpu(GpuReading {
                    is_lost: bits & 1 == 1,
                    recovery: Some(Recovery::from_nvml(a % 9)),
                    ecc: (bits & 2 == 2).then_some(a),
                    sram: (bits & 4 == 4).then_some(b),
                    rows: Some((bits.into(), bits & 2 == 2, bits & 4 == 4)),
                    throttles: (bits & 4 == 4).then(|| vec![Throttle::PowerBrake; usize::from(bits & 1)]),
                    pcie_replays: Some(a),
                    links: vec![(u32::from(bits), bits & 2 == 2, (bits & 1 == 1).then_some(b))],
                }),
            };
            for signal in bench.read(reading) {
                let key = signal.key();
                if signal.cleared {
                    prop_assert!(raised.remove(&key), "{signal} was not raised");
                } else {
                    raised.insert(key);
                }
            }
        }
    }
}
