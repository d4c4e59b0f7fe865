//! The short run of one reader: kept inputs as they are, then changed in thousands of ways from a
//! seed that never changes. It fails at a panic, at a refusal without a word, and at memory out of
//! proportion to the input.
#![allow(unsafe_code, reason = "an allocator that counts is an allocator")]

use crate::Reader;
use crate::mutate::Mutator;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// A reader may hold this much, and [`SHARE`] times what it is given.
const ALLOWANCE: usize = 64 << 20;
const SHARE: usize = 256;

/// Environment variable that makes the run so many times as long.
const TIMES: &str = "REBLOOM_FUZZ_TIMES";

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread holds; the test binary makes it its own.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: isize) {
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Reads once.
///
/// # Panics
/// With the input, at what must not be.
fn once(reader: Reader, bytes: &[u8]) {
    HELD.set(0);
    MOST.set(0);
    let said = std::panic::catch_unwind(|| (reader.read)(bytes));
    let most = usize::try_from(MOST.get()).unwrap_or(0);
    let (name, shown) = (reader.name, bytes.escape_ascii());
    match said {
        Ok(said) => assert!(
            said != Err(String::new()),
            "{name} refuses without a word: {shown}"
        ),
        Err(_) => panic!("{name} panicked at: {shown}"),
    }
    let allowed = ALLOWANCE + SHARE * bytes.len();
    assert!(
        most <= allowed,
        "{name} held {most} bytes, {allowed} are allowed, at: {shown}"
    );
}

/// The short run of a reader over the kept inputs.
///
/// # Panics
/// At what must not be; and where there are no kept inputs, or all are refused: such a run tries nothing.
pub fn run(reader: Reader, kept: &[Vec<u8>]) {
    let name = reader.name;
    kept.iter().for_each(|bytes| once(reader, bytes));
    assert!(
        kept.iter().any(|bytes| (reader.read)(bytes).is_ok()),
        "{name} refuses all that is kept"
    );
    let seed = name
        .bytes()
        .fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
    let mut mutator = Mutator::new(seed);
    let times = std::env::var(TIMES)
        .ok()
        .and_then(|times| times.parse().ok());
    for _ in 0..reader.runs.saturating_mul(times.unwrap_or(1)) {
        once(reader, &mutator.changed(kept));
    }
}
