//! GPUs, by NVML: what each says of its health. What a driver or a GPU does not have, or does not tell now, is
//! left out; that the library hangs is for the caller to notice.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, MemoryLocation};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::FieldValueSample;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
mod fields;

use super::Look;
use fields::Fields;
use rebloom_core::health::gauge::{GpuReading, Reading};
use rebloom_core::health::kernel_log;
use rebloom_core::health::signal::{Recovery, Throttle};
use rebloom_core::id::Slot;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};

/// `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION` of nvml.h.
const RECOVERY_ACTION: u32 = 230;
/// `NVML_FI_DEV_REMAPPED_*` of nvml.h: rows remapped for uncorrectable errors, one pending, one failed.
const REMAPPED: [u32; 3] = [143, 144, 145];
/// `NVML_FI_DEV_NVLINK_COUNT_*` of nvml.h, from NVLink 5 on: packets received with errors, and recoveries of the
/// link. Blocks that were sent again (`NVML_FI_DEV_NVLINK_PLR_XMIT_RETRY_BLOCKS`) are left out: some come on
/// sound links too, and one error a minute is enough to tell of a link.
const LINK_ERRORS: [u32; 2] = [208, 215];
/// NVLinks that a GPU can have.
const LINKS: u32 = 18;

/// Where each GPU sits on the PCI bus, for the kernel log.
#[derive(Debug, Default)]
pub struct Slots(Mutex<Vec<Option<String>>>);

impl Slots {
    /// The places, by slot.
    pub fn set(&self, places: Vec<Option<String>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// The slot of the GPU at a place.
    pub fn of(&self, pci: &str) -> Option<Slot> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = places
            .iter()
            .position(|place| place.as_deref() == Some(pci))?;
        u32::try_from(at).ok().map(Slot)
    }
}

/// What one look has to know of those before it.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Whether the GPU asks for a recovery, by a vote or by refusing to answer until it is reset.
    is_asking: bool,
    /// Whether its links have told their errors by fields: two counts of them are not one that grew.
    by_fields: bool,
}

/// The GPUs of the node.
#[derive(Debug)]
pub struct Gpus {
    library: Option<OsString>,
    nvml: Option<(Nvml, Option<Fields>)>,
    /// How many there were at most.
    most: u32,
    /// What is known of each.
    known: BTreeMap<u32, Known>,
    /// Whether the last look did not see all of them.
    was_blind: bool,
    slots: Arc<Slots>,
}

impl Gpus {
    /// The GPUs that a library, or the usual one, knows.
    pub const fn new(library: Option<OsString>, slots: Arc<Slots>) -> Self {
        Self {
            library,
            nvml: None,
            most: 0,
            known: BTreeMap::new(),
            was_blind: false,
            slots,
        }
    }

    /// What each says now. GPUs that were there and are not any more are lost; of one that NVML cannot answer
    /// for, nothing is said.
    pub fn look(&mut self) -> Look {
        let mut silent = Vec::new();
        let readings = match self.ask(&mut silent) {
            Ok(readings) => readings,
            Err(error) => {
                // A driver that was loaded anew is asked anew.
                self.nvml = None;
                silent.push(error.to_string());
                Vec::new()
            }
        };
        let is_blind = !silent.is_empty();
        if is_blind && !self.was_blind {
            let why = silent.join("; ");
            tracing::warn!(why, "NVML does not answer for every GPU");
        }
        self.was_blind = is_blind;
        Look { readings, is_blind }
    }

    fn ask(&mut self, silent: &mut Vec<String>) -> Result<Vec<Reading>, NvmlError> {
        let (nvml, fields) = match &mut self.nvml {
            Some(both) => both,
            none @ None => {
                let mut builder = Nvml::builder();
                if let Some(library) = &self.library {
                    builder.lib_path(library);
                }
                let nvml = builder.init()?;
                none.insert((nvml, Fields::new(self.library.as_deref()).ok()))
            }
        };
        let count = nvml.device_count()?;
        if count > self.most {
            self.most = count;
            let place =
                |slot| kernel_log::pci(&nvml.device_by_index(slot).ok()?.pci_info().ok()?.bus_id);
            self.slots.set((0..count).map(place).collect());
        }
        let mut readings = Vec::new();
        for slot in 0..self.most {
            let reading = if slot >= count {
                Ok(lost())
            } else {
                let device = nvml.device_by_index(slot);
                let known = self.known.entry(slot).or_default();
                device.and_then(|device| read(&device, fields.as_ref(), known))
            };
            let reading = match reading.or_else(evidence) {
                Ok(reading) => reading,
                Err(error) => {
                    silent.push(format!("GPU {slot}: {error}"));
                    continue;
                }
            };
            if let Some(vote) = reading.recovery {
                self.known.entry(slot).or_default().is_asking = vote.is_some();
            }
            let device = Slot(slot);
            readings.push(Reading::Gpu { device, reading });
        }
        Ok(readings)
    }
}

fn lost() -> GpuReading {
    GpuReading {
        is_lost: true,
        ..GpuReading::default()
    }
}

/// What an error by itself says of a GPU; the error where it only says that there is no answer.
fn evidence(error: NvmlError) -> Result<GpuReading, NvmlError> {
    if matches!(error, NvmlError::GpuLost) {
        Ok(lost())
    } else if matches!(error, NvmlError::ResetRequired) {
        Ok(GpuReading {
            recovery: Some(Some(Recovery::Reset)),
            ..GpuReading::default()
        })
    } else {
        Err(error)
    }
}

/// Whether a GPU or its driver answers that it does not have what it was asked for.
const fn is_lack(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::InvalidArg
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
    )
}

/// What was heard while one GPU was asked.
#[derive(Default)]
struct Heard {
    /// Whether anything was an answer.
    is_answer: bool,
    /// What an error said of the whole GPU.
    evidence: Option<GpuReading>,
    /// The last error that was no answer.
    silence: Option<NvmlError>,
}

impl Heard {
    /// The value, where there is one.
    fn take<T>(&mut self, answer: Result<T, NvmlError>) -> Option<T> {
        self.is_answer |= answer.as_ref().map_or_else(is_lack, |_| true);
        match answer.map_err(evidence) {
            Ok(value) => return Some(value),
            Err(Ok(said)) => {
                if self.evidence.as_ref().is_none_or(|known| !known.is_lost) {
                    self.evidence = Some(said);
                }
            }
            Err(Err(error)) => self.silence = Some(error),
        }
        None
    }
}

/// What a GPU says; an error where it does not answer.
fn read(
    device: &Device<'_>,
    fields: Option<&Fields>,
    known: &mut Known,
) -> Result<GpuReading, NvmlError> {
    // The library knows the name of a GPU that answers nothing any more, but not of one that it never met.
    match device.uuid() {
        Err(error) if !is_lack(&error) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let mut heard = Heard::default();
    let vote = field_of(device, RECOVERY_ACTION);
    let is_over = known.is_asking && vote.as_ref().is_err_and(is_lack);
    let recovery = match heard.take(vote) {
        Some(0) => Some(None),
        // A number that nobody knows yet asks for something else than nothing.
        Some(number) => Recovery::from_nvml(number).map(Some),
        // It has no vote, but does not refuse any more.
        None => is_over.then_some(None),
    };
    let ecc = heard.take(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile));
    let location = MemoryLocation::SRAM;
    let sram =
        device.memory_error_counter(MemoryError::Uncorrected, EccCounter::Aggregate, location);
    let sram = heard.take(sram);
    let rows = REMAPPED.map(|field| heard.take(field_of(device, field)));
    let rows = match rows {
        [Some(rows), Some(pending), Some(failed)] => {
            let rows = u32::try_from(rows).unwrap_or(u32::MAX);
            Some((rows, pending > 0, failed > 0))
        }
        _ => None,
    };
    let throttles = heard.take(device.current_throttle_reasons());
    let pcie_replays = heard.take(device.pcie_replay_counter());
    let links = (0..LINKS)
        .filter_map(|link| link_of(device, link, (fields, &mut *known), &mut heard))
        .collect();
    let reading = GpuReading {
        is_lost: false,
        recovery,
        ecc,
        sram,
        rows,
        throttles: throttles.map(reasons),
        pcie_replays: pcie_replays.map(u64::from),
        links,
    };
    match heard.evidence {
        Some(said) if said.is_lost => Ok(said),
        Some(said) => Ok(GpuReading {
            recovery: recovery.filter(Option::is_some).or(said.recovery),
            ..reading
        }),
        None if heard.is_answer => Ok(reading),
        None => Err(heard.silence.unwrap_or(NvmlError::NoData)),
    }
}

fn field_of(device: &Device<'_>, field: u32) -> Result<u64, NvmlError> {
    let samples = device.field_values_for(&[FieldId(field)])?;
    number(samples.into_iter().next().ok_or(NvmlError::NoData)?)
}

fn number(sample: Result<FieldValueSample, NvmlError>) -> Result<u64, NvmlError> {
    match sample?.value? {
        SampleValue::U32(value) => Ok(value.into()),
        SampleValue::U64(value) => Ok(value),
        SampleValue::I64(value) => u64::try_from(value).map_err(|_| NvmlError::NoData),
        SampleValue::F64(_) => Err(NvmlError::NoData),
    }
}

fn reasons(reasons: ThrottleReasons) -> Vec<Throttle> {
    let known = [
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, Throttle::Thermal),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, Throttle::SoftThermal),
        (
            ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
            Throttle::PowerBrake,
        ),
    ];
    let set = known
        .into_iter()
        .filter(|(reason, _)| reasons.contains(*reason));
    set.map(|(_, throttle)| throttle).collect()
}

/// A link: whether it is up, and its errors so far; none where there is no such link.
fn link_of(
    device: &Device<'_>,
    link: u32,
    (fields, known): (Option<&Fields>, &mut Known),
    heard: &mut Heard,
) -> Option<(u32, bool, Option<u64>)> {
    let wrapper = device.link_wrapper_for(link);
    let is_up = heard.take(wrapper.is_active())?;
    let newer = fields.map_or(Err(NvmlError::NotSupported), |fields| {
        Ok(fields.of_link(device, link, LINK_ERRORS)?.map(number))
    });
    let lacks = |counters: &[Result<u64, NvmlError>; 2]| {
        let mut counters = counters.iter();
        counters.all(|counter| counter.as_ref().is_err_and(is_lack))
    };
    known.by_fields |= newer
        .as_ref()
        .is_ok_and(|counters| counters.iter().any(Result::is_ok));
    let has_none = newer.as_ref().map_or_else(is_lack, lacks);
    if known.by_fields || !has_none {
        let errors = heard.take(newer).and_then(|counters| sum(counters, heard));
        return Some((link, is_up, errors));
    }
    let counters = [
        ErrorCounter::DlReplay,
        ErrorCounter::DlRecovery,
        ErrorCounter::DlCrcFlit,
        ErrorCounter::DlCrcData,
    ];
    let counters = counters.map(|counter| wrapper.error_counter(counter));
    Some((link, is_up, sum(counters, heard)))
}

/// The sum of the counters that a GPU has; none where it has none, or one does not answer now: a sum without it
/// would fall, and rise again with it.
fn sum(
    counters: impl IntoIterator<Item = Result<u64, NvmlError>>,
    heard: &mut Heard,
) -> Option<u64> {
    let mut sum = None;
    let mut is_whole = true;
    for counter in counters {
        is_whole &= counter.as_ref().map_or_else(is_lack, |_| true);
        if let Some(errors) = heard.take(counter) {
            sum = Some(sum.unwrap_or(0_u64).saturating_add(errors));
        }
    }
    sum.filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_says_nothing_and_that() {
        let library = Some(OsString::from("/nowhere/libnvidia-ml.so"));
        let mut gpus = Gpus::new(library, Arc::new(Slots::default()));
        let look = gpus.look();
        assert!(look.is_blind && look.readings.is_empty());
    }
}
