//! Readers of files: text that people write, and what others' programs wrote.

use crate::Outcome;
use rebloom_core::engine::Record;
use rebloom_core::spec::Model;
use rebloom_data::build::Meta;
use rebloom_data::indexed::Indexed;
use rebloom_data::order::{LAST_EPOCH, Order};
use rebloom_data::sources::Sources;
use rebloom_data::tokenizer::Tokenizer;
use rebloom_format::hf::{Config, Index, places, width};
use rebloom_format::shape::{EMBEDDING, parameters};
use rebloom_format::slice::Slice;
use rebloom_format::spec_file::SpecFile;
use rebloom_format::{facts, head, manifest};
use rebloom_runtime::flight::Tower;
use serde_json::Value;
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

/// An error over sound JSON names the field that is wrong, one of `fields` or below it, first.
fn naming_field(error: &impl Display, bytes: &[u8], fields: &[&str]) -> String {
    let said = naming(error);
    let is_sound = serde_json::from_slice::<serde_json::Map<String, Value>>(bytes).is_ok();
    let problem = said
        .strip_prefix(NAME)
        .and_then(|said| said.strip_prefix(": "));
    let problem = problem.unwrap_or(&said);
    let first = problem
        .split(['.', '[', ':', ' '])
        .next()
        .unwrap_or_default();
    let by_name = |field: &&str| problem.contains(&format!("field `{field}`"));
    // One that is not known is named in its own words.
    let is_named = fields.contains(&first)
        || fields.iter().any(by_name)
        || problem.contains("unknown field `");
    assert!(!is_sound || is_named, "no field is named: {said}");
    said
}

/// An error over text that is YAML at least names a line, or what one of these is.
fn naming_place(error: &impl Display, bytes: &[u8], fields: &[&str]) -> String {
    let said = naming(error);
    let text = std::str::from_utf8(bytes);
    let is_sound =
        text.is_ok_and(|text| serde_norway::from_str::<serde_norway::Mapping>(text).is_ok());
    let line = said
        .split(NAME)
        .nth(1)
        .and_then(|rest| rest.strip_prefix(':'));
    let has_line = line.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    let is_named =
        has_line || said.contains(" at line ") || fields.iter().any(|field| said.contains(field));
    assert!(!is_sound || is_named, "no place is named: {said}");
    said
}

/// A run spec in YAML, as `rebloom run submit` reads it.
pub(crate) fn run_spec(bytes: &[u8]) -> Outcome {
    let file = SpecFile::of(Path::new(NAME), bytes.to_vec()).map_err(|e| naming(&e))?;
    let fields = [
        "name",
        "model",
        "data",
        "layout",
        "train",
        "checkpoint",
        "recovery",
        "deadlines",
    ];
    let spec = file.spec().map_err(|e| naming_place(&e, bytes, &fields))?;
    // What a sound spec is asked for next.
    assert!(spec.micro_batches(spec.train.batch(0)) > 0 && spec.layout.world() > 0);
    Ok(())
}

/// A sources file.
pub(crate) fn sources(bytes: &[u8]) -> Outcome {
    let listed = Sources::parse(Path::new(NAME), bytes);
    let listed = listed.map_err(|e| naming_place(&e, bytes, &["`sources`"]))?;
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
    let fields = [
        "length",
        "magic",
        "version",
        "dtype",
        "sizes[",
        "pointers[",
        "doc_idx[",
    ];
    let indexed = indexed.map_err(|error| {
        let said = naming(&error);
        let is_named = fields.iter().any(|field| said.contains(field));
        assert!(is_named, "no field is named: {said}");
        said
    })?;
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
    let fields = [
        "vocabulary",
        "tokenizer_sha256",
        "end_of_document",
        "documents",
        "tokens",
        "inputs_sha256",
        "bin_sha256",
        "idx_sha256",
        "sources",
        "lacking",
    ];
    let meta = Meta::parse(Path::new(NAME), bytes);
    let meta = meta.map_err(|e| naming_field(&e, bytes, &fields))?;
    let _: u64 = meta.left_out();
    Ok(())
}

/// The manifest of a checkpoint, as the worker and the agent read it.
pub(crate) fn manifest(bytes: &[u8]) -> Outcome {
    let fields = ["version", "run", "id", "layout", "samples", "shards"];
    let manifest = manifest::parse(Path::new(NAME), bytes);
    let manifest = manifest.map_err(|e| naming_field(&e, bytes, &fields))?;
    assert!(manifest.is_known() && manifest.is_whole());
    Ok(())
}

/// The head of a shard, with what it says of its checkpoint. Its file is named by the worker, which cannot be here.
pub(crate) fn shard(bytes: &[u8]) -> Outcome {
    let read = facts::read(&mut &bytes[..], bytes.len() as u64);
    let (head, facts) = read.map_err(in_head)?;
    assert!(head.data + head.room == bytes.len() as u64);
    // What a load asks of it: whether it has pieces of what this model has.
    let known = parameters(&facts.model);
    for (name, slice) in &facts.slices {
        let wanted = known.get(name).map(Slice::whole);
        let fits = wanted.is_some_and(|wanted| slice.fits(&wanted));
        // A model is no larger than the bytes of its shards, and so are the pieces of it.
        if fits && slice.len().unsigned_abs() <= head.room {
            let parts = slice.stretches().into_iter();
            assert_eq!(parts.map(|part| part.length).sum::<i64>(), slice.len());
        }
    }
    Ok(())
}

/// An error over the head of a file says so.
fn in_head(problem: String) -> String {
    assert!(
        problem.starts_with("head: "),
        "where is not said: {problem}"
    );
    problem
}

/// A `config.json` of Hugging Face.
pub(crate) fn config(bytes: &[u8]) -> Outcome {
    let fields = [
        "model_type",
        "hidden_size",
        "n_embed",
        "n_layer",
        "num_hidden_layers",
        "n_head",
        "num_attention_heads",
        "vocab_size",
        "seq_length",
        "layer_norm_epsilon",
        "apply_residual_connection_post_layernorm",
        "tie_word_embeddings",
    ];
    let config = Config::parse(Path::new(NAME), bytes);
    let config = config.map_err(|e| naming_field(&e, bytes, &fields))?;
    let model = config.model();
    assert!(model.hidden.is_multiple_of(model.heads));
    assert!(!parameters(&model).is_empty());
    Ok(())
}

/// A `model.safetensors.index.json`; what it names must not lie elsewhere.
pub(crate) fn index(bytes: &[u8]) -> Outcome {
    let index = Index::parse(Path::new(NAME), bytes);
    let index = index.map_err(|e| naming_field(&e, bytes, &["weight_map"]))?;
    let files = index.files();
    let is_beside = |file: &&str| Path::new(NAME).join(file).parent() == Some(Path::new(NAME));
    assert!(files.iter().all(is_beside));
    assert!(index.parameters().all(|(_, file)| files.contains(file)));
    Ok(())
}

/// The model that [`weights`] are of.
const MODEL: Model = Model {
    layers: 1,
    hidden: 8,
    heads: 2,
    vocab: 16,
    sequence: 8,
    residual_after_layernorm: false,
};

/// A file of weights: places that were accepted lie inside of it. Its file is named by the worker, which cannot be
/// here; what is named here is the parameter.
pub(crate) fn weights(bytes: &[u8]) -> Outcome {
    let known = parameters(&MODEL);
    let length = bytes.len() as u64;
    let head = head::read(&mut &bytes[..], length).map_err(in_head)?;
    let places = places(&head, &known).inspect_err(|problem| {
        let mut names = head
            .metadata
            .tensors()
            .into_keys()
            .chain(known.keys().cloned());
        let is_named = names.any(|name| problem.contains(&name));
        assert!(is_named, "no parameter is named: {problem}");
    })?;
    for (name, place) in places {
        let parameter = known.get(&name).unwrap_or(&known[EMBEDDING]);
        let elements = parameter.shape.iter().product::<i64>().unsigned_abs();
        let width = width(place.dtype).expect("others are refused") as u64;
        assert!(place.offset >= 8 && place.offset + elements * width <= length);
    }
    Ok(())
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
