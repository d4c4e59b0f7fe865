//! A terminal that does not show what is typed while the panel is up. Ctrl-C stays a signal.

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{
    LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};

/// Dropped, it gives the terminal back as it was.
pub(super) struct Quiet {
    before: Termios,
}

impl Quiet {
    /// Takes the terminal of this process; none where it has none, or is in the background, where a
    /// change of the terminal would stop it.
    pub(super) fn take() -> Option<Self> {
        let foreground = tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp());
        if !isatty(stdin()) || !isatty(rustix::stdio::stdout()) || !foreground {
            return None;
        }
        let before = tcgetattr(stdin()).ok()?;
        let mut quiet = before.clone();
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON);
        tcsetattr(stdin(), OptionalActions::Now, &quiet).ok()?;
        Some(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Flushed, so that what was typed meanwhile is not run by the shell. A terminal that is gone
        // needs nothing back.
        tcsetattr(stdin(), OptionalActions::Flush, &self.before).ok();
    }
}
