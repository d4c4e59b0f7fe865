//! What goes wrong, how it ends, and what admins do meanwhile.

mod illness;

use crate::agent::Node;
use crate::options::{Fault, fits};
use crate::world::{Happening, Undo, World};
use rebloom_core::cause::{Blamed, Cause, Exit};
use rebloom_core::engine::{Ask, NodeHealth, RunState, RunView};
use rebloom_core::health::{Action, Finding};
use rebloom_core::order::Stop;
use rebloom_core::time::Duration;

impl World {
    /// Commits one fault.
    pub(crate) fn commit(&mut self, fault: Fault) {
        match fault {
            Fault::KillRank => self.kill_ranks(1),
            Fault::KillSeveral => {
                let many = self.random.within(2, 5);
                self.kill_ranks(many);
            }
            Fault::KillAgent => {
                let node = self.any_node();
                let away = self.random.millis(20, 5000);
                self.kill_agent(node, Some(away));
            }
            Fault::LoseAgent => {
                let node = self.any_node();
                let away = self.random.millis(1000, 120_000);
                self.kill_agent(node, Some(away));
            }
            Fault::FreezeAgent => {
                let node = self.any_node();
                let lasts = self.random.millis(100, 3000) * self.random.small(1, 40);
                self.freeze_agent(node, lasts);
            }
            Fault::FreezeController => {
                let lasts = self.random.millis(100, 2000) * self.random.small(1, 20);
                self.freeze_controller(lasts);
            }
            Fault::KillController => self.kill_controller(false),
            // Before every node was enrolled there is nothing yet that could tell what was lost.
            Fault::PowerCutController => self.kill_controller(self.now.as_nanos() > 5_000_000_000),
            Fault::PowerOffNode => {
                let node = self.any_node();
                self.lose_node(node);
                let back = self.random.millis(500, 40_000);
                self.after(back, Happening::Undo(Undo::Power { node }));
            }
            Fault::LoseNode => {
                let node = self.any_node();
                if self.random.once_in(4) {
                    self.lose_node(node);
                }
            }
            Fault::StopRank => self.stop_rank(false),
            Fault::StopAndContinueRank => self.stop_rank(true),
            Fault::SlowRank => {
                if let Some(pid) = self.any_process() {
                    let slowness = self.random.small(2, 40);
                    if let Some(process) = self.processes.get_mut(&pid) {
                        process.slowness = slowness;
                        process.was_ill = true;
                    }
                    self.note("fault", format_args!("{pid} is {slowness} times as slow"));
                }
            }
            Fault::CutLink => self.cut_link(8_000),
            Fault::CutLongLink => self.cut_link(90_000),
            Fault::IsolateNode => {
                let node = self.any_node();
                let name = self.nodes[node].name();
                self.note("fault", format_args!("{name} is isolated"));
                self.cut_off(node, |node| node.is_isolated = true);
                let back = self.random.millis(100, 30_000);
                self.after(back, Happening::Undo(Undo::Isolation { node }));
            }
            Fault::ResetLink => {
                let node = self.any_node();
                let name = self.nodes[node].name();
                self.note("fault", format_args!("the link of {name} is reset"));
                self.reset_wires(node);
            }
            Fault::SlowLink => {
                let node = self.any_node();
                let name = self.nodes[node].name();
                self.note("fault", format_args!("the link of {name} is slow"));
                self.nodes[node].lag = self.random.millis(10, 1500);
                let back = self.random.millis(1000, 20_000);
                self.after(back, Happening::Undo(Undo::Lag { node }));
            }
            Fault::RotShard => self.rot_shard(),
            Fault::FillStorage => {
                self.storage.is_full = true;
                self.note("fault", format_args!("storage is full"));
                let back = self.random.millis(100, 10_000);
                self.after(back, Happening::Undo(Undo::Full));
            }
            Fault::LoseStorage => {
                self.storage.is_away = true;
                self.note("fault", format_args!("storage is away"));
                let back = self.random.millis(100, 20_000);
                self.after(back, Happening::Undo(Undo::Away));
            }
            Fault::FailSpawn => {
                let node = self.any_node();
                self.nodes[node].spawns_fail = true;
                let back = self.random.millis(1000, 20_000);
                self.after(back, Happening::Undo(Undo::Spawns { node }));
            }
            Fault::FatalXid
            | Fault::OddXid
            | Fault::FlappingLevel
            | Fault::XidBurst
            | Fault::ResetVote => {
                self.fall_ill(fault);
            }
            Fault::WorkerError => self.plant_error(Blamed::Infrastructure),
            Fault::RunError => self.plant_error(Blamed::Run),
            Fault::AdminStop => {
                let run = self.any_run();
                let how = if self.random.once_in(2) {
                    Stop::Now
                } else {
                    Stop::Safely
                };
                self.ask(Ask::Stop {
                    run: run.clone(),
                    how,
                });
                let back = self.random.millis(100, 20_000);
                self.after(back, Happening::Undo(Undo::Resume { run }));
            }
            Fault::AdminDrain | Fault::AdminCordon => {
                let node = self.any_node();
                let id = self.nodes[node].id.clone();
                let dry_run = self.random.once_in(4);
                let drains = fault == Fault::AdminDrain;
                self.ask(if drains {
                    Ask::Drain { node: id, dry_run }
                } else {
                    Ask::Cordon { node: id }
                });
                let back = self.random.millis(1000, 30_000);
                self.after(back, Happening::Undo(Undo::Cordon { node }));
            }
        }
    }

    fn kill_ranks(&mut self, many: u64) {
        for _ in 0..many {
            if let Some(pid) = self.any_process() {
                self.note("fault", format_args!("SIGKILL of {pid}"));
                self.end_process(pid, Exit::Signal(9));
            }
        }
    }

    fn lose_node(&mut self, node: usize) {
        if self.nodes[node].is_on {
            let name = self.nodes[node].name();
            self.note("fault", format_args!("{name} loses its power"));
            self.power_off(node);
        }
    }

    fn stop_rank(&mut self, goes_on: bool) {
        if let Some(pid) = self.any_process() {
            self.note("fault", format_args!("SIGSTOP of {pid}"));
            if let Some(process) = self.processes.get_mut(&pid) {
                process.is_stopped = true;
                process.was_ill = true;
            }
            if goes_on {
                let back = self.random.millis(10, 15_000);
                self.after(back, Happening::Continue { pid });
            }
        }
    }

    fn cut_link(&mut self, most: u64) {
        let node = self.any_node();
        // Often several at once: only then is a whole gang out of reach.
        let all = self.random.once_in(3);
        for at in (0..self.nodes.len()).filter(|at| all || *at == node) {
            let name = self.nodes[at].name();
            self.note(
                "fault",
                format_args!("{name} is cut off from the controller"),
            );
            self.cut_off(at, |node| node.is_link_cut = true);
            let cut = self.nodes[at].cuts;
            let back = self.random.millis(100, most);
            self.after(back, Happening::Undo(Undo::Cut { node: at, cut }));
        }
    }

    /// Nothing reaches the controller from here on; a node that was cut off already stays so.
    fn cut_off(&mut self, node: usize, how: impl FnOnce(&mut Node)) {
        let was_cut = self.nodes[node].is_cut();
        how(&mut self.nodes[node]);
        if !was_cut {
            self.nodes[node].cuts += 1;
            self.cut_wires(node);
        }
    }

    fn plant_error(&mut self, blamed: Blamed) {
        if let Some(pid) = self.any_process() {
            self.note("fault", format_args!("{pid} is to fail: {blamed:?}"));
            if let Some(process) = self.processes.get_mut(&pid) {
                process.trouble = Some(blamed);
            }
        }
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Power { node } => self.power_on(node),
            Undo::Level { node } => self.level_ends(node),
            Undo::Repair { node } => {
                // After the storm, admins repair on their rounds.
                if self.calm.is_none() {
                    self.repair(node);
                }
            }
            Undo::Cut { node, cut } => {
                if self.nodes[node].cuts == cut {
                    self.nodes[node].is_link_cut = false;
                    self.reconnected(node);
                }
            }
            Undo::Isolation { node } => {
                self.nodes[node].is_isolated = false;
                self.reconnected(node);
            }
            Undo::Lag { node } => self.nodes[node].lag = Duration::ZERO,
            Undo::Full => self.storage.is_full = false,
            Undo::Away => self.storage.is_away = false,
            Undo::Spawns { node } => self.nodes[node].spawns_fail = false,
            Undo::Cordon { node } => {
                let node = self.nodes[node].id.clone();
                self.ask(Ask::Uncordon { node });
            }
            Undo::Resume { run } => self.ask(Ask::Resume { run, layout: None }),
            Undo::Freeze { node, life } => self.thaw_agent(node, life),
            Undo::FreezeController { life } => self.thaw_controller(life),
        }
    }

    fn reconnected(&mut self, node: usize) {
        if !self.nodes[node].is_cut() {
            let name = self.nodes[node].name();
            self.note("fault", format_args!("{name} is reached again"));
            self.mend_wires(node);
            self.retry_gangs();
        }
    }

    /// Every fault ends. What was lost for good stays lost where there is room without it, what
    /// rotted stays rotten, and a rank that hangs goes on hanging.
    pub(crate) fn become_calm(&mut self) {
        if self.calm.is_some() {
            return;
        }
        self.calm = Some(self.now);
        self.note("fault", format_args!("no more faults"));
        (self.storage.is_full, self.storage.is_away) = (false, false);
        self.thaw_controller(self.controller.life());
        for node in 0..self.nodes.len() {
            let on = || {
                let usual = self.nodes.iter().filter(|node| node.is_usual());
                usual.filter(|node| node.is_on)
            };
            let mut runs = self.options.runs.iter();
            let is_short = runs.any(|run| !fits(run.layout, on().map(|node| node.slots)));
            if is_short || self.random.once_in(2) {
                self.power_on(node);
            }
            self.thaw_agent(node, self.nodes[node].life);
            if self.nodes[node].is_on && self.nodes[node].agent.is_none() {
                self.after(Duration::from_secs(1), Happening::AgentStart { node });
            }
            self.nodes[node].is_link_cut = false;
            self.nodes[node].is_isolated = false;
            self.nodes[node].lag = Duration::ZERO;
            self.nodes[node].spawns_fail = false;
            self.reconnected(node);
        }
        self.mend_nodes();
        for process in self.processes.values_mut() {
            process.slowness = 1;
            process.trouble = None;
        }
        self.after(Duration::from_secs(1), Happening::Care);
    }

    /// An admin's rounds after the storm: what was stopped, failed or parked is resumed, once.
    pub(crate) fn care(&mut self) {
        self.after(Duration::from_secs(2), Happening::Care);
        self.ask_again();
        self.mend_again();
        let now = self.controller_now();
        let Some(engine) = &self.controller.engine else {
            return;
        };
        // What waits for hardware to be replaced waits for people.
        let is_held = |health: &NodeHealth| {
            let replace = |(_, finding): &(_, Finding)| finding.action == Action::ReplaceNode;
            health.verdict.withdraws() && (health.is_lemon || health.findings.iter().any(replace))
        };
        let nodes = engine.nodes().into_iter();
        let cordoned = nodes.filter(|node| node.cordoned || is_held(&node.health));
        let mut asks: Vec<Ask> = cordoned
            .map(|node| Ask::Uncordon {
                node: node.facts.node,
            })
            .collect();
        let mut unsound = Vec::new();
        for spec in &self.options.runs {
            let view = engine.run(&spec.name, now);
            if view.as_ref().is_some_and(was_misread) {
                unsound.push(spec.name.clone());
            }
            match view.map(|run| run.state) {
                None => asks.push(Ask::Submit {
                    spec: Box::new(spec.clone()),
                    dry_run: false,
                }),
                Some(RunState::Stopped | RunState::Failed | RunState::Parked) => {
                    asks.push(Ask::Resume {
                        run: spec.name.clone(),
                        layout: None,
                    });
                }
                Some(
                    RunState::Pending
                    | RunState::Starting
                    | RunState::Running
                    | RunState::Recovering
                    | RunState::Stopping
                    | RunState::Completed,
                ) => {}
            }
        }
        unsound.iter().for_each(|run| self.storage.restore(run));
        for ask in asks {
            // (What was wrong with the storage is repaired only now.)
            if let Ask::Resume { run, .. } = &ask
                && !unsound.contains(run)
            {
                self.count_resume(&run.clone());
            }
            self.ask(ask);
        }
    }

    pub(crate) fn submit(&mut self, at: usize) {
        let spec = Box::new(self.options.runs[at].clone());
        let dry_run = self.random.once_in(8);
        self.ask(Ask::Submit { spec, dry_run });
        if dry_run || !self.controller.is_up() {
            let again = self.random.millis(500, 2000);
            self.after(again, Happening::Admin { at });
        }
    }
}

/// Whether a run was given up because of what it read: then somebody has to see to the storage first.
fn was_misread(run: &RunView) -> bool {
    let last = run.incidents.last().map(|incident| &incident.cause);
    let is_about_storage = matches!(
        last,
        Some(Cause::CheckpointUnsound { .. } | Cause::StorageMisread { .. })
    );
    let is_none_left = matches!(run.why, Cause::NoSoundCheckpoint { .. });
    run.state == RunState::Parked && (is_none_left || is_about_storage)
}
