//! GPUs, by NVML: what each says of its health. Fields that a driver or a GPU does not have are left
//! out; that the library hangs is for the caller to notice.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, MemoryLocation};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use rebloom_core::health::gauge::{GpuReading, Reading};
use rebloom_core::health::kernel_log;
use rebloom_core::health::signal::{Recovery, Throttle};
use rebloom_core::id::Slot;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};

/// `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION` of nvml.h.
const RECOVERY_ACTION: u32 = 230;
/// `NVML_FI_DEV_REMAPPED_*` of nvml.h: rows remapped for uncorrectable errors, one pending, one failed.
const REMAPPED: [u32; 3] = [143, 144, 145];
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

/// The GPUs of the node.
#[derive(Debug)]
pub struct Gpus {
    library: Option<OsString>,
    nvml: Option<Nvml>,
    /// How many there were at most.
    most: u32,
    slots: Arc<Slots>,
}

impl Gpus {
    /// The GPUs that a library, or the usual one, knows.
    pub const fn new(library: Option<OsString>, slots: Arc<Slots>) -> Self {
        Self {
            library,
            nvml: None,
            most: 0,
            slots,
        }
    }

    /// What each says now. GPUs that were there and are not any more are lost.
    pub fn look(&mut self) -> Vec<Reading> {
        if self.nvml.is_none() {
            let mut builder = Nvml::builder();
            if let Some(library) = &self.library {
                builder.lib_path(library);
            }
            self.nvml = builder.init().ok();
        }
        let Some(nvml) = &self.nvml else {
            return Vec::new();
        };
        let count = nvml.device_count().unwrap_or(0);
        if count > self.most {
            self.most = count;
            let place =
                |slot| kernel_log::pci(&nvml.device_by_index(slot).ok()?.pci_info().ok()?.bus_id);
            self.slots.set((0..count).map(place).collect());
        }
        let readings = (0..self.most).map(|slot| {
            let reading = match nvml.device_by_index(slot) {
                Ok(device) => read(&device),
                Err(error) => lost(slot >= count || is_lost(&error)),
            };
            Reading::Gpu {
                device: Slot(slot),
                reading,
            }
        });
        readings.collect()
    }
}

fn lost(is_lost: bool) -> GpuReading {
    GpuReading {
        is_lost,
        ..GpuReading::default()
    }
}

const fn is_lost(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost)
}

fn read(device: &Device<'_>) -> GpuReading {
    if device.uuid().is_err_and(|error| is_lost(&error)) {
        return lost(true);
    }
    let ecc = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    let location = MemoryLocation::SRAM;
    let sram =
        device.memory_error_counter(MemoryError::Uncorrected, EccCounter::Aggregate, location);
    let rows = match REMAPPED.map(|field| field_of(device, field)) {
        [Some(rows), Some(pending), Some(failed)] => {
            let rows = u32::try_from(rows).unwrap_or(u32::MAX);
            Some((rows, pending > 0, failed > 0))
        }
        _ => None,
    };
    GpuReading {
        is_lost: false,
        recovery: field_of(device, RECOVERY_ACTION).map(Recovery::from_nvml),
        ecc: ecc.ok(),
        sram: sram.ok(),
        rows,
        throttles: throttles(device),
        pcie_replays: device.pcie_replay_counter().ok().map(u64::from),
        links: (0..LINKS)
            .filter_map(|link| link_of(device, link))
            .collect(),
    }
}

fn field_of(device: &Device<'_>, field: u32) -> Option<u64> {
    let samples = device.field_values_for(&[FieldId(field)]).ok()?;
    match samples.into_iter().next()?.ok()?.value.ok()? {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }
}

fn throttles(device: &Device<'_>) -> Vec<Throttle> {
    let reasons = device
        .current_throttle_reasons()
        .unwrap_or(ThrottleReasons::empty());
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
fn link_of(device: &Device<'_>, link: u32) -> Option<(u32, bool, u64)> {
    let wrapper = device.link_wrapper_for(link);
    let is_up = wrapper.is_active().ok()?;
    let counters = [
        ErrorCounter::DlReplay,
        ErrorCounter::DlRecovery,
        ErrorCounter::DlCrcFlit,
        ErrorCounter::DlCrcData,
    ];
    let errors = counters.map(|counter| wrapper.error_counter(counter).unwrap_or(0));
    Some((link, is_up, errors.into_iter().fold(0, u64::saturating_add)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_says_nothing() {
        let library = Some(OsString::from("/nowhere/libnvidia-ml.so"));
        let mut gpus = Gpus::new(library, Arc::new(Slots::default()));
        assert!(gpus.look().is_empty());
    }
}
