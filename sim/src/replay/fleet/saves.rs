//! What goes wrong while a checkpoint is written: storage that is full, and faults that wait for a save.
//!
//! It only says when. What a fault does is in `harm.rs`, which checkpoint is whole in `answers.rs`.

use super::harm::LATER;
use super::{Fleet, Happening};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::Limits;
use rebloom_core::flight::{Phase, Sighting};
use rebloom_core::id::{Generation, Step};
use rebloom_core::report::Report;
use std::collections::BTreeMap;

/// Saves of a generation that are told of one by one, until the engine has said what one costs.
pub(super) const WATCHED_SAVES: u32 = 4;
/// How often a gang in which nothing happens shows a page, in seconds: what is learned is weighed anew then.
pub(super) const GLANCE: f64 = 3600.0;
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

    /// The next save of this generation is watched, unless it is known by now what one costs.
    pub(super) fn watch_saves(&mut self, generation: Generation, left: u32) {
        if left == 0 || self.told.knows_saves || self.generation() != generation {
            return;
        }
        if let Some(wait) = self.until_save() {
            self.queue_at(
                self.now + wait + AFTER,
                Happening::SaveBegins(generation, left - 1),
            );
        }
    }

    pub(super) fn save_begins(&mut self, generation: Generation, left: u32) {
        if self.generation() != generation || self.until_save().is_none() {
            return;
        }
        let every = self.pace.save_every;
        self.show_save(self.whole_steps().0 / every * every);
        self.queue_in("save-write", Happening::SaveWritten(generation));
        self.watch_saves(generation, left);
    }

    pub(super) fn save_written(&mut self, generation: Generation) {
        if self.generation() == generation && self.until_save().is_some() {
            self.tell_saves();
            self.glance_now(generation);
        }
    }

    /// Each rank shows its page once every beat: of those for which a save holds the gang up, it is in the save.
    pub(super) fn show_save(&mut self, step: u64) {
        let beat = Limits::default().beat_every.as_secs_f64();
        let mut looks = self.pace.save_stall / beat;
        let Some(gang) = &mut self.gang else { return };
        if !gang.seen_saves.insert(step) {
            return;
        }
        let generation = gang.generation;
        let seats: Vec<_> = gang.seats.iter().map(|(rank, at)| (*rank, *at)).collect();
        let mut page = self.page(generation, Phase::Save);
        (page.step, page.samples) = (Step(step), step);
        while looks > 0.0 {
            let mut pages: BTreeMap<usize, Vec<Sighting>> = BTreeMap::new();
            for (rank, at) in &seats {
                if self.draw.unit() < looks {
                    let (rank, page) = (*rank, page.clone());
                    pages.entry(*at).or_default().push(Sighting { rank, page });
                }
            }
            let pages = pages.into_iter();
            let beats = pages.filter_map(|(at, sightings)| self.sign_of_life(at, sightings));
            let beats: Vec<_> = beats.collect();
            self.tell_all(beats);
            looks -= 1.0;
        }
    }

    pub(super) fn glance(&mut self, generation: Generation) {
        if self.generation() == generation && self.until_save().is_some() {
            self.glance_now(generation);
            self.queue_at(self.now + GLANCE, Happening::Glance(generation));
        }
    }

    /// The first rank shows that it trains, and how fast.
    fn glance_now(&mut self, generation: Generation) {
        let seats = self.gang.iter().flat_map(|gang| &gang.seats);
        let Some((rank, at)) = seats.map(|(rank, at)| (*rank, *at)).next() else {
            return;
        };
        let page = self.paced_page(generation, at);
        self.beat(at, vec![Sighting { rank, page }]);
    }
}
