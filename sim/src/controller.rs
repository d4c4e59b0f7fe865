//! The controller: the engine, its journal, and a driver that may die between any two commands.

use crate::random::mix;
use crate::wire::{Payload, Side};
use crate::world::{Happening, Undo, World};
use rebloom_core::engine::{Answer, Ask, Command, Engine, Event, Fact, Record, Ticket};
use rebloom_core::id::{Digest, Session};
use rebloom_core::report::Join;
use rebloom_core::time::{Duration, Instant};
use std::collections::VecDeque;

/// Where the controller's clock stood when the world began: it counts from 1970, not from boot.
const EPOCH: u64 = 1_790_000_000_000_000_000;

/// What waits to be handled.
#[derive(Debug)]
pub(crate) enum Inbound {
    Event(Event),
    Joined {
        session: Session,
        identity: Digest,
        join: Join,
        wire: u64,
    },
    Report {
        event: Event,
        wire: u64,
        sequence: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Ack {
    wire: u64,
    sequence: u64,
}

/// The controller's process and its disk.
#[derive(Debug, Default)]
pub(crate) struct Controller {
    life: u64,
    pub(crate) engine: Option<Engine>,
    /// On disk; what was appended last may be lost with the power.
    journal: Vec<(Instant, Record)>,
    inbox: VecDeque<Inbound>,
    out: VecDeque<Command<Record>>,
    ack: Option<Ack>,
    is_busy: bool,
    /// Neither runs nor dies: its machine swaps, or is a virtual one that is moved.
    is_frozen: bool,
    timer: Option<Instant>,
    next_ticket: u64,
    /// Whether its last end may have cost it the last moments of its journal.
    lost_power: bool,
    /// What admins asked and were not answered.
    asked: Vec<(Ticket, Ask)>,
}

impl Controller {
    pub(crate) const fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    pub(crate) const fn life(&self) -> u64 {
        self.life
    }
}

impl World {
    pub(crate) fn controller_now(&self) -> Instant {
        Instant::from_nanos(EPOCH + self.now.as_nanos())
    }

    pub(crate) fn controller_start(&mut self) {
        if self.controller.engine.is_some() {
            return;
        }
        let records = self
            .controller
            .journal
            .iter()
            .map(|(_, record)| record.clone());
        let mut engine = Engine::replay(self.options.limits.clone(), records);
        if self.controller.lost_power {
            engine = engine.in_doubt();
        }
        let records = self.controller.journal.len();
        let journal = std::mem::take(&mut self.controller.journal);
        self.check_journal(journal.iter().map(|(_, record)| &record.fact));
        self.controller.journal = journal;
        self.controller.engine = Some(engine);
        self.controller.life += 1;
        self.note("controller", format_args!("starts from {records} records"));
        self.provoke_takeover();
        let now = self.controller_now();
        if let Some(engine) = &mut self.controller.engine {
            engine.handle_timeout(now);
        }
        self.drain_engine();
        self.controller.is_busy = true;
        let life = self.controller.life;
        self.after(Duration::ZERO, Happening::ControllerTick { life });
    }

    /// Dies. With the power, the last moments of the journal go as well.
    pub(crate) fn kill_controller(&mut self, power: bool) {
        let Some(engine) = self.controller.engine.take() else {
            return;
        };
        let written = self
            .controller
            .out
            .iter()
            .all(|c| !matches!(c, Command::Persist(_)));
        if written {
            self.check_replay(&engine);
        }
        let kept = self.random.millis(0, 500);
        let before = self.controller.journal.len();
        if power {
            let now = self.now;
            self.controller
                .journal
                .retain(|(at, _)| now.since(*at) > kept);
        }
        let lost = before - self.controller.journal.len();
        self.checks.forgot |= lost > 0;
        self.controller.lost_power = power || engine.is_in_doubt();
        let how = if power {
            "loses its power"
        } else {
            "is killed"
        };
        self.note("controller", format_args!("{how}, {lost} records lost"));
        self.controller.inbox.clear();
        self.controller.out.clear();
        self.controller.ack = None;
        self.controller.is_busy = false;
        self.controller.is_frozen = false;
        self.controller.timer = None;
        self.close_controller_wires();
        let most = u64::try_from(self.options.outage.as_millis()).unwrap_or(6000);
        let pause = self.random.millis(50, most.max(50));
        self.after(pause, Happening::ControllerStart);
    }

    /// State is the fold of the journal.
    fn check_replay(&mut self, engine: &Engine) {
        let records = self
            .controller
            .journal
            .iter()
            .map(|(_, record)| record.clone());
        let again = Engine::replay(self.options.limits.clone(), records);
        if again.snapshot() != engine.snapshot() {
            self.checks
                .violated("replaying the journal gives another state".to_owned());
        }
    }

    pub(crate) fn tell_controller(&mut self, inbound: Inbound) {
        if self.controller.engine.is_none() {
            return;
        }
        self.controller.inbox.push_back(inbound);
        if !self.controller.is_busy {
            self.controller.is_busy = true;
            let life = self.controller.life;
            self.after(Duration::ZERO, Happening::ControllerTick { life });
        }
    }

    /// The driver's loop: finish what was commanded, then take the next event.
    pub(crate) fn controller_tick(&mut self, life: u64) {
        if self.controller.life != life
            || self.controller.engine.is_none()
            || self.controller.is_frozen
        {
            return;
        }
        let pause = if let Some(command) = self.controller.out.pop_front() {
            self.carry_out(command)
        } else if let Some(Ack { wire, sequence }) = self.controller.ack.take() {
            self.send(wire, Side::Agent, Payload::Ack { sequence });
            Duration::ZERO
        } else if let Some(inbound) = self.controller.inbox.pop_front() {
            self.take_in(inbound);
            self.random.micros(5, 50)
        } else {
            return self.controller_idle();
        };
        self.after(pause, Happening::ControllerTick { life });
    }

    fn take_in(&mut self, inbound: Inbound) {
        let now = self.controller_now();
        let is_stale = matches!(&inbound, Inbound::Report { event, .. } if self.is_stale(event));
        let Some(engine) = &mut self.controller.engine else {
            return;
        };
        // A deadline that has passed is acted on with whatever comes next.
        let is_idle = engine.poll_timeout().is_none_or(|due| due > now);
        let mut accept = None;
        match inbound {
            Inbound::Event(event) => engine.handle(now, event),
            Inbound::Joined {
                session,
                identity,
                join,
                wire,
            } => {
                engine.handle(
                    now,
                    Event::Joined {
                        session,
                        identity,
                        join,
                    },
                );
                accept = Some((session, wire));
            }
            Inbound::Report {
                event,
                wire,
                sequence,
            } => {
                engine.handle(now, event);
                self.controller.ack = Some(Ack { wire, sequence });
            }
        }
        self.drain_engine();
        if is_stale && is_idle {
            let done = std::mem::take(&mut self.controller.out);
            self.check_unmoved(done.iter());
            self.controller.out = done;
        }
        if let Some((session, wire)) = accept {
            let refused = |command: &Command<Record>| matches!(command, Command::Refuse { session: of, .. } if *of == session);
            if !self.controller.out.iter().any(refused) {
                self.send(wire, Side::Agent, Payload::Accept);
            }
        }
    }

    fn drain_engine(&mut self) {
        let Some(engine) = &mut self.controller.engine else {
            return;
        };
        self.controller
            .out
            .extend(std::iter::from_fn(|| engine.poll_command()));
        self.check_engine();
    }

    /// Nothing to do: sleeps until the engine's next deadline.
    fn controller_idle(&mut self) {
        self.controller.is_busy = false;
        let due = self
            .controller
            .engine
            .as_ref()
            .and_then(Engine::poll_timeout);
        let due = due.map(|due| Instant::from_nanos(due.as_nanos().saturating_sub(EPOCH)));
        if let Some(due) = due
            && self.controller.timer.is_none_or(|set| due < set)
        {
            self.controller.timer = Some(due);
            let life = self.controller.life;
            self.at(due, Happening::ControllerTimer { life });
        }
    }

    pub(crate) fn controller_timer(&mut self, life: u64) {
        if self.controller.life != life {
            return;
        }
        self.controller.timer = None;
        if self.controller.is_busy || self.controller.is_frozen {
            return;
        }
        let now = self.controller_now();
        let Some(engine) = &mut self.controller.engine else {
            return;
        };
        if engine.poll_timeout().is_some_and(|due| due <= now) {
            engine.handle_timeout(now);
        }
        self.drain_engine();
        self.controller.is_busy = true;
        self.after(Duration::ZERO, Happening::ControllerTick { life });
    }

    /// Stops it, for a while; agents whose links seem dead for it open new ones.
    pub(crate) fn freeze_controller(&mut self, lasts: Duration) {
        if !self.controller.is_up() || self.controller.is_frozen {
            return;
        }
        self.controller.is_frozen = true;
        let life = self.controller.life;
        self.note("controller", format_args!("is frozen for {lasts:?}"));
        self.break_silent_wires(lasts);
        self.after(lasts, Happening::Undo(Undo::FreezeController { life }));
    }

    pub(crate) fn thaw_controller(&mut self, life: u64) {
        if self.controller.life != life || !self.controller.is_frozen {
            return;
        }
        self.controller.is_frozen = false;
        self.controller.is_busy = true;
        self.note("controller", format_args!("goes on"));
        self.after(Duration::ZERO, Happening::ControllerTick { life });
    }

    fn carry_out(&mut self, command: Command<Record>) -> Duration {
        match command {
            Command::Persist(record) => {
                self.trace.line(
                    self.now,
                    format_args!("controller"),
                    format_args!("fact {}", crate::show::fact(&record.fact)),
                );
                let before = if let Fact::Placed { run, .. } = &record.fact {
                    self.checks.placement(run).cloned()
                } else {
                    None
                };
                self.check_fact(&record);
                self.controller.journal.push((self.now, record.clone()));
                self.provoke(before.as_ref(), &record.fact);
                if self.controller.journal.len() == self.options.dies_after
                    && self.controller.life == 1
                {
                    let life = self.controller.life;
                    self.after(Duration::ZERO, Happening::ControllerDies { life });
                }
                self.random.micros(20, 800)
            }
            Command::Send {
                node,
                session,
                order,
            } => {
                self.check_order(&node, &order);
                let what = crate::show::order(&order);
                self.note("controller", format_args!("to {node}: {what}"));
                if let Some(wire) = self.wires.of_session(session) {
                    self.send(wire, Side::Agent, Payload::Order(order));
                }
                self.random.micros(5, 40)
            }
            Command::Refuse { session, refusal } => {
                self.note(
                    "controller",
                    format_args!("refuses session {session}: {refusal}"),
                );
                if let Some(wire) = self.wires.of_session(session) {
                    self.close_wire(wire, Side::Controller);
                }
                Duration::ZERO
            }
            Command::Answer { ticket, answer } => {
                self.answered(ticket, &answer);
                Duration::ZERO
            }
        }
    }

    /// An admin asks, and asks again until answered.
    pub(crate) fn ask(&mut self, ask: Ask) {
        self.controller.next_ticket += 1;
        let ticket = Ticket(self.controller.next_ticket);
        self.controller.asked.push((ticket, ask.clone()));
        self.tell_controller(Inbound::Event(Event::Ask { ticket, ask }));
    }

    /// What an admin asked of a controller that died before it answered.
    pub(crate) fn ask_again(&mut self) {
        for (_, ask) in std::mem::take(&mut self.controller.asked) {
            self.ask(ask);
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: &Answer) {
        let asked = &mut self.controller.asked;
        let Some(at) = asked.iter().position(|(of, _)| *of == ticket) else {
            return;
        };
        let (_, ask) = asked.remove(at);
        let ask = crate::show::ask(&ask);
        match answer {
            Answer::Done { message, .. } | Answer::WouldPlace { message, .. } => {
                self.note("admin", format_args!("{ask}: {message}"));
            }
            Answer::Refused(refusal) => {
                self.note("admin", format_args!("{ask}: refused: {refusal}"));
            }
        }
    }
}

/// The key that a node's agent proves to hold.
pub(crate) fn identity(node: usize) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&mix(node as u64).to_le_bytes());
    Digest(bytes)
}
