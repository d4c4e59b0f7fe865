use super::*;
use sha2::{Digest, Sha256};

const SIZES: [u32; 8] = [5, 3, 9, 1, 7, 12, 4, 6];

fn rows(order: &Order) -> Vec<(usize, u32)> {
    (0..=order.samples())
        .map(|sample| order.start(u32::try_from(sample).unwrap()))
        .collect()
}

#[test]
fn one_epoch_is_megatrons() {
    let order = Order::new(&SIZES, 8, 42, 5, LAST_EPOCH).unwrap();
    assert_eq!((order.epochs(), order.last_epoch_apart()), (1, false));
    assert_eq!(order.documents(), [1, 5, 0, 7, 2, 4, 3, 6]);
    assert_eq!(
        rows(&order),
        [(0, 0), (1, 5), (2, 1), (3, 4), (4, 6), (5, 5)]
    );
    assert_eq!(order.shuffle(), [4, 0, 3, 2, 1]);
}

#[test]
fn a_last_epoch_apart_is_megatrons() {
    let order = Order::new(&SIZES, 8, 42, 8, LAST_EPOCH).unwrap();
    assert_eq!((order.epochs(), order.last_epoch_apart()), (2, true));
    assert_eq!(
        order.documents(),
        [1, 5, 0, 7, 2, 4, 3, 6, 3, 7, 0, 4, 5, 2, 1, 6]
    );
    let expected = [
        (0, 0),
        (1, 5),
        (2, 1),
        (3, 4),
        (4, 6),
        (5, 5),
        (9, 0),
        (10, 2),
        (11, 5),
        (12, 6),
        (13, 2),
        (14, 1),
    ];
    assert_eq!(rows(&order), expected);
    assert_eq!(order.shuffle(), [4, 3, 0, 1, 2, 9, 7, 5, 10, 6, 8]);
}

fn digest(words: impl Iterator<Item = u32>) -> String {
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    Sha256::digest(bytes)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// 500 sizes, four of them 0.
fn sizes() -> Vec<u32> {
    let mut x = 12345_u32;
    let next = || {
        x = x.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
        (x >> 8) % 97
    };
    std::iter::repeat_with(next).take(500).collect()
}

/// Digests of Megatron's three arrays, made by its own Python over numpy 2.4.6.
#[test]
fn large_maps_are_megatrons() {
    type Golden = (u64, u32, u64, f64, u64, bool, [&'static str; 3]);
    let goldens: [Golden; 6] = [
        (
            300,
            64,
            1234,
            0.95,
            1,
            false,
            ["1dd0782815ef3b48", "95b3bb3667bd4d40", "2f43e0313d6c08ad"],
        ),
        (
            900,
            64,
            1234,
            0.95,
            3,
            true,
            ["09bf3708f6a37fc1", "4f4cdc2a9b99db2f", "b1d35e2dee4243db"],
        ),
        (
            1121,
            64,
            7,
            0.95,
            3,
            true,
            ["07c8f1276643d5ca", "aaf455d1d25c87ef", "2a27dd27c31030c1"],
        ),
        (
            1121,
            64,
            7,
            0.80,
            3,
            false,
            ["6d5b2d142bb84dc8", "2ca327e7534e55e8", "71d15e9ead2baea1"],
        ),
        (
            1160,
            64,
            7,
            0.95,
            3,
            false,
            ["6d5b2d142bb84dc8", "2ca327e7534e55e8", "71d15e9ead2baea1"],
        ),
        (
            5000,
            16,
            0,
            0.95,
            4,
            true,
            ["69b28a2ab7cb5266", "dd90bb1a41b262eb", "9dbff1fb7b817362"],
        ),
    ];
    for (samples, sequence, seed, share, epochs, apart, digests) in goldens {
        let order = Order::new(&sizes(), sequence, seed, samples, share).unwrap();
        assert_eq!(
            (order.epochs(), order.last_epoch_apart()),
            (epochs, apart),
            "{samples} {share}"
        );
        let starts = rows(&order)
            .into_iter()
            .flat_map(|(at, offset)| [u32::try_from(at).unwrap(), offset]);
        let found = [
            digest(order.documents().iter().copied()),
            digest(starts),
            digest(order.shuffle().iter().copied()),
        ];
        assert_eq!(found, digests, "{samples} {share}");
    }
}

/// The samples in laid-out order are the laid-out tokens, each overlapping the next by one.
#[test]
fn pieces_tile_the_tokens() {
    let sizes = sizes();
    let order = Order::new(&sizes, 64, 3, 900, LAST_EPOCH).unwrap();
    let laid_out: Vec<(u32, u32)> = order
        .documents()
        .iter()
        .flat_map(|document| (0..sizes[*document as usize]).map(move |token| (*document, token)))
        .collect();
    for k in 0..order.samples() {
        let pieces = order.pieces(k).unwrap();
        let found: Vec<(u32, u32)> = pieces
            .flat_map(|(document, offset, tokens)| {
                (offset..offset + tokens).map(move |t| (document, t))
            })
            .collect();
        let start = order.shuffle()[usize::try_from(k).unwrap()] as usize * 64;
        assert_eq!(found, laid_out[start..=start + 64]);
    }
}

#[test]
fn what_cannot_be_ordered_is_refused() {
    let refused = |sizes: &[u32], sequence, samples| {
        Order::new(sizes, sequence, 1, samples, LAST_EPOCH)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&[], 8, 1),
        "no order of samples: the dataset has no tokens"
    );
    assert_eq!(
        refused(&[0, 0], 8, 1),
        "no order of samples: the dataset has no tokens"
    );
    assert_eq!(
        refused(&[9], 0, 1),
        "no order of samples: a sample of no tokens"
    );
    for absurd in [u64::MAX, MOST + 1] {
        assert!(refused(&[9], 8, absurd).contains("more than the 2147483648 samples"));
    }
    assert!(refused(&[1; 100], 1_000_000, 1_000_000).contains("more than the"));
    assert!(refused(&[u32::MAX], 1, 1).contains("more than the"));
    let order = Order::new(&[9], 8, 1, 1, LAST_EPOCH).unwrap();
    assert_eq!(
        order.pieces(1).err().unwrap().to_string(),
        "sample 1 is not one of the 1 of this order"
    );
}
