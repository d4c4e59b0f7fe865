//! Pace: how long the steps of a gang take, and whether they have become slower.
//!
//! The median of a window of steps is compared with the best such median of the same shape. It takes a
//! whole window to say so: BLOOM's slow node cost 5.5 % of every step, without any error. Where steps differ
//! a lot among themselves, the medians have to differ more than chance makes them. A gang of another layout,
//! or with launches that block, has another pace and begins anew. Never says who it is.

use crate::time::Duration;
use std::collections::VecDeque;

/// Steps that are looked at together.
const WINDOW: usize = 24;
/// Slower than the best window by this much is a slowdown.
const TOLERANCE: f64 = 1.04;
/// And by this many times what a step is off the middle of its window on average: about ten standard
/// deviations of that middle, since the best of very many windows is far from the usual one.
const APART: f64 = 3.0;
/// Steps over which that average is taken.
const LONG: f64 = 128.0;

/// The steps of a gang, newest last.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace<Shape> {
    shape: Option<Shape>,
    recent: VecDeque<Duration>,
    best: Option<Duration>,
    /// Seconds by which a step is off the middle of its window, on average over a long time.
    apart: f64,
    /// Steps in that average, up to [`LONG`].
    averaged: f64,
}

impl<Shape> Default for Pace<Shape> {
    fn default() -> Self {
        Self {
            shape: None,
            recent: VecDeque::new(),
            best: None,
            apart: 0.0,
            averaged: 0.0,
        }
    }
}

impl<Shape: PartialEq> Pace<Shape> {
    /// Another generation, of this shape; its first steps say nothing.
    pub fn begin(&mut self, shape: Shape) {
        self.recent.clear();
        if self.shape.as_ref() != Some(&shape) {
            self.best = None;
            (self.apart, self.averaged) = (0.0, 0.0);
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
            self.averaged = (self.averaged + 1.0).min(LONG);
            self.apart += (took.abs_diff(typical).as_secs_f64() - self.apart) / self.averaged;
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
        let is_clear = now.saturating_sub(best).as_secs_f64() > self.apart * APART;
        (is_slower && is_clear).then_some((best, now))
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
