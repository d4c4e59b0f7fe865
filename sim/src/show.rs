//! One short line for what crosses a border.

use rebloom_core::engine::{Ask, Fact};
use rebloom_core::order::Order;
use rebloom_core::report::Report;
use rebloom_core::supervisor::Command;
use rebloom_core::word::ToWorker;
use std::fmt::{Debug, Write};

/// Debug output, cut to a line.
fn cut(value: &impl Debug) -> String {
    let mut line = Line(String::new());
    if write!(line, "{value:?}").is_err() {
        // A full line ends the writing with an error.
        line.0.push('…');
    }
    line.0
}

struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.push_str(text);
        if self.0.len() > 200 {
            Err(std::fmt::Error)
        } else {
            Ok(())
        }
    }
}

pub(crate) fn fact(fact: &Fact) -> String {
    if let Fact::RunSubmitted { spec } = fact {
        return format!("RunSubmitted {}", spec.name);
    }
    let Fact::Placed {
        run,
        generation,
        placement,
        rung,
        resume,
        fresh,
        cause,
        ..
    } = fact
    else {
        return cut(fact);
    };
    let seats: Vec<String> = placement
        .seats()
        .map(|seat| format!("{}@{}/{}", seat.rank, seat.node, seat.slot))
        .collect();
    let resume = resume.map_or("the start".to_owned(), |id| id.directory());
    let fresh = if *fresh { ", fresh" } else { "" };
    format!(
        "Placed {run} g{generation} by {rung:?}{fresh} from {resume} on {}: {cause}",
        seats.join(" ")
    )
}

pub(crate) fn order(order: &Order) -> String {
    match order {
        Order::Start(start) => {
            let ranks: Vec<String> = start
                .seats
                .iter()
                .map(|seat| seat.rank.to_string())
                .collect();
            let (run, generation) = (&start.gang.spec.name, start.gang.generation);
            format!(
                "start {run} g{generation} ranks {}: {}",
                ranks.join(","),
                start.gang.cause
            )
        }
        Order::Stop {
            run,
            generation,
            how,
            cause,
        } => {
            format!("stop {run} g{generation} {how:?}: {cause}")
        }
        Order::Kill {
            run,
            generation,
            rank,
            cause,
        } => {
            format!("kill {run} g{generation} rank {rank}: {cause}")
        }
        Order::Seal { manifest, .. } => {
            format!("seal {}/{}", manifest.run, manifest.id.directory())
        }
        Order::Prune {
            run, checkpoints, ..
        } => {
            let names: Vec<String> = checkpoints.iter().map(|id| id.directory()).collect();
            format!("prune {run}: {}", names.join(" "))
        }
    }
}

/// What an agent does; nothing where that is routine.
pub(crate) fn agent_command(command: &Command) -> Option<String> {
    Some(match command {
        // A spawned process is shown with its pid.
        Command::Spawn { .. }
        | Command::Remember(_)
        | Command::ReadPages
        | Command::Replicate { .. }
        | Command::DropSnapshots { .. }
        | Command::Beat(_)
        | Command::RouteStore { .. }
        | Command::Tell {
            word: ToWorker::Heard(_),
            ..
        } => return None,
        Command::Tell {
            run,
            rank,
            word: ToWorker::Go(go),
        } => {
            format!("tells {run} rank {rank} to go on in g{}", go.generation)
        }
        Command::Rejoin => "joins anew, after a long sleep".to_owned(),
        Command::Tell {
            run,
            rank,
            word: ToWorker::Exit,
        } => {
            format!("tells {run} rank {rank} to leave")
        }
        Command::Fence {
            run,
            rank,
            below,
            cause,
        } => {
            format!("fences {run} rank {rank} below g{below}: {cause}")
        }
        Command::StopSafely {
            run,
            rank,
            generation,
            ..
        } => {
            format!("stops {run} g{generation} rank {rank} safely")
        }
        Command::Kill {
            run,
            rank,
            pid,
            cause,
            ..
        } => {
            format!("kills {run} rank {rank} pid {pid}: {cause}")
        }
        Command::OpenStore { run, generation } => format!("opens the store of {run} g{generation}"),
        Command::WriteManifest { manifest, .. } => {
            format!("seals {}/{}", manifest.run, manifest.id.directory())
        }
        Command::Prune {
            run, checkpoints, ..
        } => {
            format!("removes {} checkpoints of {run}", checkpoints.len())
        }
        Command::Report { sequence, report } => {
            format!("reports {sequence}: {}", self::report(report))
        }
    })
}

fn report(report: &Report) -> String {
    match report {
        Report::Rank {
            run,
            generation,
            rank,
            event,
        } => {
            format!("{run} g{generation} rank {rank} {}", cut(event))
        }
        Report::ShardSaved {
            run,
            checkpoint,
            shard,
            ..
        } => {
            format!(
                "{run}/{} shard of rank {}",
                checkpoint.directory(),
                shard.rank
            )
        }
        Report::SnapshotHeld { run, piece, at } => {
            let (id, rank) = (piece.checkpoint.directory(), piece.shard.rank);
            format!("{run}/{id} of rank {rank} is in the memory of {at}")
        }
        Report::Signal { signal } => format!("signal {signal}"),
        Report::ShardFailed { .. } | Report::Sealed { .. } | Report::Stopped { .. } => cut(report),
    }
}

pub(crate) fn ask(ask: &Ask) -> String {
    match ask {
        Ask::Submit { spec, dry_run } => format!("submit {} dry_run={dry_run}", spec.name),
        Ask::Stop { .. }
        | Ask::Resume { .. }
        | Ask::Cordon { .. }
        | Ask::Uncordon { .. }
        | Ask::Drain { .. }
        | Ask::SetRule { .. }
        | Ask::SetRuleMode { .. }
        | Ask::UnsetRule { .. } => cut(ask),
    }
}
