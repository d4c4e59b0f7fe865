//! What a user asks `up` for while it runs: Ctrl-C and SIGTERM.

use crate::failure::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the second one does.
pub(super) const AGAIN: &str = "Ctrl-C again kills at once";

/// Ctrl-C and SIGTERM; the second one is meant seriously.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    asked: bool,
    /// The second one came.
    pub(super) forced: bool,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::of(&error));
        let (interrupt, terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
        Ok(Self {
            interrupt,
            terminate,
            asked: false,
            forced: false,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        self.forced = self.asked;
        self.asked = true;
    }
}
