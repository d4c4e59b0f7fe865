//! BLOOM, one pipeline stage of it, cut over its tensor group.
//!
//! Weights and gradients are views of the optimizer's flat buffers. The blocks run under autograd,
//! with layers that add their gradients in place; the embedding at both ends runs outside of it.
//! Nothing in here knows of steps or other stages.

pub mod attention;
mod block;
mod chance;
mod embedding;
mod init;
mod linear;

use crate::comm::{Cut, Group, Parts, Watch};
use crate::optim::Flat;
use crate::shim::{self, ShimError};
use crate::trainer::StepError;
use attention::Attention;
pub use attention::{Positions, Way};
use block::{Block, Mlp};
use chance::{Chance, Dropout, Site};
use embedding::Embedding;
pub use init::values as initial_values;
use linear::{Linear, Norm};
use rebloom_core::spec::{Model, Precision, Train};
pub use rebloom_format::shape;
use shape::{EMBEDDING, Stage};
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

/// Numbers of weights and activations in this precision.
pub const fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    }
}

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
    positions: Positions,
    dropout: Dropout,
    /// Whether a block keeps its input only, and its backward pass computes the rest again.
    recomputes: bool,
    kind: Kind,
    device: Device,
}

/// A block that a backward pass goes back through at once, so that it is known when its gradients are final.
#[derive(Debug)]
struct Segment {
    input: Tensor,
    /// With the graph behind it; none where it is computed again.
    output: Option<Tensor>,
}

/// A forward pass that waits for its backward pass.
#[derive(Debug)]
pub struct InFlight {
    /// One a block.
    segments: Vec<Segment>,
    output: Tensor,
    samples: Option<Range<u64>>,
}

impl InFlight {
    /// What the stage made of it.
    pub fn output(&self) -> Tensor {
        self.output.shallow_clone()
    }
}

impl StageModel {
    /// Builds the layers over the weights in `flat`, with positions in this way. What is not to be trained has no `train`.
    pub fn new(
        model: &Model,
        train: Option<&Train>,
        stage: &Stage,
        flat: &Flat,
        (place, way): (Place, Way),
    ) -> Self {
        let parts = |name: &str| {
            let (weight, weight_grad) = flat.views(&format!("{name}.weight"));
            let (bias, bias_grad) = flat.views(&format!("{name}.bias"));
            Parts {
                weight,
                bias,
                weight_grad,
                bias_grad,
            }
        };
        let norm = |name: &str| Norm(parts(name));
        let linear = |name: &str, cut: Cut| Linear {
            parts: parts(name),
            cut,
        };
        let heads = model.heads / place.size;
        let embedding = || {
            let (weight, grad) = flat.views(EMBEDDING);
            let whole = &flat.slot(EMBEDDING).parameter;
            let from = whole.part(place.index, place.size).0.start;
            Embedding { weight, grad, from }
        };
        let block = |index: u32| {
            let name = |part: &str| format!("h.{index}.{part}");
            Block {
                before_attention: norm(&name("input_layernorm")),
                attention: Attention {
                    qkv: linear(&name("self_attention.query_key_value"), Cut::Columns),
                    dense: linear(&name("self_attention.dense"), Cut::Rows),
                    heads: i64::from(heads),
                    sequence: i64::from(model.sequence),
                    first_head: heads * place.index,
                },
                before_mlp: norm(&name("post_attention_layernorm")),
                mlp: Mlp {
                    up: linear(&name("mlp.dense_h_to_4h"), Cut::Columns),
                    down: linear(&name("mlp.dense_4h_to_h"), Cut::Rows),
                },
                layer: index,
                residual_after_norm: model.residual_after_layernorm,
            }
        };
        Self {
            sequence: i64::from(model.sequence),
            width: i64::from(model.hidden),
            embedding: stage.is_first.then(embedding),
            embedding_norm: stage.is_first.then(|| norm("word_embeddings_layernorm")),
            blocks: stage.blocks.clone().map(block).collect(),
            final_norm: stage.is_last.then(|| norm("ln_f")),
            output: stage.is_last.then(embedding),
            positions: Positions::new(
                way,
                (model.heads, place.index, place.size),
                model.sequence,
                i64::from(model.hidden / model.heads),
                (flat.kind, flat.device),
            ),
            dropout: train.map_or(Dropout::NONE, Dropout::of),
            recomputes: train.is_some_and(|train| train.numerics.recompute),
            kind: flat.kind,
            device: flat.device,
            place,
        }
    }

    /// An empty tensor as large as the activations of `samples` samples.
    pub fn activations(&self, samples: u32) -> Tensor {
        let shape = [i64::from(samples) * self.sequence, self.width];
        Tensor::empty(shape, (self.kind, self.device))
    }

    /// The vectors of `words`: the input of the first stage.
    pub fn embed(&self, words: &Tensor) -> Result<Tensor, StepError> {
        let embedding = self
            .embedding
            .as_ref()
            .expect("only the first stage embeds");
        no_grad(|| embedding.look_up(words, &self.place))
    }

    /// Runs the blocks on what `embed` or the stage before made, with the dropout of the samples that
    /// `samples` counts; with none where nothing is to be learned.
    pub fn forward(
        &self,
        input: Tensor,
        samples: Option<Range<u64>>,
    ) -> Result<InFlight, StepError> {
        let chance = self.dropout.for_samples(samples.as_ref());
        let mut segments = Vec::new();
        let mut x = input;
        for nth in 0..self.blocks.len() {
            let segment = if self.recomputes {
                let y = no_grad(|| self.run(nth..nth + 1, &x, &chance))?;
                Segment {
                    input: std::mem::replace(&mut x, y),
                    output: None,
                }
            } else {
                let input = x.set_requires_grad(true);
                let output = self.run(nth..nth + 1, &input, &chance)?;
                x = output.detach();
                Segment {
                    input,
                    output: Some(output),
                }
            };
            segments.push(segment);
        }
        Ok(InFlight {
            segments,
            output: x,
            samples,
        })
    }

    /// What the stage makes of `input`, without dropout; nothing can be learned from it.
    pub fn predict(&self, input: &Tensor) -> Result<Tensor, StepError> {
        let chance = self.dropout.for_samples(None);
        no_grad(|| self.run(0..self.blocks.len(), input, &chance))
    }

    /// Cross-entropy of each of `targets` by the last stage's output, in nats.
    pub fn surprise(&self, output: &Tensor, targets: &Tensor) -> Result<Tensor, StepError> {
        let embedding = self.output.as_ref().expect("only the last stage predicts");
        no_grad(|| embedding.surprise(output, targets, &self.place))
    }

    /// Runs some of the blocks, and with the first and the last what comes before and behind them.
    fn run(
        &self,
        blocks: Range<usize>,
        x: &Tensor,
        chance: &Chance<'_>,
    ) -> Result<Tensor, StepError> {
        let mut x = x.shallow_clone();
        if let Some(norm) = self.embedding_norm.as_ref().filter(|_| blocks.start == 0) {
            x = chance.drop(norm.forward(&x)?, Site::Embedding, 0)?;
        }
        for block in &self.blocks[blocks.clone()] {
            x = block.forward(&x, &self.positions, chance, &self.place)?;
        }
        let is_last = blocks.end == self.blocks.len();
        match self.final_norm.as_ref().filter(|_| is_last) {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// Cross-entropy of the last stage's output, summed over tokens and times `scale`, and the
    /// gradient of that output.
    pub fn loss(
        &mut self,
        of: &InFlight,
        targets: &Tensor,
        scale: f64,
    ) -> Result<(Tensor, Tensor), StepError> {
        let output = self.output.as_mut().expect("only the last stage predicts");
        no_grad(|| output.loss(&of.output, targets, scale, &self.place))
    }

    /// Logits of this rank's words for the last stage's output.
    pub fn logits(&self, of: &InFlight) -> Tensor {
        let output = self.output.as_ref().expect("only the last stage predicts");
        no_grad(|| output.logits(&of.output))
    }

    /// Runs backward with the gradient of the output; answers the gradient of the input. Tells `done` of each block,
    /// the last one first, when its gradients are added.
    pub fn backward(
        &self,
        of: InFlight,
        grad: Tensor,
        mut done: impl FnMut(usize) -> Result<(), StepError>,
    ) -> Result<Tensor, StepError> {
        let chance = self.dropout.for_samples(of.samples.as_ref());
        let mut grad = grad;
        for (nth, segment) in of.segments.into_iter().enumerate().rev() {
            let (input, output) = match segment.output {
                Some(output) => (segment.input, output),
                None => {
                    let input = segment.input.set_requires_grad(true);
                    let output = self.run(nth..nth + 1, &input, &chance)?;
                    (input, output)
                }
            };
            shim::backward(&output, &grad).map_err(|error| self.place.failure(error))?;
            grad = input.grad();
            done(nth)?;
        }
        Ok(grad)
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
