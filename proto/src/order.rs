//! What the controller tells an agent.

use crate::check::{
    Malformed, absolute, code, list, maybe, node_id, part, run_id, same_names, text,
};
use crate::wire;
use crate::wire::order as w;
use rebloom_core::id::{Generation, Rank, Slot, Step};
use rebloom_core::order::{GangStart, Order, Seat, Start, Stop};
use std::sync::Arc;

same_names!(Stop <=> Stop { Safely, Now });

impl From<Seat> for wire::Seat {
    fn from(Seat { rank, slot }: Seat) -> Self {
        Self {
            rank: rank.0,
            slot: slot.0,
        }
    }
}

impl TryFrom<wire::Seat> for Seat {
    type Error = Malformed;
    fn try_from(wire::Seat { rank, slot }: wire::Seat) -> Result<Self, Malformed> {
        Ok(Self {
            rank: Rank(rank),
            slot: Slot(slot),
        })
    }
}

impl From<Start> for w::Start {
    fn from(start: Start) -> Self {
        let gang = Arc::unwrap_or_clone(start.gang);
        Self {
            spec: Some(Arc::unwrap_or_clone(gang.spec).into()),
            generation: gang.generation.0,
            seats: start.seats.iter().copied().map(Into::into).collect(),
            store_node: gang.store_node.into(),
            store_address: gang.store_address,
            resume: gang.resume.map(Into::into),
            snapshot: start.snapshot.into_iter().map(Into::into).collect(),
            replica: start.replica.map(Into::into),
            fresh_processes: gang.fresh_processes,
            cause: Some(gang.cause.into()),
            async_off: gang.async_off,
            evaluated: gang.evaluated.map(|step| step.0),
        }
    }
}

impl TryFrom<w::Start> for Start {
    type Error = Malformed;
    fn try_from(start: w::Start) -> Result<Self, Malformed> {
        let gang = GangStart {
            spec: Arc::new(part(start.spec, "spec")?),
            generation: Generation(start.generation),
            store_node: node_id(start.store_node, "store_node")?,
            store_address: text(start.store_address, "store_address")?,
            resume: maybe(start.resume, "resume")?,
            fresh_processes: start.fresh_processes,
            cause: part(start.cause, "cause")?,
            async_off: start.async_off,
            evaluated: start.evaluated.map(Step),
        };
        Ok(Self {
            gang: Arc::new(gang),
            seats: list::<_, Seat>(start.seats, "seats")?.into(),
            snapshot: list(start.snapshot, "snapshot")?,
            replica: maybe(start.replica, "replica")?,
        })
    }
}

impl From<Order> for wire::Order {
    fn from(order: Order) -> Self {
        let what = match order {
            Order::Start(start) => w::What::Start(start.into()),
            Order::Stop {
                run,
                generation,
                how,
                cause,
            } => w::What::Stop(w::StopRun {
                run: run.into(),
                generation: generation.0,
                how: wire::Stop::from(how).into(),
                cause: Some(cause.into()),
            }),
            Order::Kill {
                run,
                generation,
                rank,
                cause,
            } => w::What::Kill(w::Kill {
                run: run.into(),
                generation: generation.0,
                rank: rank.0,
                cause: Some(cause.into()),
            }),
            Order::Seal {
                directory,
                manifest,
            } => w::What::Seal(w::Seal {
                directory,
                manifest: Some((*manifest).into()),
            }),
            Order::Prune {
                run,
                directory,
                checkpoints,
            } => w::What::Prune(w::Prune {
                run: run.into(),
                directory,
                checkpoints: checkpoints.into_iter().map(Into::into).collect(),
            }),
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::Order> for Order {
    type Error = Malformed;
    fn try_from(order: wire::Order) -> Result<Self, Malformed> {
        Ok(
            match order.what.ok_or_else(|| Malformed::missing("what"))? {
                w::What::Start(start) => Self::Start(part(Some(start), "start")?),
                w::What::Stop(it) => Self::Stop {
                    run: run_id(it.run, "stop.run")?,
                    generation: Generation(it.generation),
                    how: code::<wire::Stop, _>(it.how, "stop.how")?,
                    cause: part(it.cause, "stop.cause")?,
                },
                w::What::Kill(it) => Self::Kill {
                    run: run_id(it.run, "kill.run")?,
                    generation: Generation(it.generation),
                    rank: Rank(it.rank),
                    cause: part(it.cause, "kill.cause")?,
                },
                w::What::Seal(it) => Self::Seal {
                    directory: absolute(it.directory, "seal.directory")?,
                    manifest: Box::new(part(it.manifest, "seal.manifest")?),
                },
                w::What::Prune(it) => Self::Prune {
                    run: run_id(it.run, "prune.run")?,
                    directory: absolute(it.directory, "prune.directory")?,
                    checkpoints: list(it.checkpoints, "prune.checkpoints")?,
                },
            },
        )
    }
}
