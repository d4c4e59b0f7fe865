//! One worker process that waits, warm, to become whichever rank is needed next.
//!
//! Loading libtorch takes longer than everything else of a recovery together, so it is done before. A
//! new one is started only when nothing was needed for a while, so that it takes no time from a recovery.

use crate::logs;
use crate::process::Process;
use crate::ranks::Launch;
use crate::state::State;
use rebloom_core::time::Instant;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::standby::Assignment;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::{ChildStdin, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long no rank was started before the next process is warmed up.
const CALM: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Waiting {
    process: Process,
    pipe: ChildStdin,
    program: Program,
}

/// What tells a replaced program from the one that was started.
type Program = (u64, u64, i64, i64);

fn program(facts: &Metadata) -> Program {
    (facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec())
}

/// The process that waits, if there is one, and when the next one is due.
#[derive(Debug)]
pub struct Standby {
    state: Arc<State>,
    launch: Launch,
    waiting: Option<Waiting>,
    due: Option<Instant>,
}

impl Standby {
    /// None yet; the first is due soon, where `launch` wants any.
    pub fn new(state: Arc<State>, launch: Launch) -> Self {
        let due = launch.standby.then(|| monotonic() + CALM);
        Self {
            state,
            launch,
            waiting: None,
            due,
        }
    }

    /// When [`Self::warm_up`] is to be called next.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A rank is about to be started: the next process is warmed up only when all is calm again.
    pub fn hold_off(&mut self) {
        if self.launch.standby {
            self.due = Some(monotonic() + CALM);
        }
    }

    /// Starts a process that waits, unless one does.
    pub fn warm_up(&mut self) {
        self.due = None;
        if self.waiting.is_none() {
            match self.start() {
                Ok(waiting) => self.waiting = Some(waiting),
                // A rank that is started cold is late and not lost.
                Err(error) => tracing::warn!(%error, "cannot start a warm standby"),
            }
        }
    }

    fn start(&self) -> io::Result<Waiting> {
        let program = program(&std::fs::metadata(&self.launch.worker)?);
        let arguments: Vec<OsString> = std::iter::once("standby".into())
            .chain(self.launch.common(&self.state))
            .collect();
        let log = logs::begin(&self.state.standby_log())?;
        let worker = &self.launch.worker;
        let (process, pipe) = Process::spawn(worker, &arguments, &[], log, Stdio::piped())?;
        let pipe = pipe.ok_or_else(|| io::Error::other("it has no standard input"))?;
        tracing::debug!(pid = process.pid, "a warm standby waits");
        Ok(Waiting {
            process,
            pipe,
            program,
        })
    }

    /// The process that waited, now told whose rank it is; none where there is none that will do.
    pub fn take(&mut self, assignment: &Assignment) -> Option<Process> {
        let waiting = self.waiting.take()?;
        let pid = waiting.process.pid;
        let is_current = std::fs::metadata(&self.launch.worker)
            .is_ok_and(|facts| program(&facts) == waiting.program);
        let told = if is_current && !waiting.process.has_ended() {
            assignment.tell(&waiting.pipe)
        } else {
            Err(io::Error::other("it has ended or is out of date"))
        };
        match told {
            Ok(()) => Some(waiting.process),
            Err(error) => {
                tracing::warn!(pid, %error, "the warm standby is of no use");
                waiting.end();
                None
            }
        }
    }
}

impl Waiting {
    /// Ends and reaps it.
    fn end(self) {
        if let Err(error) = self.process.kill() {
            tracing::warn!(pid = self.process.pid, %error, "cannot end a warm standby");
        }
        tokio::spawn(async move { self.process.ended().await });
    }
}
