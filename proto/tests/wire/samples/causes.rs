//! One cause of each kind.

use super::{node, run, samples, unsounds};
use rebloom_core::cause::{Blamed, Cause, Exit};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::hang::rules::Breach;
use rebloom_core::id::{Rank, Step};
use rebloom_core::ladder::evict::Group;
use rebloom_core::replicas::Differs;
use rebloom_core::time::Duration;

pub(crate) fn causes() -> Vec<Cause> {
    let (rank, phase, error) = (Rank(5), Phase::Step, || "no".to_owned());
    let mut causes = vec![
        Cause::Submitted,
        Cause::LossSpiked {
            step: Step(21),
            samples: samples(),
            reading: "a loss of 9".to_owned(),
            rolls_back: true,
        },
        Cause::StopRequested,
        Cause::ResumeRequested,
        Cause::NodeDrained { node: node() },
        Cause::RankNotStarted {
            rank,
            node: node(),
            error: error(),
        },
        Cause::RankHung {
            rank,
            node: node(),
            phase,
            channel: None,
        },
        gang_hung(phase),
        Cause::LogRule {
            rule: "iterations".to_owned(),
            breach: Breach::Ceased {
                within: Duration::from_secs(600),
            },
            rank: None,
            node: None,
        },
        Cause::LogRule {
            rule: "loss".to_owned(),
            breach: Breach::Written {
                line: "loss=NaN".to_owned(),
            },
            rank: Some(rank),
            node: Some(node()),
        },
        Cause::LogRule {
            rule: "start".to_owned(),
            breach: Breach::NotStarted {
                within: Duration::from_secs(5),
            },
            rank: Some(rank),
            node: Some(node()),
        },
        Cause::Straggler {
            rank,
            node: node(),
            relative_percent: 140,
            own_percent: 130,
        },
        Cause::Slower {
            before: Duration::from_millis(105_200),
            now: Duration::from_millis(111_100),
        },
        Cause::NodeSlow { node: node() },
        Cause::GangHung {
            phase,
            suspects: vec![Rank(4), Rank(5)],
            group: Some(Group::Pipeline),
        },
        Cause::CleanSpell {
            lasted: Duration::from_secs(21_600),
        },
        Cause::RoomToGrow { data: 8 },
        Cause::IntervalOff { from: 250, to: 46 },
        Cause::NodeLost {
            node: node(),
            silent_for: Duration::from_millis(5200),
        },
        Cause::RanksMissing { node: node(), rank },
        Cause::SaveFailed {
            step: Step(9),
            rank: Some(rank),
            error: error(),
        },
        Cause::SaveFailed {
            step: Step(9),
            rank: None,
            error: error(),
        },
        Cause::Preempted { by: run() },
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
            node: Some(node()),
        },
        Cause::LaunchesStayAsync {
            why: "n1 has no GPU".to_owned(),
        },
    ];
    for exit in [Exit::Code(-1), Exit::Signal(9), Exit::Unknown] {
        causes.push(Cause::RankExited {
            rank,
            node: node(),
            exit,
        });
    }
    for blamed in [Blamed::Run, Blamed::Infrastructure] {
        causes.push(Cause::RankFailed {
            rank,
            node: node(),
            phase,
            error: error(),
            blamed,
        });
    }
    for phase in Phase::ALL {
        causes.push(gang_hung(phase));
    }
    for channel in Channel::ALL {
        causes.push(Cause::RankHung {
            rank,
            node: node(),
            phase,
            channel: Some(channel),
        });
    }
    for unsound in unsounds() {
        causes.push(Cause::StorageMisread {
            node: node(),
            rank,
            unsound: unsound.clone(),
        });
        causes.push(Cause::SnapshotUnsound {
            step: Step(123),
            rank,
            unsound: unsound.clone(),
        });
        causes.push(Cause::CheckpointUnsound {
            step: Step(120),
            rank,
            unsound,
        });
    }
    causes
}

fn gang_hung(phase: Phase) -> Cause {
    Cause::GangHung {
        phase,
        suspects: Vec::new(),
        group: None,
    }
}
