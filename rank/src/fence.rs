//! The fence in the flight page, for waits that must end with it and shall cost nothing before.
//!
//! One thread looks at the page, on a tick and whenever the agent says something; everybody else sleeps
//! until it tells them. Whether a generation is over is read from the page alone.

use rebloom_core::id::Generation;
use rebloom_runtime::flight::Recorder;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The fence of one process.
#[derive(Debug)]
pub struct Fence {
    recorder: &'static Recorder,
    /// Where it stood when it was last looked at.
    seen: Mutex<Generation>,
    rose: Condvar,
    told: Notify,
}

impl Fence {
    /// The fence in this page, as it was before any generation.
    pub fn new(recorder: &'static Recorder) -> Self {
        Self {
            recorder,
            seen: Mutex::new(Generation(0)),
            rose: Condvar::new(),
            told: Notify::new(),
        }
    }

    /// Whether the generation is over.
    pub fn is_over(&self, generation: Generation) -> bool {
        self.recorder.fence() > generation
    }

    /// Where the fence stands, if it rose since the last look; whoever waits for that goes on.
    pub fn look(&self) -> Option<Generation> {
        let below = self.recorder.fence();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if below <= *seen {
            return None;
        }
        *seen = below;
        drop(seen);
        self.rose.notify_all();
        self.told.notify_waiters();
        Some(below)
    }

    /// Blocks this thread for `span`, or until the generation is over; says which.
    pub fn wait(&self, generation: Generation, span: Duration) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .rose
            .wait_timeout_while(seen, span, |below| *below <= generation);
        *waited.unwrap_or_else(PoisonError::into_inner).0 > generation
    }

    /// Until the generation is over.
    pub async fn over(&self, generation: Generation) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // Registered first: a rise between the look and the wait is not missed.
            told.as_mut().enable();
            if self.is_over(generation) {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_runtime::flight::Tower;

    fn page() -> (tempfile::TempDir, Tower, Fence) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank-000.page");
        let tower = Tower::create(&path).unwrap();
        let recorder = Box::leak(Box::new(Recorder::open(&path).unwrap()));
        (folder, tower, Fence::new(recorder))
    }

    #[test]
    fn a_wait_ends_with_its_generation_and_not_with_an_older_one() {
        let (_folder, tower, fence) = page();
        assert!(!fence.wait(Generation(1), Duration::ZERO));
        tower.fence_below(Generation(1));
        assert_eq!(fence.look(), Some(Generation(1)));
        assert_eq!(fence.look(), None, "told once");
        assert!(!fence.wait(Generation(1), Duration::ZERO));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fence.wait(Generation(1), Duration::from_secs(60)));
            tower.fence_below(Generation(2));
            assert_eq!(fence.look(), Some(Generation(2)));
            assert!(waiting.join().unwrap());
        });
        assert!(fence.is_over(Generation(1)) && !fence.is_over(Generation(2)));
    }

    #[tokio::test]
    async fn a_task_that_waits_is_told() {
        let (_folder, tower, fence) = page();
        let raise = async {
            tokio::task::yield_now().await;
            tower.fence_below(Generation(3));
            fence.look()
        };
        let (told, ()) = tokio::join!(raise, fence.over(Generation(2)));
        assert_eq!(told, Some(Generation(3)));
        fence.over(Generation(1)).await;
    }
}
