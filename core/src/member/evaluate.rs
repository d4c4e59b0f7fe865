//! When a member evaluates, and what it says of it.

use super::{Member, State, Trouble};
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::report::Finish;
use crate::time::Instant;
use crate::word::FromWorker;

impl Member {
    /// Who stops is not held up: what it leaves out is done by the generation that goes on from there.
    pub(super) fn is_to_evaluate(&self, finish: Option<Finish>) -> bool {
        let Some(go) = &self.go else {
            return false;
        };
        let eval = go.spec.eval.as_ref();
        let is_due = eval.is_some_and(|eval| eval.is_due(self.step, go.spec.train.steps));
        is_due && self.evaluated < self.step && finish != Some(Finish::Stopped)
    }

    pub(super) fn was_evaluated(&mut self, now: Instant, outcome: Result<Evaluation, Trouble>) {
        let State::Evaluating { finish } = self.state else {
            return;
        };
        let evaluation = match outcome {
            Ok(evaluation) => evaluation,
            Err(trouble) => return self.give_up(now, Phase::Eval, trouble),
        };
        if self.is_over(now) {
            return;
        }
        self.evaluated = self.step;
        // Every rank has the same figures and says so: any one of their nodes may be lost with its word.
        let generation = self.generation();
        let word = FromWorker::Evaluated {
            generation,
            evaluation,
        };
        self.scored.push_back((now, word.clone()));
        // Nobody trains for longer than that after the controller was last there.
        let long_ago = now - self.config.orphan_after * 4;
        self.scored.retain(|(at, _)| *at >= long_ago);
        self.say(word);
        self.go_on(now, finish);
    }
}
