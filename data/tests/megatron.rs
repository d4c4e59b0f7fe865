//! Files that Megatron-DeepSpeed's own tests use (bigscience-workshop/Megatron-DeepSpeed, Apache-2.0,
//! tests/data/gpt2): what is written is theirs to the byte, and so is the order of their samples.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use rebloom_data::indexed::{Indexed, Width, Writer, bin_path, idx_path};
use rebloom_data::order::{LAST_EPOCH, Order};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

fn digest(bytes: impl AsRef<[u8]>) -> String {
    let sum = Sha256::digest(bytes);
    sum.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn words(words: impl Iterator<Item = u32>) -> String {
    digest(words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
}

/// Index and tokens of what was written from tokens that were read.
fn written_again(read: &Indexed) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("again");
    let mut writer = Writer::create(&prefix, read.width()).unwrap();
    for sequence in 0..read.sequences() {
        let mut tokens = vec![0; read.size(sequence) as usize];
        read.read(sequence, 0, &mut tokens);
        let tokens: Vec<u32> = tokens
            .into_iter()
            .map(|t| u32::try_from(t).unwrap())
            .collect();
        writer.push(&tokens).unwrap();
        writer.end_document();
    }
    writer.finish().unwrap();
    (
        fs::read(idx_path(&prefix)).unwrap(),
        fs::read(bin_path(&prefix)).unwrap(),
    )
}

#[test]
fn files_of_megatron_are_written_again_to_the_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/megatron");
    for name in ["ag_news_inputs", "ag_news_targets"] {
        let prefix = folder.join(name);
        let read = Indexed::open(&prefix).unwrap();
        assert_eq!(read.sequences(), 100);
        let (idx, bin) = written_again(&read);
        assert!(idx == fs::read(idx_path(&prefix)).unwrap(), "{name}.idx");
        assert!(bin == fs::read(bin_path(&prefix)).unwrap(), "{name}.bin");
    }
}

/// The index of 1000 documents; its tokens are too large to keep, and it does not depend on them.
fn openwebtext() -> (Vec<u8>, Indexed) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/megatron/openwebtext.idx");
    let idx = fs::read(path).unwrap();
    let bin = vec![0; 2 * 1_361_845];
    let indexed = Indexed::of_bytes(Path::new("openwebtext"), idx.clone(), bin).unwrap();
    (idx, indexed)
}

#[test]
fn the_index_of_openwebtext_is_written_again_to_the_byte() {
    let (idx, indexed) = openwebtext();
    assert_eq!((indexed.width(), indexed.tokens()), (Width::U16, 1_361_845));
    assert_eq!(
        indexed.sizes().take(5).collect::<Vec<_>>(),
        [1411, 918, 1046, 1136, 423]
    );
    assert_eq!(digest(&idx), "6c66639d39299e15");
    assert!(written_again(&indexed).0 == idx);
}

#[test]
fn the_order_of_openwebtext_is_megatrons() {
    let sizes: Vec<u32> = openwebtext().1.sizes().collect();
    let order = Order::new(&sizes, 1024, 1234, 1000, LAST_EPOCH).unwrap();
    assert_eq!((order.epochs(), order.last_epoch_apart()), (1, false));
    assert_eq!(words(order.documents().iter().copied()), "4654e92b166be9fc");
    let starts = (0..=u32::try_from(order.samples()).unwrap()).map(|sample| order.start(sample));
    let starts = starts.flat_map(|(at, offset)| [u32::try_from(at).unwrap(), offset]);
    assert_eq!(words(starts), "7c11176dae8f46b9");
    assert_eq!(words(order.shuffle().iter().copied()), "819ca936ad9b1b6d");
}
