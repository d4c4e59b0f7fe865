//! Whoever watches must not queue behind what it watches: on a machine with more ranks than cores an
//! agent at equal rights hears of a death a scheduler's round too late.

use rustix::io;
use rustix::process::setpriority_process;

/// Above everything ordinary, below what keeps the machine itself alive.
const WATCHER: i32 = -10;

/// Goes before ordinary processes; call it before any thread is started, since only the calling thread
/// and its later children are meant. Without the right to it (`CAP_SYS_NICE`) all works, only later where
/// the machine is overcommitted.
pub fn raise() {
    if let Err(error) = setpriority_process(None, WATCHER) {
        tracing::debug!(%error, "goes on at ordinary priority");
    }
}

/// Back among ordinary processes, for a child between fork and exec: it makes one system call.
///
/// # Errors
/// Where the kernel refuses, which it does not for a priority that goes down.
pub fn ordinary() -> io::Result<()> {
    setpriority_process(None, 0)
}
