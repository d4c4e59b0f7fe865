//! Pace: how long the steps of a gang take, and whether they have become slower.
//!
//! The median of a window of steps is compared with the best such median of the same shape. It takes a
//! whole window to say so: BLOOM's slow node cost 5.5 % of every step, without any error. A gang of another
//! layout, or with launches that block, has another pace and begins anew. Never says who it is.

use crate::time::Duration;
use std::collections::VecDeque;

/// Steps that are looked at together.
const WINDOW: usize = 24;
/// Slower than the best window by this much is a slowdown.
const TOLERANCE: f64 = 1.04;

/// The steps of a gang, newest last.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace<Shape> {
    shape: Option<Shape>,
    recent: VecDeque<Duration>,
    best: Option<Duration>,
}

impl<Shape> Default for Pace<Shape> {
    fn default() -> Self {
        Self {
            shape: None,
            recent: VecDeque::new(),
            best: None,
        }
    }
}

impl<Shape: PartialEq> Pace<Shape> {
    /// Another generation, of this shape; its first steps say nothing.
    pub fn begin(&mut self, shape: Shape) {
        self.recent.clear();
        if self.shape.as_ref() != Some(&shape) {
            self.best = None;
        }
        self.shape = Some(shape);
    }

    /// Takes in a step that the gang has done.
    pub fn step(&mut self, took: Duration) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        if let Some(typical) = self.typical() {
            self.best = Some(self.best.map_or(typical, |best| best.min(typical)));
        }
    }

    /// How long a step takes now; none before a whole window was seen.
    pub fn typical(&self) -> Option<Duration> {
        (self.recent.len() == WINDOW).then(|| median(self.recent.iter().copied()))?
    }

    /// How long a step took at best and takes now, where that is slower than it should be.
    pub fn slowdown(&self) -> Option<(Duration, Duration)> {
        let (best, now) = (self.best?, self.typical()?);
        let is_slower = now.as_secs_f64() > best.as_secs_f64() * TOLERANCE;
        is_slower.then_some((best, now))
    }

    /// What is slow now counts as what it is, since it was reported.
    pub fn accept(&mut self) {
        self.best = self.typical();
    }
}

/// The middle one; of an even number the lower.
pub fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}
