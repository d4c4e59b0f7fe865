//! What admins ask for, and what they are answered.

use super::state::Run;
use super::{Answer, Ask, Engine, Fact, Refusal, RunState, Seating};
use crate::cause::Cause;
use crate::id::{NodeId, RunId};
use crate::layout::Layout;
use crate::order::Stop;
use crate::placement::Want;
use crate::spec::{Flaw, RunSpec};
use std::collections::{BTreeMap, BTreeSet};

/// Runs that are kept, whatever their state.
const RUNS: usize = 4096;

impl Engine {
    pub(super) fn ask(&mut self, ask: Ask) -> Answer {
        let answer = match ask {
            Ask::Submit { spec, dry_run } => self.submit(spec, dry_run),
            Ask::Stop { run, how } => self.stop(run, how),
            Ask::Resume { run, layout } => self.resume(run, layout),
            Ask::Cordon { node } => self.cordon(node, true),
            Ask::Uncordon { node } => self.cordon(node, false),
            Ask::Drain { node, dry_run } => self.drain(node, dry_run),
            Ask::SetRule { rule } => self.set_rule(rule),
            Ask::SetRuleMode { name, mode } => self.set_rule_mode(name, mode),
            Ask::UnsetRule { name } => self.unset_rule(&name),
        };
        answer.unwrap_or_else(Answer::Refused)
    }

    fn submit(&mut self, spec: Box<RunSpec>, dry_run: bool) -> Result<Answer, Refusal> {
        let mut flaws = spec.flaws();
        if flaws.is_empty() {
            flaws.extend(self.size_flaw(&spec));
        }
        if !flaws.is_empty() {
            return Err(Refusal::Flaws(flaws));
        }
        let name = spec.name.clone();
        if let Some(run) = self.state.runs.get(&name) {
            if run.state.can_resume() && *run.spec == *spec {
                let remedy = "resume it to let it go on".to_owned();
                return Err(Refusal::WrongState(name, run.state, remedy));
            }
            return Err(Refusal::RunExists(name, run.state));
        }
        if dry_run {
            let placement = self.floor.place(&Want {
                run: &name,
                layout: spec.layout,
                current: None,
                without: &BTreeSet::new(),
                blamed: &BTreeMap::new(),
            });
            let seats = placement.iter().flat_map(|placement| placement.seats());
            let seating: Vec<_> = seats.map(Seating::from).collect();
            let message = if seating.is_empty() {
                format!("{name} would wait for room")
            } else {
                let nodes = nodes_of(&seating);
                format!("{name} would run {} ranks on {nodes}", seating.len())
            };
            return Ok(Answer::WouldPlace { seating, message });
        }
        if self.state.runs.len() >= RUNS {
            self.forget_one()?;
        }
        self.tell(Fact::RunSubmitted { spec });
        Ok(self.done(format!("{name} was accepted"), None))
    }

    /// A gang that the fleet could not hold even if it were empty.
    fn size_flaw(&self, spec: &RunSpec) -> Option<Flaw> {
        let layout = spec.layout;
        if self.floor.fits_allowed(layout.tensor, layout.groups()) {
            return None;
        }
        let (total, most) = self.floor.allowed();
        let world = layout.world();
        let (tensor, pipeline, data) = (layout.tensor, layout.pipeline, layout.data);
        let problem = if layout.tensor > most {
            format!(
                "puts {tensor} tensor ranks together on one node, but the largest has {most} slots"
            )
        } else if u64::from(world) > total {
            format!("needs {world} ranks, but the nodes have {total} slots")
        } else {
            format!("needs {world} ranks in groups of {tensor}, which the nodes' slots cannot hold")
        };
        Some(Flaw {
            field: "layout".to_owned(),
            value: format!("{tensor} x {pipeline} x {data}"),
            problem,
            remedy: "make the layout smaller, or add or uncordon nodes".to_owned(),
        })
    }

    fn forget_one(&mut self) -> Result<(), Refusal> {
        let oldest = self.agenda.over.pop_first();
        let Some((_, run)) = oldest else {
            let flaw = Flaw {
                field: "name".to_owned(),
                value: self.state.runs.len().to_string(),
                problem: "runs are the most that are kept, and none of them is over".to_owned(),
                remedy: "stop some first".to_owned(),
            };
            return Err(Refusal::Flaws(vec![flaw]));
        };
        self.tell(Fact::RunForgotten { run });
        Ok(())
    }

    fn stop(&mut self, id: RunId, how: Stop) -> Result<Answer, Refusal> {
        let run = self
            .state
            .runs
            .get(&id)
            .ok_or_else(|| Refusal::NoSuchRun(id.clone()))?;
        let asked = run.stop.as_ref().map(|stop| stop.how);
        match run.state {
            RunState::Stopped => {
                return Ok(self.done(format!("{id} is stopped already"), Some(&id)));
            }
            RunState::Stopping if asked == Some(Stop::Now) || asked == Some(how) => {
                return Ok(self.done(format!("{id} is stopping already"), Some(&id)));
            }
            RunState::Completed | RunState::Failed | RunState::Parked => {
                let remedy = "there is nothing to stop".to_owned();
                return Err(Refusal::WrongState(id, run.state, remedy));
            }
            RunState::Pending
            | RunState::Starting
            | RunState::Running
            | RunState::Recovering
            | RunState::Stopping => {}
        }
        self.tell(Fact::StopAsked {
            run: id.clone(),
            how,
            cause: Cause::StopRequested,
        });
        let message = match how {
            Stop::Safely => format!("{id} stops after its step and a checkpoint"),
            Stop::Now => format!("{id} stops at once"),
        };
        Ok(self.done(message, Some(&id)))
    }

    fn resume(&mut self, id: RunId, layout: Option<Layout>) -> Result<Answer, Refusal> {
        let run = self
            .state
            .runs
            .get(&id)
            .ok_or_else(|| Refusal::NoSuchRun(id.clone()))?;
        if !run.state.can_resume() {
            let remedy = if run.state == RunState::Completed {
                "there is nothing left to do"
            } else if run.state == RunState::Stopping {
                "wait until it is stopped"
            } else {
                "it goes on by itself"
            };
            return Err(Refusal::WrongState(id, run.state, remedy.to_owned()));
        }
        let mut shape = String::new();
        let layout = layout.filter(|layout| *layout != run.spec.layout);
        if let Some(layout) = layout {
            let mut spec = (*run.spec).clone();
            spec.layout = layout;
            let mut flaws = spec.flaws();
            if flaws.is_empty() {
                flaws.extend(self.size_flaw(&spec));
            }
            if !flaws.is_empty() {
                return Err(Refusal::Flaws(flaws));
            }
            shape = format!(" as {layout}");
            self.tell(Fact::LayoutChosen {
                run: id.clone(),
                layout,
            });
        }
        self.tell(Fact::ResumeAsked { run: id.clone() });
        let run = self.state.runs.get(&id);
        let newest = run.and_then(Run::newest_sealed);
        let from = newest.map_or(0, |checkpoint| checkpoint.step.0);
        let message = format!("{id} goes on from step {from}{shape}");
        Ok(self.done(message, Some(&id)))
    }

    /// Automation never undoes what is set here (S11).
    fn cordon(&mut self, node: NodeId, cordoned: bool) -> Result<Answer, Refusal> {
        let known = self
            .state
            .nodes
            .get(&node)
            .ok_or_else(|| Refusal::NoSuchNode(node.clone()))?;
        let is_charted = self.state.health.chart(&node).is_some();
        let shuns = |run: &Run| run.slow.contains(&node) || run.ladder.blamed.contains_key(&node);
        let is_shunned = self.state.runs.values().any(shuns);
        if known.cordoned != cordoned || (!cordoned && (is_charted || is_shunned)) {
            let node = node.clone();
            self.tell(if cordoned {
                Fact::NodeCordoned { node }
            } else {
                Fact::NodeUncordoned { node }
            });
            self.room_in_breaker();
        }
        let message = if cordoned {
            format!("nothing new is placed on {node}")
        } else {
            format!("{node} can be used")
        };
        Ok(self.done(message, None))
    }

    fn drain(&mut self, node: NodeId, dry_run: bool) -> Result<Answer, Refusal> {
        if !self.state.nodes.contains(&node) {
            return Err(Refusal::NoSuchNode(node));
        }
        let moves = |run: &Run| {
            run.gang
                .as_ref()
                .is_some_and(|gang| gang.placement.nodes.contains(&node))
                && run.state != RunState::Stopping
        };
        let mut runs = self.floor.on(&node);
        runs.sort();
        runs.retain(|id| self.state.runs.get(id).is_some_and(moves));
        let without = BTreeSet::from([node.clone()]);
        let mut seating = Vec::new();
        for id in &runs {
            let Some((run, gang)) = self
                .state
                .runs
                .get(id)
                .and_then(|r| Some((r, r.gang.as_ref()?)))
            else {
                continue;
            };
            let placement = self.floor.place(&Want {
                run: id,
                layout: run.spec.layout,
                current: Some(&gang.placement),
                without: &without,
                blamed: &run.ladder.blamed,
            });
            let placement = placement.ok_or_else(|| Refusal::NoRoom(id.clone()))?;
            seating.extend(placement.seats().map(Seating::from));
        }
        let names: Vec<_> = runs.iter().map(RunId::as_str).collect();
        let what = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        if dry_run {
            let message = format!("{what} would move off {node}, each run at a step boundary");
            return Ok(Answer::WouldPlace { seating, message });
        }
        if self
            .state
            .nodes
            .get(&node)
            .is_some_and(|known| !known.cordoned)
        {
            self.tell(Fact::NodeCordoned { node: node.clone() });
        }
        for run in runs {
            let is_moving = self
                .state
                .runs
                .get(&run)
                .is_some_and(|run| run.moving.is_some());
            if !is_moving {
                let (node, cause) = (node.clone(), Cause::NodeDrained { node: node.clone() });
                self.tell(Fact::MoveAsked { run, node, cause });
            }
        }
        Ok(self.done(
            format!("{what} moves off {node}, each run at a step boundary"),
            None,
        ))
    }

    pub(super) fn done(&self, message: String, run: Option<&RunId>) -> Answer {
        let run = run.and_then(|run| self.state.runs.get(run));
        Answer::Done {
            message,
            generation: run.map(|run| run.generation),
        }
    }
}

impl RunState {
    /// Whether an admin may let a run in this state go on.
    const fn can_resume(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::Parked)
    }
}

fn nodes_of(seating: &[Seating]) -> String {
    let nodes: BTreeSet<_> = seating.iter().map(|seat| seat.node.as_str()).collect();
    nodes.into_iter().collect::<Vec<_>>().join(", ")
}
