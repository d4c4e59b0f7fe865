//! Linear layers and layer norms over a tensor group.

use super::Place;
use crate::comm::{Cut, Parts};
use crate::shim;
use crate::trainer::StepError;
use tch::Tensor;

#[derive(Debug)]
pub(super) struct Linear {
    pub(super) parts: Parts,
    pub(super) cut: Cut,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor, place: &Place) -> Result<Tensor, StepError> {
        let group = place.group.as_ref().map(|group| group.shim());
        shim::linear(x, &self.parts, self.cut, group, place.watch.recorder)
            .map_err(|error| place.failure(error))
    }
}

/// A layer norm; its gradients go straight into the flat buffer.
#[derive(Debug)]
pub(super) struct Norm(pub(super) Parts);

const EPSILON: f64 = 1e-5;

impl Norm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, StepError> {
        Ok(shim::norm(x, &self.0, EPSILON)?)
    }
}
