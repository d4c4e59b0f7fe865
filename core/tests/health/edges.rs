//! Readings at the very limit, one beyond it, and in the gap between two limits.

use super::gauge::{Bench, OVER, RAISED, gpu, lost};
use rebloom_core::health::gauge::{GpuReading, MOST_A_MINUTE, Reading};
use rebloom_core::health::kernel_log;
use rebloom_core::health::signal::{Headroom, Kind, Recovery, Sign, Signal, Throttle};
use rebloom_core::id::Slot;
use rebloom_core::time::Duration;

fn memory(available: u64) -> Reading {
    Reading::Memory {
        available,
        total: 100,
    }
}

#[test]
fn a_limit_itself_is_on_the_good_side_going_down_and_on_the_bad_side_going_up() {
    let mut bench = Bench::new();
    assert!(bench.read(memory(3)).is_empty());
    assert!(bench.read(memory(3)).is_empty(), "3 % is not less than 3 %");
    bench.read(memory(2));
    assert_eq!(bench.kinds(memory(2)), [(Kind::HostMemory, RAISED)]);
    assert!(bench.read(memory(6)).is_empty(), "6 % is not above 6 %");
    assert_eq!(bench.kinds(memory(7)), [(Kind::HostMemory, OVER)]);

    let clock = |millis: i64| Reading::Clock {
        ahead: millis * 1_000_000,
    };
    bench.read(clock(1000));
    assert!(bench.read(clock(-1000)).is_empty());
    bench.read(clock(1001));
    assert_eq!(bench.kinds(clock(1001)), [(Kind::ClockSkew, RAISED)]);
    assert!(bench.read(clock(-500)).is_empty());
    assert_eq!(bench.kinds(clock(-499)), [(Kind::ClockSkew, OVER)]);

    let storage = |left| Reading::Storage(Ok(vec![(Headroom::Space, left, 100)]));
    assert!(bench.read(storage(10)).is_empty());
    assert_eq!(bench.kinds(storage(9)), [(Kind::Storage, RAISED)]);
    assert!(bench.read(storage(15)).is_empty());
    assert_eq!(bench.kinds(storage(16)), [(Kind::Storage, OVER)]);
}

#[test]
fn errors_of_a_gpu_s_memory_by_what_nvml_can_say_of_them() {
    let ecc = |ecc, sram| {
        gpu(GpuReading {
            ecc,
            sram,
            ..GpuReading::default()
        })
    };
    let bad = [
        ecc(Some(1), None),
        ecc(Some(1), Some(0)),
        ecc(None, Some(5)),
        ecc(Some(0), Some(5)),
    ];
    for reading in bad {
        let mut bench = Bench::new();
        assert!(bench.read(ecc(Some(0), Some(4))).is_empty());
        assert_eq!(bench.kinds(reading), [(Kind::EccUncorrected, RAISED)]);
        assert!(bench.read(ecc(None, None)).is_empty(), "it cannot say");
        let good = ecc(Some(0), Some(4));
        assert_eq!(bench.kinds(good), [(Kind::EccUncorrected, OVER)]);
    }
    let rows = |rows, pending, failed| {
        gpu(GpuReading {
            rows: Some((rows, pending, failed)),
            ..GpuReading::default()
        })
    };
    for (pending, failed) in [(true, false), (false, true), (true, true)] {
        let mut bench = Bench::new();
        assert!(bench.read(rows(1, false, false)).is_empty());
        let bad = bench.kinds(rows(1, pending, failed));
        assert_eq!(bad, [(Kind::RowRemap, RAISED)]);
        let more = bench.kinds(rows(2, pending, failed));
        assert_eq!(more, [(Kind::RowRemap, RAISED)], "one more is news at once");
        assert!(bench.read(rows(2, pending, failed)).is_empty());
        let good = bench.kinds(rows(2, false, false));
        assert_eq!(good, [(Kind::RowRemap, OVER)]);
    }
}

#[test]
fn replays_are_too_many_above_eight_a_minute_and_few_at_four() {
    let replays = |total| {
        gpu(GpuReading {
            pcie_replays: Some(total),
            ..GpuReading::default()
        })
    };
    let mut bench = Bench::new();
    bench.read(replays(0));
    assert!(bench.read(replays(8)).is_empty());
    assert_eq!(bench.kinds(replays(9)), [(Kind::PcieReplays, RAISED)]);
    // A minute on, what grew is what came since, neither sooner nor later.
    for (since, is_over) in [(5, false), (4, true)] {
        let mut bench = Bench::new();
        bench.read(replays(0));
        assert_eq!(bench.kinds(replays(20)), [(Kind::PcieReplays, RAISED)]);
        for total in [20, 20, 20 + since] {
            assert!(bench.read(replays(total)).is_empty(), "20 and more");
        }
        let told = bench.kinds(replays(20 + since));
        let over = is_over.then_some((Kind::PcieReplays, OVER));
        assert!(told.into_iter().eq(over), "{since} since then");
    }
}

#[test]
fn what_stays_raised_is_told_again_after_a_while_and_never_in_the_gap() {
    let mut bench = Bench::new();
    bench.read(memory(2));
    assert_eq!(bench.kinds(memory(2)), [(Kind::HostMemory, RAISED)]);
    // 600 s are forty readings.
    for _ in 0..39 {
        assert!(bench.read(memory(1)).is_empty(), "another value is no news");
    }
    assert_eq!(bench.kinds(memory(1)), [(Kind::HostMemory, RAISED)]);
    for _ in 0..100 {
        assert!(bench.read(memory(4)).is_empty(), "better, not good");
    }
    // A level that moves is told again every three minutes: twelve readings.
    let ecc = |volatile| {
        gpu(GpuReading {
            ecc: Some(volatile),
            ..GpuReading::default()
        })
    };
    assert_eq!(bench.kinds(ecc(1)), [(Kind::EccUncorrected, RAISED)]);
    for at in 2..13 {
        assert!(bench.read(ecc(at)).is_empty());
    }
    let again = bench.read(ecc(13));
    let sign = Sign::EccUncorrected {
        volatile: 13,
        sram: 0,
    };
    assert_eq!(again[0].sign, sign);
    // What the driver asks for is news only where it asks for something else.
    let vote = |action| {
        gpu(GpuReading {
            recovery: Some(Some(action)),
            ..GpuReading::default()
        })
    };
    let mut bench = Bench::new();
    assert_eq!(bench.read(vote(Recovery::Reset)).len(), 1);
    assert!(bench.read(vote(Recovery::Reset)).is_empty());
    assert_eq!(bench.read(vote(Recovery::Reboot)).len(), 1);
}

#[test]
fn each_reason_for_low_clocks_is_timed_by_itself() {
    let mut bench = Bench::new();
    let hot = |throttles: &[Throttle]| {
        gpu(GpuReading {
            throttles: Some(throttles.to_vec()),
            ..GpuReading::default()
        })
    };
    bench.read(hot(&[Throttle::Thermal]));
    bench.read(hot(&[Throttle::Thermal, Throttle::PowerBrake]));
    let told = bench.read(hot(&[Throttle::Thermal, Throttle::PowerBrake]));
    let sign = Sign::Throttled {
        reason: Throttle::Thermal,
        nanos: 30_000_000_000,
    };
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].sign, sign);
    // One that paused begins anew.
    bench.read(hot(&[Throttle::Thermal]));
    for _ in 0..2 {
        let told = bench.read(hot(&[Throttle::Thermal, Throttle::PowerBrake]));
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn an_xid_is_told_again_after_its_burst() {
    let mut bench = Bench::new();
    let xid = |code: u32| Reading::Xid {
        device: Some(Slot(1)),
        line: kernel_log::xid(&format!("NVRM: Xid (PCI:0000:3b:00): {code}, x")).unwrap(),
    };
    assert_eq!(bench.kinds(xid(31)), [(Kind::Xid, RAISED)]);
    bench.now = bench.now + Duration::from_secs(164);
    assert!(bench.read(xid(31)).is_empty(), "179 s");
    bench.now = bench.now - Duration::from_secs(14);
    assert_eq!(bench.kinds(xid(31)), [(Kind::Xid, RAISED)], "180 s");
    // So many are followed at once, and no more.
    let mut bench = Bench::new();
    for code in 1..=1024 + 5 {
        bench.gauge.read(bench.now, xid(code));
    }
    assert_eq!(bench.gauge.dropped(), 1024 - MOST_A_MINUTE as u64);
}

#[test]
fn so_many_counters_are_followed_and_no_more() {
    let mut bench = Bench::new();
    let links = |links: &[(u32, u64)]| {
        let links = links
            .iter()
            .map(|(link, errors)| (*link, true, Some(*errors)));
        Reading::Gpu {
            device: Slot(3),
            reading: GpuReading {
                links: links.collect(),
                ..GpuReading::default()
            },
        }
    };
    let all: Vec<_> = (0..1024 + 5).map(|link| (link, 0)).collect();
    let raised = |told: Vec<Signal>| told.iter().filter(|signal| !signal.cleared).count();
    assert_eq!(raised(bench.gauge.read(bench.now, links(&all))), 0);
    let mut told = |link| {
        bench.now = bench.now + Duration::from_secs(1);
        raised(bench.gauge.read(bench.now, links(&[(link, 7)])))
    };
    assert_eq!(told(0), 1);
    assert_eq!(told(1023), 1);
    assert_eq!(told(1024), 0);
    assert_eq!(told(1024), 0);
}

#[test]
fn that_something_is_over_is_told_however_much_was_said() {
    let mut bench = Bench::new();
    assert_eq!(bench.kinds(lost(true)), [(Kind::GpuLost, RAISED)]);
    for code in 1..=MOST_A_MINUTE as u32 {
        let line = kernel_log::xid(&format!("NVRM: Xid (PCI:0000:3b:00): {code}, x")).unwrap();
        bench
            .gauge
            .read(bench.now, Reading::Xid { device: None, line });
    }
    assert_eq!(bench.gauge.dropped(), 1, "the sixtieth of them");
    let over = bench.gauge.read(bench.now, lost(false));
    assert!(over[0].cleared);
    // A minute after the first was said there is room again.
    let told = |bench: &mut Bench| bench.gauge.read(bench.now, lost(true)).len();
    bench.now = bench.now + Duration::from_secs(59);
    assert_eq!(told(&mut bench), 0);
    bench.now = bench.now + Duration::from_secs(1);
    assert_eq!(told(&mut bench), 1);
    assert_eq!(bench.gauge.dropped(), 2);
}

#[test]
fn a_reading_of_nothing_is_no_lack_of_it() {
    let mut bench = Bench::new();
    let none = || Reading::Memory {
        available: 0,
        total: 0,
    };
    assert!(bench.read(none()).is_empty());
    assert!(bench.read(none()).is_empty());
    // A quota that cannot be read any more has not grown.
    let quota = |left, total| Reading::Storage(Ok(vec![(Headroom::Quota, left, total)]));
    assert_eq!(bench.kinds(quota(1, 100)), [(Kind::Storage, RAISED)]);
    assert!(bench.read(quota(0, 0)).is_empty());
}

/// A GPU with everything wrong that a value can say, twice, so that all of it is raised.
fn ill() -> GpuReading {
    GpuReading {
        recovery: Some(Some(Recovery::Reset)),
        ecc: Some(3),
        sram: Some(5),
        rows: Some((1, true, false)),
        throttles: Some(vec![Throttle::Thermal]),
        pcie_replays: Some(100),
        links: vec![(0, true, Some(100))],
        ..GpuReading::default()
    }
}

#[test]
fn what_cannot_be_read_any_more_clears_nothing() {
    let mut bench = Bench::new();
    bench.read(gpu(GpuReading {
        pcie_replays: Some(0),
        links: vec![(0, true, Some(0))],
        ..GpuReading::default()
    }));
    let raised: Vec<_> = (0..3).flat_map(|_| bench.kinds(gpu(ill()))).collect();
    assert_eq!(raised.len(), 6, "{raised:?}");
    // It answers, and says nothing of all that, for as long as you like.
    for _ in 0..40 {
        let told = bench.read(gpu(GpuReading {
            links: vec![(0, true, None)],
            ..GpuReading::default()
        }));
        assert!(told.is_empty(), "{told:?}");
    }
    // Every value that is read again clears its own.
    let good = GpuReading {
        recovery: Some(None),
        ecc: Some(0),
        sram: Some(0),
        rows: Some((1, false, false)),
        throttles: Some(Vec::new()),
        pcie_replays: Some(100),
        links: vec![(0, true, Some(100))],
        ..GpuReading::default()
    };
    let over: Vec<_> = (0..3)
        .flat_map(|_| bench.kinds(gpu(good.clone())))
        .collect();
    assert_eq!(over.len(), 6, "{over:?}");
    assert!(over.iter().all(|(_, is_over)| *is_over));
}

#[test]
fn the_counter_of_errors_that_is_not_read_stands_where_it_was() {
    let ecc = |ecc, sram| {
        gpu(GpuReading {
            ecc,
            sram,
            ..GpuReading::default()
        })
    };
    for (bad, half, other) in [
        (
            ecc(Some(0), Some(5)),
            ecc(Some(0), None),
            ecc(None, Some(0)),
        ),
        (
            ecc(Some(1), Some(0)),
            ecc(None, Some(0)),
            ecc(Some(0), None),
        ),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.kinds(bad), [(Kind::EccUncorrected, RAISED)]);
        for _ in 0..5 {
            assert!(
                bench.read(half.clone()).is_empty(),
                "the other one raised it"
            );
        }
        assert_eq!(bench.kinds(other), [(Kind::EccUncorrected, OVER)]);
    }
    // As long as it stands so it is told so: what asks for a new GPU becomes nothing less by half an answer.
    let mut bench = Bench::new();
    bench.read(ecc(Some(0), Some(5)));
    let told = (0..12).flat_map(|_| bench.read(ecc(Some(2), None)));
    let sign = Sign::EccUncorrected {
        volatile: 2,
        sram: 5,
    };
    assert_eq!(told.map(|signal| signal.sign).collect::<Vec<_>>(), [sign]);
    // And a new life of the agent denies by both counters, or not at all.
    let mut bench = Bench::new();
    for half in [ecc(Some(0), None), ecc(None, Some(0))] {
        bench.read(half);
        assert!(
            bench
                .denied
                .iter()
                .all(|key| key.kind != Kind::EccUncorrected)
        );
    }
    bench.read(ecc(Some(0), Some(0)));
    assert!(
        bench
            .denied
            .iter()
            .any(|key| key.kind == Kind::EccUncorrected)
    );
}
