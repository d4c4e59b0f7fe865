//! Text to tokens on every core, in the order of the documents.

use crate::corpus::Source;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use std::thread;

/// So much text is encoded in one go.
const BATCH: usize = 8 << 20;

/// More threads than this have nothing to do.
const MOST_THREADS: usize = 64;

/// Encodes every document of a source; `each` gets how long it was in bytes, and its tokens.
pub(super) fn encode(
    source: &Source,
    tokenizer: &Tokenizer,
    mut each: impl FnMut(u64, &[u32]) -> Result<()>,
) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut batch: Vec<String> = Vec::new();
    let mut bytes = 0;
    let mut give = |batch: &mut Vec<String>| -> Result<()> {
        for (text, tokens) in batch.iter().zip(encoded(batch, tokenizer, threads)) {
            each(text.len() as u64, &tokens?)?;
        }
        batch.clear();
        Ok(())
    };
    for text in source.documents().flatten() {
        bytes += text.len();
        batch.push(text);
        if bytes >= BATCH {
            give(&mut batch)?;
            bytes = 0;
        }
    }
    give(&mut batch)
}

/// The tokens of each text, in order.
fn encoded(batch: &[String], tokenizer: &Tokenizer, threads: usize) -> Vec<Result<Vec<u32>>> {
    let share = batch.len().div_ceil(threads.clamp(1, MOST_THREADS)).max(1);
    thread::scope(|scope| {
        let shares: Vec<_> = batch
            .chunks(share)
            .map(|texts| {
                scope.spawn(move || {
                    let tokens = texts.iter().map(|text| tokenizer.encode(text));
                    tokens.collect::<Vec<_>>()
                })
            })
            .collect();
        let done = shares.into_iter().map(|share| share.join());
        done.flat_map(|share| share.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
