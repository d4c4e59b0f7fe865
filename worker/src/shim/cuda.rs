#![allow(unsafe_code, reason = "the border to C++")]
//! The device on which this process computes: the CPU, or one GPU for its whole life.
//!
//! A machine without a GPU never loads anything of CUDA, so that a worker there starts as fast as ever. Who
//! asked for a GPU hears in one sentence why there is none; nobody computes on the CPU instead.

use super::{CTensor, Result, ShimError, c_string, done, raw, rb_free};
use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::str::FromStr;
use std::sync::OnceLock;
use tch::{Device, Tensor};

#[repr(C)]
struct RawCrossing {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn rb_cuda_load(own: *const c_char) -> *mut c_char;
    fn rb_cuda_count(out: *mut c_int) -> *mut c_char;
    fn rb_cuda_take(device: c_int, name: *mut *mut c_char) -> *mut c_char;
    fn rb_cuda_synchronize(device: c_int) -> *mut c_char;
    fn rb_cuda_peak(device: c_int, bytes: *mut i64) -> *mut c_char;
    fn rb_cuda_bring(tensor: *mut CTensor, device: c_int, out: *mut *mut CTensor) -> *mut c_char;
    fn rb_crossing_room(like: *mut CTensor, out: *mut *mut CTensor) -> *mut c_char;
    fn rb_crossing_begin(device: c_int, out: *mut *mut RawCrossing) -> *mut c_char;
    fn rb_crossing_copy(
        crossing: *mut RawCrossing,
        into: *mut CTensor,
        from: *mut CTensor,
    ) -> *mut c_char;
    fn rb_crossing_sealed(crossing: *mut RawCrossing) -> *mut c_char;
    fn rb_crossing_wait(crossing: *mut RawCrossing) -> *mut c_char;
    fn rb_crossing_drop(crossing: *mut RawCrossing);
    fn rb_crossings_first(device: c_int) -> *mut c_char;
}

/// The file of the part that needs CUDA.
const PART: &str = "librebloom_cuda.so";

/// What a process was told to compute on: `cpu`, `cuda` (the GPU of its slot) or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU, by its number; without one, that of the rank's slot.
    Cuda(Option<u32>),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no device: it is cpu, cuda or cuda:N");
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", number)) => number
                .parse()
                .map(|number| Self::Cuda(Some(number)))
                .map_err(|_| wrong()),
            None | Some(_) => Err(wrong()),
        }
    }
}

impl Choice {
    /// The device that it means for a rank in `slot`, where the machine has `gpus` of them.
    pub fn device(self, slot: u32, gpus: u32) -> Result<Device> {
        let Self::Cuda(named) = self else {
            return Ok(Device::Cpu);
        };
        let index = named.unwrap_or(slot);
        if index >= gpus {
            let text = format!("cuda:{index} was asked for, and CUDA sees {gpus} GPUs here");
            return Err(ShimError(text));
        }
        Ok(Device::Cuda(usize::try_from(index).unwrap_or(usize::MAX)))
    }

    /// Loads what it needs, but touches no device yet. Before anything else asks libtorch for one.
    pub fn load(self) -> Result<()> {
        if self == Self::Cpu {
            return Ok(());
        }
        let part = c_string(&part().to_string_lossy())?;
        // SAFETY: the path lives for the call.
        done(unsafe { rb_cuda_load(part.as_ptr()) })
            .map_err(|error| ShimError(format!("a GPU was asked for and cannot be used: {error}")))
    }

    /// Takes the device for the life of this process, as the rank in `slot`.
    pub fn take(self, slot: u32) -> Result<Device> {
        self.load()?;
        super::setup()?;
        let mut gpus = 0;
        // SAFETY: the number lives for the call.
        done(unsafe { rb_cuda_count(&raw mut gpus) })?;
        let device = self.device(slot, u32::try_from(gpus).unwrap_or_default())?;
        let taken = *TAKEN.get_or_init(|| device);
        if taken != device {
            let text = format!("this process computes on {taken:?}; it cannot on {device:?}");
            return Err(ShimError(text));
        }
        match index(device) {
            Some(index) => {
                let mut name = null_mut();
                // SAFETY: the shim answers a C string that is ours to free, once.
                let name = unsafe {
                    done(rb_cuda_take(index, &raw mut name))?;
                    let text = CStr::from_ptr(name).to_string_lossy().into_owned();
                    rb_free(name);
                    text
                };
                tracing::info!(device = format!("cuda:{index}"), name, "computes");
            }
            None => tracing::info!(device = "cpu", "computes"),
        }
        Ok(device)
    }
}

static TAKEN: OnceLock<Device> = OnceLock::new();

/// The device of this process; the CPU unless another was taken.
pub fn device() -> Device {
    TAKEN.get().copied().unwrap_or(Device::Cpu)
}

/// Where the part that needs CUDA lies: beside the program, as it is installed, or else where it was built.
pub fn part() -> PathBuf {
    let beside = std::env::current_exe().map(|program| program.with_file_name(PART));
    let beside = beside.ok().filter(|path| path.exists());
    beside.unwrap_or_else(|| PathBuf::from(env!("REBLOOM_CUDA_PART")))
}

/// CUDA's number of a device.
pub(super) fn index(device: Device) -> Option<c_int> {
    match device {
        Device::Cuda(index) => Some(c_int::try_from(index).unwrap_or(c_int::MAX)),
        Device::Cpu | Device::Mps | Device::Vulkan => None,
    }
}

/// Whether each launch of a kernel waits for it, as CUDA reads it when it begins.
pub fn launches_block() -> bool {
    std::env::var_os("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value == "1")
}

/// Waits until the device has done all that it was given.
pub fn synchronize(device: Device) -> Result<()> {
    index(device).map_or(Ok(()), |index| {
        // SAFETY: no pointers.
        done(unsafe { rb_cuda_synchronize(index) })
    })
}

/// Most bytes of a device that tensors ever took; none for the CPU.
pub fn peak_bytes(device: Device) -> Result<Option<u64>> {
    let Some(index) = index(device) else {
        return Ok(None);
    };
    let mut bytes = 0;
    // SAFETY: the number lives for the call.
    done(unsafe { rb_cuda_peak(index, &raw mut bytes) })?;
    Ok(u64::try_from(bytes).ok())
}

/// What lies in the host's memory, on `device`; the same tensor where that is the CPU. Nobody waits for the copy.
pub fn bring(tensor: Tensor, device: Device) -> Result<Tensor> {
    let Some(index) = index(device) else {
        return Ok(tensor);
    };
    let mut out = null_mut();
    // SAFETY: the tensor lives for the call.
    unsafe {
        done(rb_cuda_bring(raw(&tensor), index, &raw mut out))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// What lies on whatever device, in the host's memory; the same tensor where it lies there.
pub fn home(tensor: &Tensor) -> Tensor {
    match tensor.device() {
        Device::Cpu => tensor.shallow_clone(),
        Device::Cuda(_) | Device::Mps | Device::Vulkan => tensor.to_device(Device::Cpu),
    }
}

/// Lets everything that `device` is given next come after the copies that were begun: what they read may be
/// written to again.
pub fn copies_first(device: Device) -> Result<()> {
    index(device).map_or(Ok(()), |index| {
        // SAFETY: no pointers.
        done(unsafe { rb_crossings_first(index) })
    })
}

/// Copies into the host's memory, which a GPU makes beside what it computes.
#[derive(Debug)]
pub struct Crossing(Option<*mut RawCrossing>);

// SAFETY: it is an event of CUDA, which any thread may wait for.
unsafe impl Send for Crossing {}

impl Crossing {
    /// Copies of what `device` holds when it has done all that it was given so far.
    pub fn begin(device: Device) -> Result<Self> {
        let Some(index) = index(device) else {
            return Ok(Self(None));
        };
        let mut out = null_mut();
        // SAFETY: the pointer lives for the call.
        done(unsafe { rb_crossing_begin(index, &raw mut out) })?;
        Ok(Self(Some(out)))
    }

    /// Room for a copy of `like` that can be made so.
    pub fn room(&self, like: &Tensor) -> Result<Tensor> {
        if self.0.is_none() {
            return Ok(like.empty_like());
        }
        let mut out = null_mut();
        // SAFETY: the tensor lives for the call.
        unsafe {
            done(rb_crossing_room(raw(like), &raw mut out))?;
            Ok(Tensor::from_ptr(out.cast()))
        }
    }

    /// Copies one tensor.
    pub fn copy(&self, into: &mut Tensor, from: &Tensor) -> Result<()> {
        match self.0 {
            Some(crossing) => {
                // SAFETY: all three live for the call; the copy keeps its own hold of both memories.
                done(unsafe { rb_crossing_copy(crossing, raw(into), raw(from)) })
            }
            None => {
                tch::no_grad(|| into.copy_(from));
                Ok(())
            }
        }
    }

    /// No more copies follow.
    pub fn sealed(self) -> Result<Self> {
        match self.0 {
            // SAFETY: it lives.
            Some(crossing) => done(unsafe { rb_crossing_sealed(crossing) }).map(|()| self),
            None => Ok(self),
        }
    }

    /// Waits for the copies.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: it lives.
        self.0.map_or(Ok(()), |crossing| {
            done(unsafe { rb_crossing_wait(crossing) })
        })
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        if let Some(crossing) = self.0.take() {
            // SAFETY: it came from the shim and is freed once.
            unsafe { rb_crossing_drop(crossing) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_in_one_way() {
        for (text, choice) in [
            ("cpu", Choice::Cpu),
            ("cuda", Choice::Cuda(None)),
            ("cuda:3", Choice::Cuda(Some(3))),
        ] {
            assert_eq!(text.parse(), Ok(choice));
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            let error = text.parse::<Choice>().unwrap_err();
            assert!(error.contains("cpu, cuda or cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_rank_computes_on_the_gpu_of_its_slot() {
        assert_eq!(Choice::Cpu.device(3, 8), Ok(Device::Cpu));
        assert_eq!(Choice::Cuda(None).device(3, 8), Ok(Device::Cuda(3)));
        assert_eq!(Choice::Cuda(Some(5)).device(3, 8), Ok(Device::Cuda(5)));
        let error = Choice::Cuda(None).device(8, 8).unwrap_err();
        assert_eq!(error.0, "cuda:8 was asked for, and CUDA sees 8 GPUs here");
    }
}
