//! The one source of chance: xoshiro256++, seeded by splitmix64.
//!
//! Own code, so that a seed means the same world for good.

use rebloom_core::time::Duration;

/// A generator of numbers; the same seed gives the same ones.
#[derive(Debug, Clone)]
pub struct Random([u64; 4]);

/// One step of splitmix64; also a good way to mix two numbers into one.
pub const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The generator of this seed.
    pub const fn new(seed: u64) -> Self {
        let a = mix(seed);
        let b = mix(a);
        let c = mix(b);
        Self([a, b, c, mix(c)])
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// A number in `least ..= most`.
    pub const fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.bits() % (most - least + 1)
    }

    /// The same, of 32 bits.
    pub const fn small(&mut self, least: u32, most: u32) -> u32 {
        // Cannot cut off: the number is at most `most`.
        self.within(least as u64, most as u64) as u32
    }

    /// True once in `times`.
    pub const fn once_in(&mut self, times: u64) -> bool {
        self.bits().is_multiple_of(times)
    }

    /// A span of `least ..= most` microseconds.
    pub const fn micros(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.within(least, most))
    }

    /// A span of `least ..= most` milliseconds, to the microsecond.
    pub const fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.micros(least * 1000, most * 1000)
    }

    /// One of these; none of nothing.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        usize::try_from(self.within(0, of.len() as u64 - 1))
            .ok()
            .map(|at| of[at])
    }
}
