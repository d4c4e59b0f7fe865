//! Links between agents and the controller: slow, cut, reset, noticed late.
//!
//! A wire is one connection. What is sent over it arrives in order or not at all; each end learns
//! of its end on its own, and what was under way then is lost.

use crate::controller::Inbound;
use crate::world::{Happening, World, micros};
use rebloom_core::engine::Event;
use rebloom_core::id::Session;
use rebloom_core::order::Order;
use rebloom_core::report::{Beat, Join, Report};
use rebloom_core::supervisor;
use rebloom_core::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// An end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Agent,
    Controller,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Agent => Self::Controller,
            Self::Controller => Self::Agent,
        }
    }
}

/// A message.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Join(Join),
    Report { sequence: u64, report: Report },
    Beat(Beat),
    Accept,
    Order(Order),
    Ack { sequence: u64 },
}

#[derive(Debug)]
struct Wire {
    node: usize,
    life: u64,
    session: Option<Session>,
    agent_open: bool,
    controller_open: bool,
    /// When the last message in each direction arrives: they keep their order.
    last: [Instant; 2],
    /// Messages that wait for a cut to heal.
    stalled: VecDeque<(Side, Payload)>,
}

impl Wire {
    const fn is_open(&self, side: Side) -> bool {
        match side {
            Side::Agent => self.agent_open,
            Side::Controller => self.controller_open,
        }
    }
}

/// Every connection.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    all: BTreeMap<u64, Wire>,
    next: u64,
    next_session: u64,
}

impl Wires {
    pub(crate) fn of_session(&self, session: Session) -> Option<u64> {
        self.all
            .iter()
            .find(|(_, wire)| wire.session == Some(session))
            .map(|(id, _)| *id)
    }
}

impl World {
    /// An agent opens a connection and says what it is.
    pub(crate) fn open_wire(&mut self, node: usize, life: u64, join: Join) -> u64 {
        self.wires.next += 1;
        let id = self.wires.next;
        let wire = Wire {
            node,
            life,
            session: None,
            agent_open: true,
            controller_open: self.controller.is_up(),
            last: [Instant::ZERO; 2],
            stalled: VecDeque::new(),
        };
        self.wires.all.insert(id, wire);
        self.send(id, Side::Controller, Payload::Join(join));
        id
    }

    pub(crate) fn send(&mut self, id: u64, to: Side, payload: Payload) {
        let latency = micros(self.options.latency);
        let Some(wire) = self.wires.all.get_mut(&id) else {
            return;
        };
        if !wire.is_open(to.other()) {
            return;
        }
        // Mostly quick, sometimes ten times as slow.
        let most = if self.random.once_in(20) {
            latency * 10
        } else {
            latency
        };
        let lag = self.nodes[wire.node].lag;
        let delay = self.random.micros(50, most.max(51)) + lag;
        let last = &mut wire.last[usize::from(to == Side::Agent)];
        *last = (*last).max(self.now + delay);
        let at = *last;
        self.at(
            at,
            Happening::Arrive {
                wire: id,
                to,
                payload: Box::new(payload),
            },
        );
    }

    pub(crate) fn arrive(&mut self, id: u64, to: Side, payload: Payload) {
        let Some(wire) = self.wires.all.get_mut(&id) else {
            return;
        };
        let cut = self.nodes[wire.node].is_cut();
        if cut || !wire.stalled.is_empty() {
            wire.stalled.push_back((to, payload));
            return;
        }
        self.deliver(id, to, payload);
    }

    fn deliver(&mut self, id: u64, to: Side, payload: Payload) {
        let Some(wire) = self.wires.all.get_mut(&id) else {
            return;
        };
        if !wire.is_open(to) {
            let back = self.random.micros(50, 2000);
            self.after(
                back,
                Happening::WireBreaks {
                    wire: id,
                    at: to.other(),
                },
            );
            return;
        }
        let (node, life) = (wire.node, wire.life);
        match payload {
            Payload::Join(join) => {
                self.wires.next_session += 1;
                let session = Session(self.wires.next_session);
                if let Some(wire) = self.wires.all.get_mut(&id) {
                    wire.session = Some(session);
                }
                let name = self.nodes[node].name();
                let runs: Vec<String> = join
                    .runs
                    .iter()
                    .map(|run| format!("{} g{} x{}", run.run, run.generation, run.ranks.len()))
                    .collect();
                self.note(&name, format_args!("joins as session {session}: {runs:?}"));
                let identity = self.nodes[node].identity;
                self.tell_controller(Inbound::Joined {
                    session,
                    identity,
                    join,
                    wire: id,
                });
            }
            Payload::Report { sequence, report } => {
                let Some(session) = wire.session else { return };
                let node = self.nodes[node].id.clone();
                let event = Event::Report {
                    node,
                    session,
                    report,
                };
                self.tell_controller(Inbound::Report {
                    event,
                    wire: id,
                    sequence,
                });
            }
            Payload::Beat(beat) => {
                let Some(session) = wire.session else { return };
                let node = self.nodes[node].id.clone();
                self.tell_controller(Inbound::Event(Event::Beat {
                    node,
                    session,
                    beat,
                }));
            }
            Payload::Accept => {
                self.set_linked(node, life);
                self.tell_agent(node, life, supervisor::Event::LinkUp);
            }
            Payload::Order(order) => {
                let id = self.nodes[node].id.clone();
                self.check_received(&id, &order);
                self.tell_agent(node, life, supervisor::Event::Order(order));
            }
            Payload::Ack { sequence } => {
                self.tell_agent(node, life, supervisor::Event::Acked { sequence });
            }
        }
    }

    /// One end closes the wire; the other learns of it if it can.
    pub(crate) fn close_wire(&mut self, id: u64, side: Side) {
        let Some(wire) = self.wires.all.get_mut(&id) else {
            return;
        };
        if !wire.is_open(side) {
            return;
        }
        match side {
            Side::Agent => wire.agent_open = false,
            Side::Controller => wire.controller_open = false,
        }
        wire.stalled.retain(|(to, _)| *to != side);
        if wire.is_open(side.other()) {
            if !self.nodes[wire.node].is_cut() {
                let back = self.random.micros(50, 3000);
                self.after(
                    back,
                    Happening::WireBreaks {
                        wire: id,
                        at: side.other(),
                    },
                );
            }
        } else {
            self.wires.all.remove(&id);
        }
    }

    /// One end learns that the wire is gone, and tells its machine.
    pub(crate) fn wire_breaks(&mut self, id: u64, at: Side) {
        let Some(wire) = self.wires.all.get(&id) else {
            return;
        };
        if !wire.is_open(at) {
            return;
        }
        let (node, life, session) = (wire.node, wire.life, wire.session);
        self.close_wire(id, at);
        match at {
            Side::Agent => {
                self.forget_wire(node, life, id);
                self.tell_agent(node, life, supervisor::Event::LinkDown);
                let pause = self.random.millis(50, 1500);
                self.after(pause, Happening::AgentConnect { node, life });
            }
            Side::Controller => {
                if let Some(session) = session {
                    let node = self.nodes[node].id.clone();
                    self.tell_controller(Inbound::Event(Event::Left { node, session }));
                }
            }
        }
    }

    pub(crate) fn wire_given_up(&mut self, id: u64, at: Side, cut: u64) {
        let node = self.wires.all.get(&id).map(|wire| wire.node);
        if node.is_some_and(|node| self.nodes[node].is_cut() && self.nodes[node].cuts == cut) {
            self.wire_breaks(id, at);
        }
    }

    /// Nothing goes over the node's wires any more; each end notices on its own.
    pub(crate) fn cut_wires(&mut self, node: usize) {
        let cut = self.nodes[node].cuts;
        for id in self.wires_of(node) {
            for at in [Side::Agent, Side::Controller] {
                let most = micros(self.options.keepalive);
                let after = self.random.micros(most / 2, most);
                self.after(after, Happening::WireGivenUp { wire: id, at, cut });
            }
        }
    }

    /// The controller says nothing for this long: agents give up the wires that stay silent for longer
    /// than they wait.
    pub(crate) fn break_silent_wires(&mut self, lasts: Duration) {
        let keepalive = self.options.keepalive;
        if lasts <= keepalive {
            return;
        }
        let ids: Vec<u64> = self.wires.all.keys().copied().collect();
        for wire in ids {
            let most = micros(keepalive);
            let after = self.random.micros(most / 2, most);
            let at = Side::Agent;
            self.after(after, Happening::WireBreaks { wire, at });
        }
    }

    /// What waited arrives, or finds nobody.
    pub(crate) fn mend_wires(&mut self, node: usize) {
        for id in self.wires_of(node) {
            let Some(wire) = self.wires.all.get_mut(&id) else {
                continue;
            };
            let half_open = wire.agent_open != wire.controller_open;
            let side = if wire.agent_open {
                Side::Agent
            } else {
                Side::Controller
            };
            for (to, payload) in std::mem::take(&mut wire.stalled) {
                self.deliver(id, to, payload);
            }
            if half_open {
                self.wire_breaks(id, side);
            }
        }
    }

    /// Every wire of a node breaks, for both ends.
    pub(crate) fn reset_wires(&mut self, node: usize) {
        for id in self.wires_of(node) {
            for at in [Side::Agent, Side::Controller] {
                let after = self.random.micros(0, 5000);
                self.after(after, Happening::WireBreaks { wire: id, at });
            }
        }
    }

    /// The controller died: its ends of all wires are closed.
    pub(crate) fn close_controller_wires(&mut self) {
        let ids: Vec<u64> = self.wires.all.keys().copied().collect();
        ids.into_iter()
            .for_each(|id| self.close_wire(id, Side::Controller));
    }

    fn wires_of(&self, node: usize) -> Vec<u64> {
        let of_node = self.wires.all.iter().filter(|(_, wire)| wire.node == node);
        of_node.map(|(id, _)| *id).collect()
    }
}
