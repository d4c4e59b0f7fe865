//! How causes read, and which budgets they spend.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use rebloom_core::cause::{Blamed, Cause, Exit, Unsound};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::guard::Samples;
use rebloom_core::hang::rules::Breach;
use rebloom_core::id::{NodeId, Rank, RunId, Step};
use rebloom_core::ladder::evict::Group;
use rebloom_core::replicas::Differs;
use rebloom_core::time::Duration;

fn spiked(rolls_back: bool) -> Cause {
    Cause::LossSpiked {
        step: Step(31),
        samples: Samples {
            from: 240,
            until: 248,
        },
        reading: "a loss of 9".to_owned(),
        rolls_back,
    }
}

fn all() -> Vec<Cause> {
    let (rank, node) = (Rank(5), NodeId::new("n1").unwrap());
    let error = || "it broke".to_owned();
    let failed = |blamed| Cause::RankFailed {
        rank,
        node: node.clone(),
        phase: Phase::Step,
        error: error(),
        blamed,
    };
    let hung = |channel| Cause::RankHung {
        rank,
        node: node.clone(),
        phase: Phase::Eval,
        channel,
    };
    let unsound = Unsound::Length {
        file: "a".to_owned(),
        expected: 2,
        found: 1,
    };
    vec![
        Cause::Submitted,
        Cause::StopRequested,
        Cause::ResumeRequested,
        Cause::NodeDrained { node: node.clone() },
        Cause::RankExited {
            rank,
            node: node.clone(),
            exit: Exit::Signal(9),
        },
        Cause::RankNotStarted {
            rank,
            node: node.clone(),
            error: error(),
        },
        failed(Blamed::Run),
        failed(Blamed::Infrastructure),
        hung(Some(Channel::Data)),
        hung(None),
        Cause::GangHung {
            phase: Phase::Exit,
            suspects: Vec::new(),
            group: None,
        },
        Cause::NodeLost {
            node: node.clone(),
            silent_for: Duration::from_millis(3100),
        },
        Cause::RanksMissing {
            node: node.clone(),
            rank,
        },
        Cause::CheckpointUnsound {
            step: Step(10),
            rank,
            unsound: unsound.clone(),
        },
        Cause::SnapshotUnsound {
            step: Step(10),
            rank,
            unsound,
        },
        Cause::SaveFailed {
            step: Step(10),
            rank: Some(rank),
            error: error(),
        },
        Cause::SaveFailed {
            step: Step(10),
            rank: None,
            error: error(),
        },
        Cause::Preempted {
            by: RunId::new("urgent").unwrap(),
        },
        Cause::Superseded,
        Cause::Completed,
        Cause::BudgetSpent { restarts: 3 },
        Cause::NoProgress { recoveries: 10 },
        Cause::NoSoundCheckpoint { step: Step(10) },
        Cause::SpikesRepeat { step: Step(10) },
        Cause::ReplicasDiffer {
            differs: Differs {
                tensor: "ln_f.weight".to_owned(),
                ranks: Vec::new(),
            },
            node: None,
        },
        Cause::ReplicasDiffer {
            differs: Differs {
                tensor: "ln_f.weight".to_owned(),
                ranks: vec![rank],
            },
            node: Some(node.clone()),
        },
        Cause::LaunchesStayAsync {
            why: "n1 has no GPU".to_owned(),
        },
        Cause::GangHung {
            phase: Phase::Exit,
            suspects: vec![Rank(2), Rank(3)],
            group: Some(Group::Tensor),
        },
        Cause::StorageMisread {
            node: node.clone(),
            rank,
            unsound: Unsound::Hash {
                file: "a".to_owned(),
            },
        },
        Cause::CleanSpell {
            lasted: Duration::from_secs(60),
        },
        Cause::RoomToGrow { data: 8 },
        Cause::IntervalOff { from: 250, to: 46 },
        Cause::NodeFaulty {
            node: node.clone(),
            rule: "xid_fatal".to_owned(),
            what: "GPU 3: XID 79".to_owned(),
            action: rebloom_core::health::Action::RebootNode,
        },
        Cause::NodeQuarantined {
            node: node.clone(),
            rule: "flapping".to_owned(),
            what: "GPU 3: thermal slowdown".to_owned(),
        },
        Cause::LogRule {
            rule: "beat".to_owned(),
            breach: Breach::Ceased {
                within: Duration::from_secs(60),
            },
            rank: Some(rank),
            node: Some(node.clone()),
        },
        Cause::LogRule {
            rule: "oom".to_owned(),
            breach: Breach::Written {
                line: "out of memory".to_owned(),
            },
            rank: None,
            node: None,
        },
        Cause::Straggler {
            rank,
            node: node.clone(),
            relative_percent: 140,
            own_percent: 120,
        },
        Cause::Slower {
            before: Duration::from_millis(105_200),
            now: Duration::from_millis(111_100),
        },
        Cause::NodeSlow { node: node.clone() },
        spiked(false),
        spiked(true),
    ]
}

#[test]
fn a_sentence_names_whatever_the_cause_names() {
    for cause in all() {
        let text = cause.to_string();
        assert!(
            !text.ends_with('.') && text.starts_with(char::is_alphanumeric),
            "{text}"
        );
        if let Some(node) = cause.node() {
            assert!(text.contains(node.as_str()), "{text}");
        }
    }
    let said = |at: usize| all()[at].to_string();
    assert_eq!(said(4), "rank 5 on n1 ended with SIGKILL");
    assert_eq!(
        said(8),
        "rank 5 on n1 hung in phase eval: others waited for it in data group"
    );
    assert_eq!(said(11), "node n1 was silent for 3.1 s");
    assert_eq!(
        said(13),
        "the checkpoint at step 10 is unsound (rank 5): a has 1 bytes, its manifest says 2"
    );
}

#[test]
fn labels_are_camel_case_and_sentences_differ() {
    let causes = all();
    let sentences: std::collections::BTreeSet<_> = causes.iter().map(ToString::to_string).collect();
    // A failure reads the same whosever fault it is.
    assert_eq!(sentences.len(), causes.len() - 1);
    for cause in causes {
        let label = cause.label();
        assert!(label.chars().all(char::is_alphabetic), "{label}");
        assert!(label.starts_with(char::is_uppercase), "{label}");
    }
}

#[test]
fn only_failures_of_its_own_spend_the_budget_of_a_run() {
    let spends: Vec<_> = all().into_iter().filter(Cause::spends_budget).collect();
    assert!(matches!(
        spends[..],
        [
            Cause::RankFailed {
                blamed: Blamed::Run,
                ..
            },
            Cause::LossSpiked {
                rolls_back: true,
                ..
            },
        ]
    ));
    assert!(
        all()
            .iter()
            .all(|cause| !(cause.spends_budget() && cause.climbs()))
    );
}
