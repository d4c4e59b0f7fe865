//! What a worker's driver does: it carries out commands of the member, in time that is made up, and
//! tells it how each of them ended. It decides nothing.

use super::{Doing, Outcome, Process, SaveAction};
use crate::options::Planted;
use crate::storage::{Saved, digest};
use crate::training;
use crate::world::{Happening, World, micros};
use rebloom_core::flight::{Page, Phase};
use rebloom_core::member::{Command, Event, LoadTrouble, Stepped, Trouble};
use rebloom_core::spec::seconds;
use rebloom_core::time::Duration;
use rebloom_core::word::{FromWorker, Go};

impl World {
    pub(crate) fn tell_member(&mut self, pid: u32, event: Event) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let now = self.node_now(process.node);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.member.handle(now, event);
        }
        self.drain_member(pid);
    }

    pub(super) fn drain_member(&mut self, pid: u32) {
        while let Some(process) = self.processes.get_mut(&pid)
            && let Some(command) = process.member.poll_command()
        {
            self.do_for_member(pid, command);
        }
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let (node, timer) = (process.node, process.timer);
        if let Some(due) = process.member.poll_timeout()
            && let due = self.world_time(node, due)
            && timer.is_none_or(|set| due < set)
        {
            if let Some(process) = self.processes.get_mut(&pid) {
                process.timer = Some(due);
            }
            self.at(due, Happening::WorkerTimer { pid });
        }
    }

    fn do_for_member(&mut self, pid: u32, command: Command) {
        let shard_time = micros(self.options.shard_time);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        match command {
            Command::Enter { phase, deadline } => {
                process.page.phase = phase;
                process.page.deadline = deadline;
            }
            Command::Form(go) => self.form(pid, go),
            Command::Load(_) => {
                let action = begin(process, Doing::Loading);
                let takes = self.random.micros(1000, shard_time.max(1001));
                self.after(
                    takes,
                    Happening::ActionDone {
                        pid,
                        action,
                        outcome: Outcome::LoadEnds,
                    },
                );
            }
            Command::Step => self.step(pid, Doing::Stepping),
            Command::Evaluate => self.step(pid, Doing::Evaluating),
            Command::Save {
                checkpoint,
                wait: _,
            } => {
                let save = SaveAction {
                    checkpoint,
                    saved: process.saved,
                };
                let takes = self.random.micros(1000, shard_time.max(1001));
                self.after(takes, Happening::ShardWritten { pid, save });
            }
            Command::Snapshot { checkpoint } => {
                let save = SaveAction {
                    checkpoint,
                    saved: process.saved,
                };
                // Memory is faster than storage, and sometimes it is not.
                let most = if self.chance.once_in(8) { 2 } else { 20 };
                let takes = self.chance.micros(100, (shard_time / most).max(101));
                self.after(takes, Happening::SnapshotTaken { pid, save });
            }
            Command::Hash => {
                let action = begin(process, Doing::Hashing);
                let takes = self.random.millis(1, 20);
                self.after(
                    takes,
                    Happening::ActionDone {
                        pid,
                        action,
                        outcome: Outcome::HashEnds,
                    },
                );
            }
            Command::Abandon => {
                begin(process, Doing::Nothing);
                self.leave_gang(pid);
            }
            Command::Say(word) => {
                process.last_word += 1;
                let sequence = process.last_word;
                process.words.push_back((sequence, word.clone()));
                self.carry_word(pid, sequence, word);
            }
            Command::Leave { code } => {
                let takes = self.random.millis(1, 40);
                self.after(takes, Happening::ProcessEnds { pid, code });
            }
        }
    }

    pub(super) fn carry_word(&mut self, pid: u32, sequence: u64, word: FromWorker) {
        let delay = self.random.micros(20, 900);
        let arrives = self.now + delay;
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if let Some(life) = process.life {
            let node = process.node;
            process.word_arrives = process.word_arrives.max(arrives);
            let arrives = process.word_arrives;
            self.at(
                arrives,
                Happening::WordArrives {
                    node,
                    life,
                    pid,
                    sequence,
                    word,
                },
            );
        }
    }

    fn form(&mut self, pid: u32, mut go: Box<Go>) {
        self.leave_gang(pid);
        if self.options.planted == Some(Planted::SkipTooMuch) {
            let skips = go.spec.guard.skip.iter_mut();
            skips.for_each(|skip| skip.until += 1);
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.page = Page {
            generation: go.generation,
            phase: Phase::Init,
            deadline: process.page.deadline,
            ..Page::default()
        };
        let deadline = seconds(go.spec.deadlines.init);
        process.go = Some(go);
        let action = begin(process, Doing::Forming);
        self.check_form(pid);
        let begins = self.random.millis(1, 15);
        self.after(begins, Happening::FormTried { pid, action });
        self.give_up_after(pid, action, deadline);
    }

    /// Computes its part of what the gang does together, and meets the others.
    fn step(&mut self, pid: u32, doing: Doing) {
        let most = micros(self.options.step_time);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let phase = process.page.phase;
        let deadline = process
            .go
            .as_ref()
            .map_or(1.0, |go| go.spec.deadlines.of(phase));
        let action = begin(process, doing);
        let takes = self.random.micros(most / 2, most) * process.slowness;
        self.after(takes, Happening::StepEntered { pid, action });
        self.give_up_after(pid, action, seconds(deadline));
    }

    /// Every wait is bounded, if far above its deadline.
    fn give_up_after(&mut self, pid: u32, action: u64, deadline: Duration) {
        if self.options.collective_timeout > 0 {
            let error = "timed out".to_owned();
            let outcome = Outcome::Trouble(Trouble::PeerLost { error });
            let after = deadline * self.options.collective_timeout;
            self.after(
                after,
                Happening::ActionDone {
                    pid,
                    action,
                    outcome,
                },
            );
        }
    }

    pub(crate) fn action_done(&mut self, pid: u32, action: u64, outcome: Outcome) {
        let Some(process) = self.processes.get_mut(&pid).filter(|p| p.action == action) else {
            return;
        };
        let doing = process.doing;
        begin(process, Doing::Nothing);
        let is_fenced = process.is_fenced() && self.options.planted != Some(Planted::FenceIgnored);
        let event = match outcome {
            Outcome::Formed => Event::Formed { outcome: Ok(()) },
            Outcome::LoadEnds => Event::Loaded {
                outcome: self.load(pid),
            },
            Outcome::Stepped(..) if is_fenced => Event::Stepped {
                outcome: Err(Trouble::Fenced),
            },
            Outcome::Stepped(saved, stop) => {
                process.saved = saved;
                process.page.step = saved.step;
                process.page.samples = saved.samples;
                process.count(|counter| counter.done += 1);
                self.check_step(pid);
                let (step, samples) = (saved.step, saved.samples);
                Event::Stepped {
                    outcome: Ok(Stepped {
                        step,
                        samples,
                        stop,
                        spike: None,
                    }),
                }
            }
            Outcome::Evaluated(_) if is_fenced => Event::Evaluated {
                outcome: Err(Trouble::Fenced),
            },
            Outcome::Evaluated(evaluation) => {
                process.count(|counter| counter.done += 1);
                Event::Evaluated {
                    outcome: Ok(evaluation),
                }
            }
            Outcome::HashEnds => Event::Hashed {
                state: digest(process.saved),
            },
            Outcome::Trouble(trouble) if doing == Doing::Forming => Event::Formed {
                outcome: Err(trouble),
            },
            Outcome::Trouble(trouble) if doing == Doing::Evaluating => Event::Evaluated {
                outcome: Err(trouble),
            },
            Outcome::Trouble(trouble) => Event::Stepped {
                outcome: Err(trouble),
            },
        };
        self.tell_member(pid, event);
    }

    fn load(&mut self, pid: u32) -> Result<(rebloom_core::id::Step, u64), LoadTrouble> {
        let go = self.processes.get(&pid).and_then(|p| p.go.clone());
        let Some(go) = go else {
            return Err(LoadTrouble::Other(Trouble::Fenced));
        };
        let recalled = go.snapshot.as_ref().map(|recall| self.recall(pid, recall));
        let recalled = recalled.transpose().map_err(LoadTrouble::Unsound)?;
        let Some(process) = self.processes.get_mut(&pid) else {
            return Err(LoadTrouble::Other(Trouble::Fenced));
        };
        let mut saved = match go.resume.filter(|_| recalled.is_none()) {
            None => recalled.unwrap_or_else(|| training::initial(&go.spec, process.rank)),
            Some(id) => match self
                .storage
                .read(&process.run, id, go.spec.layout, process.rank)
            {
                Ok(saved) => saved,
                Err(_) if self.options.planted == Some(Planted::ShardUnverified) => Saved {
                    step: id.step,
                    ..Saved::default()
                },
                Err(unsound) => return Err(LoadTrouble::Unsound(unsound)),
            },
        };
        if self.options.planted == Some(Planted::SamplesRepeated) {
            saved.samples = saved.samples.saturating_sub(1);
        }
        process.saved = saved;
        process.page.step = saved.step;
        process.page.samples = saved.samples;
        self.check_loaded(pid);
        Ok((saved.step, saved.samples))
    }

    pub(crate) fn shard_written(&mut self, pid: u32, save: SaveAction) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let SaveAction { checkpoint, saved } = save;
        let outcome = self
            .storage
            .write(&process.run, checkpoint, process.rank, saved);
        self.tell_member(
            pid,
            Event::Saved {
                checkpoint,
                samples: saved.samples,
                outcome,
            },
        );
    }
}

/// Begins an action; the one before is over.
const fn begin(process: &mut Process, doing: Doing) -> u64 {
    process.action += 1;
    process.doing = doing;
    process.action
}
