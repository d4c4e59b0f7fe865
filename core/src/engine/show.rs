//! Views: the state and what the pages say, put together for people.

use super::state::{Gang, Run};
use super::{Engine, Fact, NodeView, RankView, RunState, RunView};
use crate::flight::Page;
use crate::footprint::{Tariff, watts};
use crate::id::{NodeId, RunId, Step};
use crate::time::{Duration, Instant};

impl Engine {
    /// Every run, by name.
    pub fn runs(&self, now: Instant) -> Vec<RunView> {
        self.state
            .runs
            .iter()
            .map(|(id, run)| self.view(id, run, now))
            .collect()
    }

    /// One run.
    pub fn run(&self, run: &RunId, now: Instant) -> Option<RunView> {
        self.state
            .runs
            .get(run)
            .map(|known| self.view(run, known, now))
    }

    /// Every node, by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        let nodes = self.state.nodes.iter().map(|(id, node)| NodeView {
            facts: (*node.facts).clone(),
            state: self.node_state(id),
            cordoned: node.cordoned,
            health: self.node_health(id),
            ranks: self.ranks_on(id),
            last_heard: self
                .links
                .get(id)
                .filter(|link| link.was_up())
                .map(|link| link.heard),
        });
        nodes.collect()
    }

    fn ranks_on(&self, node: &NodeId) -> Vec<(RunId, crate::id::Rank)> {
        let mut runs = self.floor.on(node);
        runs.sort();
        let gangs = runs.iter();
        let gangs = gangs.filter_map(|id| Some((id, self.state.runs.get(id)?.gang.as_ref()?)));
        gangs
            .flat_map(|(id, gang)| {
                gang.on(node)
                    .filter(|(_, member)| !member.gone)
                    .map(|(rank, _)| (id.clone(), rank))
            })
            .collect()
    }

    fn view(&self, id: &RunId, run: &Run, now: Instant) -> RunView {
        let pages = self.pages(id, run);
        let furthest = furthest(&pages);
        let last = run.mileposts.last();
        let step = self.step(id);
        let samples = pages
            .iter()
            .map(|page| page.samples)
            .max()
            .unwrap_or_default();
        let nanos = pages
            .iter()
            .filter(|page| page.step == furthest)
            .map(|page| page.step_nanos);
        let nanos = nanos.max().filter(|nanos| *nanos > 0);
        let saved = run
            .held
            .iter()
            .filter(|held| held.id.step <= step)
            .map(|held| held.samples);
        RunView {
            spec: (*run.spec).clone(),
            state: run.state,
            why: run.why.clone(),
            waits_for: if run.state == RunState::Pending {
                self.waits_for(id)
            } else {
                String::new()
            },
            generation: run.generation,
            ranks: run
                .gang
                .as_ref()
                .map(|gang| self.rank_views(id, gang))
                .unwrap_or_default(),
            step,
            samples: samples.max(saved.max().unwrap_or_default()),
            loss: seen(&pages, |page| page.loss).or(last.map(|post| post.loss)),
            grad_norm: seen(&pages, |page| page.grad_norm).or(last.and_then(|post| post.grad_norm)),
            step_time: nanos.map(Duration::from_nanos),
            checkpoints: run
                .held
                .iter()
                .rev()
                .map(|held| (held.id, held.state))
                .collect(),
            snapshot: self.snapshot_view(id, run),
            incidents: run.incidents.iter().cloned().collect(),
            ledger: run.book.at(now),
            ettr_hour: run.book.last_hour(now),
            tariff: self.tariff(run),
            device: self.device(run).cloned(),
            transitions: run.transitions.iter().cloned().collect(),
            mileposts: run.mileposts.clone(),
            evaluations: run.evaluations.clone(),
            submitted: run.submitted,
            final_states: run.final_states.clone(),
        }
    }

    /// Writes down how training stands, where a loss is known and it has moved on.
    pub(super) fn pass_milepost(&mut self, id: &RunId) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let pages = self.pages(id, run);
        let (step, grad_norm) = (furthest(&pages), seen(&pages, |page| page.grad_norm));
        let is_news = run.mileposts.last().is_none_or(|post| post.step != step);
        if let Some(loss) = seen(&pages, |page| page.loss).filter(|_| is_news) {
            self.tell(Fact::MilepostPassed {
                run: id.clone(),
                step,
                loss,
                grad_norm,
            });
        }
    }

    /// The name of a run's first device, the others being alike.
    fn device(&self, run: &Run) -> Option<&String> {
        let seats = run.gang.iter().flat_map(|gang| gang.placement.seats());
        let mut names = seats
            .filter_map(|seat| self.state.nodes.get(seat.node))
            .chain(self.state.nodes.values())
            .filter_map(|node| node.facts.gpus.first());
        names.next()
    }

    /// What an hour of a device of a run costs.
    fn tariff(&self, run: &Run) -> Tariff {
        let tariff = self.limits.tariff;
        Tariff {
            watts: tariff.watts.or_else(|| watts(self.device(run)?)),
            ..tariff
        }
    }

    /// The pages of the generation in force.
    fn pages(&self, id: &RunId, run: &Run) -> Vec<&Page> {
        let watch = self.watches.get(id).filter(|_| run.gang.is_some());
        let pages = watch
            .into_iter()
            .flat_map(|watch| watch.pages.iter().map(|(_, page)| page));
        pages
            .filter(|page| page.generation == run.generation)
            .collect()
    }

    fn rank_views(&self, id: &RunId, gang: &Gang) -> Vec<RankView> {
        let watch = self.watches.get(id);
        let seats = gang.placement.seats().zip(gang.members.iter());
        let views = seats.map(|(seat, member)| {
            let page = watch.and_then(|watch| watch.pages.get(seat.rank));
            let page = page.filter(|page| page.generation == gang.generation);
            RankView {
                seating: seat.into(),
                pid: member.pid,
                milestone: member.reached,
                phase: page.map(|page| page.phase),
                step: page.map(|page| page.step),
            }
        });
        views.collect()
    }
}

/// Steps by the page that is furthest on.
fn furthest(pages: &[&Page]) -> Step {
    pages.iter().map(|page| page.step).max().unwrap_or_default()
}

/// A figure of the page that is furthest on; not every rank sees one.
fn seen(pages: &[&Page], value: fn(&Page) -> f32) -> Option<f32> {
    let furthest = furthest(pages);
    let mut at_front = pages.iter().filter(|page| page.step == furthest);
    at_front.find_map(|page| Some(value(page)).filter(|value| value.is_finite()))
}
