//! What NVML says of one GPU, level by level. What cannot be read raises nothing and clears nothing: only a
//! value that is read again ends what it raised.

use super::Gauge;
use crate::health::rule::limit;
use crate::health::signal::{Recovery, Sign, Signal, Throttle};
use crate::id::Slot;
use crate::time::Instant;

/// What NVML says of one GPU; none where it cannot say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuReading {
    /// Whether it is lost.
    pub is_lost: bool,
    /// What the driver asks for; some of none where it asks for nothing.
    pub recovery: Option<Option<Recovery>>,
    /// Uncorrected ECC errors since the driver was loaded.
    pub ecc: Option<u64>,
    /// Uncorrected ECC errors in SRAM, ever.
    pub sram: Option<u64>,
    /// Rows remapped for uncorrectable errors, whether one is pending, whether one failed.
    pub rows: Option<(u32, bool, bool)>,
    /// Why it holds its clocks down now.
    pub throttles: Option<Vec<Throttle>>,
    /// PCIe replays, ever.
    pub pcie_replays: Option<u64>,
    /// NVLinks: number, whether it is up, errors ever.
    pub links: Vec<(u32, bool, Option<u64>)>,
}

impl Gauge {
    pub(super) fn gpu(
        &mut self,
        now: Instant,
        out: &mut Vec<Signal>,
        device: Slot,
        reading: &GpuReading,
    ) {
        let raised = |sign| Signal::raised(Some(device), sign);
        self.level(
            now,
            out,
            raised(Sign::GpuLost),
            (reading.is_lost, !reading.is_lost),
        );
        if reading.is_lost {
            return;
        }
        match reading.recovery {
            Some(Some(action)) => {
                let signal = raised(Sign::RecoveryAction { action });
                self.level(now, out, signal, (true, false));
            }
            Some(None) => {
                let action = Recovery::Reset;
                let signal = raised(Sign::RecoveryAction { action });
                self.level(now, out, signal, (false, true));
            }
            None => {}
        }
        self.ecc(now, out, device, (reading.ecc, reading.sram));
        if let Some((rows, pending, failed)) = reading.rows {
            let is_high = pending || failed;
            let sign = Sign::RowRemap {
                rows,
                pending,
                failed,
            };
            self.level(now, out, raised(sign), (is_high, !is_high));
        }
        if let Some(throttles) = &reading.throttles {
            for reason in [
                Throttle::Thermal,
                Throttle::SoftThermal,
                Throttle::PowerBrake,
            ] {
                self.throttle(now, out, device, reason, throttles.contains(&reason));
            }
        }
        if let Some(total) = reading.pcie_replays {
            let key = raised(Sign::PcieReplays { per_minute: 0 }).key();
            let per_minute = self.grown(now, key, total);
            let edges = (
                per_minute > limit::PCIE_REPLAYS,
                per_minute <= limit::PCIE_REPLAYS / 2,
            );
            self.level(now, out, raised(Sign::PcieReplays { per_minute }), edges);
        }
        for (link, is_up, errors) in reading.links.iter().copied() {
            let down = raised(Sign::NvLinkDown { link });
            // A link that never was up is not wired.
            let was_up = self.was_up.entry(down.key()).or_insert(is_up);
            *was_up |= is_up;
            let is_down = *was_up && !is_up;
            self.level(now, out, down, (is_down, is_up));
            let Some(errors) = errors else { continue };
            let key = raised(Sign::NvLinkErrors {
                link,
                per_minute: 0,
            })
            .key();
            let per_minute = self.grown(now, key, errors);
            let signal = raised(Sign::NvLinkErrors { link, per_minute });
            self.level(now, out, signal, (per_minute > 0, per_minute == 0));
        }
    }

    /// Two counters, one level: the one that is not read stands where it was told last.
    fn ecc(
        &mut self,
        now: Instant,
        out: &mut Vec<Signal>,
        device: Slot,
        read: (Option<u64>, Option<u64>),
    ) {
        if read == (None, None) {
            return;
        }
        let signal = |(volatile, sram)| {
            Signal::raised(Some(device), Sign::EccUncorrected { volatile, sram })
        };
        let told = self.raised.get(&signal((0, 0)).key());
        let told = told.map(|told| &told.signal.sign);
        let is_whole = matches!(read, (Some(_), Some(_)));
        let (last, is_known) = match told {
            Some(Sign::EccUncorrected { volatile, sram }) => ((*volatile, *sram), true),
            // What a life of the agent before this one raised, nobody remembers: half an answer denies nothing.
            Some(_) | None => ((0, 0), is_whole),
        };
        let stand = (read.0.unwrap_or(last.0), read.1.unwrap_or(last.1));
        let is_high = stand.0 > 0 || stand.1 > limit::ECC_SRAM;
        self.level(now, out, signal(stand), (is_high, !is_high && is_known));
    }

    fn throttle(
        &mut self,
        now: Instant,
        out: &mut Vec<Signal>,
        device: Slot,
        reason: Throttle,
        is_on: bool,
    ) {
        let signal = |nanos| Signal::raised(Some(device), Sign::Throttled { reason, nanos });
        let key = signal(0).key();
        if !is_on {
            self.throttled.remove(&key);
            return self.level(now, out, signal(0), (false, true));
        }
        let since = *self.throttled.entry(key).or_insert(now);
        let lasts = now.since(since);
        let nanos = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        self.level(now, out, signal(nanos), (lasts >= limit::THROTTLED, false));
    }
}
