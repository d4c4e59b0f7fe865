//! Bytes that are almost right: kept ones, changed a little, from one seed.

/// Numbers that readers stumble over.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Pieces of text that readers stumble over.
const TEXTS: [&[u8]; 20] = [
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"4294967295",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\0",
    b".nan",
    b"&a [*a, *a]",
    b"? ",
    b"- - - - ",
    b"\\ud800",
    b": ",
    b"\n",
];

/// A generator of changes (xorshift64*).
#[derive(Debug, Clone)]
pub struct Mutator(u64);

impl Mutator {
    /// The generator of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end.max(1)
    }

    /// One of the kept ones, with one to eight changes.
    pub fn changed(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = kept[self.below(kept.len())].clone();
        for _ in 0..=self.below(8) {
            let other = &kept[self.below(kept.len())];
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let span = 1 + self.below(32);
        let end = (at + span).min(bytes.len());
        match self.below(10) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            3 => {
                let from = self.below(other.len() + 1);
                let to = (from + 4 * span).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            4 => drop(bytes.splice(at..at, TEXTS[self.below(TEXTS.len())].iter().copied())),
            5 => drop(bytes.splice(at..end, TEXTS[self.below(TEXTS.len())].iter().copied())),
            6 => self.number(bytes),
            7 => self.digits(bytes),
            _ if end > at => bytes[at] ^= 1 << self.below(8),
            _ => bytes.push(self.next() as u8),
        }
    }

    /// Puts a number in place of 1, 4 or 8 bytes.
    fn number(&mut self, bytes: &mut [u8]) {
        let width = [1, 4, 8][self.below(3)];
        let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
        if let Some(last) = bytes.len().checked_sub(width) {
            let at = self.below(last + 1);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
    }

    /// Puts another number in place of one that is written in digits.
    fn digits(&mut self, bytes: &mut Vec<u8>) {
        let from = self.below(bytes.len());
        let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let start = from + start;
        let length = bytes[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = NUMBERS[self.below(NUMBERS.len())].to_string();
        drop(bytes.splice(start..start + length, number.bytes()));
    }
}
