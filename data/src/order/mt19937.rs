//! numpy's legacy generator: MT19937 as `numpy.random.RandomState` seeds and shuffles with it.

const N: usize = 624;
const M: usize = 397;

/// The generator.
#[derive(Debug, Clone)]
pub struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// Seeds as `RandomState(seed)` does; a seed beyond 32 bits, which numpy refuses, as
    /// `RandomState([low word, high word])`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        if high == 0 {
            Self::of_word(low)
        } else {
            Self::of_words(&[low, high])
        }
    }

    fn of_word(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    fn of_words(key: &[u32]) -> Self {
        let mut this = Self::of_word(19_650_218);
        let state = &mut this.state;
        let mut i = 1;
        let step = |i: &mut usize, state: &mut [u32; N]| {
            *i += 1;
            if *i >= N {
                state[0] = state[N - 1];
                *i = 1;
            }
        };
        for j in (0..key.len()).cycle().take(N.max(key.len())) {
            let last = state[i - 1];
            let mixed = state[i] ^ (last ^ (last >> 30)).wrapping_mul(1_664_525);
            state[i] = mixed.wrapping_add(key[j]).wrapping_add(j as u32);
            step(&mut i, state);
        }
        for _ in 1..N {
            let last = state[i - 1];
            let mixed = state[i] ^ (last ^ (last >> 30)).wrapping_mul(1_566_083_941);
            state[i] = mixed.wrapping_sub(i as u32);
            step(&mut i, state);
        }
        state[0] = 0x8000_0000;
        this
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number of `0..=most`, by masked rejection.
    fn up_to(&mut self, most: u64) -> u64 {
        let mask = u64::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let high = if most > u64::from(u32::MAX) {
                u64::from(self.next_u32()) << 32
            } else {
                0
            };
            let number = (high | u64::from(self.next_u32())) & mask;
            if number <= most {
                return number;
            }
        }
    }

    /// Shuffles as `RandomState.shuffle` does.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.up_to(i as u64);
            items.swap(i, usize::try_from(j).expect("at most i"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(seed: u64, count: u32) -> Vec<u32> {
        let mut items: Vec<u32> = (0..count).collect();
        Mt19937::new(seed).shuffle(&mut items);
        items
    }

    /// All of these were printed by numpy 2.4.6.
    #[test]
    fn shuffles_as_numpy() {
        assert_eq!(shuffled(42, 10), [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]);
        assert_eq!(
            shuffled(1234, 16),
            [13, 11, 0, 12, 14, 2, 10, 7, 1, 9, 8, 4, 5, 6, 3, 15]
        );
        let many = shuffled(42, 100_000);
        assert_eq!(
            many[..8],
            [75721, 80184, 19864, 76699, 92991, 76434, 84004, 80917]
        );
        assert_eq!(
            shuffled(u64::from(u32::MAX), 10),
            [6, 9, 5, 1, 8, 0, 7, 4, 2, 3]
        );
    }

    /// `RandomState([5, 1])`.
    #[test]
    fn a_long_seed_is_two_words() {
        assert_eq!(shuffled((1 << 32) | 5, 10), [0, 7, 9, 4, 1, 6, 8, 2, 5, 3]);
    }

    #[test]
    fn numbers_keep_to_their_bound() {
        let mut random = Mt19937::new(1);
        for most in [0, 1, 5, u64::from(u32::MAX), 1 << 40, u64::MAX] {
            assert!((0..100).all(|_| random.up_to(most) <= most));
        }
    }
}
