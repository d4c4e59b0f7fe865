//! A byte-level BPE tokenizer, cut and spelled as BLOOM's: nothing is ever unknown to it, and
//! decoding gives back every byte.
//!
//! The same text and size give the same file, whatever the machine.

mod spelling;

pub use spelling::Spelling;

use crate::aside::Aside;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Model};
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

/// BLOOM's special tokens; their ids are their places.
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// Id of the token that ends a document, in tokenizers of ours and in BLOOM's.
pub const END_OF_DOCUMENT: u32 = 2;

/// What tokenizers call the token that ends a document, the likeliest first.
const ENDS: [&str; 5] = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]"];

/// Ids of tokens are below this, as the rows of a model's embedding.
const MOST_TOKENS: u32 = 1 << 22;

/// The largest file that is taken for a tokenizer.
const MOST_BYTES: u64 = 1 << 28;

/// The smallest vocabulary: the special tokens and every byte.
pub const SMALLEST: u32 = 4 + 256;

/// Where BLOOM cuts before merging: words with the blank before them, and all else apart.
const WORDS: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// Longest text that is encoded in one go; longer ones are cut at the end of a line.
const PIECE: usize = 1 << 18;

/// A trained tokenizer.
pub struct Tokenizer {
    model: Model,
    json: String,
    end: u32,
    vocabulary: u32,
}

impl Tokenizer {
    /// Trains on text. Where the text is too small for so many tokens, there will be fewer.
    pub fn train<S: AsRef<str>>(
        text: impl Iterator<Item = S> + Send,
        vocabulary: u32,
    ) -> Result<Self> {
        if vocabulary < SMALLEST {
            return Err(Error::Tokenizer(format!(
                "a vocabulary of {vocabulary} is too small; the bytes and the special tokens alone are {SMALLEST}"
            )));
        }
        let special = SPECIAL.map(|token| AddedToken::from(token, true));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocabulary as usize)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(special.to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut model = untrained()?;
        let text = text.flat_map(|document| {
            let owned = pieces(document.as_ref()).map(str::to_owned);
            owned.collect::<Vec<_>>()
        });
        model.train(&mut trainer, text).map_err(refused)?;
        Self::of_json(model.to_string(true).map_err(refused)?)
    }

    /// Reads a `tokenizer.json`: one that [`Tokenizer::save`] wrote, or anybody's.
    pub fn load(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path)
            .map_err(Error::io("open", path))?
            .len();
        if size > MOST_BYTES {
            let problem = format!("more than the {MOST_BYTES} that a tokenizer may have");
            return Err(Error::format(path, "length", size, problem));
        }
        Self::parse(path, &std::fs::read(path).map_err(Error::io("open", path))?)
    }

    /// A tokenizer from the bytes of its file.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let text = str::from_utf8(bytes).map_err(|e| {
            Error::format(
                path,
                "content",
                format!("byte {}", e.valid_up_to()),
                "not UTF-8",
            )
        })?;
        Self::of_json(text.to_owned()).map_err(|error| {
            let Error::Tokenizer(problem) = error else {
                return error;
            };
            Error::format(path, "content", format!("`{problem}`"), "not a tokenizer")
        })
    }

    fn of_json(json: String) -> Result<Self> {
        // Some of the library's readers take it for granted that what they get is JSON.
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&json) {
            return Err(Error::Tokenizer(error.to_string()));
        }
        let mut model = guarded(|| Model::from_str(&json).map_err(refused))?;
        let end = ENDS.iter().find_map(|end| model.token_to_id(end));
        let end = end.ok_or_else(|| {
            Error::Tokenizer(format!(
                "none of its tokens ends a document: {}",
                ENDS.join(", ")
            ))
        })?;
        let largest = model.get_vocab(true).into_values().max();
        if let Some(id) = largest.filter(|id| *id >= MOST_TOKENS) {
            return Err(Error::Tokenizer(format!(
                "a token has the id {id}; ids are below {MOST_TOKENS}"
            )));
        }
        let vocabulary = largest.map_or(0, |id| id + 1);
        // `</s>` in a user's text is five characters and no end of a document.
        model.set_encode_special_tokens(true);
        // What fits others' batches would take the end of a document away here, or add what nobody wrote.
        model.with_truncation(None).map_err(refused)?;
        model.with_padding(None);
        Ok(Self {
            model,
            json,
            end,
            vocabulary,
        })
    }

    /// Writes the file that the `tokenizers` library and its users read.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = Aside::create(path)?;
        file.write(self.json.as_bytes())?;
        file.finish()?;
        Ok(())
    }

    /// Id of the token that ends a document.
    pub const fn end_of_document(&self) -> u32 {
        self.end
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> String {
        hexadecimal(&Sha256::digest(&self.json))
    }

    /// One more than the largest id of a token.
    pub const fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The tokens of a document and its end.
    pub fn encode(&self, document: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(document.len() / 3 + 1);
        for piece in pieces(document) {
            let encoded = guarded(|| self.model.encode_fast(piece, false).map_err(refused))?;
            tokens.extend(encoded.get_ids());
        }
        tokens.push(self.end);
        Ok(tokens)
    }

    /// The text of tokens; special ones have none.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.model.decode(tokens, true).map_err(refused))
    }
}

type Untrained = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

fn untrained() -> Result<Untrained> {
    let pattern = SplitPattern::Regex(WORDS.to_owned());
    let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(refused)?;
    let bytes = ByteLevel::new(false, true, false);
    let mut model = Untrained::new(BPE::default());
    model
        .with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])))
        .with_decoder(Some(bytes))
        .with_post_processor(Some(bytes));
    Ok(model)
}

/// Calls the library over somebody's tokenizer: where it gives up instead of saying what is wrong,
/// as it does over parts that do not fit each other, that is an error like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("its parts do not fit each other");
        Err(Error::Tokenizer(said.to_owned()))
    })
}

fn refused(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

/// SHA-256 and the like, in hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text in pieces of bounded length, where it has lines of bounded length.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let from = rest.floor_char_boundary(PIECE);
        let end = rest[from..]
            .find('\n')
            .map_or(rest.len(), |at| from + at + 1);
        let end = if from == rest.len() { from } else { end };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "All human beings are born free and equal in dignity and rights. \
        Tous les êtres humains naissent libres et égaux en dignité et en droits. \
        人人生而自由,在尊严和权利上一律平等。 सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता।\n";

    fn trained(vocabulary: u32) -> Tokenizer {
        Tokenizer::train([TEXT, TEXT, TEXT].into_iter(), vocabulary).unwrap()
    }

    #[test]
    fn decoding_gives_back_every_byte() {
        let tokenizer = trained(400);
        assert_eq!(tokenizer.vocabulary(), 400);
        for text in [
            TEXT,
            "",
            " ",
            "\r\n\t  x",
            "never seen: Ω 🦀 \u{0}",
            "a </s> <pad> b",
        ] {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokens.last(), Some(&END_OF_DOCUMENT));
            let body = &tokens[..tokens.len() - 1];
            assert!(
                body.iter().all(|token| (4..400).contains(token)),
                "{text:?}: {body:?}"
            );
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
    }

    #[test]
    fn merges_make_text_shorter() {
        let (few, many) = (trained(SMALLEST), trained(500));
        assert_eq!(few.encode(TEXT).unwrap().len(), TEXT.len() + 1);
        assert!(many.encode(TEXT).unwrap().len() * 2 < TEXT.len());
    }

    #[test]
    fn the_same_text_gives_the_same_file() {
        let files: Vec<String> = (0..4).map(|_| trained(450).sha256()).collect();
        assert!(files.iter().all(|file| *file == files[0]), "{files:?}");
        assert_ne!(trained(451).sha256(), files[0]);
    }

    #[test]
    fn a_saved_tokenizer_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let tokenizer = trained(400);
        tokenizer.save(&path).unwrap();
        let loaded = Tokenizer::load(&path).unwrap();
        assert_eq!(loaded.sha256(), tokenizer.sha256());
        assert_eq!(
            loaded.encode(TEXT).unwrap(),
            tokenizer.encode(TEXT).unwrap()
        );
    }

    /// A file as fine-tuning leaves it: with a longest text, and what shorter ones are filled up with.
    #[test]
    fn what_cuts_or_fills_up_in_training_of_others_does_neither_here() {
        let long = TEXT.repeat(40);
        let plain = trained(400);
        let tokens = plain.encode(&long).unwrap();
        assert!(tokens.len() > 512);
        let truncation = serde_json::json!({
            "direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0,
        });
        let padding = serde_json::json!({
            "strategy": {"Fixed": 100_000}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 3, "pad_type_id": 0, "pad_token": "<pad>",
        });
        for (field, value) in [("truncation", truncation), ("padding", padding)] {
            let mut file: serde_json::Value = serde_json::from_str(&plain.json).unwrap();
            file[field] = value;
            let bytes = file.to_string().into_bytes();
            let tokenizer = Tokenizer::parse(Path::new("a"), &bytes).unwrap();
            // (Not shown: they are thousands.)
            assert!(tokenizer.encode(&long).unwrap() == tokens, "{field}");
            assert!(tokenizer.decode(&tokens).unwrap() == long, "{field}");
        }
    }

    #[test]
    fn a_vocabulary_without_room_for_the_bytes_is_refused() {
        let error = Tokenizer::train(std::iter::empty::<&str>(), 259)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("a vocabulary of 259 is too small"),
            "{error}"
        );
    }

    #[test]
    fn pieces_end_at_lines_and_lose_nothing() {
        let line = "é".repeat(PIECE / 3) + "\n";
        let text = line.repeat(5) + "end";
        let all: Vec<&str> = pieces(&text).collect();
        assert_eq!(all.concat(), text);
        assert!(
            all.len() > 1
                && all[..all.len() - 1]
                    .iter()
                    .all(|piece| piece.ends_with('\n'))
        );
        assert_eq!(pieces("").count(), 0);
    }
}
