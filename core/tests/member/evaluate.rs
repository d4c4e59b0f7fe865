//! Evaluations: when one is due, what it comes before and after, and what ends it.

use super::*;
use rebloom_core::eval::{Eval, Evaluation};

impl Worker {
    /// A worker of a run of 5 steps with a checkpoint every 2 that is evaluated every 3, from a step on that was
    /// the last to be evaluated or not.
    fn evaluated(from: u64, evaluated: Option<u64>) -> (Self, Vec<String>) {
        let mut worker = Self::new();
        let mut go = go(1);
        go.evaluated = evaluated.map(Step);
        go.spec.eval = Some(Eval {
            every_steps: 3,
            samples: 1,
            sets: Vec::new(),
        });
        worker.tell(Event::Word(ToWorker::Go(Box::new(go))));
        worker.tell(Event::Formed { outcome: Ok(()) });
        let outcome = Ok((Step(from), from * 4));
        let mut loaded = worker.tell(Event::Loaded { outcome });
        loaded.remove(0);
        (worker, loaded)
    }

    fn score(&mut self, step: u64) -> Vec<String> {
        let outcome = Ok(Evaluation {
            step: Step(step),
            samples: step * 4,
            scores: Vec::new(),
        });
        self.tell(Event::Evaluated { outcome })
    }
}

#[test]
fn a_run_is_evaluated_where_it_is_due_and_every_rank_says_so() {
    let (mut worker, loaded) = Worker::evaluated(2, None);
    assert_eq!(loaded, ["enter step", "step"], "2 was not due");
    assert_eq!(worker.step(3, false)[1..], ["enter eval", "evaluate"]);
    assert_eq!(worker.score(3), ["say Evaluated 3", "enter step", "step"]);
}

#[test]
fn an_agent_that_comes_back_is_told_of_every_evaluation_and_then_of_the_save() {
    let (mut worker, _) = Worker::evaluated(2, None);
    worker.step(3, false);
    worker.score(3);
    worker.step(4, false);
    worker.saved(4, 1, None);
    worker.step(5, false);
    worker.saved(5, 1, None);
    worker.score(5);
    assert_eq!(worker.tell(Event::AgentLost), [""; 0]);
    let again = worker.tell(Event::AgentBack);
    let of_step = |word: &&String| !word.contains("Hello");
    let again: Vec<_> = again.iter().filter(of_step).collect();
    assert_eq!(
        again[..3],
        ["say Evaluated 3", "say Evaluated 5", "say Saved 5"]
    );
}

#[test]
fn what_is_due_and_not_known_is_evaluated_after_a_restart() {
    let cases = [(None, "evaluate"), (Some(2), "evaluate"), (Some(3), "step")];
    for (evaluated, then) in cases {
        let (_, loaded) = Worker::evaluated(3, evaluated);
        assert_eq!(
            loaded.last().map(String::as_str),
            Some(then),
            "{evaluated:?}"
        );
    }
    let (mut worker, loaded) = Worker::evaluated(5, Some(3));
    assert_eq!(loaded, ["enter eval", "evaluate"], "the last step is due");
    assert_eq!(worker.score(5), ["say Evaluated 5", "hash"]);
}

#[test]
fn a_save_comes_first_and_who_stops_is_not_held_up() {
    let (mut worker, _) = Worker::evaluated(4, None);
    assert_eq!(worker.step(5, false)[1..], ["enter save", "save 5 wait"]);
    assert_eq!(worker.saved(5, 1, None)[1..], ["enter eval", "evaluate"]);
    assert_eq!(worker.score(5), ["say Evaluated 5", "hash"]);

    let (mut worker, _) = Worker::evaluated(2, None);
    assert_eq!(worker.step(3, true)[1..], ["enter save", "save 3 wait"]);
    assert_eq!(worker.saved(3, 1, None)[1..], ["hash"]);
}

#[test]
fn a_generation_that_ends_during_an_evaluation_says_nothing_of_it() {
    let fenced = || Event::Fenced {
        below: Generation(2),
    };
    let (mut worker, _) = Worker::evaluated(2, None);
    worker.step(3, false);
    assert_eq!(worker.tell(fenced()), [""; 0], "never interrupts it");
    assert_eq!(worker.score(3), ["abandon", "enter idle"]);

    let (mut worker, _) = Worker::evaluated(2, None);
    worker.step(3, false);
    let outcome = Err(Trouble::PeerLost { error: "e".into() });
    let told = worker.tell(Event::Evaluated { outcome });
    assert_eq!(told, ["abandon", "enter idle", "say Failed eval None"]);
}
