#![allow(unsafe_code, reason = "the border to C++")]
//! The border to C++: c10d, and what libtorch has and tch lacks, as safe Rust.
//!
//! `shim/shim.h` is the other side of it. Nothing in here knows what a run is.

pub mod cuda;
mod layers;
mod store;

pub use layers::{
    AdamW, Cut, Moments, Parts, adamw, attention, backward, exponentials, fused_attention, gelu,
    linear, log_sum_exp, norm, seed_device, sum_of_squares, toss,
};

use crate::comm::Store;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use tch::{Device as TchDevice, Kind, Tensor};

/// What C++ said when something failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShimError(pub String);

impl ShimError {
    /// What a collective inside a forward or backward pass said, if it is what failed.
    pub fn lost_peer(&self) -> Option<&str> {
        self.0.strip_prefix("lost peer: ")
    }
}

/// What the border answers.
pub type Result<T> = std::result::Result<T, ShimError>;
/// `at::Tensor`, whose name torch-sys keeps to itself.
type CTensor = c_void;

#[repr(C)]
struct RawDevice {
    _private: [u8; 0],
}
#[repr(C)]
struct RawGroup {
    _private: [u8; 0],
}
#[repr(C)]
struct RawWork {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn rb_emit(sink: *mut c_void, bytes: *const u8, length: usize);
    fn rb_free(message: *mut c_char);
    fn rb_exit(code: c_int) -> !;
    fn rb_setup() -> *mut c_char;
    fn rb_device_open(address: *const c_char, named: bool, out: *mut *mut RawDevice)
    -> *mut c_char;
    fn rb_device_close(device: *mut RawDevice);
    fn rb_group_form(
        store: *const store::RawStore,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        device: *const RawDevice,
        connect_ms: u64,
        out: *mut *mut RawGroup,
    ) -> *mut c_char;
    fn rb_group_form_on_device(
        store: *const store::RawStore,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        device: c_int,
        out: *mut *mut RawGroup,
    ) -> *mut c_char;
    fn rb_group_abort(group: *mut RawGroup);
    fn rb_group_drop(group: *mut RawGroup);
    fn rb_sum(group: *mut RawGroup, tensor: *mut CTensor, out: *mut *mut RawWork) -> *mut c_char;
    fn rb_all_to_all(
        group: *mut RawGroup,
        output: *mut CTensor,
        input: *mut CTensor,
        out: *mut *mut RawWork,
    ) -> *mut c_char;
    fn rb_all_gather(
        group: *mut RawGroup,
        output: *mut CTensor,
        input: *mut CTensor,
        out: *mut *mut RawWork,
    ) -> *mut c_char;
    fn rb_send(
        group: *mut RawGroup,
        tensor: *mut CTensor,
        to: c_int,
        tag: c_int,
        out: *mut *mut RawWork,
    ) -> *mut c_char;
    fn rb_recv(
        group: *mut RawGroup,
        tensor: *mut CTensor,
        from: c_int,
        tag: c_int,
        out: *mut *mut RawWork,
    ) -> *mut c_char;
    fn rb_work_wait(work: *mut RawWork) -> *mut c_char;
    fn rb_work_order(work: *mut RawWork) -> *mut c_char;
    fn rb_work_is_ready(work: *mut RawWork) -> bool;
    fn rb_work_forget(work: *mut RawWork);
}

fn done(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim answers null or a C string that is ours to free, once.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        rb_free(message);
        text
    };
    Err(ShimError(text.trim().to_owned()))
}

fn raw(tensor: &Tensor) -> *mut CTensor {
    tensor.as_ptr().cast_mut().cast()
}

/// One thread, and kernels that give the same bits every time. Call it before anything else.
pub fn setup() -> Result<()> {
    // SAFETY: no arguments.
    done(unsafe { rb_setup() })
}

/// Ends the process at once. `std::process::exit` would run destructors of libtorch while its threads live.
pub fn exit(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { rb_exit(code) }
}

/// The network interface over which groups talk: one listening socket and one thread.
#[derive(Debug)]
pub struct Device(*mut RawDevice);

// SAFETY: it is a shared pointer to Gloo's device, which locks for itself.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens a device on a host address, or on an interface by its name.
    pub fn open(interface: &str) -> Result<Self> {
        let named = interface.parse::<std::net::IpAddr>().is_err();
        let address = c_string(interface)?;
        let mut out = null_mut();
        // SAFETY: both pointers are valid for the call.
        done(unsafe { rb_device_open(address.as_ptr(), named, &raw mut out) })?;
        Ok(Self(out))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: it came from `rb_device_open` and is closed once; groups keep their own reference.
        unsafe { rb_device_close(self.0) }
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| ShimError(format!("{text:?} holds a zero byte")))
}

/// A process group of c10d.
#[derive(Debug)]
pub struct Group {
    raw: *mut RawGroup,
    /// C++ may call it for as long as the group lives.
    store: Arc<store::Served>,
}

// SAFETY: c10d locks its queues; only `abort` is called from another thread, and Gloo locks for it.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Group {
    /// Joins a group of `size` members as member `rank`; blocks until all are connected.
    pub fn form(
        store: Arc<dyn Store>,
        prefix: &str,
        rank: u32,
        size: u32,
        device: &Device,
        connect: std::time::Duration,
    ) -> Result<Self> {
        let store = Arc::new(store::Served::new(store));
        let prefix = c_string(prefix)?;
        let connect = u64::try_from(connect.as_millis()).unwrap_or(u64::MAX);
        let mut out = null_mut();
        // SAFETY: every pointer is valid for the call, and the store for as long as the group.
        done(unsafe {
            rb_group_form(
                store.raw(),
                prefix.as_ptr(),
                number(rank)?,
                number(size)?,
                device.0,
                connect,
                &raw mut out,
            )
        })?;
        Ok(Self { raw: out, store })
    }

    /// The same for tensors that lie on a GPU, over NCCL. Nothing bounds it: who forms it is left behind by a fence.
    pub fn form_on_device(
        store: Arc<dyn Store>,
        prefix: &str,
        rank: u32,
        size: u32,
        device: TchDevice,
    ) -> Result<Self> {
        let device = cuda::index(device)
            .ok_or_else(|| ShimError(format!("{device:?} is not a GPU, and NCCL wants one")))?;
        let store = Arc::new(store::Served::new(store));
        let prefix = c_string(prefix)?;
        let mut out = null_mut();
        // SAFETY: as above.
        done(unsafe {
            rb_group_form_on_device(
                store.raw(),
                prefix.as_ptr(),
                number(rank)?,
                number(size)?,
                device,
                &raw mut out,
            )
        })?;
        Ok(Self { raw: out, store })
    }

    /// Fails every operation under way and to come, and closes the sockets, so that peers fail too.
    pub fn abort(&self) {
        // SAFETY: the group lives.
        unsafe { rb_group_abort(self.raw) }
    }

    /// Begins to add up `tensor` over the group, in place.
    pub fn sum(&self, tensor: &Tensor) -> Result<Work> {
        // SAFETY: group and tensor live; c10d keeps its own reference to the tensor.
        Work::started(|out| unsafe { rb_sum(self.raw, raw(tensor), out) })
    }

    /// Begins to send the n-th part of `input` to member n, and to gather what they send, in order.
    pub fn all_to_all(&self, output: &Tensor, input: &Tensor) -> Result<Work> {
        // SAFETY: as above.
        Work::started(|out| unsafe { rb_all_to_all(self.raw, raw(output), raw(input), out) })
    }

    /// Begins to gather every member's `input`, in order.
    pub fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<Work> {
        // SAFETY: as above.
        Work::started(|out| unsafe { rb_all_gather(self.raw, raw(output), raw(input), out) })
    }

    /// Begins to send `tensor` to a member.
    pub fn send(&self, tensor: &Tensor, to: u32, tag: u32) -> Result<Work> {
        let (to, tag) = (number(to)?, number(tag)?);
        // SAFETY: as above.
        Work::started(|out| unsafe { rb_send(self.raw, raw(tensor), to, tag, out) })
    }

    /// Begins to receive into `tensor` from a member.
    pub fn recv(&self, tensor: &Tensor, from: u32, tag: u32) -> Result<Work> {
        let (from, tag) = (number(from)?, number(tag)?);
        // SAFETY: as above.
        Work::started(|out| unsafe { rb_recv(self.raw, raw(tensor), from, tag, out) })
    }
}

impl Drop for Group {
    /// Closes the sockets at once; what c10d's destructor waits for is left to a thread.
    fn drop(&mut self) {
        self.abort();
        let (group, store) = (self.raw as usize, Arc::clone(&self.store));
        let reaper = move || {
            // SAFETY: nobody else holds the pointer any more. Where no thread can be had, it leaks.
            unsafe { rb_group_drop(group as *mut RawGroup) };
            drop(store);
        };
        drop(
            std::thread::Builder::new()
                .name("reaper".to_owned())
                .spawn(reaper),
        );
    }
}

fn number(value: u32) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| ShimError(format!("{value} is too large")))
}

/// An operation under way.
#[derive(Debug)]
#[must_use = "it is not done before it was waited for"]
pub struct Work(*mut RawWork);

// SAFETY: it is a reference-counted pointer to an object that locks for itself.
unsafe impl Send for Work {}

impl Work {
    fn started(begin: impl FnOnce(*mut *mut RawWork) -> *mut c_char) -> Result<Self> {
        let mut out = null_mut();
        done(begin(&raw mut out))?;
        Ok(Self(out))
    }

    /// Waits until it is done, or its group was aborted, or a peer went away.
    pub fn wait(self) -> Result<()> {
        let work = std::mem::ManuallyDrop::new(self);
        // SAFETY: it came from the shim; waiting frees it, once.
        done(unsafe { rb_work_wait(work.0) })
    }

    /// Whether [`Self::order`] would hold up nobody: it is done, or failed, or only a GPU would wait. What is sent
    /// or received on the host is never ready before it was waited for.
    pub fn is_ready(&self) -> bool {
        // SAFETY: it was not waited for, so it is not freed yet.
        unsafe { rb_work_is_ready(self.0) }
    }

    /// Lets what this thread computes next come after it. On a GPU the host goes on at once; what a fence left
    /// undone is seen by the next wait.
    pub fn order(self) -> Result<()> {
        let work = std::mem::ManuallyDrop::new(self);
        // SAFETY: as above.
        done(unsafe { rb_work_order(work.0) })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: it was not waited for, so it is not freed yet.
        unsafe { rb_work_forget(self.0) }
    }
}

/// The bytes of a contiguous fp32, bf16 or int64 tensor in the host's memory.
pub fn bytes(tensor: &Tensor) -> &[u8] {
    assert!(
        tensor.is_contiguous()
            && matches!(tensor.kind(), Kind::Float | Kind::BFloat16 | Kind::Int64)
            && tensor.device() == TchDevice::Cpu,
        "only contiguous fp32, bf16 and int64 tensors on the host are read as bytes"
    );
    let length = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if length == 0 {
        return &[];
    }
    // SAFETY: the storage holds that many bytes and lives as long as the tensor is borrowed; training
    // writes into it only through the thread that borrows it here.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) }
}

/// A contiguous fp32 or bf16 tensor in the host's memory, as bytes to write.
pub fn bytes_mut(tensor: &mut Tensor) -> &mut [u8] {
    let length = bytes(tensor).len();
    if length == 0 {
        return &mut [];
    }
    // SAFETY: as in `bytes`.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), length) }
}
