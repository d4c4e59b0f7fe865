//! A fleet that lives through a history under the real engine.
//!
//! Time is driven by events: faults, the durations that follow from orders, and the engine's own
//! deadlines. While nothing happens nothing is simulated: links stay silent for half a day (the
//! engine's limit is a day here, and the silence of a node shows at its link, as `notice-silence`
//! says), and checkpoints are told to the engine when they come to matter. It decides nothing.

mod answers;
mod harm;
mod saves;

use super::draw::{Draw, Fault};
use super::durations::Durations;
use super::machine::Machine;
use super::pace::{Pace, Place};
use super::scenario::Scenario;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Ask, Command, Engine, Event, Fact, Limits, Record, RunView, Ticket};
use rebloom_core::health::signal::{Sign, Signal};
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId, Session, Step};
use rebloom_core::order::Stop;
use rebloom_core::report::{Milestone, RankEvent, Report};
use rebloom_core::spec::RunSpec;
use rebloom_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// How often a link gives a sign of life; the engine gives up twice as late.
const BEAT: f64 = 43_200.0;

/// Steps that the engine sees after the pace may have changed; more tell it nothing new.
const PACE_STEPS: u32 = 48;

/// Something that will happen.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// A fault of the history, by its place in the list.
    Fault(usize),
    /// A fault that waited for a save in this generation, which is half written now.
    DuringSave(usize, Generation),
    /// The storage is full, for the next save or until then: by the place of the fault in the list.
    StorageFull(usize, Option<f64>),
    /// A save of this generation begins, and fails.
    SaveFails(usize, Option<f64>, Generation),
    /// The rank stops in an evaluation, if one is under way.
    EvalHang(usize),
    /// An agent reports.
    Report(usize, Session, Report),
    /// A link turns out to be broken.
    LinkBroken(usize, Session),
    /// A node is back.
    Back(usize),
    /// A device was replaced.
    Replaced(usize, rebloom_core::id::Slot),
    /// The gang shows its pace, and so often again, a step later each time.
    Pace(Generation, u32),
    /// The gang shows a page, as it does all the time, and again an hour later.
    Glance(Generation),
    /// A save of this generation begins; so many more are watched.
    SaveBegins(Generation, u32),
    /// The save that began is written.
    SaveWritten(Generation),
    /// People would have found the slow node by now.
    SlowFound(usize, usize),
    /// A slow node is as fast as the others again.
    Mended(usize),
    /// The gang reaches a milestone.
    Reached(Generation, Milestone),
    /// The gang has done again what it had done before.
    CaughtUp(Generation),
    /// The gang has stopped at a step boundary.
    Stopped(Generation),
    /// A deadline passed: the gang hangs, for a rank.
    Overdue(Generation, Rank, rebloom_core::flight::Phase),
    /// Somebody solves what needed a human.
    Human,
    /// Every link gives a sign of life.
    Beats,
}

/// The gang that was placed last.
#[derive(Debug)]
pub(super) struct Gang {
    pub(super) generation: Generation,
    pub(super) resume: u64,
    /// Node of each rank, by place in the list of machines.
    pub(super) seats: BTreeMap<Rank, usize>,
    /// Whether a process had to be started.
    pub(super) spawns: bool,
    /// Whether it can still step.
    pub(super) is_whole: bool,
    /// Since when it trains, and from where.
    pub(super) since: Option<(f64, Place)>,
    /// Where it stopped for good, once it has.
    pub(super) last: Option<Place>,
    /// Saves that failed.
    pub(super) failed_saves: BTreeSet<u64>,
    /// Saves that were seen while they held the gang up.
    pub(super) seen_saves: BTreeSet<u64>,
}

/// One replay.
#[derive(Debug)]
pub(super) struct Fleet<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) durations: &'a Durations,
    pub(super) faults: &'a [Fault],
    pub(super) draw: Draw,
    pub(super) engine: Engine,
    pub(super) run: RunId,
    pub(super) pace: Pace,
    /// Nanoseconds since the beginning.
    nanos: u64,
    /// The same in seconds.
    pub(super) now: f64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) gang: Option<Gang>,
    /// Most that was ever done.
    pub(super) best: Place,
    pub(super) next_pid: u32,
    next_session: u64,
    pub(super) told: Told,
}

/// What is told of a replay besides the engine's own account.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Faults as they struck: when, which.
    pub(super) struck: Vec<(f64, usize)>,
    /// Times that a human had to act, and why.
    pub(super) humans: Vec<(f64, String)>,
    /// What was against each node when the run had lost its place, where it is asked for.
    pub(super) waits: Vec<(Instant, String)>,
    /// Times that people who had repaired a node gave it back to the engine.
    pub(super) given_back: u32,
    /// Events that the engine was told.
    pub(super) events: u64,
    /// Whether the engine has said what a save costs.
    pub(super) knows_saves: bool,
    /// What was decided, where it is asked for.
    pub(super) journal: Option<Vec<Record>>,
}

impl<'a> Fleet<'a> {
    /// The fleet of a scenario, all nodes up, the run submitted.
    pub(super) fn new(
        scenario: &'a Scenario,
        durations: &'a Durations,
        (faults, seed): (&'a [Fault], u64),
        spec: RunSpec,
        keeps_journal: bool,
    ) -> Self {
        let limits = Limits {
            silent_after: Duration::from_secs_f64(2.0 * BEAT),
            ..Limits::default()
        };
        let pace = Pace {
            work: scenario.work,
            save_every: spec.checkpoint.every_steps,
            save_stall: durations.median("save-stall"),
            slowdown: 0.0,
        };
        let cluster = &scenario.cluster;
        let mut fleet = Self {
            scenario,
            durations,
            faults,
            draw: Draw::new(seed, 0xf1ee7),
            engine: Engine::new(limits),
            run: spec.name.clone(),
            pace,
            nanos: 0,
            now: 0.0,
            queue: BTreeMap::new(),
            queued: 0,
            machines: (0..cluster.nodes)
                .map(|at| Machine::new(at, cluster.ranks_per_node))
                .collect(),
            gang: None,
            best: pace.after(0),
            next_pid: 1,
            next_session: 1,
            told: Told {
                journal: keeps_journal.then(Vec::new),
                ..Told::default()
            },
        };
        (0..fleet.machines.len()).for_each(|at| fleet.join(at));
        let ask = Ask::Submit {
            spec: Box::new(spec),
            dry_run: false,
        };
        fleet.ask(ask);
        for (at, fault) in faults.iter().enumerate() {
            fleet.queue_at(fault.at.as_secs_f64(), Happening::Fault(at));
        }
        fleet.queue_at(BEAT, Happening::Beats);
        fleet
    }

    /// Lives through the whole history; what the engine says of the run at its end.
    pub(super) fn live(&mut self) -> RunView {
        let end = self.scenario.days * 86_400.0;
        loop {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let wake = self.engine.poll_timeout().map(Instant::as_nanos);
            let at = next.into_iter().chain(wake).min().unwrap_or(u64::MAX);
            if at as f64 / 1e9 >= end {
                break;
            }
            self.pass_to(at);
            if wake.is_some_and(|wake| wake <= at) {
                self.told.events += 1;
                let now = self.instant();
                self.engine.handle_timeout(now);
                self.drain();
            } else if let Some((_, happening)) = self.queue.pop_first() {
                self.happen(happening);
            }
        }
        self.pass_to((end * 1e9) as u64);
        self.note_why_it_waits();
        self.settle_progress();
        self.engine
            .run(&self.run, self.instant())
            .expect("it was submitted")
    }

    /// It is so late now; time does not go back.
    pub(super) fn pass_to(&mut self, nanos: u64) {
        self.nanos = self.nanos.max(nanos);
        self.now = self.nanos as f64 / 1e9;
    }

    /// A millisecond passes.
    pub(super) fn pass_a_moment(&mut self) {
        self.pass_to(self.nanos + 1_000_000);
    }

    pub(super) fn instant(&self) -> Instant {
        Instant::from_nanos(self.nanos)
    }

    pub(super) fn queue_at(&mut self, seconds: f64, happening: Happening) {
        self.queued += 1;
        let at = ((seconds * 1e9) as u64).max(self.nanos);
        self.queue.insert((at, self.queued), happening);
    }

    pub(super) fn queue_in(&mut self, name: &str, happening: Happening) {
        let after = self.durations.seconds(name, &mut self.draw);
        self.queue_at(self.now + after, happening);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.tell_all(vec![event]);
    }

    /// What is against each node, once those that the run had to leave have been cleared.
    fn note_why_it_waits(&mut self) {
        let now = self.instant();
        let newest = self.told.waits.last_mut();
        let settled = |(at, why): &&mut (Instant, String)| {
            why.is_empty() && now.since(*at) >= Duration::from_secs(1)
        };
        if let Some((_, why)) = newest.filter(settled)
            && let Some(view) = self.engine.run(&self.run, now)
        {
            *why = view.waits_for;
        }
    }

    /// What comes from many nodes at the same moment.
    pub(super) fn tell_all(&mut self, events: Vec<Event>) {
        self.note_why_it_waits();
        self.told.events += events.len() as u64;
        let now = self.instant();
        self.engine.handle_all(now, events);
        self.drain();
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.tell(Event::Ask {
            ticket: Ticket(0),
            ask,
        });
    }

    /// A report, if its node is there to give it.
    pub(super) fn reported(&self, at: usize, report: Report) -> Option<Event> {
        let machine = &self.machines[at];
        let session = machine.session.filter(|_| machine.is_up)?;
        Some(Event::Report {
            node: machine.id.clone(),
            session,
            report,
        })
    }

    /// The same of a rank.
    pub(super) fn rank_reported(
        &self,
        at: usize,
        generation: Generation,
        rank: Rank,
        event: RankEvent,
    ) -> Option<Event> {
        let report = Report::Rank {
            run: self.run.clone(),
            generation,
            rank,
            event,
        };
        self.reported(at, report)
    }

    pub(super) fn join(&mut self, at: usize) {
        let session = Session(self.next_session);
        self.next_session += 1;
        self.machines[at].session = Some(session);
        let join = self.machines[at].join(&self.run);
        let mut identity = [0; 32];
        identity[..8].copy_from_slice(&(at as u64).to_be_bytes());
        self.tell(Event::Joined {
            session,
            identity: Digest(identity),
            join,
        });
        self.booted(at);
    }

    /// The probes of a node begin anew after a boot.
    pub(super) fn booted(&mut self, at: usize) {
        let boot = self.nanos;
        let signal = Signal::raised(None, Sign::ProbesStarted { boot });
        let report = self.reported(at, Report::Signal { signal });
        self.tell_all(report.into_iter().collect());
    }

    /// Takes what a gang has done so far as done.
    pub(super) fn settle_progress(&mut self) {
        let Some(gang) = &mut self.gang else { return };
        if let Some((since, from)) = gang.since {
            let place = self.pace.later(from, self.now - since);
            gang.since = Some((self.now, place));
            if place.step > self.best.step
                || (place.step == self.best.step && place.evaluated > self.best.evaluated)
            {
                self.best = place;
            }
        }
    }

    /// The pace of the slowest node of the gang, from which the engine sees some steps.
    pub(super) fn set_pace(&mut self) {
        self.settle_progress();
        let Some(gang) = &self.gang else { return };
        let slow = gang.seats.values().map(|at| self.machines[*at].slowdown);
        self.pace.slowdown = slow.fold(0.0, f64::max);
        let generation = gang.generation;
        self.queue_at(self.now, Happening::Pace(generation, PACE_STEPS));
    }

    pub(super) fn machine_of(&self, node: &NodeId) -> usize {
        let at = self
            .machines
            .binary_search_by(|machine| machine.id.cmp(node));
        at.expect("the engine knows only nodes that joined")
    }

    fn drain(&mut self) {
        while let Some(command) = self.engine.poll_command() {
            match command {
                Command::Persist(record) => self.persisted(record),
                Command::Send { node, order, .. } => {
                    let at = self.machine_of(&node);
                    if self.machines[at].is_up {
                        self.obey(at, order);
                    }
                }
                Command::Refuse { .. } | Command::Answer { .. } => {}
            }
        }
    }

    fn persisted(&mut self, record: Record) {
        self.told.knows_saves |= matches!(record.fact, Fact::PaceSeen { save: Some(_), .. });
        if let Fact::RunEnded { state, cause, .. } = &record.fact {
            self.ended(*state, cause.clone());
        }
        if let Fact::IncidentOpened {
            cause: Cause::NodeSlow { node },
            ..
        } = &record.fact
        {
            let at = self.machine_of(node);
            self.queue_in("repair-gpu", Happening::Mended(at));
        }
        let is_detail = matches!(
            record.fact,
            Fact::RankReached { .. }
                | Fact::ShardSaved { .. }
                | Fact::RankFinished { .. }
                | Fact::RankGone { .. }
        );
        if self.told.journal.is_some() && matches!(record.fact, Fact::Unplaced { .. }) {
            self.told.waits.push((record.at, String::new()));
        }
        if let Some(journal) = self.told.journal.as_mut().filter(|_| !is_detail) {
            journal.push(record);
        }
    }

    /// Asks for a stop at a step boundary, once the gang trains.
    pub(super) fn stop_safely(&mut self) {
        self.ask(Ask::Stop {
            run: self.run.clone(),
            how: Stop::Safely,
        });
    }

    /// Where the gang is: by its training, its last step, or what it will resume from.
    pub(super) fn place(&self) -> Place {
        let Some(gang) = &self.gang else {
            return self.pace.after(0);
        };
        let trains = gang.since.map(|(_, place)| place);
        trains
            .or(gang.last)
            .unwrap_or_else(|| self.pace.after(gang.resume))
    }

    /// Steps done, whole ones.
    pub(super) fn whole_steps(&self) -> Step {
        Step(self.place().step as u64)
    }

    /// Hands over what is to be said at this very moment.
    pub(super) fn deliver_now(&mut self) {
        loop {
            let mut due = self.queue.range(..=(self.nanos, u64::MAX));
            let next = due.find(|(_, what)| matches!(what, Happening::Report(..)));
            let Some(key) = next.map(|(key, _)| *key) else {
                return;
            };
            if let Some(Happening::Report(at, session, report)) = self.queue.remove(&key) {
                self.deliver(at, session, report);
            }
        }
    }
}
