//! One transformer block: attention and MLP, each behind a layer norm and added to what came in.

use super::Place;
use super::attention::{Attention, Positions};
use super::chance::{Chance, Site};
use super::linear::{Linear, Norm};
use crate::shim;
use crate::trainer::StepError;
use tch::Tensor;

#[derive(Debug)]
pub(super) struct Mlp {
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Mlp {
    fn forward(&self, x: &Tensor, place: &Place) -> Result<Tensor, StepError> {
        let up = self.up.forward(x, place)?;
        self.down.forward(&shim::gelu(&up)?, place)
    }
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) before_attention: Norm,
    pub(super) attention: Attention,
    pub(super) before_mlp: Norm,
    pub(super) mlp: Mlp,
    /// Its number in the whole model.
    pub(super) layer: u32,
    /// Whether the residual stream goes on behind the layer norms.
    pub(super) residual_after_norm: bool,
}

impl Block {
    pub(super) fn forward(
        &self,
        x: &Tensor,
        positions: &Positions,
        chance: &Chance<'_>,
        place: &Place,
    ) -> Result<Tensor, StepError> {
        // What a part of the block computed is added to in place: nothing else needs it.
        let add = |mut out: Tensor, x: &Tensor, y: &Tensor| {
            out.g_add_(if self.residual_after_norm { y } else { x })
        };
        let y = self.before_attention.forward(x)?;
        let out = self
            .attention
            .forward(&y, positions, &chance.attention(self.layer), place)?;
        let out = chance.drop(out, Site::Attention, self.layer)?;
        let x = add(out, x, &y);
        let y = self.before_mlp.forward(&x)?;
        let out = self.mlp.forward(&y, place)?;
        let out = chance.drop(out, Site::Mlp, self.layer)?;
        Ok(add(out, &x, &y))
    }
}
