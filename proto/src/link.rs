//! The link between controller and agent: what surrounds joins, beats, reports and orders.

use crate::check::{Malformed, absolute, list, nanos, part, run_id, text, within};
use crate::wire;
use crate::wire::{agent_question, agent_reply, from_agent, to_agent};
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{Rank, RunId, Session};
use rebloom_core::order::Order;
use rebloom_core::report::{Beat, Join, Report};
use rebloom_core::time::{Duration, Instant};

/// The largest part of a log that one reply carries.
pub const MAX_LOG_PART: usize = 1 << 20;

/// What an agent says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromAgent {
    /// The first message of a link.
    Join(Join),
    /// The regular sign of life.
    Beat(Beat),
    /// A report, sent until it is acknowledged.
    Report {
        /// Its number.
        sequence: u64,
        /// What.
        report: Report,
    },
    /// The answer to a question.
    Reply {
        /// Of the question.
        id: u64,
        /// The answer, or why there is none.
        reply: Result<Reply, String>,
    },
}

/// What an agent answers to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Some of a rank's output.
    LogPart {
        /// Where `data` begins.
        offset: u64,
        /// At most [`MAX_LOG_PART`] bytes.
        data: Vec<u8>,
        /// Whether the file goes on after it.
        more: bool,
    },
    /// A checkpoint was read and hashed.
    Verified(Verified),
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Shards that were read.
    pub shards: u32,
    /// Bytes that were read.
    pub bytes: u64,
    /// Everything that is wrong; empty means sound.
    pub problems: Vec<Unsound>,
}

/// What the controller says.
#[derive(Debug, Clone, PartialEq)]
pub enum ToAgent {
    /// The join was accepted.
    Welcome(Welcome),
    /// An order.
    Order(Order),
    /// The report of this sequence is in the journal.
    Ack(u64),
    /// Something an admin wants to know.
    Question {
        /// Comes back in the reply.
        id: u64,
        /// What.
        question: Question,
    },
}

/// What the controller tells an agent whose join it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// The controller's number for this link.
    pub session: Session,
    /// How often to give a sign of life.
    pub beat_every: Duration,
    /// Hearing nothing for this long, the agent fences its ranks.
    pub orphan_after: Duration,
    /// The controller's clock.
    pub now: Instant,
}

/// What an agent is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A rank's captured output.
    ReadLog {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// That of the process before the present one.
        previous: bool,
        /// Where to begin; beyond the end (the file was rotated) means at 0.
        offset: u64,
        /// At most this many bytes.
        limit: u32,
        /// If not 0, begin this many lines before the end instead of at the offset.
        tail_lines: u32,
    },
    /// Read and hash a checkpoint.
    VerifyCheckpoint {
        /// `checkpoint.directory` of the run's spec.
        directory: String,
        /// Of which run.
        run: RunId,
        /// Which.
        checkpoint: CheckpointId,
    },
}

impl From<Verified> for wire::Verified {
    fn from(
        Verified {
            shards,
            bytes,
            problems,
        }: Verified,
    ) -> Self {
        Self {
            shards,
            bytes,
            problems: problems.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Verified> for Verified {
    type Error = Malformed;
    fn try_from(verified: wire::Verified) -> Result<Self, Malformed> {
        let wire::Verified {
            shards,
            bytes,
            problems,
        } = verified;
        Ok(Self {
            shards,
            bytes,
            problems: list(problems, "problems")?,
        })
    }
}

impl From<FromAgent> for wire::FromAgent {
    fn from(message: FromAgent) -> Self {
        use from_agent::What;
        let what = match message {
            FromAgent::Join(join) => What::Join(join.into()),
            FromAgent::Beat(beat) => What::Beat(beat.into()),
            FromAgent::Report { sequence, report } => What::Report(wire::SequencedReport {
                sequence,
                report: Some(report.into()),
            }),
            FromAgent::Reply { id, reply } => {
                let what = match reply {
                    Ok(Reply::LogPart { offset, data, more }) => {
                        agent_reply::What::LogPart(agent_reply::LogPart { offset, data, more })
                    }
                    Ok(Reply::Verified(verified)) => agent_reply::What::Verified(verified.into()),
                    Err(error) => agent_reply::What::Error(error),
                };
                What::Reply(wire::AgentReply {
                    id,
                    what: Some(what),
                })
            }
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::FromAgent> for FromAgent {
    type Error = Malformed;
    fn try_from(message: wire::FromAgent) -> Result<Self, Malformed> {
        use from_agent::What;
        Ok(
            match message.what.ok_or_else(|| Malformed::missing("what"))? {
                What::Join(join) => Self::Join(within(join, "join")?),
                What::Beat(beat) => Self::Beat(within(beat, "beat")?),
                What::Report(it) => Self::Report {
                    sequence: it.sequence,
                    report: part(it.report, "report.report")?,
                },
                What::Reply(wire::AgentReply { id, what }) => {
                    let reply = match what.ok_or_else(|| Malformed::missing("reply.what"))? {
                        agent_reply::What::LogPart(it) if it.data.len() > MAX_LOG_PART => {
                            return Err(Malformed::new("reply.log_part.data", "is too long"));
                        }
                        agent_reply::What::LogPart(agent_reply::LogPart { offset, data, more }) => {
                            Ok(Reply::LogPart { offset, data, more })
                        }
                        agent_reply::What::Verified(verified) => {
                            Ok(Reply::Verified(within(verified, "reply.verified")?))
                        }
                        agent_reply::What::Error(error) => Err(text(error, "reply.error")?),
                    };
                    Self::Reply { id, reply }
                }
            },
        )
    }
}

impl From<ToAgent> for wire::ToAgent {
    fn from(message: ToAgent) -> Self {
        use to_agent::What;
        let what = match message {
            ToAgent::Welcome(Welcome {
                session,
                beat_every,
                orphan_after,
                now,
            }) => What::Welcome(wire::Welcome {
                session: session.0,
                beat_every_nanos: nanos(beat_every),
                orphan_after_nanos: nanos(orphan_after),
                now: now.as_nanos(),
            }),
            ToAgent::Order(order) => What::Order(order.into()),
            ToAgent::Ack(sequence) => What::Ack(sequence),
            ToAgent::Question { id, question } => What::Question(wire::AgentQuestion {
                id,
                what: Some(question.into()),
            }),
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::ToAgent> for ToAgent {
    type Error = Malformed;
    fn try_from(message: wire::ToAgent) -> Result<Self, Malformed> {
        use to_agent::What;
        Ok(
            match message.what.ok_or_else(|| Malformed::missing("what"))? {
                What::Welcome(it) if it.beat_every_nanos == 0 => {
                    return Err(Malformed::missing("welcome.beat_every_nanos"));
                }
                What::Welcome(it) if it.orphan_after_nanos == 0 => {
                    return Err(Malformed::missing("welcome.orphan_after_nanos"));
                }
                What::Welcome(it) => Self::Welcome(Welcome {
                    session: Session(it.session),
                    beat_every: Duration::from_nanos(it.beat_every_nanos),
                    orphan_after: Duration::from_nanos(it.orphan_after_nanos),
                    now: Instant::from_nanos(it.now),
                }),
                What::Order(order) => Self::Order(within(order, "order")?),
                What::Ack(sequence) => Self::Ack(sequence),
                What::Question(wire::AgentQuestion { id, what }) => Self::Question {
                    id,
                    question: part(what, "question")?,
                },
            },
        )
    }
}

impl From<Question> for agent_question::What {
    fn from(question: Question) -> Self {
        match question {
            Question::ReadLog {
                run,
                rank,
                previous,
                offset,
                limit,
                tail_lines,
            } => Self::ReadLog(agent_question::ReadLog {
                run: run.into(),
                rank: rank.0,
                previous,
                offset,
                limit,
                tail_lines,
            }),
            Question::VerifyCheckpoint {
                directory,
                run,
                checkpoint,
            } => Self::VerifyCheckpoint(agent_question::VerifyCheckpoint {
                directory,
                run: run.into(),
                checkpoint: Some(checkpoint.into()),
            }),
        }
    }
}

impl TryFrom<agent_question::What> for Question {
    type Error = Malformed;
    fn try_from(question: agent_question::What) -> Result<Self, Malformed> {
        Ok(match question {
            agent_question::What::ReadLog(it) => Self::ReadLog {
                run: run_id(it.run, "read_log.run")?,
                rank: Rank(it.rank),
                previous: it.previous,
                offset: it.offset,
                limit: it.limit,
                tail_lines: it.tail_lines,
            },
            agent_question::What::VerifyCheckpoint(it) => Self::VerifyCheckpoint {
                directory: absolute(it.directory, "verify_checkpoint.directory")?,
                run: run_id(it.run, "verify_checkpoint.run")?,
                checkpoint: part(it.checkpoint, "verify_checkpoint.checkpoint")?,
            },
        })
    }
}
