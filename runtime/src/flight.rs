#![allow(
    unsafe_code,
    reason = "a page of memory shared between processes is mapped and read as atomics"
)]
//! The flight page as it lies in shared memory: 4 KiB, 64-bit words, little-endian.
//!
//! | words | written by | holds |
//! |---|---|---|
//! | 0 | agent | magic and version |
//! | 1 | worker | sequence: odd while the worker writes |
//! | 2-8 | worker | generation, phase, deadline, step, samples, loss and gradient norm, step time |
//! | 16-31 | worker | two words a channel: operations begun and finished |
//! | 48 | worker | pulse: monotonic nanoseconds, from a thread of its own, outside the sequence |
//! | 64 | agent | fence: every generation below it is over |
//! | 72 | agent | the generation that shall stop at a step boundary |
//!
//! The agent makes the file, so the page outlives the worker and the worker never needs the agent to
//! write into it. Agent and worker words lie on cache lines of their own.

use crate::clock::monotonic;
use memmap2::{MmapOptions, MmapRaw};
use rebloom_core::flight::{Channel, Counter, Page, Phase};
use rebloom_core::id::{Generation, Step};
use rebloom_core::time::Instant;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"RBFLT001");
const WORD_MAGIC: usize = 0;
const WORD_SEQUENCE: usize = 1;
const WORD_GENERATION: usize = 2;
const WORD_PHASE: usize = 3;
const WORD_DEADLINE: usize = 4;
const WORD_STEP: usize = 5;
const WORD_SAMPLES: usize = 6;
const WORD_LOSS_NORM: usize = 7;
const WORD_STEP_NANOS: usize = 8;
const WORD_BUSY_NANOS: usize = 9;
const WORD_COUNTERS: usize = 16;
const WORD_PULSE: usize = 48;
const WORD_FENCE: usize = 64;
const WORD_STOP: usize = 72;

/// How often a reader tries for a moment in which the worker does not write. A worker that was
/// stopped or killed in the middle of a write never ends it, so the reader then takes what is there.
const READ_TRIES: u32 = 1000;

#[derive(Debug)]
struct Words(MmapRaw);

impl Words {
    fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() != PAGE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a flight page has 4096 bytes",
            ));
        }
        Ok(Self(MmapOptions::new().map_raw(file)?))
    }

    fn at(&self, word: usize) -> &AtomicU64 {
        assert!(word < 512, "a flight page has 512 words");
        // SAFETY: the mapping is 4096 bytes long, page-aligned, lives as long as `self`, and every
        // process reads and writes it as atomic words only.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast::<u64>().add(word)) }
    }

    fn get(&self, word: usize) -> u64 {
        self.at(word).load(Ordering::Relaxed)
    }

    fn set(&self, word: usize, value: u64) {
        self.at(word).store(value, Ordering::Relaxed);
    }
}

/// The agent's side of a page: reads what the worker wrote, writes fence and stop.
#[derive(Debug)]
pub struct Tower(Words);

impl Tower {
    /// Makes a fresh page at `path`, in place of one that is there.
    pub fn create(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        // Written, not only made long: a full disk is an error here, and SIGBUS in a hole.
        file.write_all(&[0; PAGE_BYTES as usize])?;
        let words = Words::map(&file)?;
        words.at(WORD_MAGIC).store(MAGIC, Ordering::Release);
        Ok(Self(words))
    }

    /// Opens the page of a rank that is adopted.
    pub fn open(path: &Path) -> io::Result<Self> {
        let words = Words::map(&OpenOptions::new().read(true).write(true).open(path)?)?;
        check_magic(&words)?;
        Ok(Self(words))
    }

    /// What the worker wrote last.
    pub fn read(&self) -> Page {
        for _ in 0..READ_TRIES {
            let before = self.0.at(WORD_SEQUENCE).load(Ordering::Acquire);
            let page = self.read_once();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.0.get(WORD_SEQUENCE) == before {
                return page;
            }
            std::hint::spin_loop();
        }
        self.read_once()
    }

    fn read_once(&self) -> Page {
        let word = |word| self.0.get(word);
        let counter = |channel: usize| Counter {
            entered: word(WORD_COUNTERS + 2 * channel),
            done: word(WORD_COUNTERS + 2 * channel + 1),
        };
        let (loss, grad_norm) = split(word(WORD_LOSS_NORM));
        let deadline = word(WORD_DEADLINE);
        let phase = usize::try_from(word(WORD_PHASE)).unwrap_or(usize::MAX);
        Page {
            generation: Generation(word(WORD_GENERATION)),
            phase: Phase::ALL.get(phase).copied().unwrap_or_default(),
            deadline: (deadline != 0).then(|| Instant::from_nanos(deadline)),
            step: Step(word(WORD_STEP)),
            samples: word(WORD_SAMPLES),
            loss,
            grad_norm,
            step_nanos: word(WORD_STEP_NANOS),
            busy_nanos: word(WORD_BUSY_NANOS),
            pulse: word(WORD_PULSE),
            counters: std::array::from_fn(counter),
        }
    }

    /// Ends every generation below `generation`; a fence never goes down.
    pub fn fence_below(&self, generation: Generation) {
        self.0
            .at(WORD_FENCE)
            .fetch_max(generation.0, Ordering::SeqCst);
    }

    /// Asks the worker to stop at a step boundary of this generation.
    pub fn stop_safely(&self, generation: Generation) {
        self.0.at(WORD_STOP).store(generation.0, Ordering::SeqCst);
    }
}

/// How long the rank waited for others since the last step; only the thread that trains writes it.
#[derive(Debug, Default)]
struct Waiting {
    /// Operations that are begun and not done.
    open: AtomicU64,
    /// Since when any is.
    since: AtomicU64,
    total: AtomicU64,
}

impl Waiting {
    fn begin(&self, now: Instant) {
        if self.open.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    fn end(&self, now: Instant) {
        let open = self.open.load(Ordering::Relaxed).saturating_sub(1);
        self.open.store(open, Ordering::Relaxed);
        if open == 0 {
            let since = Instant::from_nanos(self.since.load(Ordering::Relaxed));
            let span = u64::try_from(now.since(since).as_nanos()).unwrap_or(u64::MAX);
            self.total.fetch_add(span, Ordering::Relaxed);
        }
    }

    /// What was waited since the last call.
    fn take(&self) -> u64 {
        self.total.swap(0, Ordering::Relaxed)
    }

    fn clear(&self) {
        self.open.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
    }
}

/// The worker's side of a page: writes where it is, reads fence and stop.
#[derive(Debug)]
pub struct Recorder(Words, Waiting);

impl Recorder {
    /// Opens the page that the agent made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let words = Words::map(&OpenOptions::new().read(true).write(true).open(path)?)?;
        check_magic(&words)?;
        Ok(Self(words, Waiting::default()))
    }

    /// A page of its own, for what works without an agent.
    pub fn unread() -> io::Result<Self> {
        let page = MmapOptions::new().len(PAGE_BYTES as usize).map_anon()?;
        Ok(Self(Words(page.into()), Waiting::default()))
    }

    /// Begins a generation: counters and figures of the old one go, the phase is `Idle`.
    pub fn begin(&self, generation: Generation) {
        self.1.clear();
        self.write(|words| {
            for word in WORD_GENERATION..WORD_COUNTERS + 2 * Channel::ALL.len() {
                words.set(word, 0);
            }
            words.set(WORD_GENERATION, generation.0);
            words.set(WORD_LOSS_NORM, join(f32::NAN, f32::NAN));
        });
    }

    /// Enters a phase that must be over by `deadline`.
    pub fn enter(&self, phase: Phase, deadline: Option<Instant>) {
        let code = Phase::ALL
            .iter()
            .position(|&p| p == phase)
            .unwrap_or_default();
        self.write(|words| {
            words.set(WORD_PHASE, code as u64);
            words.set(WORD_DEADLINE, deadline.map_or(0, Instant::as_nanos));
        });
    }

    /// Records where training stands: steps done and samples consumed.
    pub fn stand(&self, step: Step, samples: u64) {
        self.write(|words| {
            words.set(WORD_STEP, step.0);
            words.set(WORD_SAMPLES, samples);
        });
    }

    /// A step begins: only what is waited from here on counts for its figures.
    pub fn begin_step(&self) {
        self.1.take();
    }

    /// Records the figures of the last step.
    pub fn figures(&self, loss: f32, grad_norm: f32, step_nanos: u64) {
        let busy = step_nanos.saturating_sub(self.1.take());
        self.write(|words| {
            words.set(WORD_LOSS_NORM, join(loss, grad_norm));
            words.set(WORD_STEP_NANOS, step_nanos);
            words.set(WORD_BUSY_NANOS, busy);
        });
    }

    /// Counts one operation begun in a channel.
    pub fn entered(&self, channel: Channel) {
        self.1.begin(monotonic());
        self.count(channel, 0);
    }

    /// Counts one operation finished in a channel.
    pub fn done(&self, channel: Channel) {
        self.count(channel, 1);
        self.1.end(monotonic());
    }

    /// Shows that the process runs, and when it last did. Call it every few milliseconds, from one
    /// thread.
    pub fn pulse(&self) {
        self.0.set(WORD_PULSE, monotonic().as_nanos());
    }

    /// The lowest generation that is not fenced.
    pub fn fence(&self) -> Generation {
        Generation(self.fence_word().load(Ordering::Acquire))
    }

    /// The fence itself, for waits that poll it.
    pub fn fence_word(&self) -> &AtomicU64 {
        self.0.at(WORD_FENCE)
    }

    /// The generation that shall stop at a step boundary.
    pub fn stop_generation(&self) -> Generation {
        Generation(self.0.at(WORD_STOP).load(Ordering::Acquire))
    }

    fn count(&self, channel: Channel, offset: usize) {
        let at = Channel::ALL
            .iter()
            .position(|&c| c == channel)
            .unwrap_or_default();
        let word = WORD_COUNTERS + 2 * at + offset;
        // One word changes, so no reader can see it torn: the sequence need not move.
        self.0
            .at(word)
            .store(self.0.get(word) + 1, Ordering::Release);
    }

    fn write(&self, change: impl FnOnce(&Words)) {
        let sequence = self.0.get(WORD_SEQUENCE) & !1;
        self.0.set(WORD_SEQUENCE, sequence + 1);
        fence(Ordering::Release);
        change(&self.0);
        self.0
            .at(WORD_SEQUENCE)
            .store(sequence + 2, Ordering::Release);
    }
}

fn check_magic(words: &Words) -> io::Result<()> {
    if words.at(WORD_MAGIC).load(Ordering::Acquire) == MAGIC {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a flight page of this version",
        ))
    }
}

const fn join(loss: f32, grad_norm: f32) -> u64 {
    loss.to_bits() as u64 | (grad_norm.to_bits() as u64) << 32
}

const fn split(word: u64) -> (f32, f32) {
    (
        f32::from_bits(word as u32),
        f32::from_bits((word >> 32) as u32),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> (tempfile::TempDir, Tower, Recorder) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank-0.page");
        let tower = Tower::create(&path).unwrap();
        let recorder = Recorder::open(&path).unwrap();
        (folder, tower, recorder)
    }

    #[test]
    fn the_agent_reads_what_the_worker_wrote() {
        let (_folder, tower, recorder) = page();
        recorder.begin(Generation(3));
        recorder.enter(Phase::Step, Some(Instant::from_nanos(77)));
        recorder.stand(Step(12), 192);
        recorder.figures(2.5, 0.25, 1_000);
        recorder.entered(Channel::BackwardOut);
        let page = tower.read();
        assert_eq!((page.generation, page.phase), (Generation(3), Phase::Step));
        assert_eq!(page.deadline, Some(Instant::from_nanos(77)));
        assert_eq!(
            (page.step, page.samples, page.step_nanos),
            (Step(12), 192, 1_000)
        );
        assert_eq!((page.loss, page.grad_norm), (2.5, 0.25));
        assert_eq!(page.waits_in(), Some(Channel::BackwardOut));
        recorder.done(Channel::BackwardOut);
        assert_eq!(tower.read().waits_in(), None);
        assert_eq!(tower.read().pulse, 0);
        let before = monotonic().as_nanos();
        recorder.pulse();
        let pulse = tower.read().pulse;
        assert!((before..=monotonic().as_nanos()).contains(&pulse));
        recorder.begin(Generation(4));
        assert_eq!(
            tower.read().counter(Channel::BackwardOut),
            Counter::default()
        );
    }

    #[test]
    fn a_fence_only_rises() {
        let (_folder, tower, recorder) = page();
        tower.fence_below(Generation(5));
        tower.fence_below(Generation(4));
        assert_eq!(recorder.fence(), Generation(5));
    }

    #[test]
    fn a_worker_that_died_while_writing_can_still_be_read() {
        let (_folder, tower, recorder) = page();
        recorder.stand(Step(9), 9);
        recorder.0.set(WORD_SEQUENCE, 1);
        assert_eq!(tower.read().step, Step(9));
        recorder.stand(Step(10), 10);
        assert_eq!(tower.read().step, Step(10));
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        std::fs::write(&path, [0; 4096]).unwrap();
        assert!(Recorder::open(&path).is_err());
        std::fs::write(&path, [0; 10]).unwrap();
        assert!(Tower::open(&path).is_err());
    }
}
