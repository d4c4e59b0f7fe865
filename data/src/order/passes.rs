//! Orders that are gone through again, without the samples that are passed over.
//!
//! Numbers go on where a pass ends, and never name twice what was passed over once: the second pass
//! goes through the samples that the first one left, the third through those that both left. So the
//! numbers of a pass depend on what was passed over before it, and on nothing that comes later.

use std::ops::Range;

/// Which of `samples` samples the number names that comes after `number` others; none where all of
/// them are passed over. `skipped` are ranges of numbers, sorted and apart; `number` is in none.
pub fn sample(number: u64, samples: u64, skipped: &[Range<u64>]) -> Option<u64> {
    if number < samples {
        return Some(number);
    }
    // What this pass goes through, and its first number.
    let mut left: Vec<_> = std::iter::once(0..samples).collect();
    let mut first = 0;
    loop {
        let length: u64 = left.iter().map(|range| range.end - range.start).sum();
        if length == 0 {
            return None;
        }
        // Passes are alike up to the one in which something is passed over.
        let next = skipped.iter().find(|range| range.end > first);
        let next = next.map_or(number, |range| range.start.clamp(first, number));
        first += (next - first) / length * length;
        if number - first < length {
            let place = number - first;
            return between(&left, place..place + 1).next().map(|one| one.start);
        }
        let end = first + length;
        let mut kept = Vec::new();
        let mut from = first;
        for range in skipped {
            let (start, after) = (range.start.clamp(from, end), range.end.clamp(from, end));
            kept.extend(between(&left, from - first..start - first));
            from = after;
        }
        kept.extend(between(&left, from - first..length));
        (left, first) = (kept, end);
    }
}

/// The samples at some places of a pass.
fn between(pass: &[Range<u64>], places: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
    let mut before = 0;
    pass.iter().filter_map(move |range| {
        let length = range.end - range.start;
        let start = places.start.clamp(before, before + length) - before;
        let end = places.end.clamp(before, before + length) - before;
        before += length;
        (start < end).then(|| range.start + start..range.start + end)
    })
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "one range is what is passed over"
)]
mod tests {
    use super::*;

    /// The same, one number after the other.
    fn one_by_one(numbers: u64, samples: u64, skipped: &[Range<u64>]) -> Vec<Option<u64>> {
        let mut pass: Vec<u64> = (0..samples).collect();
        let mut said = Vec::new();
        let is_skipped = |number: usize| skipped.iter().any(|r| r.contains(&(number as u64)));
        while (said.len() as u64) < numbers && !pass.is_empty() {
            let first = said.len();
            said.extend(pass.iter().map(|sample| Some(*sample)));
            let mut number = first..;
            pass.retain(|_| !is_skipped(number.next().unwrap()));
        }
        said.resize(numbers as usize, None);
        said
    }

    #[test]
    fn a_pass_goes_through_what_those_before_it_left() {
        for skipped in [
            vec![],
            vec![0..8],
            vec![12..20],
            vec![3..5, 9..10, 19..21],
            vec![0..8, 22..24, 40..41],
            vec![0..19, 20..21],
            vec![0..19, 25..26],
            vec![0..20],
            vec![5..200],
            vec![21..22, 61..64],
        ] {
            let expected = one_by_one(120, 20, &skipped);
            for number in (0..120).filter(|number| !skipped.iter().any(|r| r.contains(number))) {
                let found = sample(number, 20, &skipped);
                let wanted = expected[number as usize];
                assert_eq!(found, wanted, "{number} with {skipped:?}");
            }
        }
    }

    #[test]
    fn what_was_passed_over_once_is_never_named_again() {
        let skipped = [0..8, 22..24];
        let named = (8..22)
            .chain(24..90)
            .map(|number| sample(number, 20, &skipped).unwrap());
        let named: Vec<u64> = named.collect();
        assert!(
            named.iter().all(|sample| (8..20).contains(sample)),
            "{named:?}"
        );
        // Numbers 20, 21 and 24: what the second pass has in place of 22 and 23 is 10 and 11.
        assert_eq!(named[12..15], [8, 9, 12]);
        assert_eq!(named[22..26], [8, 9, 12, 13], "the third pass");
    }

    #[test]
    fn far_numbers_are_found_at_once() {
        let far = 1 << 60;
        assert_eq!(sample(far, 1000, &[]), Some(far % 1000));
        assert_eq!(sample(far + 7, 8, &[far..far + 1]), Some(7));
        assert_eq!(sample(far + 8, 8, &[far..far + 1]), Some(1));
        assert_eq!(sample(u64::MAX, 8, &[2..u64::MAX]), None);
        assert_eq!(sample(3, 0, &[]), None);
    }
}
