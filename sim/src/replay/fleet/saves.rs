//! What goes wrong while a checkpoint is written: storage that is full, and faults that wait for a save.
//!
//! It only says when. What a fault does is in `harm.rs`, which checkpoint is whole in `answers.rs`.

use super::harm::LATER;
use super::{Fleet, Happening};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::flight::{Phase, Sighting};
use rebloom_core::id::{Generation, Step};
use rebloom_core::report::Report;

/// So much after a save began, in seconds, so that its step is done.
const AFTER: f64 = 0.001;

impl Fleet<'_> {
    /// Seconds until the gang begins its next save; none where it does not train.
    fn until_save(&mut self) -> Option<f64> {
        self.settle_progress();
        let gang = self.gang.as_ref().filter(|gang| gang.is_whole)?;
        let (_, place) = gang.since?;
        let every = self.pace.save_every as f64;
        let next = ((place.step / every).floor() + 1.0) * every;
        self.pace.until(place, next)
    }

    /// The fault strikes when the next save is half written.
    pub(super) fn wait_for_save(&mut self, number: usize) {
        let Some(wait) = self.until_save() else {
            return self.queue_at(self.now + LATER, Happening::Fault(number));
        };
        let half = self.durations.median("save-write") / 2.0;
        let generation = self.generation();
        self.queue_at(
            self.now + wait + half,
            Happening::DuringSave(number, generation),
        );
    }

    pub(super) fn strike_save(&mut self, number: usize, generation: Generation) {
        let saves = |gang: &super::Gang| gang.is_whole && gang.generation == generation;
        if self.gang.as_ref().is_some_and(saves) {
            self.strike(number);
        } else {
            // The gang that was to be hit is gone; the next save will do.
            self.wait_for_save(number);
        }
    }

    /// The next save fails, and those after it `until` then.
    pub(super) fn storage_full(&mut self, number: usize, until: Option<f64>) {
        if until.is_some_and(|until| until <= self.now) {
            return;
        }
        let Some(wait) = self.until_save() else {
            return self.queue_at(self.now + LATER, Happening::StorageFull(number, until));
        };
        let generation = self.generation();
        self.queue_at(
            self.now + wait + AFTER,
            Happening::SaveFails(number, until, generation),
        );
    }

    pub(super) fn save_fails(&mut self, number: usize, until: Option<f64>, generation: Generation) {
        let trains = |gang: &super::Gang| {
            gang.is_whole && gang.since.is_some() && gang.generation == generation
        };
        let victim = self.victim(number);
        let Some((rank, at)) = victim.filter(|_| self.gang.as_ref().is_some_and(trains)) else {
            return self.storage_full(number, until);
        };
        if until.is_some_and(|until| until <= self.now) {
            return;
        }
        if !self.told.struck.iter().any(|(_, fault)| *fault == number) {
            self.told.struck.push((self.now, number));
        }
        self.settle_progress();
        self.tell_saves();
        let every = self.pace.save_every;
        let step = Step(self.whole_steps().0 / every * every);
        let page = self.page(generation, Phase::Save);
        self.beat(at, vec![Sighting { rank, page }]);
        if let Some(gang) = &mut self.gang {
            gang.failed_saves.insert(step.0);
        }
        let report = Report::ShardFailed {
            run: self.run.clone(),
            checkpoint: CheckpointId { step, generation },
            rank,
            error: "no space left on device".to_owned(),
        };
        let event = self.reported(at, report);
        self.tell_all(event.into_iter().collect());
        if until.is_some() {
            self.storage_full(number, until);
        }
    }
}
