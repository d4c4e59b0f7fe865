#![allow(unsafe_code, reason = "the border to C++")]
//! What a step computes that tch has no words for: layers that add their gradients in place, backward
//! with a gradient, seeded chance, and the fused optimizer.

use super::{CTensor, Group, RawGroup, Result, ShimError, done, raw};
use crate::comm::spent;
use rebloom_core::flight::Channel;
use rebloom_core::time::Instant;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::flight::Recorder;
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use tch::{Kind, Tensor};

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
    fn rb_fused_attention(only: bool) -> *mut c_char;
    fn rb_gelu(x: *mut CTensor, out: *mut *mut CTensor) -> *mut c_char;
    fn rb_log_sum_exp(x: *mut CTensor, out: *mut *mut CTensor) -> *mut c_char;
    fn rb_exponentials(x: *mut CTensor, less: *mut CTensor, scale: f64) -> *mut c_char;
    fn rb_sum_of_squares(x: *mut CTensor, out: *mut f64) -> *mut c_char;
    fn rb_toss(out: *mut CTensor, seed: u64, keep: f64) -> *mut c_char;
    fn rb_seed_device(device: i64, seed: u64) -> *mut c_char;
    fn rb_backward(output: *mut CTensor, grad: *mut CTensor) -> *mut c_char;
    fn rb_adamw(
        weights: *mut CTensor,
        grads: *mut CTensor,
        mean: *mut CTensor,
        square: *mut CTensor,
        step: i64,
        scale: f64,
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

/// Causal attention of query, key and value, each `[batch, heads, sequence, width]`, with `dropped` of the weights left out, by
/// whichever kernel suits. In bf16 only a fused one will do: to fall back unseen would cost a run its speed for months.
pub fn fused_attention([q, k, v]: &[Tensor; 3], dropped: f64, scale: f64) -> Result<Tensor> {
    // SAFETY: no pointers.
    done(unsafe { rb_fused_attention(q.kind() == Kind::BFloat16) })?;
    let none = None::<&Tensor>;
    Tensor::f_scaled_dot_product_attention(q, k, v, none, dropped, true, scale, false)
        .map_err(|error| ShimError(error.to_string()))
}

/// GELU by its approximation with tanh.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let mut out = null_mut();
    // SAFETY: as above.
    unsafe {
        done(rb_gelu(raw(x), &raw mut out))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// The logarithm of the sum of e^x over each row of `[rows, width]`, `[rows, 1]`. It has no gradient.
pub fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let mut out = null_mut();
    // SAFETY: as above.
    unsafe {
        done(rb_log_sum_exp(raw(x), &raw mut out))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// Makes x of `[rows, width]` e^(x - less) times `scale`, in place; `less` is `[rows, 1]`.
pub fn exponentials(x: &mut Tensor, less: &Tensor, scale: f64) -> Result<()> {
    // SAFETY: both tensors live.
    done(unsafe { rb_exponentials(raw(x), raw(less), scale) })
}

/// The sum of the squares of all of x, in fp64: one in fp32 over a hundred million numbers is too small by a hundredth.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let mut sum = 0.0;
    // SAFETY: the tensor lives, and the sum outlives the call.
    done(unsafe { rb_sum_of_squares(raw(x), &raw mut sum) })?;
    Ok(sum)
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
    /// What gradients are multiplied with first.
    pub scale: f64,
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
            how.scale,
            how.rate,
            how.beta1,
            how.beta2,
            how.decay,
            how.epsilon,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn off(ours: &Tensor, truth: &Tensor) -> f64 {
        let off = ours.to_kind(Kind::Double) - truth;
        off.abs().max().double_value(&[])
    }

    /// In fp32, against the same in fp64; no width is a multiple of what is worked on side by side.
    #[test]
    fn what_is_computed_element_by_element_is_right() {
        let x = Tensor::linspace(-30.0, 30.0, 3 * 1001, (Kind::Float, Device::Cpu)).view([3, -1]);
        let wide = x.to_kind(Kind::Double);
        let sums = log_sum_exp(&x).unwrap();
        assert_eq!(sums.size(), [3, 1]);
        assert!(off(&sums, &wide.logsumexp(1_i64, true)) < 5e-6);
        let mut y = x.copy();
        exponentials(&mut y, &sums, 0.25).unwrap();
        assert!(off(&y, &(wide.softmax(1, Kind::Double) * 0.25)) < 1e-6);

        let dy = Tensor::linspace(1.0, -2.0, 3 * 1001, (Kind::Float, Device::Cpu)).view([3, -1]);
        let run = |x: &Tensor, gelu: &dyn Fn(&Tensor) -> Tensor, dy: &Tensor| {
            let x = x.detach().set_requires_grad(true);
            let y = gelu(&x);
            backward(&y, dy).unwrap();
            [y.detach(), x.grad()]
        };
        let ours = run(&x, &|x| gelu(x).unwrap(), &dy);
        let truth = run(&wide, &|x| x.gelu("tanh"), &dy.to_kind(Kind::Double));
        for (ours, truth) in ours.iter().zip(&truth) {
            assert!(off(ours, truth) < 4e-6, "{:e}", off(ours, truth));
        }
    }

    /// libtorch's own norm of as many is off by a thousandth, and by how much follows from the layout.
    #[test]
    fn squares_are_summed_as_well_over_many_as_over_few() {
        let many = Tensor::linspace(-1.0, 1.0, (1 << 25) + 3, (Kind::Float, Device::Cpu));
        let truth = |x: &Tensor| x.to_kind(Kind::Double).square().sum(Kind::Double);
        let wanted = truth(&many).double_value(&[]);
        let off = |sum: f64| (sum / wanted - 1.0).abs();
        assert!(off(many.norm().double_value(&[]).powi(2)) > 1e-4);
        assert!(off(sum_of_squares(&many).unwrap()) < 1e-12);
        // As it is done where it is not ours.
        let spread = Tensor::stack(&[&many, &many], 1).select(1, 0);
        assert!(!spread.is_contiguous());
        assert!(off(sum_of_squares(&spread).unwrap()) < 1e-6);
        let few = many.narrow(0, 1000, 5);
        assert!((sum_of_squares(&few).unwrap() - truth(&few).double_value(&[])).abs() < 1e-12);
        drop(many.narrow(0, 70_000, 1).fill_(f64::NAN));
        assert!(sum_of_squares(&many).unwrap().is_nan());
        assert!(sum_of_squares(&spread.copy()).unwrap().is_finite());
    }

    /// A loss that ran away has to be seen.
    #[test]
    fn what_is_no_number_stays_none() {
        let mut x = Tensor::ones([2, 40], (Kind::Float, Device::Cpu));
        drop(x.narrow(0, 1, 1).narrow(1, 20, 1).fill_(f64::NAN));
        let sums = log_sum_exp(&x).unwrap();
        assert!(sums.double_value(&[0, 0]).is_finite());
        assert!(sums.double_value(&[1, 0]).is_nan());
        let y = gelu(&x).unwrap();
        assert!(y.double_value(&[1, 20]).is_nan() && y.double_value(&[1, 21]).is_finite());
        exponentials(&mut x, &sums, 1.0).unwrap();
        assert!(x.double_value(&[1, 0]).is_nan());
        let infinite = Tensor::full([1, 8], f64::INFINITY, (Kind::Float, Device::Cpu));
        assert!(
            log_sum_exp(&infinite)
                .unwrap()
                .double_value(&[0, 0])
                .is_nan()
        );
    }
}
