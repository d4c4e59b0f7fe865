//! How well a model predicts held-out text, set by set: what a gang does while it trains, in one process.

use super::Inference;
use rebloom_core::eval::Score;
use rebloom_data::held_out::HeldOut;
use tch::{Kind, Tensor, no_grad};

/// Rows of logits that are held at once.
const ROWS: i64 = 256;

/// Scores a set; `say` hears now and then how many of its samples are done, and how many there are.
///
/// # Errors
/// Where it holds a token that the model does not know.
pub fn evaluate(
    model: &Inference,
    set: &HeldOut,
    mut say: impl FnMut(usize, usize),
) -> Result<Score, String> {
    let most = model.model().vocab;
    if let Some(odd) = set.outside(most) {
        return Err(format!(
            "{} holds token {odd}, the model has {most}: they do not belong together",
            set.name
        ));
    }
    let samples = set.samples(model.model().sequence);
    let (mut nats, all) = (0.0, samples.len());
    for (done, sample) in samples.enumerate() {
        say(done, all);
        nats += cross_entropy(model, sample);
    }
    Ok(Score {
        set: set.name.clone(),
        documents: set.documents,
        bytes: set.bytes,
        tokens: set.predicted(),
        nats,
    })
}

/// The cross-entropy of all but the first token of a sample, summed, in nats.
pub fn cross_entropy(model: &Inference, sample: &[i32]) -> f64 {
    let read: Vec<u32> = sample[..sample.len() - 1]
        .iter()
        .map(|t| t.cast_unsigned())
        .collect();
    let targets: Vec<i64> = sample[1..].iter().map(|&token| token.into()).collect();
    let hidden = model.read(&read, &mut model.cache(read.len()));
    let targets = Tensor::from_slice(&targets).to_device(model.device());
    let rows = hidden.size()[0];
    let (mut nats, mut row) = (0.0, 0);
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
    nats
}
