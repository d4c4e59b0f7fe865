//! Replicas: what several ranks must hold alike, and who is odd where they do not.

use crate::id::Rank;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A tensor that is not the same on ranks that must hold the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// The parameter that is computed with; what its optimizer holds of it is named as in a shard.
    pub tensor: String,
    /// The ranks that are not like most of them; empty where there is no majority.
    pub ranks: Vec<Rank>,
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, ranks } = self;
        write!(f, "{tensor} differs between ranks that must hold the same")?;
        let ranks: Vec<_> = ranks.iter().map(ToString::to_string).collect();
        match ranks.len() {
            0 => Ok(()),
            1 => write!(f, ": rank {} is unlike the others", ranks[0]),
            _ => write!(f, ": ranks {} are unlike the others", ranks.join(", ")),
        }
    }
}

impl std::error::Error for Differs {}

/// Places of what is not like most of `held`, none of them where there is no majority; nothing where all are alike.
pub fn odd<T: PartialEq>(held: &[T]) -> Option<Vec<usize>> {
    if held.windows(2).all(|pair| pair[0] == pair[1]) {
        return None;
    }
    let alike = |one: &&T| held.iter().filter(|other| *other == *one).count();
    let most = held.iter().find(|one| alike(one) * 2 > held.len());
    let places = held.iter().enumerate();
    let odd = places.filter(|(_, one)| most.is_some_and(|most| most != *one));
    Some(odd.map(|(place, _)| place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_majority_says_who_is_odd() {
        for (held, wanted) in [
            ("", None),
            ("a", None),
            ("aaaa", None),
            ("ab", Some(vec![])),
            ("aab", Some(vec![2])),
            ("baaa", Some(vec![0])),
            ("aabb", Some(vec![])),
            ("abcd", Some(vec![])),
            ("cabaa", Some(vec![0, 2])),
        ] {
            let held: Vec<char> = held.chars().collect();
            assert_eq!(odd(&held), wanted, "{held:?}");
        }
    }
}
