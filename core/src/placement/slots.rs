//! A set of slots of one node, as bits.

use crate::id::Slot;

/// Slots of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots {
    /// Slots 0 to 63: all there are on most nodes, and no allocation.
    low: u64,
    /// The rest, 64 to a word.
    high: Box<[u64]>,
}

impl Slots {
    /// The first `count` slots.
    pub fn first(count: u32) -> Self {
        let word = |from: u32| match count.saturating_sub(from) {
            0 => 0,
            left @ 1..=63 => (1 << left) - 1,
            _ => u64::MAX,
        };
        let mut high = Box::default();
        if count > 64 {
            high = (1..count.div_ceil(64)).map(|at| word(at * 64)).collect();
        }
        Self { low: word(0), high }
    }

    /// Adds a slot.
    #[inline]
    pub fn insert(&mut self, slot: Slot) {
        match (slot.0 as usize / 64).checked_sub(1) {
            None => self.low |= 1 << slot.0,
            Some(at) => self.insert_high(at, slot.0 % 64),
        }
    }

    fn insert_high(&mut self, at: usize, bit: u32) {
        if at >= self.high.len() {
            let mut high = std::mem::take(&mut self.high).into_vec();
            high.resize(at + 1, 0);
            self.high = high.into();
        }
        self.high[at] |= 1 << bit;
    }

    /// Takes a slot out; says whether it was in.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let (at, bit) = (slot.0 as usize / 64, slot.0 % 64);
        let word = if at == 0 {
            Some(&mut self.low)
        } else {
            self.high.get_mut(at - 1)
        };
        let Some(word) = word else { return false };
        let was = *word & (1 << bit) != 0;
        *word &= !(1 << bit);
        was
    }

    /// Whether a slot is in.
    pub fn contains(&self, slot: Slot) -> bool {
        let (at, bit) = (slot.0 as usize / 64, slot.0 % 64);
        self.word(at) & (1 << bit) != 0
    }

    /// Takes out all that are in `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.low &= !other.low;
        for (at, word) in self.high.iter_mut().enumerate() {
            *word &= !other.word(at + 1);
        }
    }

    /// Whether all that are in `other` are in this one.
    pub fn holds(&self, other: &Self) -> bool {
        let missing = |(at, word): (usize, &u64)| word & !self.word(at + 1);
        let mut high = other.high.iter().enumerate().map(missing);
        other.low & !self.low == 0 && high.all(|missing| missing == 0)
    }

    /// How many are in.
    pub fn len(&self) -> u32 {
        let high = self.high.iter().map(|word| word.count_ones());
        self.low.count_ones() + high.sum::<u32>()
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.iter().all(|word| *word == 0)
    }

    /// Those that are in, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let words = std::iter::once(self.low).chain(self.high.iter().copied());
        (0u32..).zip(words).flat_map(|(at, mut word)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(Slot(at * 64 + bit))
            })
        })
    }

    fn word(&self, at: usize) -> u64 {
        if at == 0 {
            self.low
        } else {
            self.high.get(at - 1).copied().unwrap_or_default()
        }
    }
}

impl FromIterator<Slot> for Slots {
    fn from_iter<T: IntoIterator<Item = Slot>>(slots: T) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_behaves_like_a_set() {
        for count in [0, 1, 8, 63, 64, 65, 128, 200] {
            let mut set = Slots::first(count);
            assert_eq!(set.len(), count);
            assert!(set.iter().eq((0..count).map(Slot)));
            assert!(!set.contains(Slot(count)));
            set.insert(Slot(count + 70));
            assert!(set.contains(Slot(count + 70)));
            assert_eq!(set.len(), count + 1);
            assert!(set.holds(&Slots::first(count)) && set.holds(&set));
            assert!(!Slots::first(count).holds(&set));
            set.subtract(&Slots::first(count));
            assert!(set.iter().eq([Slot(count + 70)]));
            assert!(set.remove(Slot(count + 70)) && !set.remove(Slot(count + 70)));
            assert!(set.is_empty());
        }
    }
}
