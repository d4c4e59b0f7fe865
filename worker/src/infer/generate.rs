//! Text from a prompt, token by token.

use super::Inference;
use super::sample::{Chooser, Sampling};
use crate::shim::cuda;
pub use rebloom_data::tokenizer::Spelling;
use tch::Tensor;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The model ended the document.
    Document,
    /// As many tokens as were asked for.
    Length,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The tokens after the prompt, the end of the document not among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub end: End,
}

/// Goes on after `prompt` for at most `most` tokens, or until the token that ends a document; `say` hears each as
/// it is chosen. Only the first `spelled` tokens of the vocabulary are chosen from: what a model has more of is padding.
pub fn generate(
    model: &Inference,
    prompt: &[u32],
    (end_of_document, spelled): (u32, u32),
    most: usize,
    how: Sampling,
    mut say: impl FnMut(u32),
) -> Text {
    let vocabulary = model.model().vocab;
    let spelled = spelled.clamp(1, vocabulary) as usize;
    let mut cache = model.cache();
    let mut chooser = Chooser::new(how);
    let mut tokens = Vec::new();
    // Documents follow each other in training, so each begins after the end of another.
    let begin = [end_of_document];
    let first = if prompt.is_empty() {
        &begin[..]
    } else {
        prompt
    };
    let mut next = first.to_vec();
    while tokens.len() < most {
        let hidden = model.read(&next, &mut cache);
        let last = hidden.narrow(0, hidden.size()[0] - 1, 1);
        let logits = floats(&model.logits(&last).view([i64::from(vocabulary)]));
        let logits = &logits[..spelled];
        let token = u32::try_from(chooser.choose(logits)).unwrap_or(end_of_document);
        if token == end_of_document {
            return Text {
                tokens,
                end: End::Document,
            };
        }
        tokens.push(token);
        say(token);
        next = vec![token];
    }
    Text {
        tokens,
        end: End::Length,
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(cuda::home(tensor)).expect("logits are a vector of fp32")
}
