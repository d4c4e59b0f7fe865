//! A whole BLOOM in one process, forward only, with the keys and values of what it has read kept.
//!
//! The same arithmetic as in training, over weights of whatever origin; nothing in here trains, and
//! no rank of a gang uses it.

pub mod generate;
pub mod sample;
pub mod text;

use crate::model::attention::slopes;
use crate::model::shape::{EMBEDDING, Stage};
use crate::weights::{Weights, WeightsError};
use rebloom_core::spec::Model;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

const EPSILON: f64 = 1e-5;

#[derive(Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn norm(&self, x: &Tensor) -> Tensor {
        let width = self.weight.size();
        x.layer_norm(width, Some(&self.weight), Some(&self.bias), EPSILON, false)
    }

    fn linear(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

#[derive(Debug)]
struct Block {
    before_attention: Affine,
    qkv: Affine,
    dense: Affine,
    before_mlp: Affine,
    up: Affine,
    down: Affine,
}

/// Keys and values of the tokens read so far, with room for more.
#[derive(Debug)]
pub struct Cache {
    /// Of each block: keys and values, `[heads, room, width of a head]`.
    blocks: Vec<[Tensor; 2]>,
    tokens: i64,
    room: i64,
}

impl Cache {
    /// Tokens read so far.
    pub const fn tokens(&self) -> i64 {
        self.tokens
    }

    /// Room for so many in all, and for as many again where it was too small.
    fn make_room(&mut self, tokens: i64) {
        if tokens <= self.room {
            return;
        }
        self.room = tokens.max(2 * self.room);
        for held in self.blocks.iter_mut().flatten() {
            let mut shape = held.size();
            shape[1] = self.room;
            let larger = Tensor::empty(&shape, (held.kind(), held.device()));
            let mut read = larger.narrow(1, 0, self.tokens);
            read.copy_(&held.narrow(1, 0, self.tokens));
            *held = larger;
        }
    }
}

/// A model that predicts.
#[derive(Debug)]
pub struct Inference {
    model: Model,
    embedding: Tensor,
    embedding_norm: Affine,
    blocks: Vec<Block>,
    final_norm: Affine,
    /// `[heads, 1, 1]`
    slopes: Tensor,
}

impl Inference {
    /// Reads all weights into the memory of `device`, in fp32.
    pub fn load(weights: &Weights, device: Device) -> Result<Self, WeightsError> {
        let model = weights.model();
        let parameters = Stage::of(&model, 1, 0).parameters(&model);
        let tensors = weights.whole(parameters.iter())?;
        let names = parameters.into_iter().map(|parameter| parameter.name);
        let tensors = tensors.into_iter().map(|tensor| tensor.to_device(device));
        let mut held: BTreeMap<String, Tensor> = names.zip(tensors).collect();
        let mut take = |name: &str| held.remove(name).expect("the table has every parameter");
        let embedding = take(EMBEDDING);
        let mut affine = |name: &str| Affine {
            weight: take(&format!("{name}.weight")),
            bias: take(&format!("{name}.bias")),
        };
        let blocks = (0..model.layers).map(|index| {
            let mut part = |name: &str| affine(&format!("h.{index}.{name}"));
            Block {
                before_attention: part("input_layernorm"),
                qkv: part("self_attention.query_key_value"),
                dense: part("self_attention.dense"),
                before_mlp: part("post_attention_layernorm"),
                up: part("mlp.dense_h_to_4h"),
                down: part("mlp.dense_4h_to_h"),
            }
        });
        Ok(Self {
            blocks: blocks.collect(),
            embedding_norm: affine("word_embeddings_layernorm"),
            final_norm: affine("ln_f"),
            embedding,
            slopes: Tensor::from_slice(&slopes(model.heads))
                .to_kind(Kind::Float)
                .to_device(device)
                .view([-1, 1, 1]),
            model,
        })
    }

    /// Its shape.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// An empty cache. It takes memory as tokens are read, whatever their number may come to.
    pub fn cache(&self) -> Cache {
        let heads = i64::from(self.model.heads);
        let shape = [heads, 0, i64::from(self.model.hidden) / heads];
        let empty = || Tensor::empty(shape, (Kind::Float, self.device()));
        let blocks = self.blocks.iter().map(|_| [empty(), empty()]);
        Cache {
            blocks: blocks.collect(),
            tokens: 0,
            room: 0,
        }
    }

    /// Reads `tokens` after what the cache holds; the hidden state of each, `[tokens, hidden]`.
    pub fn read(&self, tokens: &[u32], cache: &mut Cache) -> Tensor {
        no_grad(|| {
            let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
            let (from, count) = (cache.tokens, i64::try_from(ids.len()).unwrap_or(i64::MAX));
            cache.make_room(from + count);
            let bias = self.bias(from, count);
            let ids = Tensor::from_slice(&ids).to_device(self.device());
            let mut x = self
                .embedding_norm
                .norm(&self.embedding.index_select(0, &ids));
            for (block, held) in self.blocks.iter().zip(&mut cache.blocks) {
                let y = block.before_attention.norm(&x);
                let out = self.attend(&block.qkv.linear(&y), held, from, &bias);
                x = self.residual(&x, &y) + block.dense.linear(&out);
                let y = block.before_mlp.norm(&x);
                let out = block.down.linear(&block.up.linear(&y).gelu("tanh"));
                x = self.residual(&x, &y) + out;
            }
            cache.tokens += count;
            self.final_norm.norm(&x)
        })
    }

    /// What goes on beside a part of a block: what came in, or that behind the layer norm.
    const fn residual<'a>(&self, x: &'a Tensor, normed: &'a Tensor) -> &'a Tensor {
        if self.model.residual_after_layernorm {
            normed
        } else {
            x
        }
    }

    fn attend(&self, qkv: &Tensor, held: &mut [Tensor; 2], from: i64, bias: &Tensor) -> Tensor {
        let (count, heads) = (qkv.size()[0], i64::from(self.model.heads));
        let parts = qkv.view([count, heads, 3, -1]).unbind(2);
        // [heads, tokens, width of a head] each
        let [q, k, v] = [0, 1, 2].map(|part| parts[part].transpose(0, 1));
        for (room, new) in held.iter().zip([k, v]) {
            room.narrow(1, from, count).copy_(&new);
        }
        let [k, v] = [0, 1].map(|part| held[part].narrow(1, 0, from + count).unsqueeze(0));
        let q = q.unsqueeze(0);
        let y =
            Tensor::scaled_dot_product_attention(&q, &k, &v, Some(bias), 0.0, false, None, false);
        y.squeeze_dim(0).transpose(0, 1).reshape([count, -1])
    }

    /// What is added to the scores of tokens `from .. from + count`: each head's slope times the
    /// distance, and minus infinity for what lies ahead. `[1, heads, count, from + count]`.
    fn bias(&self, from: i64, count: i64) -> Tensor {
        let place = Tensor::arange(from + count, (Kind::Float, self.device()));
        let distance = place.view([1, -1]) - place.narrow(0, from, count).view([-1, 1]);
        let ahead = distance.gt(0.0);
        (distance * &self.slopes)
            .masked_fill(&ahead, f64::NEG_INFINITY)
            .unsqueeze(0)
    }

    /// Logits of every token of the vocabulary after each of the `hidden` states.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        no_grad(|| hidden.matmul(&self.embedding.tr()))
    }
}
