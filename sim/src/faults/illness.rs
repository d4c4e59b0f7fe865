//! Nodes that fall ill: what their probes see, how it is mended, and that a level which was raised is
//! told to be over.

use crate::options::Fault;
use crate::world::{Happening, Undo, World};
use rebloom_core::health::Verdict;
use rebloom_core::health::signal::{Kind, Recovery, Sign, Signal, Throttle};
use rebloom_core::id::Slot;
use rebloom_core::supervisor::Event;
use rebloom_core::time::Duration;

impl World {
    /// What a probe of a node saw, to its agent. An agent that is dead sees nothing.
    fn probe(&mut self, node: usize, signal: Signal) {
        let name = self.nodes[node].name();
        self.note(&name, format_args!("a probe sees: {signal}"));
        let life = self.nodes[node].life;
        self.tell_agent(node, life, Event::Signal(signal));
    }

    fn device(&mut self, node: usize) -> Slot {
        let most = u64::from(self.nodes[node].slots.saturating_sub(1));
        Slot(u32::try_from(self.random.within(0, most)).unwrap_or(0))
    }

    fn xid(&mut self, node: usize, code: u32) {
        let detail = "made up".to_owned();
        let device = self.device(node);
        self.probe(
            node,
            Signal::raised(Some(device), Sign::Xid { code, detail }),
        );
    }

    pub(super) fn fall_ill(&mut self, fault: Fault) {
        let node = self.any_node();
        if fault == Fault::XidBurst {
            let code = if self.random.once_in(2) { 79 } else { 31 };
            for node in 0..self.nodes.len() {
                if !self.random.once_in(4) {
                    self.xid(node, code);
                    self.mend_later(node);
                }
            }
        } else if fault == Fault::FatalXid {
            let code = self.one_of([48, 79, 95, 119]);
            self.xid(node, code);
            self.mend_later(node);
        } else if fault == Fault::OddXid {
            let code = self.one_of([13, 31, 45, 63]);
            self.xid(node, code);
        } else if fault == Fault::ResetVote {
            let action = Recovery::Reset;
            self.raise(
                node,
                Signal::raised(Some(Slot(0)), Sign::RecoveryAction { action }),
            );
        } else {
            let (reason, lasts) = (Throttle::Thermal, self.random.millis(500, 20_000));
            let nanos = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
            let signal = Signal::raised(Some(Slot(0)), Sign::Throttled { reason, nanos });
            self.raise(node, signal);
        }
    }

    fn one_of(&mut self, codes: [u32; 4]) -> u32 {
        let at = usize::try_from(self.random.within(0, 3)).unwrap_or(0);
        codes.get(at).copied().unwrap_or(79)
    }

    fn raise(&mut self, node: usize, signal: Signal) {
        self.nodes[node].levels.push(signal.clone());
        self.probe(node, signal);
        let over = self.random.millis(100, 10_000);
        self.after(over, Happening::Undo(Undo::Level { node }));
    }

    /// The oldest level of a node is over.
    pub(super) fn level_ends(&mut self, node: usize) {
        if self.nodes[node].levels.is_empty() {
            return;
        }
        let mut signal = self.nodes[node].levels.remove(0);
        signal.cleared = true;
        if self.nodes[node].agent.is_some() {
            self.probe(node, signal);
        } else if signal.sign.kind() == Kind::RecoveryAction {
            self.nodes[node].denied.push(signal);
        }
    }

    /// Somebody repairs the node: it is off for a while.
    fn mend_later(&mut self, node: usize) {
        let back = self.random.millis(1000, 30_000);
        self.after(back, Happening::Undo(Undo::Repair { node }));
    }

    /// A repair is a reboot.
    pub(super) fn repair(&mut self, node: usize) {
        if self.nodes[node].is_on {
            self.lose_node(node);
            let back = self.random.millis(500, 3000);
            self.after(back, Happening::Undo(Undo::Power { node }));
        }
    }

    /// Every level that is raised when the storm ends is over.
    pub(super) fn mend_nodes(&mut self) {
        for node in 0..self.nodes.len() {
            while !self.nodes[node].levels.is_empty() {
                self.level_ends(node);
            }
        }
    }

    /// An admin's rounds: what stays faulty is repaired, unless it was a little while ago.
    pub(super) fn mend_again(&mut self) {
        let pause = self.clean_spell() + Duration::from_secs(5);
        let Some(engine) = &self.controller.engine else {
            return;
        };
        let faulty = engine.nodes().into_iter();
        let faulty = faulty.filter(|view| view.health.verdict == Verdict::Faulty);
        let faulty: Vec<_> = faulty.map(|view| view.facts.node).collect();
        for node in 0..self.nodes.len() {
            let was_lately = self.now.since(self.nodes[node].booted) < pause;
            if faulty.contains(&self.nodes[node].id) && !was_lately {
                self.repair(node);
            }
        }
    }

    /// An agent begins: what is still so is raised again, and what asks for no reset any more says so.
    pub(crate) fn probes_start(&mut self, node: usize) {
        let boot = self.nodes[node].booted.as_nanos();
        self.probe(node, Signal::raised(None, Sign::ProbesStarted { boot }));
        for signal in std::mem::take(&mut self.nodes[node].denied) {
            self.probe(node, signal);
        }
        for signal in self.nodes[node].levels.clone() {
            self.probe(node, signal);
        }
    }

    /// The longest that a node may stay withdrawn once nothing is wrong with it.
    pub(crate) fn clean_spell(&self) -> Duration {
        let windows = self.options.limits.health;
        windows.quarantine_for + windows.suspect_for
    }
}
