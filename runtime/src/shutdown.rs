//! The wish to end, from SIGTERM, SIGINT or the program itself; whoever asks late hears of it too.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Says when to end; cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Ends what waits for its [`Shutdown`].
#[derive(Debug, Clone)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Asks to end; again is the same.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// One that only the trigger fires.
    pub fn manual() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// One that SIGTERM, SIGINT or the trigger fires. A second signal ends the process at once, for
    /// someone who does not want to wait.
    pub fn on_signals() -> io::Result<(Trigger, Self)> {
        let (trigger, shutdown) = Self::manual();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let fire = trigger.clone();
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                let code = tokio::select! {
                    _ = term.recv() => 143,
                    _ = int.recv() => 130,
                };
                if asked {
                    std::process::exit(code);
                }
                asked = true;
                fire.fire();
            }
        });
        Ok((trigger, shutdown))
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is asked for; returns at once where it was.
    pub async fn asked(&mut self) {
        // (An error means that the trigger is gone, and nobody can ask any more.)
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asks_late_hears_of_it() {
        let (trigger, mut early) = Shutdown::manual();
        assert!(!early.is_asked());
        trigger.fire();
        early.asked().await;
        let mut late = early.clone();
        drop(trigger);
        late.asked().await;
        assert!(late.is_asked());
    }
}
