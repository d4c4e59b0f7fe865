#![allow(
    unsafe_code,
    reason = "the wrapper asks for fields without a scope, and those of a link have none without"
)]
//! NVML's fields of one NVLink, which name the link as their scope.

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::struct_wrappers::device::FieldValueSample;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlFieldValue_t, nvmlReturn_enum_NVML_ERROR_UNKNOWN, nvmlValue_t,
};
use std::ffi::OsStr;
use std::fmt;

/// The library that the wrapper loads unless it is told another.
const USUAL: &str = "libnvidia-ml.so.1";

/// The library, for the one call that the wrapper does not make.
pub(super) struct Fields(NvmlLib);

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fields").finish_non_exhaustive()
    }
}

impl Fields {
    /// Of the library that the wrapper has loaded and initialized.
    pub(super) fn new(library: Option<&OsStr>) -> Result<Self, NvmlError> {
        // SAFETY: it is loaded already, so nothing of it runs here; its functions are those of nvml.h.
        let library = unsafe { NvmlLib::new(library.unwrap_or(OsStr::new(USUAL))) };
        Ok(Self(library?))
    }

    /// What some fields say of a link, each for itself.
    pub(super) fn of_link<const N: usize>(
        &self,
        device: &Device<'_>,
        link: u32,
        fields: [u32; N],
    ) -> Result<[Result<FieldValueSample, NvmlError>; N], NvmlError> {
        let Ok(call) = &self.0.nvmlDeviceGetFieldValues else {
            return Err(NvmlError::FunctionNotFound);
        };
        let mut values = fields.map(|field| nvmlFieldValue_t {
            fieldId: field,
            scopeId: link,
            timestamp: 0,
            latencyUsec: 0,
            valueType: 0,
            // What the library leaves alone it has not said.
            nvmlReturn: nvmlReturn_enum_NVML_ERROR_UNKNOWN,
            value: nvmlValue_t { ullVal: 0 },
        });
        let count = i32::try_from(N).map_err(|_| NvmlError::InvalidArg)?;
        // SAFETY: the device is one of the same library, and there are as many values as it is told.
        nvml_try(unsafe { call(device.handle(), count, values.as_mut_ptr()) })?;
        Ok(values.map(FieldValueSample::try_from))
    }
}
