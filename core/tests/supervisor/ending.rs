//! What ranks say until they finish, and the stops that end them sooner.

use crate::agent::*;
use rebloom_core::cause::Blamed;
use rebloom_core::eval::Evaluation;
use rebloom_core::flight::Phase;
use rebloom_core::guard::{Samples, Spike};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::order::Stop;
use rebloom_core::report::Milestone;
use rebloom_core::supervisor::Event;
use rebloom_core::time::Duration;
use rebloom_core::word::FromWorker;

#[test]
fn words_become_reports_that_are_sent_until_acknowledged() {
    let mut agent = Agent::running();
    let reached = |generation| FromWorker::Reached {
        generation: Generation(generation),
        milestone: Milestone::Formed,
        step: Step(0),
    };
    assert_eq!(agent.say(0, 10, reached(1)), ["1: rank 0 g1 Formed"]);
    assert_eq!(
        agent.say(0, 10, reached(1)),
        [""; 0],
        "again after a reconnect"
    );
    assert_eq!(
        agent.say(0, 10, reached(2)),
        [""; 0],
        "of another generation"
    );
    assert_eq!(agent.say(0, 99, reached(1)), [""; 0], "of another process");
    let warning = FromWorker::Spiked {
        generation: Generation(1),
        spike: Spike {
            step: Step(3),
            consumed: 8,
            samples: Samples { from: 8, until: 12 },
            reading: "a loss of 9".into(),
        },
        goes_on: true,
    };
    assert_eq!(agent.say(0, 10, warning), ["2: rank 0 g1 Spiked true"]);
    let scored = FromWorker::Evaluated {
        generation: Generation(1),
        evaluation: Evaluation {
            step: Step(3),
            samples: 12,
            scores: Vec::new(),
        },
    };
    assert_eq!(agent.say(0, 10, scored), ["3: rank 0 g1 Evaluated 3"]);
    assert_eq!(agent.tell(Event::LinkDown), [""; 0]);
    let failed = |blamed| FromWorker::Failed {
        generation: Generation(1),
        phase: Phase::Step,
        error: "e".into(),
        blamed,
    };
    assert_eq!(
        agent.say(0, 10, failed(Some(Blamed::Run))),
        [""; 0],
        "there is no link"
    );
    assert_eq!(agent.say(1, 11, failed(None)), [""; 0]);
    agent.tell(Event::Acked { sequence: 1 });
    agent.tell(Event::Acked { sequence: 2 });
    agent.tell(Event::Acked { sequence: 3 });
    let again = ["4: rank 0 g1 Failed Run", "5: rank 1 g1 PeerLost"];
    assert_eq!(agent.tell(Event::LinkUp), again);
}

#[test]
fn a_finished_rank_leaves_once_the_controller_knows() {
    let mut agent = Agent::running();
    assert_eq!(agent.say(0, 10, finished(1)), ["1: rank 0 g1 Finished"]);
    assert_eq!(agent.tell(Event::Acked { sequence: 1 }), ["tell 0 exit"]);
    assert_eq!(agent.exit(0, 10), ["2: rank 0 g1 SIGKILL", "remember"]);
    agent.say(1, 11, finished(1));
    assert_eq!(agent.tell(Event::Acked { sequence: 3 }), ["tell 1 exit"]);
    let late = agent.wait_until(NOW + Duration::from_secs(5));
    assert_eq!(late[0], "kill 1 pid 11", "it took too long to leave");
    agent.exit(1, 11);
    assert_eq!(
        agent.order_start(1, &[0, 1]),
        [""; 0],
        "what is done is not begun again"
    );
}

#[test]
fn stopping_safely_lets_ranks_finish() {
    let mut agent = Agent::linked();
    agent.order_start(1, &[0, 1]);
    agent.comes_up(0, 10);
    assert_eq!(
        agent.order_stop(1, Stop::Safely),
        ["remember", "stop 0 in 1"]
    );
    assert_eq!(agent.order_stop(1, Stop::Safely), [""; 0]);
    let started = Event::Started {
        run: run(),
        rank: Rank(1),
        pid: 11,
        started: 1,
    };
    assert_eq!(agent.tell(started), ["remember", "stop 1 in 1"]);
    assert_eq!(agent.hello(1, 11, 0), ["tell 1 exit"], "it never went");
    agent.say(0, 10, finished(1));
    assert_eq!(agent.tell(Event::Acked { sequence: 1 }), ["tell 0 exit"]);
    agent.exit(1, 11);
    assert_eq!(agent.exit(0, 10)[1..], ["remember", "4: stopped 1"]);
    assert_eq!(
        agent.order_stop(1, Stop::Safely),
        ["5: stopped 1"],
        "the answer may have been lost"
    );
    assert_eq!(
        agent.order_start(1, &[0, 1]),
        [""; 0],
        "a late start of a stopped generation"
    );
}

#[test]
fn stopping_now_fences_and_kills() {
    let mut agent = Agent::running();
    agent.order_stop(1, Stop::Safely);
    assert_eq!(
        agent.order_stop(1, Stop::Now),
        [
            "remember",
            "fence 0 below 2",
            "kill 0 pid 10",
            "fence 1 below 2",
            "kill 1 pid 11",
            "1: stopped 1"
        ]
    );
    assert_eq!(
        agent.order_stop(1, Stop::Safely),
        ["2: stopped 1"],
        "it stays at once"
    );
}

#[test]
fn a_stop_of_an_older_or_unknown_generation_is_true_already() {
    let mut agent = Agent::linked();
    assert_eq!(agent.order_stop(4, Stop::Now), ["remember", "1: stopped 4"]);
    assert_eq!(
        agent.order_start(4, &[0]),
        [""; 0],
        "S5 holds for what was stopped unseen, too"
    );
    agent.order_start(5, &[0]);
    assert_eq!(agent.order_stop(4, Stop::Now), ["2: stopped 4"]);
}
