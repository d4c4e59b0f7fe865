//! Which samples a run passes over, and so which sample comes after how many consumed ones.
//!
//! The order of samples is fixed when a run begins; a range that did harm is recorded and passed
//! over from then on. Samples keep their numbers, and what a run has consumed counts only what it
//! trained on: so the number of consumed samples and the recorded ranges say where a run stands,
//! whatever its layout, and a skip changes neither the steps of a run nor its schedules.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// The samples that are passed over, by their numbers in the order of the run.
///
/// Ranges are kept sorted, apart from each other and not empty, however they were recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Range<u64>>", into = "Vec<Range<u64>>")]
pub struct Skips(Vec<Range<u64>>);

impl Skips {
    /// Records one more range, which may touch or overlap others.
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut all = range;
        self.0.retain(|known| {
            let apart = known.end < all.start || all.end < known.start;
            if !apart {
                all = all.start.min(known.start)..all.end.max(known.end);
            }
            apart
        });
        let at = self.0.partition_point(|known| known.end < all.start);
        self.0.insert(at, all);
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether nothing is passed over.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of the sample that comes after `consumed` samples.
    pub fn number(&self, consumed: u64) -> u64 {
        let mut number = consumed;
        for range in &self.0 {
            if number < range.start {
                break;
            }
            number = number.saturating_add(range.end - range.start);
        }
        number
    }

    /// What of it decided which the first `consumed` samples were. Two of these are equal where both led to the same
    /// samples so far, whatever each passes over later.
    pub fn below(&self, consumed: u64) -> Self {
        let Some(last) = consumed.checked_sub(1).map(|last| self.number(last)) else {
            return Self::default();
        };
        let before = self.0.iter().filter(|range| range.start < last);
        Self(before.cloned().collect())
    }

    /// The numbers of the samples that are consumed while the count goes through `consumed`: the
    /// range to record when those did harm. What lies between them and is passed over already is
    /// part of it.
    pub fn numbers(&self, consumed: Range<u64>) -> Range<u64> {
        if consumed.is_empty() {
            let at = self.number(consumed.start);
            return at..at;
        }
        self.number(consumed.start)..self.number(consumed.end - 1).saturating_add(1)
    }
}

/// As in a sentence: `240 to 247 and 300`.
impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (nth, range) in self.0.iter().enumerate() {
            let and = if nth == 0 { "" } else { " and " };
            let last = range.end - 1;
            if last == range.start {
                write!(f, "{and}{last}")?;
            } else {
                write!(f, "{and}{} to {last}", range.start)?;
            }
        }
        Ok(())
    }
}

impl From<Vec<Range<u64>>> for Skips {
    fn from(ranges: Vec<Range<u64>>) -> Self {
        let mut skips = Self::default();
        ranges.into_iter().for_each(|range| skips.add(range));
        skips
    }
}

impl From<Skips> for Vec<Range<u64>> {
    fn from(skips: Skips) -> Self {
        skips.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skips(ranges: &[Range<u64>]) -> Skips {
        Skips::from(ranges.to_vec())
    }

    #[test]
    fn ranges_are_kept_sorted_and_apart_whatever_their_order() {
        let expected = skips(&[2..6, 8..9]);
        assert_eq!(expected.ranges(), [2..6, 8..9]);
        for ranges in [
            [8..9, 4..6, 2..5, 3..3],
            [2..3, 3..6, 8..9, 2..4],
            [5..6, 8..9, 2..3, 3..5],
        ] {
            assert_eq!(skips(&ranges), expected, "{ranges:?}");
        }
        let wrong_way = Range { start: 7, end: 3 };
        assert!(skips(&[wrong_way]).is_empty());
    }

    /// Every sample that is not passed over is consumed once and in order, none of the others ever.
    #[test]
    fn nothing_is_repeated_and_nothing_else_is_left_out() {
        for ranges in [vec![], vec![2..6, 8..9, 9..12, 20..21], vec![0..3, 3..3]] {
            let skips = skips(&ranges);
            let numbers: Vec<u64> = (0..40).map(|consumed| skips.number(consumed)).collect();
            let left: Vec<u64> = (0_u64..)
                .filter(|number| !ranges.iter().any(|range| range.contains(number)))
                .take(40)
                .collect();
            assert_eq!(numbers, left, "{ranges:?}");
        }
    }

    #[test]
    fn the_range_to_record_is_the_one_that_was_trained_on() {
        let mut skips = skips(&[4..8, 8..8]);
        assert_eq!(skips.numbers(2..6), 2..10);
        assert_eq!(skips.numbers(5..5), 9..9);
        let step = skips.numbers(6..8);
        assert_eq!(step, 10..12);
        skips.add(step);
        assert_eq!((skips.number(5), skips.number(6)), (9, 12));
        assert_eq!(skips.number(u64::MAX), u64::MAX);
    }

    /// Equal exactly where the samples are.
    #[test]
    fn only_what_was_passed_over_so_far_is_compared() {
        let one = |range: Range<u64>| skips(std::slice::from_ref(&range));
        let all = [
            skips(&[]),
            one(4..8),
            skips(&[4..8, 20..24]),
            one(4..9),
            one(0..1),
            skips(&[6..7, 12..13]),
        ];
        for consumed in 0..30 {
            let so_far = |skips: &Skips| -> Vec<u64> {
                (0..consumed).map(|nth| skips.number(nth)).collect()
            };
            for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
                let is_alike = a.below(consumed) == b.below(consumed);
                assert_eq!(is_alike, so_far(a) == so_far(b), "{consumed}: {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_record_that_was_read_back_is_the_same() {
        let skips = skips(&[4..8, 1..2]);
        let text = serde_json::to_string(&skips).unwrap();
        assert_eq!(serde_json::from_str::<Skips>(&text).unwrap(), skips);
    }
}
