//! What admins ask and are answered. A refusal travels as a gRPC status whose details carry it, in
//! the standard form (`google.rpc.Status`), so that other tools can show it too.

use crate::check::{Malformed, code, list, maybe, node_id, part, run_id, text};
use crate::link::Verified;
use crate::wire;
use crate::wire::{answer, refusal};
use prost::Message as _;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{Answer, Ask, Refusal};
use rebloom_core::id::{Generation, NodeId};
use rebloom_core::spec::Flaw;
use tonic::{Code, Status};

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

const REFUSAL_URL: &str = "type.googleapis.com/rebloom.v1.Refusal";

/// A refusal as a gRPC status.
pub fn status(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::Flaws(_) | Refusal::BadRule(_) => Code::InvalidArgument,
        Refusal::RunExists(..) => Code::AlreadyExists,
        Refusal::NoSuchRun(_) | Refusal::NoSuchNode(_) | Refusal::NoSuchRule(_) => Code::NotFound,
        Refusal::WrongState(..) => Code::FailedPrecondition,
        Refusal::OtherIdentity(_) => Code::PermissionDenied,
        Refusal::NoRoom(_) => Code::ResourceExhausted,
    };
    let message = refusal.to_string();
    let value = wire::Refusal::from(refusal).encode_to_vec();
    let details = vec![RpcAny {
        type_url: REFUSAL_URL.to_owned(),
        value,
    }];
    let details = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details,
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// The refusal in a gRPC status, if it carries one that is understood.
pub fn refusal(status: &Status) -> Option<Refusal> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let any = details
        .into_iter()
        .find(|any| any.type_url == REFUSAL_URL)?;
    Refusal::try_from(wire::Refusal::decode(any.value.as_slice()).ok()?).ok()
}

/// What the engine answered, for the wire: a refusal becomes a status.
pub fn answer(answer: Answer) -> Result<wire::Answer, Status> {
    let what = match answer {
        Answer::Done {
            message,
            generation,
        } => answer::What::Done(answer::Done {
            message,
            generation: generation.map(|generation| generation.0),
        }),
        Answer::WouldPlace { seating, message } => answer::What::WouldPlace(answer::WouldPlace {
            seating: seating.into_iter().map(Into::into).collect(),
            message,
        }),
        Answer::Refused(refusal) => return Err(status(refusal)),
    };
    Ok(wire::Answer { what: Some(what) })
}

impl TryFrom<wire::Answer> for Answer {
    type Error = Malformed;
    fn try_from(answer: wire::Answer) -> Result<Self, Malformed> {
        Ok(
            match answer.what.ok_or_else(|| Malformed::missing("what"))? {
                answer::What::Done(it) => Self::Done {
                    message: text(it.message, "done.message")?,
                    generation: it.generation.map(Generation),
                },
                answer::What::WouldPlace(it) => Self::WouldPlace {
                    seating: list(it.seating, "would_place.seating")?,
                    message: text(it.message, "would_place.message")?,
                },
            },
        )
    }
}

impl TryFrom<wire::SubmitRunRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::SubmitRunRequest) -> Result<Self, Malformed> {
        let wire::SubmitRunRequest { spec, dry_run } = request;
        Ok(Self::Submit {
            spec: Box::new(part(spec, "spec")?),
            dry_run,
        })
    }
}

impl TryFrom<wire::StopRunRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::StopRunRequest) -> Result<Self, Malformed> {
        let wire::StopRunRequest { run, how } = request;
        Ok(Self::Stop {
            run: run_id(run, "run")?,
            how: code::<wire::Stop, _>(how, "how")?,
        })
    }
}

impl TryFrom<wire::ResumeRunRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::ResumeRunRequest) -> Result<Self, Malformed> {
        Ok(Self::Resume {
            run: run_id(request.run, "run")?,
            layout: maybe(request.layout, "layout")?,
        })
    }
}

impl TryFrom<wire::CordonRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::CordonRequest) -> Result<Self, Malformed> {
        Ok(Self::Cordon {
            node: node_id(request.node, "node")?,
        })
    }
}

impl TryFrom<wire::UncordonRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::UncordonRequest) -> Result<Self, Malformed> {
        Ok(Self::Uncordon {
            node: node_id(request.node, "node")?,
        })
    }
}

impl TryFrom<wire::DrainRequest> for Ask {
    type Error = Malformed;
    fn try_from(request: wire::DrainRequest) -> Result<Self, Malformed> {
        let wire::DrainRequest { node, dry_run } = request;
        Ok(Self::Drain {
            node: node_id(node, "node")?,
            dry_run,
        })
    }
}

/// A verified checkpoint, as the controller answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointVerified {
    /// Which.
    pub checkpoint: CheckpointId,
    /// The node whose agent read it.
    pub node: NodeId,
    /// What it found.
    pub verified: Verified,
}

impl From<CheckpointVerified> for wire::VerifyCheckpointReply {
    fn from(
        CheckpointVerified {
            checkpoint,
            node,
            verified,
        }: CheckpointVerified,
    ) -> Self {
        Self {
            checkpoint: Some(checkpoint.into()),
            node: node.into(),
            verified: Some(verified.into()),
        }
    }
}

impl TryFrom<wire::VerifyCheckpointReply> for CheckpointVerified {
    type Error = Malformed;
    fn try_from(reply: wire::VerifyCheckpointReply) -> Result<Self, Malformed> {
        Ok(Self {
            checkpoint: part(reply.checkpoint, "checkpoint")?,
            node: node_id(reply.node, "node")?,
            verified: part(reply.verified, "verified")?,
        })
    }
}

impl From<Flaw> for wire::Flaw {
    fn from(
        Flaw {
            field,
            value,
            problem,
            remedy,
        }: Flaw,
    ) -> Self {
        Self {
            field,
            value,
            problem,
            remedy,
        }
    }
}

impl TryFrom<wire::Flaw> for Flaw {
    type Error = Malformed;
    fn try_from(flaw: wire::Flaw) -> Result<Self, Malformed> {
        Ok(Self {
            field: text(flaw.field, "field")?,
            value: text(flaw.value, "value")?,
            problem: text(flaw.problem, "problem")?,
            remedy: text(flaw.remedy, "remedy")?,
        })
    }
}

impl From<Refusal> for wire::Refusal {
    fn from(value: Refusal) -> Self {
        use refusal as w;
        let why = match value {
            Refusal::Flaws(flaws) => w::Why::Flaws(w::Flaws {
                flaws: flaws.into_iter().map(Into::into).collect(),
            }),
            Refusal::RunExists(run, state) => w::Why::RunExists(w::RunExists {
                run: run.into(),
                state: wire::RunState::from(state).into(),
            }),
            Refusal::NoSuchRun(run) => w::Why::NoSuchRun(run.into()),
            Refusal::NoSuchNode(node) => w::Why::NoSuchNode(node.into()),
            Refusal::WrongState(run, state, remedy) => w::Why::WrongState(w::WrongState {
                run: run.into(),
                state: wire::RunState::from(state).into(),
                remedy,
            }),
            Refusal::OtherIdentity(node) => w::Why::OtherIdentity(node.into()),
            Refusal::NoRoom(run) => w::Why::NoRoom(run.into()),
            Refusal::BadRule(why) => w::Why::BadRule(why),
            Refusal::NoSuchRule(name) => w::Why::NoSuchRule(name),
        };
        Self { why: Some(why) }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = Malformed;
    fn try_from(value: wire::Refusal) -> Result<Self, Malformed> {
        use refusal::Why;
        Ok(match value.why.ok_or_else(|| Malformed::missing("why"))? {
            Why::Flaws(it) => Self::Flaws(list(it.flaws, "flaws.flaws")?),
            Why::RunExists(it) => Self::RunExists(
                run_id(it.run, "run_exists.run")?,
                code::<wire::RunState, _>(it.state, "run_exists.state")?,
            ),
            Why::NoSuchRun(run) => Self::NoSuchRun(run_id(run, "no_such_run")?),
            Why::NoSuchNode(node) => Self::NoSuchNode(node_id(node, "no_such_node")?),
            Why::WrongState(it) => Self::WrongState(
                run_id(it.run, "wrong_state.run")?,
                code::<wire::RunState, _>(it.state, "wrong_state.state")?,
                text(it.remedy, "wrong_state.remedy")?,
            ),
            Why::OtherIdentity(node) => Self::OtherIdentity(node_id(node, "other_identity")?),
            Why::NoRoom(run) => Self::NoRoom(run_id(run, "no_room")?),
            Why::BadRule(why) => Self::BadRule(text(why, "bad_rule")?),
            Why::NoSuchRule(name) => Self::NoSuchRule(text(name, "no_such_rule")?),
        })
    }
}
