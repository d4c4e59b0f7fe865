//! What a fault of the history does to machines and ranks, and how that comes to be noticed.

use super::{Fleet, Happening};
use crate::replay::scenario::{Kind, Moment};
use rebloom_core::cause::Exit;
use rebloom_core::engine::{Ask, Event};
use rebloom_core::flight::{Channel, Counter, Page, Phase, Sighting};
use rebloom_core::guard::{Samples, Spike};
use rebloom_core::health::signal::{Sign, Signal};
use rebloom_core::health::xid;
use rebloom_core::id::{Generation, Rank, Slot};
use rebloom_core::report::{RankEvent, Report};
use std::collections::BTreeMap;

/// A fault that needs a gang and finds none comes so much later.
pub(super) const LATER: f64 = 300.0;
/// Of how many steps every rank shows one where the gang is slow.
const BUSY_EVERY: u32 = 8;
/// Part of a step in which a rank of a sound node is busy.
const BUSY: f64 = 0.8;

impl Fleet<'_> {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault(fault) => self.fault(fault),
            Happening::DuringSave(fault, generation) => self.strike_save(fault, generation),
            Happening::StorageFull(fault, until) => self.storage_full(fault, until),
            Happening::SaveFails(fault, until, generation) => {
                self.save_fails(fault, until, generation);
            }
            Happening::EvalHang(fault) => self.hang_in_evaluation(fault),
            Happening::Report(at, session, report) => self.deliver(at, session, report),
            Happening::LinkBroken(at, session) => {
                let machine = &mut self.machines[at];
                if machine.session == Some(session) {
                    machine.session = None;
                    let node = machine.id.clone();
                    self.tell(Event::Left { node, session });
                }
            }
            Happening::Back(at) => {
                self.machines[at].is_up = true;
                self.join(at);
            }
            Happening::Replaced(at, slot) => self.replaced(at, slot),
            Happening::Pace(generation, left) => self.show_pace(generation, left),
            Happening::Glance(generation) => self.glance(generation),
            Happening::SaveBegins(generation, left) => self.save_begins(generation, left),
            Happening::SaveWritten(generation) => self.save_written(generation),
            Happening::SlowFound(at, fault) => self.slow_found(at, fault),
            Happening::Mended(at) => self.mended(at),
            Happening::Reached(generation, milestone) => self.reached(generation, milestone),
            Happening::CaughtUp(generation) => self.caught_up(generation),
            Happening::Stopped(generation) => self.stopped_safely(generation),
            Happening::Overdue(generation, rank, phase) => self.overdue(generation, rank, phase),
            Happening::Human => self.human(),
            Happening::Beats => {
                self.all_beat();
                self.queue_at(self.now + super::BEAT, Happening::Beats);
            }
        }
    }

    fn fault(&mut self, number: usize) {
        if self.faults[number].during == Some(Moment::Save) {
            return self.wait_for_save(number);
        }
        self.strike(number);
    }

    pub(super) fn strike(&mut self, number: usize) {
        let faults = self.faults;
        let fault = &faults[number];
        if fault.kind == Kind::Site {
            self.told.struck.push((self.now, number));
            return self.site_down(fault.hours);
        }
        let is_training = self
            .gang
            .as_ref()
            .is_some_and(|gang| gang.is_whole && gang.since.is_some());
        let Some((rank, at)) = self
            .victim(number)
            .filter(|_| is_training || hits_anything(fault.kind))
        else {
            // Steps and saves can only go wrong where there are some.
            return self.queue_at(self.now + LATER, Happening::Fault(number));
        };
        match fault.kind {
            Kind::Process | Kind::Gpu => {
                self.about_to_break(number, at);
                let process = self.machines[at].ranks.remove(&rank);
                let Some(process) = process else { return };
                if fault.kind == Kind::Gpu {
                    self.machines[at].broken.insert(process.slot);
                    self.queue_in("repair-gpu", Happening::Replaced(at, process.slot));
                    // The kernel says so before the process has ended.
                    let (code, detail) = (fault.xid, meaning(fault.xid));
                    let sign = Sign::Xid { code, detail };
                    let signal = Signal::raised(Some(process.slot), sign);
                    self.say_now(at, Report::Signal { signal });
                }
                self.exited(at, rank, process.generation);
            }
            Kind::Node => {
                self.about_to_break(number, at);
                self.power_off(at);
                self.queue_in("repair-node", Happening::Back(at));
            }
            Kind::Hang => self.hang(number, rank, Phase::Step),
            Kind::EvalHang => self.queue_at(self.now, Happening::EvalHang(number)),
            Kind::Slow => {
                self.told.struck.push((self.now, number));
                self.machines[at].slowdown = fault.slowdown;
                self.set_pace();
                let found = self.now + fault.then_hours * 3600.0;
                self.queue_at(found, Happening::SlowFound(at, number));
            }
            Kind::Storage => {
                let until = fault.at.as_secs_f64() + fault.hours * 3600.0;
                let until = (fault.hours > 0.0).then_some(until);
                self.storage_full(number, until);
            }
            Kind::Planned => {
                self.told.struck.push((self.now, number));
                self.settle_progress();
                self.caught_up(self.generation());
                self.stop_safely();
            }
            Kind::Spike => self.spike(number, rank, at),
            Kind::Site => {}
        }
    }

    /// The guard of a rank sees a step whose figures run away, and warns.
    fn spike(&mut self, number: usize, rank: Rank, at: usize) {
        self.told.struck.push((self.now, number));
        self.settle_progress();
        let step = self.whole_steps();
        let spike = Spike {
            step,
            consumed: step.0,
            samples: Samples {
                from: step.0,
                until: step.0 + 1,
            },
            reading: self.faults[number].name.clone(),
        };
        let event = RankEvent::Spiked {
            spike,
            goes_on: true,
        };
        let event = self.rank_reported(at, self.generation(), rank, event);
        self.tell_all(event.into_iter().collect());
    }

    fn all_beat(&mut self) {
        let machines = 0..self.machines.len();
        let beats = machines.filter_map(|at| self.sign_of_life(at, Vec::new()));
        let beats: Vec<_> = beats.collect();
        self.tell_all(beats);
    }

    pub(super) fn generation(&self) -> Generation {
        self.gang
            .as_ref()
            .map_or(Generation(0), |gang| gang.generation)
    }

    /// The rank that a fault hits, and where it is.
    pub(super) fn victim(&self, number: usize) -> Option<(Rank, usize)> {
        let fault = &self.faults[number];
        let gang = self.gang.as_ref()?;
        let seats: Vec<(Rank, usize)> = gang
            .seats
            .iter()
            .filter(|(rank, at)| {
                self.machines[**at].is_up && self.machines[**at].ranks.contains_key(*rank)
            })
            .map(|(rank, at)| (*rank, *at))
            .collect();
        let lemons: Vec<_> = seats
            .iter()
            .filter(|(_, at)| fault.lemon && *at < self.scenario.lemons as usize)
            .copied()
            .collect();
        let among = if lemons.is_empty() { seats } else { lemons };
        let at = (fault.whom * among.len() as f64) as usize;
        among.get(at.min(among.len().saturating_sub(1))).copied()
    }

    /// The gang did what it did until now; then something of it goes.
    fn about_to_break(&mut self, number: usize, at: usize) {
        self.told.struck.push((self.now, number));
        self.settle_progress();
        self.tell_saves();
        let generation = self.generation();
        let page = self.page(generation, Phase::Step);
        let rank = self.machines[at].ranks.keys().next().copied();
        let trains = self.gang.as_ref().is_some_and(|gang| gang.since.is_some());
        let sightings = rank.filter(|_| trains).map(|rank| Sighting { rank, page });
        self.beat(at, sightings.into_iter().collect());
        if let Some(gang) = &mut self.gang {
            gang.is_whole = false;
            gang.last = gang.since.take().map(|(_, place)| place);
        }
    }

    fn exited(&mut self, at: usize, rank: Rank, generation: Generation) {
        let after = self.durations.seconds("notice-exit", &mut self.draw);
        let event = RankEvent::Exited {
            exit: Exit::Signal(6),
            noticed_after_nanos: Some((after * 1e9) as u64),
        };
        let report = Report::Rank {
            run: self.run.clone(),
            generation,
            rank,
            event,
        };
        if let Some(session) = self.machines[at].session {
            self.queue_at(self.now + after, Happening::Report(at, session, report));
        }
    }

    /// A device was replaced, and its node booted for that, once nothing ran on it any more.
    fn replaced(&mut self, at: usize, slot: Slot) {
        if !self.machines[at].ranks.is_empty() {
            return self.queue_at(self.now + 3600.0, Happening::Replaced(at, slot));
        }
        self.machines[at].broken.remove(&slot);
        self.booted(at);
    }

    fn power_off(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.is_up = false;
        machine.ranks.clear();
        if let Some(session) = machine.session {
            self.queue_in("notice-silence", Happening::LinkBroken(at, session));
        }
    }

    fn site_down(&mut self, hours: f64) {
        let first = self
            .gang
            .as_ref()
            .and_then(|gang| gang.seats.values().next().copied());
        if let Some(at) = first {
            self.settle_progress();
            self.tell_saves();
            let generation = self.generation();
            let page = self.page(generation, Phase::Step);
            let rank = Rank(0);
            self.beat(at, vec![Sighting { rank, page }]);
        }
        if let Some(gang) = &mut self.gang {
            gang.is_whole = false;
            gang.last = gang.since.take().map(|(_, place)| place);
        }
        self.all_beat();
        for at in 0..self.machines.len() {
            if self.machines[at].is_up {
                self.power_off(at);
                self.queue_at(self.now + hours * 3600.0, Happening::Back(at));
            }
        }
    }

    fn hang_in_evaluation(&mut self, number: usize) {
        self.settle_progress();
        let trains = self
            .gang
            .as_ref()
            .and_then(|gang| gang.since.filter(|_| gang.is_whole));
        let Some((_, place)) = trains else {
            return self.queue_at(self.now + LATER, Happening::EvalHang(number));
        };
        if self.pace.evaluates(place) {
            let rank = self.victim(number).map(|(rank, _)| rank);
            return rank
                .into_iter()
                .for_each(|rank| self.hang(number, rank, Phase::Eval));
        }
        let Some(until) = self.pace.until_evaluation(place) else {
            return;
        };
        let part = self.scenario.work.eval_seconds * self.faults[number].whom;
        self.queue_at(self.now + until + part, Happening::EvalHang(number));
    }

    /// A rank stops; the others wait for it until a deadline passes.
    fn hang(&mut self, number: usize, culprit: Rank, phase: Phase) {
        let Some(at) = self
            .gang
            .as_ref()
            .and_then(|gang| gang.seats.get(&culprit).copied())
        else {
            return;
        };
        self.about_to_break(number, at);
        let usual = match phase {
            Phase::Eval => self.scenario.work.eval_seconds,
            Phase::Idle | Phase::Init | Phase::Load | Phase::Step | Phase::Save | Phase::Exit => {
                self.scenario.work.step_seconds
            }
        };
        let deadline = usual * self.durations.median("deadline-factor");
        let generation = self.generation();
        self.queue_at(
            self.now + deadline,
            Happening::Overdue(generation, culprit, phase),
        );
    }

    /// The deadline of a phase passes: agents say so and show all pages.
    fn overdue(&mut self, generation: Generation, culprit: Rank, phase: Phase) {
        let Some(gang) = self
            .gang
            .as_ref()
            .filter(|gang| gang.generation == generation)
        else {
            return;
        };
        let seats: Vec<_> = gang.seats.iter().map(|(rank, at)| (*rank, *at)).collect();
        let Some((first, at)) = seats.iter().find(|(rank, _)| *rank != culprit).copied() else {
            return;
        };
        let overdue = self.rank_reported(
            at,
            generation,
            first,
            RankEvent::Overdue { phase, step: None },
        );
        self.tell_all(overdue.into_iter().collect());
        self.pass_a_moment();
        let mut pages: BTreeMap<usize, Vec<Sighting>> = BTreeMap::new();
        let world = Channel::ALL
            .iter()
            .position(|channel| *channel == Channel::World)
            .unwrap_or_default();
        for (rank, at) in seats {
            let mut page = self.page(generation, phase);
            // Everybody waits in the collective that the culprit has not come to.
            let (entered, done) = if rank == culprit { (1, 1) } else { (2, 1) };
            page.counters[world] = Counter { entered, done };
            pages.entry(at).or_default().push(Sighting { rank, page });
        }
        let pages = pages.into_iter();
        let beats = pages.filter_map(|(at, sightings)| self.sign_of_life(at, sightings));
        let beats: Vec<_> = beats.collect();
        self.tell_all(beats);
    }

    /// The page of a rank that has done a step on this machine.
    pub(super) fn paced_page(&self, generation: Generation, at: usize) -> Page {
        let busy = self.pace.work.step_seconds * (1.0 + self.machines[at].slowdown);
        Page {
            step_nanos: (self.pace.step_seconds() * 1e9) as u64,
            busy_nanos: (busy * BUSY * 1e9) as u64,
            ..self.page(generation, Phase::Step)
        }
    }

    /// The first rank shows its page, now and then every rank; it does so after each of the next steps.
    fn show_pace(&mut self, generation: Generation, left: u32) {
        self.settle_progress();
        let gang = self.gang.as_ref();
        let gang = gang.filter(|gang| gang.generation == generation && gang.is_whole);
        let Some((gang, (_, place))) = gang.and_then(|gang| Some((gang, gang.since?))) else {
            return;
        };
        // Where all are busy for equally long, one page says as much as all.
        let is_slow = self.pace.slowdown > 0.0 && left.is_multiple_of(BUSY_EVERY);
        let shown = if is_slow { gang.seats.len() } else { 1 };
        let mut pages: BTreeMap<usize, Vec<Sighting>> = BTreeMap::new();
        for (rank, at) in gang.seats.iter().take(shown) {
            let page = self.paced_page(generation, *at);
            pages
                .entry(*at)
                .or_default()
                .push(Sighting { rank: *rank, page });
        }
        let pages = pages.into_iter();
        let beats = pages.filter_map(|(at, sightings)| self.sign_of_life(at, sightings));
        let beats: Vec<_> = beats.collect();
        self.tell_all(beats);
        // A slow gang goes on showing it: there may be room without the slow node later.
        let (steps, left) = match left {
            0 if self.pace.slowdown > 0.0 => (f64::from(BUSY_EVERY), 0),
            0 => return,
            left => (1.0, left - 1),
        };
        if let Some(next) = self.pace.until(place, place.step.floor() + steps) {
            // A little later, so that the step is done.
            self.queue_at(self.now + next + 0.001, Happening::Pace(generation, left));
        }
    }

    /// What people would have found by now, and the engine has not: an admin drains the node, which counts
    /// as an intervention.
    fn slow_found(&mut self, at: usize, fault: usize) {
        let gang = self.gang.as_ref();
        let is_used = gang.is_some_and(|gang| gang.seats.values().any(|seat| *seat == at));
        if self.machines[at].slowdown == 0.0 || !is_used {
            return;
        }
        let (id, name) = (self.machines[at].id.clone(), &self.faults[fault].name);
        self.told
            .humans
            .push((self.now, format!("{name}: drained {id}")));
        self.settle_progress();
        self.caught_up(self.generation());
        self.ask(Ask::Drain {
            node: id,
            dry_run: false,
        });
        self.queue_in("repair-gpu", Happening::Mended(at));
    }

    fn mended(&mut self, at: usize) {
        self.machines[at].slowdown = 0.0;
        self.set_pace();
        let node = self.machines[at].id.clone();
        self.told.given_back += 1;
        self.ask(Ask::Uncordon { node });
    }
}

/// Whether a fault strikes also where nothing trains.
const fn hits_anything(kind: Kind) -> bool {
    matches!(kind, Kind::Process | Kind::Gpu | Kind::Node)
}

/// What the kernel log says of an XID, by the catalogue.
fn meaning(code: u32) -> String {
    match xid::look_up(code).meaning {
        "" => "which the catalogue has no words for".to_owned(),
        meaning => meaning.to_owned(),
    }
}
