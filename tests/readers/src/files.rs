//! Readers of files: text that people write, and what others' programs wrote.

use crate::Outcome;
use rebloom_core::checkpoint::Manifest;
use rebloom_core::engine::Record;
use rebloom_core::spec::RunSpec;
use rebloom_data::build::Meta;
use rebloom_data::indexed::Indexed;
use rebloom_data::order::{LAST_EPOCH, Order};
use rebloom_data::sources::Sources;
use rebloom_data::tokenizer::Tokenizer;
use rebloom_runtime::flight::Tower;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

/// The name that files have here; an error has to say it.
const NAME: &str = "the-file";

/// An error that names its file.
fn naming(error: &impl Display) -> String {
    let said = error.to_string();
    assert!(said.contains(NAME), "the file is not named: {said}");
    said
}

/// A run spec, and everything that is wrong with it.
pub(crate) fn run_spec(bytes: &[u8]) -> Outcome {
    let text = str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let spec: RunSpec = serde_norway::from_str(text).map_err(|e| e.to_string())?;
    let flaws = spec.flaws();
    for flaw in &flaws {
        assert!(!flaw.field.is_empty() && !flaw.remedy.is_empty(), "{flaw}");
    }
    if let Some(flaw) = flaws.first() {
        return Err(flaw.to_string());
    }
    // What a sound spec is asked for next.
    assert!(spec.micro_batches(spec.train.batch(0)) > 0 && spec.layout.world() > 0);
    Ok(())
}

/// A sources file.
pub(crate) fn sources(bytes: &[u8]) -> Outcome {
    let listed = Sources::parse(Path::new(NAME), bytes).map_err(|e| naming(&e))?;
    match listed.flaws().first() {
        Some(flaw) => Err(flaw.clone()),
        None => Ok(()),
    }
}

/// A `tokenizer.json`; one that is accepted has to encode, and decode what it encoded.
pub(crate) fn tokenizer(bytes: &[u8]) -> Outcome {
    let tokenizer = Tokenizer::parse(Path::new(NAME), bytes).map_err(|e| naming(&e))?;
    let tokens = tokenizer
        .encode("born free, é 人人\n\t </s> \u{0}")
        .map_err(|e| e.to_string())?;
    assert!(tokens.iter().all(|token| *token < tokenizer.vocabulary()));
    tokenizer.decode(&tokens).map_err(|e| e.to_string())?;
    Ok(())
}

/// The two files of an indexed dataset: four bytes say how long the index is, the rest is tokens.
/// Whatever is accepted has to be read without going out of bounds.
pub(crate) fn indexed(bytes: &[u8]) -> Outcome {
    let (length, rest) = bytes.split_at_checked(4).unwrap_or((&[0; 4], bytes));
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    let (idx, bin) = rest.split_at((length as usize).min(rest.len()));
    let indexed = Indexed::of_bytes(Path::new(NAME), idx.to_vec(), bin.to_vec());
    let indexed = indexed.map_err(|e| naming(&e))?;
    let outside = indexed.outside_all(300).count() as u64;
    assert!(outside <= indexed.tokens() && indexed.beyond() <= bin.len() as u64);
    let sizes: Vec<u32> = indexed.sizes().collect();
    let order = Order::new(&sizes, 16, 1, 20, LAST_EPOCH).map_err(|e| e.to_string())?;
    for k in 0..order.samples().min(20) {
        for (document, offset, tokens) in order.pieces(k).map_err(|e| e.to_string())? {
            let mut into = vec![0; tokens as usize];
            indexed.read(document as usize, offset as usize, &mut into);
        }
    }
    Ok(())
}

/// The page beside a dataset.
pub(crate) fn page(bytes: &[u8]) -> Outcome {
    let meta = Meta::parse(Path::new(NAME), bytes).map_err(|e| naming(&e))?;
    let _: u64 = meta.left_out();
    Ok(())
}

/// The manifest of a checkpoint.
pub(crate) fn manifest(bytes: &[u8]) -> Outcome {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if manifest.is_whole() {
        Ok(())
    } else {
        Err("it is not whole".to_owned())
    }
}

/// A record of the journal.
pub(crate) fn journal(bytes: &[u8]) -> Outcome {
    let record: Record = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    // What was understood is written as it was understood.
    let again = serde_json::to_vec(&record).map_err(|e| e.to_string())?;
    let read: Record = serde_json::from_slice(&again).map_err(|e| e.to_string())?;
    // (A number that is none is not equal to itself.)
    assert_eq!(format!("{read:?}"), format!("{record:?}"));
    Ok(())
}

/// A flight page, as the agent reads it.
pub(crate) fn flight(bytes: &[u8]) -> Outcome {
    let mut file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    file.write_all(bytes).map_err(|e| e.to_string())?;
    let tower = Tower::open(file.path()).map_err(|e| e.to_string())?;
    let page = tower.read();
    assert!(!format!("{page:?}").is_empty());
    Ok(())
}
