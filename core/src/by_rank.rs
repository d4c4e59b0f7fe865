//! A map from ranks to what is known of each: one place a rank, in rank order.
//!
//! Ranks of a gang are numbered without gaps, so a list is smaller and faster than a tree. Whoever inserts
//! has made sure that the rank is one of the gang: the list grows up to it.

use crate::id::Rank;

/// What is known of each rank of a gang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByRank<T>(Vec<Option<T>>);

impl<T> Default for ByRank<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByRank<T> {
    /// What is known of a rank.
    pub fn get(&self, rank: Rank) -> Option<&T> {
        self.0.get(rank.0 as usize)?.as_ref()
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, rank: Rank) -> Option<&mut T> {
        self.0.get_mut(rank.0 as usize)?.as_mut()
    }

    /// Puts down what is known of a rank.
    pub fn insert(&mut self, rank: Rank, value: T) {
        *self.place(rank) = Some(value);
    }

    /// What is known of a rank; `value` from now on where nothing was.
    pub fn get_or_insert(&mut self, rank: Rank, value: T) -> &mut T {
        self.place(rank).get_or_insert(value)
    }

    /// Forgets a rank.
    pub fn remove(&mut self, rank: Rank) {
        if let Some(place) = self.0.get_mut(rank.0 as usize) {
            *place = None;
        }
    }

    /// Forgets every rank.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The ranks of which something is known.
    pub fn iter(&self) -> impl Iterator<Item = (Rank, &T)> {
        let ranks = (0..).map(Rank).zip(&self.0);
        ranks.filter_map(|(rank, value)| Some((rank, value.as_ref()?)))
    }

    /// What is known of the ranks from `first` on, `count` of them.
    pub fn of(&self, first: Rank, count: u32) -> impl Iterator<Item = &T> {
        let ranks = self.0.iter().skip(first.0 as usize);
        ranks.take(count as usize).flatten()
    }

    fn place(&mut self, rank: Rank) -> &mut Option<T> {
        let at = rank.0 as usize;
        if at >= self.0.len() {
            // Little more than needed: a fleet has millions of ranks.
            let room = (at + 1).next_multiple_of(64);
            self.0.reserve_exact(room - self.0.len());
            self.0.resize_with(at + 1, || None);
        }
        &mut self.0[at]
    }
}

impl<T> FromIterator<(Rank, T)> for ByRank<T> {
    fn from_iter<I: IntoIterator<Item = (Rank, T)>>(known: I) -> Self {
        let mut all = Self::default();
        known
            .into_iter()
            .for_each(|(rank, value)| all.insert(rank, value));
        all
    }
}
