//! Text from tokens as they come.

use super::Tokenizer;

/// Turns tokens into text as they come: what is not a whole letter yet is held back.
///
/// Only the last tokens are decoded again: those that are not whole yet, and those that were before them, because some
/// tokenizers write the first token of a text otherwise than one that follows.
#[derive(Debug, Default)]
pub struct Spelling {
    /// The last tokens: all of which the text may still change, and some before.
    window: Vec<u32>,
    /// How many of the window there were when its text was last whole.
    whole: usize,
    /// Bytes of the window's text that were given out.
    said: usize,
}

impl Spelling {
    /// The text that `token` completes.
    pub fn add(&mut self, token: u32, tokenizer: &Tokenizer) -> String {
        self.window.push(token);
        let text = tokenizer.decode(&self.window).unwrap_or_default();
        let whole = text.trim_end_matches('\u{FFFD}').len();
        let new = self.give(&text, whole);
        if whole == text.len() && whole == self.said {
            // What came since it was last whole goes on as a window of its own, where it has text to go on from.
            let since = &self.window[self.whole..];
            let said = tokenizer.decode(since).unwrap_or_default().len();
            if said > 0 {
                self.window.drain(..self.whole);
                self.said = said;
            }
            self.whole = self.window.len();
        }
        new
    }

    /// What was held back.
    pub fn end(&mut self, tokenizer: &Tokenizer) -> String {
        let text = tokenizer.decode(&self.window).unwrap_or_default();
        self.give(&text, text.len())
    }

    fn give(&mut self, text: &str, until: usize) -> String {
        let new = text.get(self.said..until).unwrap_or_default().to_owned();
        self.said = self.said.max(until);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::SMALLEST;
    use serde_json::json;
    use std::path::Path;

    /// One whose first token loses its blank, as that of Llama's kind does.
    fn by_metaspace() -> Tokenizer {
        let vocab = json!({"[UNK]": 0, "▁all": 1, "</s>": 2, "▁human": 3, "s": 4, "▁": 5, ".": 6});
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": 2, "content": "</s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": null,
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
        });
        Tokenizer::parse(Path::new("a"), file.to_string().as_bytes()).unwrap()
    }

    fn spelled(tokens: &[u32], tokenizer: &Tokenizer) -> (String, usize) {
        let mut spelling = Spelling::default();
        let (mut text, mut longest) = (String::new(), 0);
        for &token in tokens {
            text += &spelling.add(token, tokenizer);
            longest = longest.max(spelling.window.len());
        }
        (text + &spelling.end(tokenizer), longest)
    }

    /// Tokens by chance: halves of letters, special ones, and words.
    #[test]
    fn the_text_is_that_of_all_tokens_together() {
        let text = "All human beings, 人人生而自由, é ü ß, सभी मनुष्यों ";
        let bytes = Tokenizer::train([text].into_iter(), SMALLEST).unwrap();
        let words = Tokenizer::train([text, text, text].into_iter(), 340).unwrap();
        for tokenizer in [bytes, words, by_metaspace()] {
            let mut chance = 7_u64;
            for _ in 0..200 {
                let mut tokens = Vec::new();
                for _ in 0..60 {
                    chance = chance
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    tokens.push((chance >> 33) as u32 % tokenizer.vocabulary());
                }
                let together = tokenizer.decode(&tokens).unwrap();
                assert_eq!(spelled(&tokens, &tokenizer).0, together, "{tokens:?}");
            }
        }
    }

    #[test]
    fn only_the_last_tokens_are_decoded_again() {
        let text = "All human beings, 人人生而自由, é ü ß, सभी मनुष्यों ".repeat(40);
        let tokenizer = Tokenizer::train(["a"].into_iter(), SMALLEST).unwrap();
        let mut tokens = tokenizer.encode(&text).unwrap();
        tokens.pop();
        let (said, longest) = spelled(&tokens, &tokenizer);
        assert_eq!(said, text);
        assert!(longest <= 6, "a letter has three tokens here: {longest}");
    }
}
