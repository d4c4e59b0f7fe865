//! Linear layers and layer norms over a tensor group.

use super::Place;
use crate::comm::{Cut, LinearParts};
use crate::shim;
use crate::trainer::StepError;
use tch::Tensor;

#[derive(Debug)]
pub(super) struct Linear {
    pub(super) parts: LinearParts,
    pub(super) cut: Cut,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor, place: &Place) -> Result<Tensor, StepError> {
        let group = place.group.as_ref().map(|group| group.shim());
        shim::linear(x, &self.parts, self.cut, group, place.watch.recorder)
            .map_err(|error| place.failure(error))
    }
}

/// A layer norm; its weights are leaves whose gradients go straight into the flat buffer.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

const EPSILON: f64 = 1e-5;

impl Norm {
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let width = self.weight.size()[0];
        x.layer_norm(
            [width],
            Some(&self.weight),
            Some(&self.bias),
            EPSILON,
            false,
        )
    }
}
