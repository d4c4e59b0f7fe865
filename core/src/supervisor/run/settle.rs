//! What is left to do until a run is as ordered: fences, goes, spawns and exits.

use super::local::Local;
use super::{Desk, Run};
use crate::cause::Cause;
use crate::id::{Rank, Slot};
use crate::order::{GangStart, Seat, Start, Stop};
use crate::report::Milestone;
use crate::supervisor::Command;
use crate::word::{Go, ToWorker};

impl Run {
    /// Does what is left to do; true where something must be written down before it is done.
    pub(in crate::supervisor) fn settle(&mut self, mut desk: Desk<'_>) -> bool {
        for local in self.locals.values_mut() {
            let below = local.kept.fence_below;
            local.fence(desk.id, below, &Cause::Superseded, desk.acts);
        }
        if self.stop.is_some() {
            self.settle_stop(&mut desk);
        } else if let Some(start) = self.start.take() {
            self.settle_start(&start, &mut desk);
            self.start = Some(start);
        }
        for local in self.locals.values_mut() {
            let reported = local.reported == Some(Milestone::Finished);
            if reported && !desk.unacked.holds(desk.id, local.kept.rank) {
                desk.acts
                    .extend(local.leave(desk.id, desk.now + desk.leave_within));
            }
        }
        self.forget();
        std::mem::take(&mut self.changed)
    }

    fn settle_stop(&mut self, desk: &mut Desk<'_>) {
        let Some(stop) = &self.stop else { return };
        for local in self
            .locals
            .values_mut()
            .filter(|local| local.kept.process.is_some())
        {
            let rank = local.kept.rank;
            let trains = local.runs_unfenced()
                && local.over.is_none()
                && local.told.is_none_or(|told| told == local.kept.generation);
            if stop.how == Stop::Now {
                let below = stop.generation.next();
                self.changed |= local.fence(desk.id, below, &stop.cause, desk.acts);
                desk.acts.extend(local.kill(desk.id, &stop.cause));
            } else if local.kept.milestone == Milestone::Finished {
                // It leaves once that is acknowledged.
            } else if !trains {
                desk.acts
                    .extend(local.leave(desk.id, desk.now + desk.leave_within));
            } else if !local.stop_told {
                local.stop_told = true;
                desk.acts.push(Command::StopSafely {
                    run: desk.id.clone(),
                    rank,
                    generation: local.kept.generation,
                    cause: stop.cause.clone(),
                });
            }
        }
    }

    fn settle_start(&mut self, start: &Start, desk: &mut Desk<'_>) {
        if self.routed < start.gang.generation {
            self.routed = start.gang.generation;
            self.route(start, desk);
        }
        for local in self.locals.values_mut().filter(|local| local.is_alive()) {
            let seat = start.seats.iter().find(|seat| seat.rank == local.kept.rank);
            let is_fresh = local.kept.process.is_none_or(|process| {
                !start.gang.fresh_processes || process.spawned_for == start.gang.generation
            });
            let stays = seat.is_some_and(|seat| seat.slot == local.kept.slot)
                && is_fresh
                && !local.killed
                && local.leave_by.is_none();
            if local.kept.generation < start.gang.generation {
                let below = start.gang.generation;
                self.changed |= local.fence(desk.id, below, &start.gang.cause, desk.acts);
                if stays {
                    local.go_on(start.gang.generation, desk.now);
                    self.changed = true;
                }
            }
            if !stays {
                desk.acts.extend(local.kill(desk.id, &start.gang.cause));
            } else if desk.may_go
                && local.runs_unfenced()
                && local.told.is_some_and(|told| told < start.gang.generation)
            {
                local.told = Some(start.gang.generation);
                let go = go(start, local.kept.rank, local.kept.slot);
                let (run, rank) = (desk.id.clone(), local.kept.rank);
                desk.acts.push(Command::Tell {
                    run,
                    rank,
                    word: ToWorker::Go(Box::new(go)),
                });
            }
        }
        if desk.may_go {
            start
                .seats
                .iter()
                .for_each(|seat| self.spawn(start, *seat, desk));
        }
    }

    fn route(&self, start: &Start, desk: &mut Desk<'_>) {
        let (run, generation) = (desk.id.clone(), start.gang.generation);
        if start.gang.store_node == *desk.node {
            desk.acts.push(Command::OpenStore {
                run: run.clone(),
                generation,
            });
        }
        if !start.seats.is_empty() {
            let address = start.gang.store_address.clone();
            desk.acts.push(Command::RouteStore {
                run,
                generation,
                address,
            });
        }
    }

    /// Starts a process where none was tried in this generation and the slot is free.
    fn spawn(&mut self, start: &Start, seat: Seat, desk: &mut Desk<'_>) {
        let tried =
            |local: &Local| local.is_alive() || local.kept.generation == start.gang.generation;
        if self.locals.get(&seat.rank).is_some_and(tried) || desk.held.contains(&seat.slot) {
            return;
        }
        desk.held.push(seat.slot);
        let local = Local::starting(seat.rank, seat.slot, start.gang.generation, desk.now);
        self.locals.insert(seat.rank, local);
        self.changed = true;
        desk.acts.push(Command::Spawn {
            run: desk.id.clone(),
            rank: seat.rank,
            slot: seat.slot,
            generation: start.gang.generation,
            async_off: start.gang.async_off,
            cause: start.gang.cause.clone(),
        });
    }

    /// Drops what no later order can ask for.
    fn forget(&mut self) {
        let before = self.locals.len();
        let generation = self.generation;
        self.locals
            .retain(|_, local| local.is_alive() || local.kept.generation == generation);
        let is_over = |local: &Local| {
            !local.is_alive()
                && (self.stop.is_some() || local.kept.milestone == Milestone::Finished)
        };
        let seats = self.start.as_ref().map_or(0, |start| start.seats.len());
        if self.locals.values().all(is_over) && (self.stop.is_some() || self.locals.len() >= seats)
        {
            self.changed |= self.start.take().is_some();
            self.locals.clear();
        }
        self.changed |= self.locals.len() != before;
    }
}

fn go(start: &Start, rank: Rank, slot: Slot) -> Go {
    let Start { gang, snapshot, .. } = start;
    let GangStart {
        spec,
        generation,
        resume,
        evaluated,
        ..
    } = &**gang;
    Go {
        spec: (**spec).clone(),
        generation: *generation,
        rank,
        slot,
        resume: *resume,
        snapshot: snapshot
            .iter()
            .find(|recall| recall.piece.shard.rank == rank)
            .map(|recall| Box::new(recall.clone())),
        evaluated: *evaluated,
    }
}
