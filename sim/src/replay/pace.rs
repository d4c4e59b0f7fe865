//! How a gang gets on while nothing breaks: steps and evaluations as a function of time.
//!
//! Closed form, so that an hour without a fault costs nothing to simulate. Times are seconds.

use super::scenario::Work;

/// How fast a gang works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) work: Work,
    /// Steps between two saves.
    pub(crate) save_every: u64,
    /// Seconds for which a save stops training.
    pub(crate) save_stall: f64,
    /// How much longer a step takes, as a share: the slowest node sets the pace.
    pub(crate) slowdown: f64,
}

/// Where a gang is in its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    /// Steps done, with the part of the one that is under way.
    pub(crate) step: f64,
    /// Seconds done of the evaluation that follows it; all of it where none is due.
    pub(crate) evaluated: f64,
}

impl Pace {
    /// A place from which the next thing to do is a step.
    pub(crate) const fn after(&self, step: u64) -> Place {
        Place {
            step: step as f64,
            evaluated: self.work.eval_seconds,
        }
    }

    /// Whether an evaluation is under way.
    pub(crate) fn evaluates(&self, place: Place) -> bool {
        self.work.eval_every_steps > 0 && place.evaluated < self.work.eval_seconds
    }

    /// Seconds of one step.
    pub(crate) fn step_seconds(&self) -> f64 {
        self.work.step_seconds * (1.0 + self.slowdown)
    }

    /// Its share of the saves included.
    fn step(&self) -> f64 {
        self.step_seconds() + self.save_stall / self.save_every as f64
    }

    /// The step after which the next evaluation comes.
    fn next_evaluation(&self, place: Place) -> f64 {
        match self.work.eval_every_steps {
            0 => f64::INFINITY,
            every => ((place.step / every as f64).floor() + 1.0) * every as f64,
        }
    }

    /// Where it is `seconds` later.
    pub(crate) fn later(&self, mut place: Place, mut seconds: f64) -> Place {
        loop {
            if self.evaluates(place) {
                let left = self.work.eval_seconds - place.evaluated;
                if seconds < left {
                    place.evaluated += seconds;
                    return place;
                }
                seconds -= left;
                place.evaluated = self.work.eval_seconds;
            }
            let boundary = self.next_evaluation(place);
            let needs = (boundary - place.step) * self.step();
            if seconds < needs {
                place.step += seconds / self.step();
                return place;
            }
            seconds -= needs;
            (place.step, place.evaluated) = (boundary, 0.0);
        }
    }

    /// Seconds until `step` steps are done; none where they are already.
    pub(crate) fn until(&self, mut place: Place, step: f64) -> Option<f64> {
        let mut seconds = 0.0;
        while place.step < step {
            if self.evaluates(place) {
                seconds += self.work.eval_seconds - place.evaluated;
                place.evaluated = self.work.eval_seconds;
            }
            let next = self.next_evaluation(place).min(step);
            seconds += (next - place.step) * self.step();
            place.step = next;
            let is_due =
                self.work.eval_every_steps > 0 && next % self.work.eval_every_steps as f64 == 0.0;
            if is_due {
                place.evaluated = 0.0;
            }
        }
        (seconds > 0.0).then_some(seconds)
    }

    /// Seconds until the next evaluation begins; 0 within one, none where there are none.
    pub(crate) fn until_evaluation(&self, place: Place) -> Option<f64> {
        if self.evaluates(place) {
            return Some(0.0);
        }
        let boundary = self.next_evaluation(place);
        boundary
            .is_finite()
            .then(|| (boundary - place.step) * self.step())
    }

    /// Seconds of work that a place stands for, at the nominal speed: steps, and evaluations.
    pub(crate) fn worth(&self, place: Place) -> (f64, f64) {
        let evaluations = match self.work.eval_every_steps {
            0 => 0.0,
            every => (place.step / every as f64).floor() * self.work.eval_seconds,
        };
        let missing = if self.evaluates(place) {
            self.work.eval_seconds - place.evaluated
        } else {
            0.0
        };
        (place.step * self.work.step_seconds, evaluations - missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        work: Work {
            step_seconds: 10.0,
            eval_every_steps: 100,
            eval_seconds: 50.0,
        },
        save_every: 10,
        save_stall: 0.0,
        slowdown: 0.0,
    };

    #[test]
    fn an_evaluation_comes_after_its_step_and_takes_its_time() {
        let begin = PACE.after(0);
        assert_eq!(PACE.later(begin, 995.0).step, 99.5);
        let within = PACE.later(begin, 1020.0);
        assert_eq!((within.step, within.evaluated), (100.0, 20.0));
        assert!(PACE.evaluates(within));
        assert_eq!(PACE.later(within, 40.0).step, 101.0);
        assert_eq!(PACE.worth(within), (1000.0, 20.0));
    }

    #[test]
    fn the_time_until_a_step_is_the_inverse() {
        for step in [1.0, 50.0, 100.0, 101.0, 250.0] {
            let seconds = PACE.until(PACE.after(0), step).unwrap();
            let there = PACE.later(PACE.after(0), seconds);
            assert!((there.step - step).abs() < 1e-9, "{step}: {there:?}");
        }
        assert_eq!(PACE.until(PACE.after(7), 7.0), None);
    }

    #[test]
    fn a_state_that_was_loaded_is_past_its_evaluation() {
        assert!(!PACE.evaluates(PACE.after(100)));
        assert_eq!(PACE.until_evaluation(PACE.after(100)), Some(1000.0));
        assert_eq!(
            PACE.until_evaluation(PACE.later(PACE.after(0), 1001.0)),
            Some(0.0)
        );
    }
}
