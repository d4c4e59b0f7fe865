//! The append-only record of everything the engine was told and decided, on this machine's disk.
//!
//! Whoever appends is answered when the records are on disk, not before. A tail that a crash tore off
//! is cut and told; damage anywhere else is an error, since going on without a middle would be a lie
//! about the past. What a record says is its writer's business. This file alone names sled.

mod stamp;
mod writer;

pub use writer::Writer;

use crate::clock;
use crate::files;
use rebloom_core::time::Duration;
use sha2::{Digest, Sha256};
use stamp::Stamp;
use std::fs;
use std::path::{Path, PathBuf};

/// What went wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The store below failed: no room, no access, a broken disk.
    #[error("cannot {doing} the journal in {}: {error}", path.display())]
    Store {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What went wrong.
        error: String,
    },
    /// Something in the middle is damaged or missing.
    #[error(
        "the journal in {} is damaged: {what}; restore the directory from a copy, or move it away and \
         start empty: agents go on training, and a run that is submitted again goes on from its \
         newest sealed checkpoint (from a copy, leave out the file `boot`: then the controller hears every \
         agent before it places anything)",
        path.display()
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The thread that writes has ended after an earlier error.
    #[error("the journal has stopped after an earlier error")]
    Stopped,
}

/// A record and its number; numbers go up by one from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub sequence: u64,
    /// What was appended.
    pub record: Vec<u8>,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// The newest snapshot: what all records up to its number come to.
    pub snapshot: Option<Entry>,
    /// The records after it, in order.
    pub entries: Vec<Entry>,
    /// What had to be left out, in sentences; empty when nothing was.
    pub repairs: Vec<String>,
    /// Whether records that were appended may be missing at the end: the machine was started again
    /// since it was last vouched for, or a tail was cut.
    pub may_lack_end: bool,
}

/// Where records are kept.
pub trait Journal: Send + 'static {
    /// Everything that is kept. Called once, before anything is appended.
    fn replay(&mut self) -> Result<Replay, Error>;

    /// Appends records, all or none; they are on disk when it returns. After an error nothing is
    /// appended any more.
    fn append(&mut self, records: &[Vec<u8>]) -> Result<(), Error>;

    /// Keeps `state` as what all records so far come to, and drops what is not needed any more. The
    /// snapshot before and the records after it are kept as well, should this one turn out bad.
    fn snapshot(&mut self, state: &[u8]) -> Result<(), Error>;

    /// Says that whatever it lacked at its end is known again: the next replay, under the same boot of
    /// the machine, lacks nothing.
    fn vouch(&mut self) -> Result<(), Error>;
}

const CHECKSUM: usize = 8;
/// Enough to hold the tail; the engine keeps the state.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

const LOCK_WITHIN: Duration = Duration::from_secs(5);

/// A journal in sled, with snapshots in files beside it.
#[derive(Debug)]
pub struct Sled {
    path: PathBuf,
    database: sled::Db,
    last: u64,
    snapshots: Vec<u64>,
    failed: bool,
    stamp: Stamp,
    // (Given up last.)
    _lock: files::Lock,
}

impl Sled {
    /// Opens the journal in a directory, or makes a new one. Another process that has it open is
    /// named in the error.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_under(directory, &stamp::boot_id()?)
    }

    /// The same under a boot of the machine with this name.
    pub fn open_under(directory: &Path, boot: &str) -> Result<Self, Error> {
        files::create_directory(directory)?;
        let lock = files::Lock::take(directory)?;
        let config = sled::Config::new()
            .path(directory.join("log"))
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        Ok(Self {
            path: directory.to_owned(),
            database: open_database(directory, &config)?,
            last: 0,
            snapshots: vec![],
            failed: false,
            stamp: Stamp::read(directory, boot)?,
            _lock: lock,
        })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(sled::Error) -> Error {
        let path = self.path.clone();
        move |error| Error::Store {
            doing,
            path: path.clone(),
            error: error.to_string(),
        }
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            what,
        }
    }

    fn snapshot_path(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("snapshot-{sequence:020}"))
    }

    /// Numbers of the snapshots that are there, oldest first.
    fn list_snapshots(&self) -> Result<Vec<u64>, Error> {
        let failed = |error: std::io::Error| Error::Store {
            doing: "list",
            path: self.path.clone(),
            error: error.to_string(),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("snapshot-"));
            found.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The records that are sound, the numbers of those that are not, both in order.
    fn scan(&self) -> Result<(Vec<Entry>, Vec<sled::IVec>), Error> {
        let (mut entries, mut bad): (Vec<Entry>, Vec<sled::IVec>) = (Vec::new(), Vec::new());
        for pair in self.database.iter() {
            let (key, value) = pair.map_err(self.failed("read"))?;
            let sequence = <[u8; 8]>::try_from(&*key).map(u64::from_be_bytes);
            let entry = sequence.ok().and_then(|sequence| {
                Some(Entry {
                    sequence,
                    record: unframe(sequence, &value)?.to_vec(),
                })
            });
            match entry {
                Some(entry) if bad.is_empty() => {
                    if let Some(before) = entries.last()
                        && before.sequence + 1 != entry.sequence
                    {
                        let (from, to) = (before.sequence + 1, entry.sequence - 1);
                        return Err(self.damaged(format!("records {from} to {to} are missing")));
                    }
                    entries.push(entry);
                }
                Some(entry) => {
                    let last = entries.last().map_or(0, |entry| entry.sequence);
                    return Err(self.damaged(format!(
                        "what is between records {last} and {} fails its checksum",
                        entry.sequence
                    )));
                }
                None => bad.push(key),
            }
        }
        Ok((entries, bad))
    }
}

impl Journal for Sled {
    fn replay(&mut self) -> Result<Replay, Error> {
        let mut replay = Replay::default();
        let (mut entries, bad) = self.scan()?;
        if !bad.is_empty() {
            // First, so that it stays so should this life end before that is made good.
            self.stamp.void()?;
            let last = entries.last().map_or(0, |entry| entry.sequence);
            replay.repairs.push(format!(
                "{} torn record(s) after {last} were cut",
                bad.len()
            ));
            for key in bad {
                self.database.remove(key).map_err(self.failed("repair"))?;
            }
            self.database.flush().map_err(self.failed("repair"))?;
        }
        for sequence in self.list_snapshots()? {
            let frame = files::read(&self.snapshot_path(sequence))?;
            if let Some(state) = unframe(sequence, &frame) {
                self.snapshots.push(sequence);
                replay.snapshot = Some(Entry {
                    sequence,
                    record: state.to_vec(),
                });
            } else {
                replay
                    .repairs
                    .push(format!("the snapshot at record {sequence} is damaged"));
                fs::rename(
                    self.snapshot_path(sequence),
                    self.path.join(format!("damaged-{sequence:020}")),
                )
                .map_err(|error| self.failed("repair")(error.into()))?;
            }
        }
        let base = replay
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.sequence);
        self.last = entries
            .last()
            .map_or(base, |entry| entry.sequence.max(base));
        entries.retain(|entry| entry.sequence > base);
        if let Some(first) = entries.first()
            && first.sequence != base + 1
        {
            let what = format!("records {} to {} are missing", base + 1, first.sequence - 1);
            return Err(self.damaged(what));
        }
        replay.entries = entries;
        let is_new = replay == Replay::default();
        replay.may_lack_end = !is_new && !self.stamp.is_of_this_boot();
        Ok(replay)
    }

    fn append(&mut self, records: &[Vec<u8>]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Stopped);
        }
        let mut batch = sled::Batch::default();
        for (sequence, record) in (self.last + 1..).zip(records) {
            batch.insert(&sequence.to_be_bytes(), frame(sequence, record));
            self.last = sequence;
        }
        let written = self
            .database
            .apply_batch(batch)
            .and_then(|()| self.database.flush());
        if let Err(error) = written {
            // What is on disk now is unknown until it is read again.
            self.failed = true;
            return Err(self.failed("write")(error));
        }
        Ok(())
    }

    fn snapshot(&mut self, state: &[u8]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Stopped);
        }
        files::write(&self.snapshot_path(self.last), &frame(self.last, state))?;
        self.snapshots.retain(|sequence| *sequence != self.last);
        let before = self.snapshots.last().copied();
        for sequence in std::mem::take(&mut self.snapshots) {
            if Some(sequence) == before {
                self.snapshots.push(sequence);
            } else {
                fs::remove_file(self.snapshot_path(sequence))
                    .map_err(|error| self.failed("prune")(error.into()))?;
            }
        }
        self.snapshots.push(self.last);
        let mut batch = sled::Batch::default();
        let old = ..=before.unwrap_or_default().to_be_bytes();
        for key in self.database.range(old).keys() {
            batch.remove(key.map_err(self.failed("prune"))?);
        }
        self.database
            .apply_batch(batch)
            .map_err(self.failed("prune"))
    }

    fn vouch(&mut self) -> Result<(), Error> {
        Ok(self.stamp.renew()?)
    }
}

/// sled has a lock of its own, which its threads hold for a moment longer than the database that
/// was closed. Whoever calls has ours, so it is only they that can be waited for.
fn open_database(directory: &Path, config: &sled::Config) -> Result<sled::Db, Error> {
    let failed = |error: String| Error::Store {
        doing: "open",
        path: directory.to_owned(),
        error,
    };
    let begun = clock::monotonic();
    loop {
        let config = config.clone();
        // sled panics on some kinds of damage. Nothing is shared with it but the path.
        let opened = std::thread::spawn(move || config.open())
            .join()
            .map_err(|_| failed("its files are damaged beyond what sled can read".to_owned()))?;
        match opened {
            Err(sled::Error::Io(error))
                if error.to_string().starts_with("could not acquire lock")
                    && clock::monotonic().since(begun) < LOCK_WITHIN =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(|error| failed(error.to_string())),
        }
    }
}

fn checksum(sequence: u64, record: &[u8]) -> [u8; CHECKSUM] {
    let hash = Sha256::new()
        .chain_update(sequence.to_be_bytes())
        .chain_update(record)
        .finalize();
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash[..CHECKSUM]);
    sum
}

fn frame(sequence: u64, record: &[u8]) -> Vec<u8> {
    [&checksum(sequence, record), record].concat()
}

fn unframe(sequence: u64, frame: &[u8]) -> Option<&[u8]> {
    let (sum, record) = frame.split_at_checked(CHECKSUM)?;
    (checksum(sequence, record) == sum).then_some(record)
}

#[cfg(test)]
mod tests;
