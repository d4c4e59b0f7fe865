//! How a command can fail, and the exit code that says so to scripts.

use rebloom_core::engine::Refusal;
use rebloom_core::spec::Flaw;
use rebloom_format::spec_file::BadSpec;
use rebloom_proto::admin;
use rebloom_runtime::telemetry::chain;
use tonic::{Code, Status};

/// What the exit codes mean; shown under `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  bad input: a command line or a run spec was refused, and nothing was started
  3  there is no such run, node, rank or checkpoint
  4  the controller cannot be reached
  5  the run that was watched ended Failed
  93 the run that was watched is Parked: do not queue it again before somebody has looked at it";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Anything without an exit code of its own.
    #[error("{0}")]
    Failed(String),
    /// What was asked cannot be right.
    #[error("{0}")]
    BadInput(String),
    /// A spec whose fields do not fit, as the engine found it.
    #[error("{}", Refusal::Flaws(.0.clone()))]
    Flaws(Vec<Flaw>),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Nobody said which controller.
    #[error("{0}")]
    NoController(String),
    /// The controller does not answer.
    #[error(
        "cannot reach the controller at {address}: {error}\n\
         `rebloom up` starts a cluster on this machine; --controller names another one"
    )]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What went wrong.
        error: String,
    },
    /// The run that was watched ended badly.
    #[error("{0}")]
    Ended(String),
    /// The run that was watched is parked: trying again leads nowhere.
    #[error("{0}")]
    Parked(String),
}

impl Failure {
    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::BadInput(_) | Self::Flaws(_) => 2,
            Self::NotFound(_) => 3,
            Self::NoController(_) | Self::Unreachable { .. } => 4,
            Self::Ended(_) => 5,
            Self::Parked(_) => 93,
        }
    }

    /// What a call to the controller at `address` ended with.
    pub(crate) fn of_call(status: &Status, address: &str) -> Self {
        if let Some(refusal) = admin::refusal(status) {
            return match refusal {
                Refusal::Flaws(flaws) => Self::Flaws(flaws),
                Refusal::RunExists(..) | Refusal::BadRule(_) => Self::BadInput(refusal.to_string()),
                Refusal::NoSuchRun(_) | Refusal::NoSuchNode(_) | Refusal::NoSuchRule(_) => {
                    Self::NotFound(refusal.to_string())
                }
                Refusal::WrongState(..) | Refusal::OtherIdentity(_) | Refusal::NoRoom(_) => {
                    Self::Failed(refusal.to_string())
                }
            };
        }
        let message = status.message().to_owned();
        // What the other side says has no source here: the connection broke.
        if std::error::Error::source(status).is_some() {
            return Self::Unreachable {
                address: address.to_owned(),
                error: chain(status),
            };
        }
        match status.code() {
            Code::Unavailable => Self::Unreachable {
                address: address.to_owned(),
                error: message,
            },
            Code::InvalidArgument => Self::BadInput(message),
            Code::NotFound => Self::NotFound(message),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => {
                Self::Failed(format!("the controller at {address} refused: {message}"))
            }
        }
    }

    /// Any error, with its reasons.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed(chain(error))
    }

    /// A file, and what could not be done to it.
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Failed(format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl From<rebloom_runtime::files::Error> for Failure {
    fn from(error: rebloom_runtime::files::Error) -> Self {
        Self::of(&error)
    }
}

impl From<BadSpec> for Failure {
    fn from(bad: BadSpec) -> Self {
        Self::BadInput(bad.to_string())
    }
}

impl From<rebloom_runtime::tls::Error> for Failure {
    fn from(error: rebloom_runtime::tls::Error) -> Self {
        Self::of(&error)
    }
}

impl From<rebloom_proto::Malformed> for Failure {
    fn from(error: rebloom_proto::Malformed) -> Self {
        Self::Failed(format!("the controller speaks another version: {error}"))
    }
}

/// What cannot be malformed cannot fail.
impl From<std::convert::Infallible> for Failure {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_core::engine::RunState;
    use rebloom_core::id::{NodeId, RunId};

    #[test]
    fn each_refusal_has_its_exit_code() {
        let run = RunId::new("r").unwrap();
        let node = NodeId::new("n").unwrap();
        let code = |refusal| Failure::of_call(&admin::status(refusal), "here").code();
        assert_eq!(code(Refusal::Flaws(Vec::new())), 2);
        assert_eq!(code(Refusal::RunExists(run.clone(), RunState::Running)), 2);
        assert_eq!(code(Refusal::NoSuchRun(run.clone())), 3);
        assert_eq!(code(Refusal::NoSuchNode(node)), 3);
        assert_eq!(code(Refusal::NoRoom(run)), 1);
        assert_eq!(
            Failure::of_call(&Status::unavailable("no"), "here").code(),
            4
        );
    }
}
