//! Scores of held-out text as they are shown: those of `rebloom eval`, and those of a run's own evaluations.

use crate::format::{self, grouped, or_dash};
use rebloom_core::eval::Score;
use serde_json::{Value, json};

/// Prints a row for each set, and one for all of them where there are several.
pub(crate) fn table(scores: &[Score]) {
    let header = [
        "SET",
        "DOCUMENTS",
        "TOKENS",
        "LOSS",
        "PERPLEXITY",
        "BITS/BYTE",
    ];
    format::table(&header, with_all(scores).iter().map(row).collect());
}

fn row(score: &Score) -> Vec<String> {
    vec![
        score.set.clone(),
        grouped(score.documents),
        grouped(score.tokens),
        format!("{:.4}", score.loss()),
        format!("{:.2}", score.perplexity()),
        or_dash(score.bits_per_byte().map(|bits| format!("{bits:.3}"))),
    ]
}

/// The same for programs.
pub(crate) fn to_json(scores: &[Score]) -> Vec<Value> {
    let value = |score: &Score| {
        json!({
            "set": score.set, "documents": score.documents, "bytes": score.bytes, "tokens": score.tokens,
            "loss": score.loss(), "perplexity": score.perplexity(), "bits_per_byte": score.bits_per_byte(),
        })
    };
    with_all(scores).iter().map(value).collect()
}

fn with_all(scores: &[Score]) -> Vec<Score> {
    let all = Score::of_all(scores).filter(|_| scores.len() > 1);
    scores.iter().cloned().chain(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_sets_have_a_row_for_all_of_them() {
        let score = |set: &str, bytes, nats| Score {
            set: set.to_owned(),
            documents: 2,
            bytes,
            tokens: 1000,
            nats,
        };
        let (fr, sw) = (score("fr", Some(4000), 2000.0), score("sw", None, 3000.0));
        assert_eq!(
            row(&fr),
            ["fr", "2", "1 000", "2.0000", "7.39", "0.721"].map(str::to_owned)
        );
        assert_eq!(with_all(std::slice::from_ref(&fr)).len(), 1);
        let all = with_all(&[fr, sw]);
        assert_eq!(
            row(&all[2])[3..],
            ["2.5000", "12.18", "-"].map(str::to_owned)
        );
    }
}
