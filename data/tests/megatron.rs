//! Files that Megatron-DeepSpeed's own tests use (bigscience-workshop/Megatron-DeepSpeed, Apache-2.0,
//! tests/data/gpt2): what is written is theirs to the byte, and so is the order of their samples.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use rebloom_data::Dataset;
use rebloom_data::indexed::{Indexed, Width, Writer, bin_path, idx_path};
use rebloom_data::order::{LAST_EPOCH, Order};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

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

/// 1000 documents of OpenWebText.
fn openwebtext() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/megatron/openwebtext")
}

#[test]
fn openwebtext_is_written_again_to_the_byte() {
    let read = Indexed::open(&openwebtext()).unwrap();
    assert_eq!((read.width(), read.tokens()), (Width::U16, 1_361_845));
    let sizes: Vec<_> = read.sizes().take(5).collect();
    assert_eq!(sizes, [1411, 918, 1046, 1136, 423]);
    let mut first = [0; 4];
    read.read(0, 0, &mut first);
    assert_eq!(first, [32, 2153, 4994, 802]);
    let (idx, bin) = written_again(&read);
    assert_eq!(
        (digest(idx), digest(bin)),
        ("6c66639d39299e15".into(), "bd6cae4cbc03040e".into())
    );
}

fn order_of_openwebtext() -> Order {
    let sizes: Vec<u32> = Indexed::open(&openwebtext()).unwrap().sizes().collect();
    Order::new(&sizes, 1024, 1234, 1000, LAST_EPOCH).unwrap()
}

#[test]
fn the_order_of_openwebtext_is_megatrons() {
    let order = order_of_openwebtext();
    assert_eq!((order.epochs(), order.last_epoch_apart()), (1, false));
    assert_eq!(words(order.documents().iter().copied()), "4654e92b166be9fc");
    let starts = (0..=u32::try_from(order.samples()).unwrap()).map(|sample| order.start(sample));
    let starts = starts.flat_map(|(at, offset)| [u32::try_from(at).unwrap(), offset]);
    assert_eq!(words(starts), "7c11176dae8f46b9");
    assert_eq!(words(order.shuffle().iter().copied()), "819ca936ad9b1b6d");
}

#[test]
fn the_samples_of_openwebtext_are_megatrons() {
    let dataset = Dataset::open(&openwebtext(), 1024, 1234, 1000).unwrap();
    let samples = (0..64).map(|k| dataset.sample(k).unwrap());
    let samples: Vec<Vec<i32>> = samples.collect();
    assert!(samples.iter().all(|sample| sample.len() == 1025));
    assert_eq!(samples[0][..3], [1654, 340, 373]);
    assert_eq!(samples[1][..3], [4396, 1153, 1231]);
    assert_eq!(samples[2][..3], [1709, 324, 65]);
    let wide = samples
        .iter()
        .flatten()
        .flat_map(|&token| i64::from(token).to_le_bytes());
    assert_eq!(digest(wide.collect::<Vec<_>>()), "c7b40c8b81be637e");
}
