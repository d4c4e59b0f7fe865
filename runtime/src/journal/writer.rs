//! A thread of its own for the journal, since waiting for a disk would stop an async one.

use super::{Error, Journal};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

enum Work {
    Append(Vec<Vec<u8>>),
    Snapshot(Vec<u8>),
    Vouch,
}

type Job = (Work, oneshot::Sender<Result<(), Error>>);

/// Appends to a journal from async code, in the order of its calls. Dropping it waits until what
/// was begun is done.
#[derive(Debug)]
pub struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Gives the journal to its thread; it was replayed before.
    pub fn start(mut journal: impl Journal) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                for (work, done) in queue {
                    let outcome = match work {
                        Work::Append(records) => journal.append(&records),
                        Work::Snapshot(state) => journal.snapshot(&state),
                        Work::Vouch => journal.vouch(),
                    };
                    // (Whoever asked may have given up; the record is there all the same.)
                    drop(done.send(outcome));
                }
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Appends records, all or none; they are on disk when it returns.
    pub async fn append(&self, records: Vec<Vec<u8>>) -> Result<(), Error> {
        self.work(Work::Append(records)).await
    }

    /// Keeps `state` as what all records so far come to.
    pub async fn snapshot(&self, state: Vec<u8>) -> Result<(), Error> {
        self.work(Work::Snapshot(state)).await
    }

    /// Says that whatever the journal lacked at its end is known again.
    pub async fn vouch(&self) -> Result<(), Error> {
        self.work(Work::Vouch).await
    }

    async fn work(&self, work: Work) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(Error::Stopped)?;
        jobs.send((work, done)).map_err(|_| Error::Stopped)?;
        outcome.await.map_err(|_| Error::Stopped)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // (It panicked, and whoever waited for it was told so.)
            drop(thread.join());
        }
    }
}
