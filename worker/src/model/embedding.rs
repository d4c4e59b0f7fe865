//! The word embedding at both ends of the model, cut over the tensor group by words.
//!
//! Both ends run outside the autograd graph: their gradients are known in closed form and go
//! straight into the flat buffer, without a copy as large as the vocabulary.

use super::Place;
use crate::shim;
use crate::trainer::StepError;
use rebloom_core::flight::Channel;
use tch::{Kind, Tensor};

/// Tokens whose logits are held at once where nothing is learned from them.
const ROWS: i64 = 256;

#[derive(Debug)]
pub(super) struct Embedding {
    pub(super) weight: Tensor,
    pub(super) grad: Tensor,
    /// The first word of this rank's part.
    pub(super) from: i64,
}

/// Words as rows of this rank's part, and which of them lie elsewhere (none where it is alone).
struct Local {
    rows: Tensor,
    elsewhere: Option<Tensor>,
}

/// How a rank of the tensor group predicts some targets.
struct Predicted {
    /// Of this rank's words, in fp32.
    logits: Tensor,
    /// Logarithm of the sum of e^logit over all words, `[tokens, 1]`.
    total: Tensor,
    /// Rows of the targets, `[tokens, 1]`.
    target: Tensor,
    /// Which of them lie on other ranks; none where it is alone.
    elsewhere: Option<Tensor>,
    /// Cross-entropy of each, `[tokens, 1]`.
    nats: Tensor,
}

impl Embedding {
    fn local(&self, words: &Tensor, place: &Place) -> Local {
        if place.group.is_none() {
            return Local {
                rows: words.shallow_clone(),
                elsewhere: None,
            };
        }
        let rows = words - self.from;
        let elsewhere = rows.lt(0).logical_or(&rows.ge(self.weight.size()[0]));
        Local {
            rows: rows.masked_fill(&elsewhere, 0),
            elsewhere: Some(elsewhere),
        }
    }

    /// The vectors of `words`.
    pub(super) fn look_up(&self, words: &Tensor, place: &Place) -> Result<Tensor, StepError> {
        let local = self.local(words, place);
        let mut vectors = self.weight.index_select(0, &local.rows);
        if let (Some(group), Some(elsewhere)) = (&place.group, local.elsewhere) {
            drop(vectors.masked_fill_(&elsewhere.unsqueeze(1), 0.0));
            group.sum(Channel::Tensor, &vectors)?;
        }
        Ok(vectors)
    }

    /// Adds the gradient of the vectors of `words`.
    pub(super) fn learn(&mut self, words: &Tensor, grad: &Tensor, place: &Place) {
        let local = self.local(words, place);
        let grad = &grad.to_kind(self.grad.kind());
        match local.elsewhere {
            None => drop(self.grad.index_add_(0, &local.rows, grad)),
            Some(elsewhere) => {
                let here = elsewhere.logical_not().nonzero().squeeze_dim(1);
                let (rows, grad) = (
                    local.rows.index_select(0, &here),
                    grad.index_select(0, &here),
                );
                drop(self.grad.index_add_(0, &rows, &grad));
            }
        }
    }

    /// What is predicted from `y` (`[tokens, hidden]`), and how far that is from `targets`.
    fn predict(&self, y: &Tensor, targets: &Tensor, place: &Place) -> Result<Predicted, StepError> {
        let logits = self.logits(y).to_kind(Kind::Float);
        let local = self.local(targets, place);
        let target = local.rows.unsqueeze(1);
        let mine = shim::log_sum_exp(&logits)?;
        let predicted = logits.gather(1, &target, false);
        let (total, predicted, elsewhere) = match (&place.group, local.elsewhere) {
            (Some(group), Some(elsewhere)) => {
                let elsewhere = elsewhere.unsqueeze(1);
                let predicted = predicted.masked_fill(&elsewhere, 0.0);
                let pair = Tensor::stack(&[&mine, &predicted], 0);
                let mut shape = pair.size();
                shape.insert(0, i64::from(group.size));
                let all = Tensor::empty(&shape, (Kind::Float, pair.device()));
                group.all_gather(Channel::Tensor, &all.flatten(0, -1), &pair.flatten(0, -1))?;
                // The same over all words is a log-sum-exp of those of the ranks.
                let total = all.select(1, 0).logsumexp(0_i64, false);
                let predicted = all.select(1, 1).sum_dim_intlist(0_i64, false, Kind::Float);
                (total, predicted, Some(elsewhere))
            }
            (Some(_) | None, _) => (mine, predicted, None),
        };
        let nats = &total - predicted;
        Ok(Predicted {
            logits,
            total,
            target,
            elsewhere,
            nats,
        })
    }

    /// Cross-entropy of each of `targets`, in nats, `[tokens]`.
    pub(super) fn surprise(
        &self,
        y: &Tensor,
        targets: &Tensor,
        place: &Place,
    ) -> Result<Tensor, StepError> {
        let mut pieces = Vec::new();
        for (y, targets) in y.split(ROWS, 0).iter().zip(targets.split(ROWS, 0)) {
            pieces.push(self.predict(y, &targets, place)?.nats.squeeze_dim(1));
        }
        Ok(Tensor::cat(&pieces, 0))
    }

    /// Cross-entropy of predicting `targets` from `y` (`[tokens, hidden]`), summed and times `scale`;
    /// adds the gradient of the embedding and answers that of `y`. Nobody waits for the loss to be known.
    pub(super) fn loss(
        &mut self,
        y: &Tensor,
        targets: &Tensor,
        scale: f64,
        place: &Place,
    ) -> Result<(Tensor, Tensor), StepError> {
        let predicted = self.predict(y, targets, place)?;
        let (target, loss) = (predicted.target, predicted.nats.sum(Kind::Double));
        // In place: logits, probabilities times their scale, gradient of the logits.
        let mut grad = predicted.logits;
        shim::exponentials(&mut grad, &predicted.total, scale)?;
        let mut at_target = Tensor::full(target.size(), -scale, (grad.kind(), grad.device()));
        if let Some(elsewhere) = &predicted.elsewhere {
            drop(at_target.masked_fill_(elsewhere, 0.0));
        }
        drop(grad.scatter_add_(1, &target, &at_target));
        let grad = grad.to_kind(y.kind());
        let dy = grad.mm(&self.weight);
        let wide = dy.to_kind(Kind::Float);
        let sum = place
            .group
            .as_ref()
            .map(|group| group.begin_sum(Channel::Tensor, &wide));
        if grad.kind() == self.grad.kind() {
            drop(self.grad.addmm_(&grad.tr(), y));
        } else {
            drop(self.grad.g_add_(&grad.tr().mm(y)));
        }
        if let Some(sum) = sum {
            sum?.wait()?;
            return Ok((loss * scale, wide.to_kind(y.kind())));
        }
        Ok((loss * scale, dy))
    }

    /// Logits of this rank's words.
    pub(super) fn logits(&self, y: &Tensor) -> Tensor {
        y.matmul(&self.weight.tr())
    }
}
