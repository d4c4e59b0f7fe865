#![allow(unsafe_code, reason = "the border to C++")]
//! What a step computes that tch has no words for: layers that add their gradients in place, backward
//! with a gradient, seeded chance, and the fused optimizer.

use super::{CTensor, Group, RawGroup, Result, done, raw};
use crate::comm::spent;
use rebloom_core::flight::Channel;
use rebloom_core::time::Instant;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::flight::Recorder;
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use tch::Tensor;

type MarkFn = unsafe extern "C" fn(*mut c_void, c_int);

unsafe extern "C" {
    fn rb_linear(
        x: *mut CTensor,
        weight: *mut CTensor,
        bias: *mut CTensor,
        weight_grad: *mut CTensor,
        bias_grad: *mut CTensor,
        group: *mut RawGroup,
        row: bool,
        mark: MarkFn,
        mark_self: *mut c_void,
        out: *mut *mut CTensor,
    ) -> *mut c_char;
    fn rb_norm(
        x: *mut CTensor,
        weight: *mut CTensor,
        bias: *mut CTensor,
        weight_grad: *mut CTensor,
        bias_grad: *mut CTensor,
        epsilon: f64,
        out: *mut *mut CTensor,
    ) -> *mut c_char;
    fn rb_attention(
        qkv: *mut CTensor,
        bias: *mut CTensor,
        scale: f64,
        out: *mut *mut CTensor,
    ) -> *mut c_char;
    fn rb_toss(out: *mut CTensor, seed: u64, keep: f64) -> *mut c_char;
    fn rb_seed_device(device: i64, seed: u64) -> *mut c_char;
    fn rb_backward(output: *mut CTensor, grad: *mut CTensor) -> *mut c_char;
    fn rb_adamw(
        weights: *mut CTensor,
        grads: *mut CTensor,
        mean: *mut CTensor,
        square: *mut CTensor,
        step: i64,
        rate: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
}

unsafe extern "C" fn mark(recorder: *mut c_void, what: c_int) {
    thread_local! {
        static BEGAN: Cell<Instant> = const { Cell::new(Instant::ZERO) };
    }
    // SAFETY: `linear` takes a recorder that lives for ever.
    let recorder = unsafe { &*recorder.cast::<Recorder>() };
    match what {
        0 => recorder.entered(Channel::Tensor),
        1 => BEGAN.set(monotonic()),
        _ => {
            spent::add(Channel::Tensor, monotonic().since(BEGAN.get()));
            recorder.done(Channel::Tensor);
        }
    }
}

/// A layer's weights (`[out, in]` of a linear one), bias and the buffers of their gradients.
#[derive(Debug)]
pub struct Parts {
    /// Weights.
    pub weight: Tensor,
    /// Bias.
    pub bias: Tensor,
    /// Gradient of the weights, added to in place.
    pub weight_grad: Tensor,
    /// Gradient of the bias, added to in place.
    pub bias_grad: Tensor,
}

/// How a linear layer is cut over its tensor group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// By its outputs: the gradient of x is summed over the group.
    Columns,
    /// By its inputs: y is summed over the group before the bias.
    Rows,
}

/// y = x W' + b of a layer that is cut over `group`, if it is.
pub fn linear(
    x: &Tensor,
    parts: &Parts,
    cut: Cut,
    group: Option<&Group>,
    recorder: &'static Recorder,
) -> Result<Tensor> {
    let mut out = null_mut();
    // SAFETY: every tensor and the group live for the call and are counted by the graph; the recorder
    // lives for ever.
    unsafe {
        done(rb_linear(
            raw(x),
            raw(&parts.weight),
            raw(&parts.bias),
            raw(&parts.weight_grad),
            raw(&parts.bias_grad),
            group.map_or(null_mut(), |group| group.raw),
            cut == Cut::Rows,
            mark,
            std::ptr::from_ref(recorder).cast_mut().cast(),
            &raw mut out,
        ))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// The layer norm of x over its last dimension.
pub fn norm(x: &Tensor, parts: &Parts, epsilon: f64) -> Result<Tensor> {
    let mut out = null_mut();
    // SAFETY: every tensor lives for the call and is counted by the graph.
    unsafe {
        done(rb_norm(
            raw(x),
            raw(&parts.weight),
            raw(&parts.bias),
            raw(&parts.weight_grad),
            raw(&parts.bias_grad),
            epsilon,
            &raw mut out,
        ))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// Causal attention of `[batch, sequence, heads, 3, width]` on the CPU. `bias`, `[1, heads, sequence, sequence]`, is
/// added to the scores and is minus infinity for keys ahead. `[batch, sequence, heads, width]`.
pub fn attention(qkv: &Tensor, bias: &Tensor, scale: f64) -> Result<Tensor> {
    let mut out = null_mut();
    // SAFETY: as above.
    unsafe {
        done(rb_attention(raw(qkv), raw(bias), scale, &raw mut out))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// Fills `out` with ones, each with probability `keep`, and zeros. The seed alone decides which.
pub fn toss(out: &Tensor, seed: u64, keep: f64) -> Result<()> {
    // SAFETY: the tensor lives.
    done(unsafe { rb_toss(raw(out), seed, keep) })
}

/// Seeds the generator of a CUDA device, for what draws from it inside of fused kernels.
pub fn seed_device(device: usize, seed: u64) -> Result<()> {
    let device = i64::try_from(device).unwrap_or(i64::MAX);
    // SAFETY: no pointers.
    done(unsafe { rb_seed_device(device, seed) })
}

/// Runs backward from `output`, whose gradient is `grad`.
pub fn backward(output: &Tensor, grad: &Tensor) -> Result<()> {
    // SAFETY: both tensors live.
    done(unsafe { rb_backward(raw(output), raw(grad)) })
}

/// What one AdamW update needs besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Updates done with this one.
    pub step: i64,
    /// Learning rate.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

/// Weights, gradients and moments of one AdamW update.
#[derive(Debug)]
pub struct Moments {
    /// Weights.
    pub weights: Tensor,
    /// Gradients.
    pub grads: Tensor,
    /// First moment.
    pub mean: Tensor,
    /// Second moment.
    pub square: Tensor,
}

/// One fused AdamW update, in place.
pub fn adamw(of: &Moments, how: AdamW) -> Result<()> {
    // SAFETY: the tensors live and do not overlap.
    done(unsafe {
        rb_adamw(
            raw(&of.weights),
            raw(&of.grads),
            raw(&of.mean),
            raw(&of.square),
            how.step,
            how.rate,
            how.beta1,
            how.beta2,
            how.decay,
            how.epsilon,
        )
    })
}
