//! How a member keeps what it trained: saves while it trains, and the last save and digest of a
//! generation that ends as it should.

use super::{Command, Member, State, Trouble};
use crate::cause::Blamed;
use crate::checkpoint::{CheckpointId, Shard};
use crate::flight::Phase;
use crate::id::{Digest, Step};
use crate::report::{Finish, Milestone};
use crate::snapshot::Piece;
use crate::time::Instant;
use crate::word::FromWorker;

impl Member {
    /// Begins a save; the last one of a generation is waited for.
    pub(super) fn save(&mut self, now: Instant, checkpoint: CheckpointId, finish: Option<Finish>) {
        self.saving = Some(checkpoint);
        self.commands.push_back(Command::Save {
            checkpoint,
            wait: finish.is_some(),
        });
        match finish {
            Some(why) => {
                self.state = State::Saving {
                    last: checkpoint,
                    why,
                }
            }
            None => self.go_on(now, None),
        }
    }

    pub(super) fn saved(
        &mut self,
        now: Instant,
        checkpoint: CheckpointId,
        samples: u64,
        outcome: Result<Shard, String>,
    ) {
        let failure = outcome.as_ref().err().cloned();
        let word = match outcome {
            Ok(shard) => FromWorker::Saved {
                checkpoint,
                samples,
                shard,
            },
            Err(error) => FromWorker::SaveFailed { checkpoint, error },
        };
        self.last_saved = Some(word.clone());
        self.say(word);
        if self.saving == Some(checkpoint) {
            self.saving = None;
        }
        match (self.state, failure) {
            (State::Saving { last, why }, None) if last == checkpoint => {
                if !self.is_over(now) {
                    self.go_on(now, Some(why));
                }
            }
            (State::Saving { last, .. }, Some(error)) if last == checkpoint => {
                // What is not saved is not done: the run does these steps again.
                let blamed = Blamed::Infrastructure;
                self.give_up(now, Phase::Save, Trouble::Error { error, blamed });
            }
            (State::Clearing { next, finish }, _) if self.saving.is_none() => {
                self.save(now, next, finish);
            }
            (
                State::Idle
                | State::Forming
                | State::Loading
                | State::Stepping
                | State::Evaluating { .. }
                | State::Clearing { .. }
                | State::Saving { .. }
                | State::Hashing { .. }
                | State::Left,
                _,
            ) => {}
        }
    }

    /// Begins a snapshot where one is due. None is where the one before, or a save, is still under way:
    /// training never waits for memory.
    pub(super) fn snap(&mut self, step: Step) {
        let Some(go) = &self.go else { return };
        let is_due = go.spec.checkpoint.is_snapshot(step);
        if is_due && self.saving.is_none() && self.snapping.is_none() {
            let checkpoint = CheckpointId {
                step,
                generation: go.generation,
            };
            self.snapping = Some(checkpoint);
            self.commands.push_back(Command::Snapshot { checkpoint });
        }
    }

    pub(super) fn snapped(&mut self, checkpoint: CheckpointId, outcome: Result<Piece, String>) {
        if self.snapping == Some(checkpoint) {
            self.snapping = None;
        }
        if let Ok(piece) = outcome {
            let word = FromWorker::Snapped(piece);
            self.last_snapped = Some(word.clone());
            self.say(word);
        }
    }

    pub(super) fn hash(&mut self, why: Finish) {
        self.state = State::Hashing { why };
        self.commands.push_back(Command::Hash);
    }

    pub(super) fn hashed(&mut self, now: Instant, state: Digest) {
        let State::Hashing { why } = self.state else {
            return;
        };
        if self.is_over(now) {
            return;
        }
        self.milestone = Milestone::Finished;
        self.state = State::Idle;
        self.commands.push_back(Command::Enter {
            phase: Phase::Idle,
            deadline: None,
        });
        let (generation, step) = (self.generation(), self.step);
        self.say_last(FromWorker::Finished {
            generation,
            why,
            step,
            state,
        });
    }
}
