//! BLOOM, one pipeline stage of it, cut over its tensor group.
//!
//! Weights and gradients are views of the optimizer's flat buffers. The blocks run under autograd,
//! with linear layers that add their gradients in place; the embedding at both ends runs outside of
//! it. Nothing in here knows of steps, samples or other stages.

pub mod attention;
mod block;
mod embedding;
mod init;
mod linear;
pub mod shape;

use crate::comm::{Cut, Group, LinearParts, Watch};
use crate::optim::Flat;
use crate::shim::{self, ShimError};
use crate::trainer::StepError;
use attention::Attention;
use block::{Block, Mlp};
use embedding::Embedding;
pub use init::values as initial_values;
use linear::{Linear, Norm};
use rebloom_core::spec::Model;
use shape::{EMBEDDING, Stage};
use tch::{Tensor, no_grad};

/// Where a rank stands in its tensor group.
#[derive(Debug, Clone)]
pub struct Place {
    /// The group; none where the rank is alone in it.
    pub group: Option<Group>,
    /// Its index.
    pub index: u32,
    /// Members.
    pub size: u32,
    /// The generation and its page.
    pub watch: Watch,
}

impl Place {
    fn failure(&self, error: ShimError) -> StepError {
        match error.lost_peer() {
            Some(text) => self.watch.failure(text).into(),
            None => StepError::Torch(error),
        }
    }
}

/// The layers of one stage.
#[derive(Debug)]
pub struct StageModel {
    place: Place,
    sequence: i64,
    width: i64,
    embedding: Option<Embedding>,
    embedding_norm: Option<Norm>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    /// Tied to `embedding` where one stage is first and last.
    output: Option<Embedding>,
    bias: Tensor,
}

/// A forward pass that waits for its backward pass.
#[derive(Debug)]
pub struct InFlight {
    /// What came in; its gradient goes back to the stage before.
    input: Tensor,
    output: Tensor,
}

impl InFlight {
    /// What the stage made of it.
    pub fn output(&self) -> Tensor {
        self.output.detach()
    }
}

impl StageModel {
    /// Builds the layers over the weights in `flat`.
    pub fn new(model: &Model, stage: &Stage, flat: &Flat, place: Place) -> Result<Self, ShimError> {
        let norm = |name: &str| -> Result<Norm, ShimError> {
            let leaf = |kind: &str| {
                let (weight, grad) = flat.views(&format!("{name}.{kind}"));
                let leaf = weight.set_requires_grad(true);
                shim::bind_grad(&leaf, &grad).map(|()| leaf)
            };
            Ok(Norm {
                weight: leaf("weight")?,
                bias: leaf("bias")?,
            })
        };
        let linear = |name: &str, cut: Cut| {
            let (weight, weight_grad) = flat.views(&format!("{name}.weight"));
            let (bias, bias_grad) = flat.views(&format!("{name}.bias"));
            Linear {
                parts: LinearParts {
                    weight,
                    bias,
                    weight_grad,
                    bias_grad,
                },
                cut,
            }
        };
        let embedding = || {
            let (weight, grad) = flat.views(EMBEDDING);
            let from = weight.size()[0] * i64::from(place.index);
            Embedding { weight, grad, from }
        };
        let block = |index: u32| -> Result<Block, ShimError> {
            let name = |part: &str| format!("h.{index}.{part}");
            Ok(Block {
                before_attention: norm(&name("input_layernorm"))?,
                attention: Attention {
                    qkv: linear(&name("self_attention.query_key_value"), Cut::Columns),
                    dense: linear(&name("self_attention.dense"), Cut::Rows),
                    heads: i64::from(model.heads / place.size),
                },
                before_mlp: norm(&name("post_attention_layernorm"))?,
                mlp: Mlp {
                    up: linear(&name("mlp.dense_h_to_4h"), Cut::Columns),
                    down: linear(&name("mlp.dense_4h_to_h"), Cut::Rows),
                },
            })
        };
        Ok(Self {
            sequence: i64::from(model.sequence),
            width: i64::from(model.hidden),
            embedding: stage.is_first.then(embedding),
            embedding_norm: stage
                .is_first
                .then(|| norm("word_embeddings_layernorm"))
                .transpose()?,
            blocks: stage.blocks.clone().map(block).collect::<Result<_, _>>()?,
            final_norm: stage.is_last.then(|| norm("ln_f")).transpose()?,
            output: stage.is_last.then(embedding),
            bias: attention::bias(model.heads, place.index, place.size, model.sequence),
            place,
        })
    }

    /// An empty tensor as large as the activations of `samples` samples.
    pub fn activations(&self, samples: u32) -> Tensor {
        let shape = [i64::from(samples) * self.sequence, self.width];
        Tensor::empty(shape, (self.bias.kind(), self.bias.device()))
    }

    /// The vectors of `words`: the input of the first stage.
    pub fn embed(&self, words: &Tensor) -> Result<Tensor, StepError> {
        let embedding = self
            .embedding
            .as_ref()
            .expect("only the first stage embeds");
        no_grad(|| embedding.look_up(words, &self.place))
    }

    /// Runs the blocks on what `embed` or the stage before made.
    pub fn forward(&self, input: Tensor) -> Result<InFlight, StepError> {
        let input = input.set_requires_grad(true);
        let mut x = match &self.embedding_norm {
            Some(norm) => norm.forward(&input),
            None => input.shallow_clone(),
        };
        for block in &self.blocks {
            x = block.forward(&x, self.sequence, &self.bias, &self.place)?;
        }
        let output = match &self.final_norm {
            Some(norm) => norm.forward(&x),
            None => x,
        };
        Ok(InFlight { input, output })
    }

    /// Cross-entropy of the last stage's output, summed over tokens and times `scale`, and the
    /// gradient of that output.
    pub fn loss(
        &mut self,
        of: &InFlight,
        targets: &Tensor,
        scale: f64,
    ) -> Result<(f64, Tensor), StepError> {
        let output = self.output.as_mut().expect("only the last stage predicts");
        no_grad(|| output.loss(&of.output.detach(), targets, scale, &self.place))
    }

    /// Logits of this rank's words for the last stage's output.
    pub fn logits(&self, of: &InFlight) -> Tensor {
        let output = self.output.as_ref().expect("only the last stage predicts");
        no_grad(|| output.logits(&of.output.detach()))
    }

    /// Runs backward with the gradient of the output; answers the gradient of the input.
    pub fn backward(&self, of: InFlight, grad: &Tensor) -> Result<Tensor, StepError> {
        shim::backward(&of.output, grad).map_err(|error| self.place.failure(error))?;
        Ok(of.input.grad())
    }

    /// Adds the gradient of the vectors of `words` to the embedding's.
    pub fn learn_words(&mut self, words: &Tensor, grad: &Tensor) {
        let embedding = self
            .embedding
            .as_mut()
            .expect("only the first stage embeds");
        no_grad(|| embedding.learn(words, grad, &self.place));
    }
}
