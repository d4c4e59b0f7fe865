//! One rank on this node: what is remembered of it, and what only this life knows.

use crate::cause::{Blamed, Cause};
use crate::flight::{Page, Phase};
use crate::id::{Generation, Rank, RunId, Slot, Step};
use crate::report::{Milestone, RankEvent, RankStatus};
use crate::supervisor::{Command, Process, RankMemory};
use crate::time::{Duration, Instant};
use crate::word::{Hello, ToWorker};

/// One rank on this node.
#[derive(Debug)]
pub(in crate::supervisor) struct Local {
    pub(in crate::supervisor) kept: RankMemory,
    /// Its process was asked for and neither came nor failed to come.
    pub(super) starting: bool,
    /// A hello that overtook the news of the process.
    pub(super) early: Option<Hello>,
    /// The generation its worker is in or was told; none before the first hello in this life.
    pub(super) told: Option<Generation>,
    /// The fence that this life wrote.
    fenced: Generation,
    /// Since when it should be on its way; none before the first look.
    going_since: Option<Instant>,
    pub(super) stop_told: bool,
    pub(super) killed: bool,
    /// How this generation ended for it, while its process lives; said again over every new link,
    /// since a controller may have lost what it acknowledged.
    pub(super) over: Option<RankEvent>,
    /// What was reported in this life of this generation.
    pub(super) reported: Option<Milestone>,
    overdue: Option<(Phase, Instant)>,
    pub(super) leave_by: Option<Instant>,
}

impl Local {
    /// A rank whose process is asked for.
    pub(super) fn starting(rank: Rank, slot: Slot, generation: Generation, now: Instant) -> Self {
        let kept = RankMemory {
            rank,
            slot,
            generation,
            fence_below: Generation(0),
            milestone: Milestone::Going,
            process: None,
        };
        Self {
            starting: true,
            going_since: Some(now),
            ..Self::from(kept)
        }
    }

    pub(in crate::supervisor) const fn is_alive(&self) -> bool {
        self.starting || self.kept.process.is_some()
    }

    /// It was fenced for want of a controller; what it had finished stays finished, if it says so.
    pub(super) fn orphaned(&mut self) {
        if self.reported < Some(Milestone::Finished) {
            self.over = Some(RankEvent::Failed {
                phase: Phase::Idle,
                error: "fenced, since its agent heard from no controller".to_owned(),
                blamed: Blamed::Infrastructure,
            });
        }
    }

    /// Whether it could still finish a step.
    pub(super) fn runs_unfenced(&self) -> bool {
        self.is_alive() && self.kept.fence_below <= self.kept.generation
    }

    pub(super) fn status(&self) -> Option<RankStatus> {
        let pid = self.kept.process.map_or(0, |process| process.pid);
        let RankMemory {
            rank,
            generation,
            milestone,
            ..
        } = self.kept;
        self.is_alive().then_some(RankStatus {
            rank,
            pid,
            generation,
            milestone,
        })
    }

    /// What a controller on a new link must hear again.
    pub(super) fn again(&mut self) -> Option<RankEvent> {
        self.overdue = None;
        self.over.clone().filter(|_| self.kept.process.is_some())
    }

    /// The generation it is to run from now on; its process stays.
    pub(super) fn go_on(&mut self, generation: Generation, now: Instant) {
        self.kept.generation = generation;
        self.kept.milestone = Milestone::Going;
        self.going_since = Some(now);
        self.stop_told = false;
        self.over = None;
        self.reported = None;
        self.overdue = None;
    }

    pub(super) fn started(&mut self, now: Instant, pid: u32, started: u64) {
        self.starting = false;
        self.going_since = Some(now);
        let spawned_for = self.kept.generation;
        self.kept.process = Some(Process {
            pid,
            started,
            spawned_for,
        });
        if let Some(hello) = self.early.take_if(|hello| hello.pid == pid) {
            self.hello(&hello);
        }
    }

    pub(super) fn hello(&mut self, hello: &Hello) {
        self.told = Some(hello.generation);
        if hello.generation == self.kept.generation {
            self.kept.milestone = self.kept.milestone.max(hello.milestone);
        }
    }

    pub(super) fn ended(&mut self) {
        self.kept.process = None;
        self.starting = false;
        self.leave_by = None;
    }

    /// Raises the fence; true where that changes what is remembered.
    pub(super) fn fence(
        &mut self,
        run: &RunId,
        below: Generation,
        cause: &Cause,
        acts: &mut Vec<Command>,
    ) -> bool {
        let changed = self.kept.fence_below < below;
        self.kept.fence_below = self.kept.fence_below.max(below);
        if self.kept.process.is_some() && self.fenced < self.kept.fence_below {
            self.fenced = self.kept.fence_below;
            acts.push(Command::Fence {
                run: run.clone(),
                rank: self.kept.rank,
                below: self.fenced,
                cause: cause.clone(),
            });
        }
        changed
    }

    /// Kills its process, once.
    pub(super) fn kill(&mut self, run: &RunId, cause: &Cause) -> Option<Command> {
        let process = self.kept.process.filter(|_| !self.killed)?;
        self.killed = true;
        Some(Command::Kill {
            run: run.clone(),
            rank: self.kept.rank,
            pid: process.pid,
            generation: self.kept.generation,
            cause: cause.clone(),
        })
    }

    /// Tells its worker to leave, once.
    pub(super) fn leave(&mut self, run: &RunId, by: Instant) -> Option<Command> {
        if self.leave_by.is_some() || self.kept.process.is_none() {
            return None;
        }
        self.leave_by = Some(by);
        Some(Command::Tell {
            run: run.clone(),
            rank: self.kept.rank,
            word: ToWorker::Exit,
        })
    }

    /// The phase and step whose deadline it missed by its page, said once for each deadline. A worker that
    /// never took its go up has no page of this generation, and one that was adopted and says no
    /// hello may be in any phase: they miss the deadline of init.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        page: Option<&Page>,
        init: Duration,
    ) -> Option<(Phase, Option<Step>)> {
        let is_watched = self.kept.process.is_some()
            && self.runs_unfenced()
            && !self.killed
            && self.leave_by.is_none()
            && self.reported < Some(Milestone::Finished);
        if !is_watched {
            return None;
        }
        let init = *self.going_since.get_or_insert(now) + init;
        let page = page.filter(|page| page.generation >= self.kept.generation);
        let by_page = page.and_then(|page| Some(((page.phase, page.deadline?), Some(page.step))));
        let by_word = (page.is_none() || self.told.is_none())
            .then(|| ((page.map_or(Phase::Init, |page| page.phase), init), None));
        let (missed, step) = [by_page, by_word]
            .into_iter()
            .flatten()
            .find(|((_, at), _)| *at <= now)?;
        if self.overdue == Some(missed) {
            return None;
        }
        self.overdue = Some(missed);
        Some((missed.0, step))
    }
}

impl From<RankMemory> for Local {
    fn from(kept: RankMemory) -> Self {
        let fenced = kept.fence_below > kept.generation;
        let mut local = Self {
            kept,
            starting: false,
            early: None,
            told: None,
            fenced: Generation(0),
            going_since: None,
            stop_told: false,
            killed: false,
            over: None,
            reported: None,
            overdue: None,
            leave_by: None,
        };
        if fenced {
            local.orphaned();
        }
        local
    }
}
