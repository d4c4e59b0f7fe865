//! What the pages tell beside hangs: how long phases take, how fast the gang is, which rank is slow.
//!
//! All of it is learned while looking at each page once; only what a later decision rests on becomes a
//! fact. Slowness breaks no gang: it is recorded, and the next restart makes use of it. Where the next
//! fault is too far off to wait for it, a restart is planned, at a step boundary and with a checkpoint.

mod saves;
mod turn;

use super::hang::Watch;
use super::state::{Gang, Member, Run};
use super::{Engine, Fact, RunState};
use crate::cause::Cause;
use crate::flight::{Page, Phase};
use crate::hang::bisect::{Bisect, Outcome};
use crate::hang::deadline::{self, Learn};
use crate::hang::straggler::Straggler;
use crate::id::{NodeId, Rank, RunId, Step};
use crate::interval::Measured;
use crate::spec::seconds;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// A pace that differs by less than this is the same.
const SAME: f64 = 0.1;
/// What one look at a page told beside where the rank is.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    /// A phase is over, took so long, and was in this step.
    Took(Phase, Duration, Step),
    /// A phase goes on, in this step, for longer than was learned.
    Late(Phase, Step),
    /// The rank has been slow for a while.
    Slow(Straggler),
}

impl Engine {
    /// Takes in what a look at a page of the generation in force told.
    pub(super) fn looked(&mut self, id: &RunId, node: &NodeId, rank: Rank, seen: Seen) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        match seen {
            Seen::Took(phase, took, step) => {
                let known = run.timings.get(&phase).copied().unwrap_or_default();
                if let Some(timing) = known.after(took, (run.generation, step)) {
                    let run = id.clone();
                    self.tell(Fact::PhaseTimed { run, phase, timing });
                }
            }
            Seen::Late(phase, step) => {
                let gang = run.gang.as_ref().filter(|gang| gang.overdue.is_none());
                if let Some(generation) = gang.map(|gang| gang.generation) {
                    self.tell(Fact::RankOverdue {
                        run: id.clone(),
                        generation,
                        rank,
                        phase,
                        step: Some(step),
                        seen: None,
                    });
                }
            }
            Seen::Slow(found) => self.noted(
                id,
                Cause::Straggler {
                    rank,
                    node: node.clone(),
                    relative_percent: found.relative_percent,
                    own_percent: found.own_percent,
                },
            ),
        }
    }

    /// Takes in what the pace of the gang says, once for every step that it has done.
    pub(super) fn judge_pace(&mut self, id: &RunId) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get_mut(id)) else {
            return;
        };
        if run.state != RunState::Running || !std::mem::take(&mut watch.is_news) {
            return;
        }
        let Some(step) = watch.pace.typical() else {
            return;
        };
        let save = watch.save_cost(self.limits.beat_every, run.spec.layout.world());
        let save = save.or(run.save_cost);
        let differs = |new: Option<Duration>, old: Option<Duration>| match (new, old) {
            (Some(new), Some(old)) => {
                (new.as_secs_f64() - old.as_secs_f64()).abs() > old.as_secs_f64() * SAME
            }
            (new, old) => new != old,
        };
        let is_news = differs(Some(step), run.step_time) || differs(save, run.save_cost);
        let is_whole = watch.batch.0 == run.spec.train.global_batch;
        // Where the suspects of a search are out, it is another node.
        let nodes = run.gang.as_ref().map(|gang| &gang.placement.nodes);
        let searches = run.search.as_ref().zip(nodes);
        let searches = searches.is_some_and(|(search, nodes)| search.suspects_in(nodes) > 0);
        let slowdown = watch.pace.slowdown().filter(|_| !searches);
        if slowdown.is_some() {
            watch.pace.accept();
        }
        let found = run
            .search
            .as_ref()
            .filter(|search| search.asks())
            .map(|search| {
                let mut search = search.clone();
                search.judge(step)
            });
        if is_news {
            let run = id.clone();
            self.tell(Fact::PaceSeen { run, step, save });
        }
        if let Some((before, now)) = slowdown {
            self.noted(id, Cause::Slower { before, now });
            // A search compares the steps of several generations, so the batch has to stay.
            if is_whole {
                let (run, busy) = (id.clone(), self.busy(id));
                self.tell(Fact::SearchBegun {
                    run,
                    before,
                    now,
                    busy,
                });
            }
        }
        if let Some(outcome) = found {
            if let Outcome::Found(node) = outcome {
                self.noted(id, Cause::NodeSlow { node });
            }
            let run = id.clone();
            self.tell(Fact::SearchJudged { run, step });
            self.look_again(id);
        }
        self.plan_slow_turn(id);
        self.plan_saves_turn(id);
    }

    /// Begins a search anew that goes on, where one node stands out by now: another has become slow meanwhile.
    fn look_again(&mut self, id: &RunId) {
        let run = self.state.runs.get(id);
        let Some(search) = run.and_then(|run| run.search.as_ref()) else {
            return;
        };
        let ((before, now), busy) = (search.steps(), self.busy(id));
        let stands_out = Bisect::new(before, now, &busy).busiest().is_some();
        if stands_out && search.busiest().is_none() {
            let run = id.clone();
            self.tell(Fact::SearchBegun {
                run,
                before,
                now,
                busy,
            });
        }
    }

    /// How much longer the ranks of each node of a gang are busy than their like.
    fn busy(&self, id: &RunId) -> BTreeMap<NodeId, f64> {
        let gang = self.state.runs.get(id).and_then(|run| run.gang.as_ref());
        let Some((gang, watch)) = gang.zip(self.watches.get(id)) else {
            return BTreeMap::new();
        };
        let busy = |node| {
            let ranks = gang.on(node).map(|(rank, _)| rank);
            let busy = ranks.map(|rank| watch.stragglers.relative(rank));
            busy.fold(0.0, f64::max)
        };
        let nodes = gang.placement.nodes.iter();
        nodes.map(|node| (node.clone(), busy(node))).collect()
    }

    /// What was measured of a run on this many nodes.
    fn measured(&self, run: &Run, nodes: usize) -> Measured {
        Measured {
            nodes,
            ran: run.book.at(self.now).ran(),
            failures: run.failures,
            save: run.save_cost,
            step: run.step_time,
        }
    }

    /// Records something that does not end the generation in force.
    pub(super) fn noted(&mut self, id: &RunId, cause: Cause) {
        let (now, step) = (self.now, self.step(id));
        self.tell(Fact::IncidentOpened {
            run: id.clone(),
            cause,
            began: now,
            heard: now,
            step,
            rung: None,
        });
    }
}

impl Run {
    /// Whether its gang is asked to stop: what it saves then is waited for, and says nothing of other saves.
    pub(super) fn is_leaving(&self) -> bool {
        self.stop.is_some() || self.leaves_by_itself().is_some()
    }
}

/// Whether a phase has gone on for longer than was learned, and a little more since pages are not
/// read all the time. What is set by hand the worker's own deadline watches.
fn is_late(
    (run, gang): (&Run, &Gang),
    learn: &Learn,
    (phase, step, went): (Phase, Step, Duration),
    slack: Duration,
) -> bool {
    let is_like_those_before = match phase {
        Phase::Step => step.0 >= gang.first_step().0 + learn.skip,
        // A start is not a restore.
        Phase::Load => gang.resume.is_some() && gang.snapshot.is_none(),
        // The last save of a gang is waited for; the others go on beside the next steps.
        Phase::Save => !run.is_leaving() && step.0 < run.spec.train.steps,
        Phase::Init | Phase::Eval => true,
        Phase::Idle | Phase::Exit => false,
    };
    let by_hand = run.spec.deadlines.of(phase);
    let allowed = deadline::allowed(by_hand, run.timings.get(&phase), Some(learn));
    is_like_those_before && allowed < by_hand && went > seconds(allowed) + slack
}

impl Watch {
    /// Takes in a page of the generation in force, before it replaces the last one.
    pub(super) fn look(
        &mut self,
        run: &Run,
        gang: &Gang,
        (rank, page): (Rank, &Page),
        (now, awake, beat_every): (Instant, Instant, Duration),
    ) -> Vec<Seen> {
        let mut seen = Vec::new();
        if run.broken.is_some() {
            return seen;
        }
        let learns = run.spec.deadlines.learn;
        let learn = learns.unwrap_or_default();
        let first = gang.first_step();
        let look = self.clock.look((rank, page), (first, &learn), now);
        if page.phase == Phase::Save && !run.is_leaving() {
            self.seen_saving += 1;
        }
        let lives = |member: &Member| member.finished.is_none() && !member.gone;
        if learns.is_some() {
            // Random weights are there at once, which says nothing of a restore.
            let loads = gang.resume.is_some() && gang.snapshot.is_none();
            let tells = |phase| phase != Phase::Load || loads;
            let over = look.over.filter(|(phase, ..)| tells(*phase));
            seen.extend(over.map(|(phase, took, step)| Seen::Took(phase, took, step)));
            let (phase, since) = look.goes_on;
            // Who slept may be looking at a page from before.
            let went = now.since(since.max(awake));
            let may_be_late = phase != Phase::Idle
                && gang.overdue.is_none()
                && gang.members.get(rank).is_some_and(lives);
            let here = (phase, page.step, went);
            if may_be_late && is_late((run, gang), &learn, here, beat_every * 4) {
                seen.push(Seen::Late(phase, page.step));
            }
        }
        self.follow_batch(run, page);
        let is_warm = page.step.0 > first.0 + learn.skip && page.step > self.batch.1;
        if is_warm && run.state == RunState::Running {
            let busy = Duration::from_nanos(page.busy_nanos);
            let sample = (rank, page.step, busy);
            let found = self.stragglers.look(run.spec.layout, sample);
            seen.extend(found.map(Seen::Slow));
        }
        if is_warm && page.step > self.step && page.step_nanos > 0 {
            self.pace.step(Duration::from_nanos(page.step_nanos));
            self.is_news = true;
        }
        seen
    }

    /// Begins anew where the batch is another: that steps take longer then says nothing of nodes.
    fn follow_batch(&mut self, run: &Run, page: &Page) {
        let batch = run.spec.train.batch(page.samples);
        if page.step > self.step && batch != self.batch.0 {
            self.batch = (batch, page.step);
            self.stragglers.clear();
            self.pace.begin((run.spec.layout, run.async_off, batch));
        }
    }

    /// How long a save holds a rank up, by how often ranks were seen saving; none before enough were.
    fn save_cost(&self, beat_every: Duration, world: u32) -> Option<Duration> {
        let saves = u32::try_from(self.saves).ok().filter(|saves| *saves >= 3)?;
        let seen = f64::from(u32::try_from(self.seen_saving).unwrap_or(u32::MAX));
        let looks = seen / f64::from(world.max(1)) / f64::from(saves);
        Some(beat_every.mul_f64(looks).max(Duration::from_millis(1)))
    }

    /// A checkpoint of the gang was sealed.
    pub(super) const fn saved(&mut self) {
        self.saves += 1;
    }
}
