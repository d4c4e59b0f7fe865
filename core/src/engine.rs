//! The controller's machine: places runs, watches them, recovers them.
//!
//! Its state is the fold of its journal. An [`Event`] that tells something new becomes one or more
//! facts; each fact is applied to the state and handed out as [`Command::Persist`] before any command
//! that depends on it. Replaying the journal gives the same state, and the first join of each agent
//! after it brings back what was going on. Beats and links are not journaled.

mod admin;
mod agenda;
mod apply;
mod audit;
mod command;
mod event;
mod explain;
mod fact;
mod hang;
mod health;
mod join;
mod ledger;
mod lifecycle;
mod links;
mod nodes;
mod orders;
mod placement;
mod queue;
mod recovery;
mod reports;
mod rules;
mod seal;
mod seating;
mod show;
mod slow;
mod snapshots;
mod spikes;
mod state;
mod view;

pub use audit::{Violation, judge};
pub use command::{Answer, Command, Refusal};
pub use event::{Ask, Event, Ticket};
pub use fact::{Fact, Record};
pub use seating::{Placement, Position, Seating};
pub use state::State;
pub use view::{
    CheckpointState, HealthRuleView, Incident, Ledger, Milepost, NodeHealth, NodeState, NodeView,
    RankView, RuleHit, RunState, RunView, SnapshotView, Spend, Transition,
};

use crate::by_name::ByName;
use crate::footprint::Tariff;
use crate::id::RunId;
pub use crate::ladder::Rung;
use crate::placement::Floor;
use crate::snapshot::Shelf;
use crate::time::{Duration, Instant};
use agenda::Agenda;
use hang::Watch;
use links::Links;
use orders::Desk;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What an admin configured for the whole cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How often an agent gives a sign of life.
    pub beat_every: Duration,
    /// An agent silent for this long is lost, unless its link broke: see `rejoin_within`.
    pub silent_after: Duration,
    /// An agent whose link broke is lost when it has not joined again within this time. Longer than
    /// an agent needs to be restarted, since its ranks train on meanwhile.
    pub rejoin_within: Duration,
    /// Agents and workers that hear from nobody for this long fence themselves; only after it may
    /// a run none of whose nodes can be reached be started elsewhere (S1).
    pub orphan_after: Duration,
    /// What energy costs where the devices are; their own power is known by their name.
    pub tariff: Tariff,
    /// Largest share of the fleet that automatic verdicts may withdraw (S8), 0 to 1.
    pub withdraw_share: f64,
    /// A run that waited for so long is placed before all others, and then has its place for as long
    /// before it can be preempted (L3).
    pub starve_after: Duration,
    /// What a broken gang had to leave is held for it for so long, while a node of it may come back.
    pub hold_for: Duration,
    /// Whether new runs leave as many whole nodes free as faults will take within a repair time.
    pub keep_spares: bool,
    /// The windows and counts that the rules of health go by.
    pub health: crate::health::Windows,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            beat_every: Duration::from_millis(500),
            silent_after: Duration::from_secs(5),
            rejoin_within: Duration::from_secs(3),
            orphan_after: Duration::from_secs(300),
            tariff: Tariff::default(),
            withdraw_share: 0.5,
            starve_after: Duration::from_secs(6 * 3600),
            hold_for: Duration::from_secs(600),
            keep_spares: true,
            health: crate::health::Windows::default(),
        }
    }
}

/// The controller's machine.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    state: State,
    /// The latest moment it was told; time never goes back in here.
    now: Instant,
    /// When this engine was first told anything: what it remembers may be older than the world.
    began: Option<Instant>,
    /// Since when it was called whenever it asked to be: before that it may have been the one who slept.
    awake: Instant,
    /// Whether its journal may lack its last moments, and what it lacks is not known yet.
    doubts: bool,
    links: Links,
    /// Who holds what, and where there is room: derived from the state.
    floor: Floor,
    agenda: Agenda,
    watches: ByName<RunId, Watch>,
    /// Runs that will be judged once all their nodes have shown their pages.
    judging: BTreeSet<RunId>,
    /// Runs that the last event placed, for the audit.
    placed: Vec<RunId>,
    desk: Desk,
    /// What lies in the memories of nodes, by run; never journaled.
    snapshots: BTreeMap<RunId, Shelf>,
    ward: health::Ward,
    out: VecDeque<Command<Record>>,
    refusals: BTreeMap<&'static str, u64>,
    wake: Option<Instant>,
}

impl Engine {
    /// An engine that was told nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self::from_snapshot(limits, State::default(), [])
    }

    /// The engine that wrote this journal, as far as the journal goes. It commands nothing before its
    /// first event.
    pub fn replay(limits: Limits, records: impl IntoIterator<Item = Record>) -> Self {
        Self::from_snapshot(limits, State::default(), records)
    }

    /// The same from a snapshot and the records that came after it.
    pub fn from_snapshot(
        limits: Limits,
        state: State,
        tail: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut engine = Self {
            limits,
            state,
            now: Instant::ZERO,
            began: None,
            awake: Instant::ZERO,
            doubts: false,
            links: Links::default(),
            floor: Floor::default(),
            agenda: Agenda::default(),
            watches: ByName::default(),
            judging: BTreeSet::new(),
            placed: Vec::new(),
            desk: Desk::default(),
            snapshots: BTreeMap::new(),
            ward: health::Ward::default(),
            out: VecDeque::new(),
            refusals: BTreeMap::new(),
            wake: None,
        };
        for record in tail {
            engine.now = engine.now.max(record.at);
            engine.state.apply(record.at, &record.fact);
        }
        engine
    }

    /// Says that the journal may lack its last moments: the machine lost its power, not the process
    /// its life. Then one of the nodes may run a generation that is not in it, so nothing is placed
    /// until each has joined, or has surely fenced itself (S1).
    #[must_use]
    pub const fn in_doubt(mut self) -> Self {
        self.doubts = true;
        self
    }

    /// The durable state: the fold of the journal up to the last `Persist` that was handed out.
    pub const fn snapshot(&self) -> &State {
        &self.state
    }

    /// How often each kind of thing was refused or dropped since this engine was made.
    pub const fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    /// What the engine was configured with.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Tells the engine something.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.handle_all(now, [event]);
    }

    /// Tells the engine several things that came at the same moment, in order; it decides once, after
    /// the last. For a driver that finds more than one waiting.
    pub fn handle_all(&mut self, now: Instant, events: impl IntoIterator<Item = Event>) {
        self.begin(now);
        events.into_iter().for_each(|event| self.take_in(event));
        self.settle();
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Ask { ticket, ask } => {
                let answer = self.ask(ask);
                self.out.push_back(Command::Answer { ticket, answer });
            }
            Event::Joined {
                session,
                identity,
                join,
            } => self.joined(session, identity, join),
            Event::Left { node, session } => self.left(&node, session),
            Event::Beat {
                node,
                session,
                beat,
            } => self.beat(&node, session, beat),
            Event::Report {
                node,
                session,
                report,
            } => self.report(&node, session, report),
        }
    }

    /// Tells the engine that the moment it asked for has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.begin(now);
        self.settle();
    }

    /// The next thing to do; drain until none after every `handle*`.
    pub fn poll_command(&mut self) -> Option<Command<Record>> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next. None also before the first event: a driver that
    /// starts from a journal calls `handle_timeout` once to set the clocks going.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
        // What it was told meanwhile may still wait for it: silence counts from here.
        let late = |due| self.now > due + self.limits.beat_every;
        if self.wake.is_some_and(late) {
            self.awake = self.now;
        }
        self.placed.clear();
        self.ward.withdrew = false;
        if self.began.is_none() {
            self.began = Some(self.now);
            self.take_stock();
            self.open_ward();
        }
    }

    /// Makes a fact so and has it written down.
    fn tell(&mut self, fact: Fact) {
        self.state.apply(self.now, &fact);
        self.note(&fact);
        self.note_snapshots(&fact);
        if let Fact::Placed { run, .. } = &fact {
            self.placed.push(run.clone());
        }
        self.out
            .push_back(Command::Persist(Record { at: self.now, fact }));
    }

    fn count(&mut self, what: &'static str) {
        *self.refusals.entry(what).or_default() += 1;
    }
}
