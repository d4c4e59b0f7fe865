//! What agents and ranks do about an order, and when.

use super::saves::{GLANCE, WATCHED_SAVES};
use super::{Fleet, Gang, Happening};
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::engine::{Ask, Event, RunState};
use rebloom_core::flight::{Page, Phase, Sighting};
use rebloom_core::id::{Digest, Generation, Rank, Session, Step};
use rebloom_core::order::{Order, Start, Stop};
use rebloom_core::report::{Beat, Finish, Milestone, Pages, RankEvent, Report};
use std::collections::{BTreeMap, BTreeSet};

impl Fleet<'_> {
    pub(super) fn obey(&mut self, at: usize, order: Order) {
        match order {
            Order::Start(start) => self.start(at, &start),
            Order::Stop {
                generation, how, ..
            } => self.stop(at, generation, how),
            Order::Kill {
                generation, rank, ..
            } => {
                let ranks = &mut self.machines[at].ranks;
                ranks.retain(|other, process| *other != rank || process.generation != generation);
            }
            Order::Seal { manifest, .. } => {
                let report = Report::Sealed {
                    run: manifest.run.clone(),
                    checkpoint: manifest.id,
                    error: None,
                };
                self.say_now(at, report);
            }
            Order::Prune { .. } => {}
        }
    }

    /// Queues a report for the present moment: an answer is never given while an order is read.
    pub(super) fn say_now(&mut self, at: usize, report: Report) {
        if let Some(session) = self.machines[at].session {
            self.queue_at(self.now, Happening::Report(at, session, report));
        }
    }

    /// A report arrives, if its link still stands.
    pub(super) fn deliver(&mut self, at: usize, session: Session, report: Report) {
        if self.machines[at].session == Some(session)
            && let Some(event) = self.reported(at, report)
        {
            self.tell(event);
        }
    }

    fn start(&mut self, at: usize, start: &Start) {
        let Some(started) = self.machines[at].start(start, &mut self.next_pid) else {
            return;
        };
        if self
            .gang
            .as_ref()
            .is_none_or(|gang| gang.generation < start.gang.generation)
        {
            self.settle_progress();
            self.gang = Some(Gang {
                generation: start.gang.generation,
                resume: start.gang.resume.map_or(0, |checkpoint| checkpoint.step.0),
                seats: BTreeMap::new(),
                spawns: false,
                is_whole: true,
                since: None,
                last: None,
                failed_saves: BTreeSet::new(),
                seen_saves: BTreeSet::new(),
            });
            self.pace.save_every = start.gang.spec.checkpoint.every_steps;
        }
        let Some(gang) = self.gang.as_mut() else {
            return;
        };
        gang.seats
            .extend(start.seats.iter().map(|seat| (seat.rank, at)));
        gang.spawns |= started.spawns;
        gang.is_whole &= started.failed.is_empty();
        let (generation, spawns) = (gang.generation, gang.spawns);
        let is_complete = gang.seats.len() as u32 == self.scenario.layout.world();
        let is_whole = gang.is_whole;
        for rank in started.failed {
            let event = RankEvent::NotStarted {
                error: "the device does not answer".to_owned(),
            };
            let report = Report::Rank {
                run: self.run.clone(),
                generation,
                rank,
                event,
            };
            let session = self.machines[at].session.unwrap_or_default();
            self.queue_in("spawn", Happening::Report(at, session, report));
        }
        if is_complete && is_whole {
            // The last process to start is what the others wait for.
            let spawn = if spawns {
                self.durations.seconds("spawn", &mut self.draw)
            } else {
                0.0
            };
            let form = self.durations.seconds("form", &mut self.draw);
            self.queue_at(
                self.now + spawn + form,
                Happening::Reached(generation, Milestone::Formed),
            );
        }
    }

    fn stop(&mut self, at: usize, generation: Generation, how: Stop) {
        let machine = &mut self.machines[at];
        if generation < machine.generation {
            return;
        }
        machine.generation = generation;
        if how == Stop::Safely && !machine.ranks.is_empty() {
            let gang = self.gang.as_ref();
            let trains = gang.and_then(|gang| gang.since.filter(|_| gang.is_whole));
            if let Some((since, from)) = trains {
                let place = self.pace.later(from, self.now - since);
                let boundary = place.step.floor() + 1.0;
                let rest = self.pace.until(place, boundary).unwrap_or(0.0);
                let save = self.durations.seconds("save-write", &mut self.draw);
                self.train_until(boundary);
                self.queue_at(self.now + rest + save, Happening::Stopped(generation));
            }
            return;
        }
        let ranks = std::mem::take(&mut machine.ranks);
        if let Some(gang) = self
            .gang
            .as_mut()
            .filter(|gang| gang.generation <= generation)
        {
            gang.is_whole &= ranks.is_empty();
        }
        for (rank, process) in ranks {
            let event = RankEvent::Exited {
                exit: Exit::Signal(9),
                noticed_after_nanos: None,
            };
            let report = Report::Rank {
                run: self.run.clone(),
                generation: process.generation,
                rank,
                event,
            };
            self.say_now(at, report);
        }
        let run = self.run.clone();
        self.say_now(at, Report::Stopped { run, generation });
    }

    pub(super) fn reached(&mut self, generation: Generation, milestone: Milestone) {
        let Some(gang) = self
            .gang
            .as_ref()
            .filter(|g| g.generation == generation && g.is_whole)
        else {
            return;
        };
        let is_step = milestone == Milestone::Stepped;
        let step = Step(gang.resume + u64::from(is_step));
        let seats: Vec<_> = gang.seats.iter().map(|(rank, at)| (*rank, *at)).collect();
        let reports = seats.into_iter().filter_map(|(rank, at)| {
            let process = self.machines[at].ranks.get(&rank);
            let pid = process.map_or(1, |process| process.pid);
            let event = RankEvent::Reached {
                milestone,
                step,
                pid,
            };
            self.rank_reported(at, generation, rank, event)
        });
        let reports: Vec<_> = reports.collect();
        self.tell_all(reports);
        match milestone {
            Milestone::Going | Milestone::Finished => {}
            Milestone::Formed => {
                let restore = if step == Step(0) {
                    0.0
                } else {
                    self.durations.seconds("restore", &mut self.draw)
                };
                self.queue_at(
                    self.now + restore,
                    Happening::Reached(generation, Milestone::Loaded),
                );
            }
            Milestone::Loaded => {
                let place = self.pace.after(step.0);
                if let Some(gang) = &mut self.gang {
                    gang.since = Some((self.now, place));
                }
                self.set_pace();
                self.watch_saves(generation, WATCHED_SAVES);
                self.queue_at(self.now + GLANCE, Happening::Glance(generation));
                let first = self.pace.until(place, place.step + 1.0).unwrap_or(0.0);
                self.queue_at(
                    self.now + first,
                    Happening::Reached(generation, Milestone::Stepped),
                );
                let again = self
                    .pace
                    .until(place, self.best.step.floor())
                    .unwrap_or(0.0);
                self.queue_at(
                    self.now + again.max(first) + 0.001,
                    Happening::CaughtUp(generation),
                );
            }
            Milestone::Stepped => {}
        }
    }

    /// The gang does this step as its last.
    fn train_until(&mut self, boundary: f64) {
        let place = self.pace.after(boundary as u64);
        if let Some(gang) = &mut self.gang {
            (gang.since, gang.last) = (None, Some(place));
        }
        if place.step > self.best.step {
            self.best = place;
        }
    }

    pub(super) fn stopped_safely(&mut self, generation: Generation) {
        let Some(gang) = self
            .gang
            .as_ref()
            .filter(|g| g.generation == generation && g.is_whole)
        else {
            return;
        };
        let step = self.whole_steps();
        let seats: Vec<_> = gang.seats.iter().map(|(rank, at)| (*rank, *at)).collect();
        if let Some(gang) = &mut self.gang {
            gang.is_whole = false;
        }
        let checkpoint = CheckpointId { step, generation };
        let shards = self.shards(&seats, checkpoint);
        self.tell_all(shards);
        let mut reports = Vec::new();
        for (rank, at) in seats {
            let (why, state) = (Finish::Stopped, Digest([0; 32]));
            let finished = RankEvent::Finished { why, step, state };
            let exited = RankEvent::Exited {
                exit: Exit::Code(0),
                noticed_after_nanos: None,
            };
            for event in [finished, exited] {
                reports.extend(self.rank_reported(at, generation, rank, event));
            }
            self.machines[at].ranks.remove(&rank);
        }
        self.tell_all(reports);
    }

    fn shards(&self, seats: &[(Rank, usize)], checkpoint: CheckpointId) -> Vec<Event> {
        let shard = |rank: Rank| Shard {
            rank,
            file: format!("rank-{rank}.safetensors"),
            bytes: 1,
            hash: Digest([1; 32]),
        };
        let report = |rank| Report::ShardSaved {
            run: self.run.clone(),
            checkpoint,
            samples: checkpoint.step.0,
            shard: shard(rank),
        };
        let reports = seats.iter();
        reports
            .filter_map(|(rank, at)| self.reported(*at, report(*rank)))
            .collect()
    }

    /// Tells the engine of the newest checkpoint of this gang that is written by now.
    pub(super) fn tell_saves(&mut self) {
        let Some(gang) = &self.gang else { return };
        let trains = gang.since.map(|(_, place)| place);
        // One that stops at a step boundary has saved before as well.
        let Some(place) = trains.or(gang.last.filter(|_| gang.is_whole)) else {
            return;
        };
        let write = self.durations.seconds("save-write", &mut self.draw);
        let every = self.pace.save_every;
        let evaluated = if self.pace.evaluates(place) {
            place.evaluated
        } else {
            0.0
        };
        let newest = (place.step as u64 / every) * every;
        let mut steps = (0..3).map(|back| newest.saturating_sub(back * every));
        let is_written = |step: &u64| {
            *step > gang.resume
                && !gang.failed_saves.contains(step)
                && self
                    .pace
                    .until(self.pace.after(*step), place.step)
                    .is_some_and(|ago| ago + evaluated >= write)
        };
        let Some(step) = steps.find(is_written) else {
            return;
        };
        let checkpoint = CheckpointId {
            step: Step(step),
            generation: gang.generation,
        };
        self.show_save(step);
        let Some(gang) = &self.gang else { return };
        let seats: Vec<_> = gang.seats.iter().map(|(rank, at)| (*rank, *at)).collect();
        let shards = self.shards(&seats, checkpoint);
        self.tell_all(shards);
        self.deliver_now();
    }

    /// The engine sees how far a node has come.
    pub(super) fn beat(&mut self, at: usize, pages: Vec<Sighting>) {
        let beat = self.sign_of_life(at, pages);
        self.tell_all(beat.into_iter().collect());
    }

    /// A beat, if its node is there to give one.
    pub(super) fn sign_of_life(&self, at: usize, pages: Vec<Sighting>) -> Option<Event> {
        let machine = &self.machines[at];
        let session = machine.session.filter(|_| machine.is_up)?;
        let (node, run) = (machine.id.clone(), self.run.clone());
        let pages = (!pages.is_empty()).then_some(Pages {
            run,
            sightings: pages,
            matches: Vec::new(),
        });
        let beat = Beat {
            pages: pages.into_iter().collect(),
        };
        Some(Event::Beat {
            node,
            session,
            beat,
        })
    }

    /// The page of a rank that trains.
    pub(super) fn page(&self, generation: Generation, phase: Phase) -> Page {
        let step = self.whole_steps();
        Page {
            generation,
            phase,
            step,
            samples: step.0,
            loss: f32::NAN,
            grad_norm: f32::NAN,
            ..Page::default()
        }
    }

    pub(super) fn caught_up(&mut self, generation: Generation) {
        self.settle_progress();
        let Some(gang) = self
            .gang
            .as_ref()
            .filter(|g| g.generation == generation && g.is_whole)
        else {
            return;
        };
        let Some((rank, at)) = gang.seats.first_key_value().map(|(rank, at)| (*rank, *at)) else {
            return;
        };
        // It may have turned slow on the way.
        let best = self.best.step.floor();
        if let Some(more) = self.pace.until(self.place(), best) {
            return self.queue_at(self.now + more + 0.001, Happening::CaughtUp(generation));
        }
        let page = self.page(generation, Phase::Step);
        self.beat(at, vec![Sighting { rank, page }]);
    }

    /// The run came to an end that the history does not know: somebody has to see to it.
    pub(super) fn ended(&mut self, state: RunState, cause: Cause) {
        match state {
            RunState::Stopped => self.queue_at(self.now, Happening::Human),
            RunState::Failed | RunState::Parked => {
                self.told
                    .humans
                    .push((self.now, format!("{state}: {cause}")));
                self.queue_in("then-human", Happening::Human);
            }
            RunState::Pending
            | RunState::Starting
            | RunState::Running
            | RunState::Recovering
            | RunState::Stopping
            | RunState::Completed => {}
        }
    }

    pub(super) fn human(&mut self) {
        self.ask(Ask::Resume {
            run: self.run.clone(),
            layout: None,
        });
    }
}
