//! How well a model predicts held-out text, language by language.
//!
//! The documents of a language follow each other as in training, each with its end, and are cut into
//! samples with one word of overlap, so that the loss is the one that training shows.

use super::Inference;
use rebloom_data::tokenizer::Tokenizer;
use serde::Serialize;
use tch::{Kind, Tensor, no_grad};

/// Rows of logits that are held at once.
const ROWS: i64 = 256;

/// Sums over the text of one language.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Score {
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Words that were predicted.
    pub words: u64,
    /// Cross-entropy of all of them, in nats.
    pub nats: f64,
}

impl Score {
    /// Mean cross-entropy, in nats a word: the loss of training.
    pub fn loss(&self) -> f64 {
        self.nats / self.words as f64
    }

    /// Perplexity a word.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Bits a byte of text: comparable between tokenizers.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// Both together.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            documents: self.documents + other.documents,
            bytes: self.bytes + other.bytes,
            words: self.words + other.words,
            nats: self.nats + other.nats,
        }
    }
}

/// Scores the documents of one language.
pub fn evaluate(
    model: &Inference,
    tokenizer: &Tokenizer,
    documents: &[String],
) -> Result<Score, String> {
    let mut score = Score::default();
    let mut words = Vec::new();
    for text in documents {
        words.extend(tokenizer.encode(text).map_err(|error| error.to_string())?);
        score.documents += 1;
        score.bytes += text.len() as u64;
    }
    let most = model.model().vocab;
    if let Some(word) = words.iter().find(|word| **word >= most) {
        return Err(format!(
            "the tokenizer knows word {word}, the model has {most}: they do not belong together"
        ));
    }
    (score.words, score.nats) = cross_entropy(model, &words);
    Ok(score)
}

/// Predictions in `words` and the sum of their cross-entropies in nats.
pub fn cross_entropy(model: &Inference, words: &[u32]) -> (u64, f64) {
    let sequence = usize::try_from(model.model().sequence).unwrap_or(usize::MAX);
    let (mut count, mut nats) = (0, 0.0);
    let mut from = 0;
    while from + 1 < words.len() {
        let sample = &words[from..words.len().min(from + sequence + 1)];
        let (read, targets) = (&sample[..sample.len() - 1], &sample[1..]);
        let hidden = model.read(read, &mut model.cache(read.len()));
        let targets: Vec<i64> = targets.iter().map(|&word| i64::from(word)).collect();
        let targets = Tensor::from_slice(&targets).to_device(model.device());
        let rows = hidden.size()[0];
        let mut row = 0;
        while row < rows {
            let some = ROWS.min(rows - row);
            nats += no_grad(|| {
                let logits = model.logits(&hidden.narrow(0, row, some));
                let chances = logits.log_softmax(-1, Kind::Float);
                let target = targets.narrow(0, row, some).unsqueeze(1);
                -chances
                    .gather(1, &target, false)
                    .sum(Kind::Double)
                    .double_value(&[])
            });
            row += some;
        }
        count += read.len() as u64;
        from += sequence;
    }
    (count, nats)
}
