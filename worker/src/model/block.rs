//! One transformer block: attention and MLP, each behind a layer norm and added to what came in.

use super::Place;
use super::attention::Attention;
use super::linear::{Linear, Norm};
use crate::trainer::StepError;
use tch::Tensor;

#[derive(Debug)]
pub(super) struct Mlp {
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Mlp {
    fn forward(&self, x: &Tensor, place: &Place) -> Result<Tensor, StepError> {
        self.down
            .forward(&self.up.forward(x, place)?.gelu("tanh"), place)
    }
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) before_attention: Norm,
    pub(super) attention: Attention,
    pub(super) before_mlp: Norm,
    pub(super) mlp: Mlp,
}

impl Block {
    pub(super) fn forward(
        &self,
        x: &Tensor,
        sequence: i64,
        bias: &Tensor,
        place: &Place,
    ) -> Result<Tensor, StepError> {
        let y = self.before_attention.forward(x);
        let x = x + self.attention.forward(&y, sequence, bias, place)?;
        let y = self.before_mlp.forward(&x);
        Ok(&x + self.mlp.forward(&y, place)?)
    }
}
