//! From readings to signals: levels are told when they rise and when they fall, with a gap between
//! the two; counters by what they grew within a minute; events once a burst.
//!
//! An agent has one. It is told what the probes read, and when each was asked and answered, and says
//! what the controller should hear. It is bounded, and so is what it says: [`MOST_A_MINUTE`].

mod gpu;

pub use gpu::GpuReading;

use super::kernel_log::{self, XidLine};
use super::rule::limit;
use super::signal::{Headroom, Key, Kind, Probe, Recovery, Sign, Signal, shortened};
use crate::id::Slot;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most events and levels that are told within a minute; what is beyond is dropped and counted.
pub const MOST_A_MINUTE: usize = 60;
/// Counters are looked at over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// A level that stays raised is told again after this time, in case it was forgotten.
const AGAIN: Duration = Duration::from_secs(600);
/// The same XID of the same device within this time is told once.
const BURST: Duration = Duration::from_secs(180);
/// Counters, and XIDs of late, that are followed at once.
const MOST_COUNTERS: usize = 1024;

/// Something a probe read.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A GPU.
    Gpu {
        /// In which slot.
        device: Slot,
        /// What NVML says.
        reading: GpuReading,
    },
    /// The memory of the host.
    Memory {
        /// Bytes left.
        available: u64,
        /// Bytes in all.
        total: u64,
    },
    /// How far the clock is ahead of the controller's, in nanoseconds.
    Clock {
        /// Negative where it is behind.
        ahead: i64,
    },
    /// What is left of the checkpoints' storage: of what, left, in all. Or why it cannot be used.
    Storage(Result<Vec<(Headroom, u64, u64)>, String>),
    /// A line of the kernel log with an XID, and the device it is of, where that is known.
    Xid {
        /// The device.
        device: Option<Slot>,
        /// The line.
        line: XidLine,
    },
}

/// What was told of a level.
#[derive(Debug)]
struct Told {
    signal: Signal,
    at: Instant,
}

/// Turns readings into signals.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Levels that are raised.
    raised: BTreeMap<Key, Told>,
    /// Levels that were looked at in this life of the agent: of some it says at first that they are over.
    looked: BTreeSet<Key>,
    /// Levels that were high once and have to be twice in a row.
    first: BTreeMap<Key, Instant>,
    /// Throttles, since when.
    throttled: BTreeMap<Key, Instant>,
    /// Counters over the last minute.
    counters: BTreeMap<Key, VecDeque<(Instant, u64)>>,
    /// Links that were up once.
    was_up: BTreeMap<Key, bool>,
    /// XIDs told lately.
    xids: BTreeMap<Key, Instant>,
    /// Probes that were asked and have not answered, since when.
    asked: BTreeMap<Probe, Instant>,
    /// When signals were told.
    told: VecDeque<Instant>,
    /// How many were dropped, since there were too many.
    dropped: u64,
}

impl Gauge {
    /// The signal with which a new life of the agent begins.
    pub fn begin(&mut self, boot: u64) -> Signal {
        *self = Self::default();
        Signal::raised(None, Sign::ProbesStarted { boot })
    }

    /// How many signals were dropped, since there were too many.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A probe was asked.
    pub fn asked(&mut self, now: Instant, probe: Probe) {
        self.asked.entry(probe).or_insert(now);
    }

    /// A probe came back from its look. One that comes back blind has not answered: what it would have seen is
    /// as unknown as if it hung, from when it was asked first.
    pub fn returned(&mut self, now: Instant, probe: Probe, is_blind: bool) -> Vec<Signal> {
        if is_blind {
            return Vec::new();
        }
        self.asked.remove(&probe);
        let mut out = Vec::new();
        let sign = Sign::ProbeHung { probe, nanos: 0 };
        self.level(now, &mut out, Signal::raised(None, sign), (false, true));
        self.limited(now, out)
    }

    /// Looks for probes that do not answer.
    pub fn watch(&mut self, now: Instant) -> Vec<Signal> {
        let hung: Vec<_> = self
            .asked
            .iter()
            .map(|(probe, at)| (*probe, now.since(*at)))
            .collect();
        let mut out = Vec::new();
        for (probe, silent) in hung {
            let nanos = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
            let signal = Signal::raised(None, Sign::ProbeHung { probe, nanos });
            self.level(now, &mut out, signal, (silent >= limit::PROBE_HUNG, false));
        }
        self.limited(now, out)
    }

    /// Takes in what a probe read.
    pub fn read(&mut self, now: Instant, reading: Reading) -> Vec<Signal> {
        let mut out = Vec::new();
        match reading {
            Reading::Gpu { device, reading } => self.gpu(now, &mut out, device, &reading),
            Reading::Memory { available, total } => {
                let (low, high) = limit::HOST_MEMORY;
                let sign = Sign::HostMemory {
                    available: available.min(total),
                    total,
                };
                let left = share(available, total);
                self.twice(
                    now,
                    &mut out,
                    Signal::raised(None, sign),
                    (left < low, left > high),
                );
            }
            Reading::Clock { ahead } => {
                let off = Duration::from_nanos(ahead.unsigned_abs());
                let (high, low) = limit::CLOCK_SKEW;
                let signal = Signal::raised(None, Sign::ClockSkew { nanos: ahead });
                self.twice(now, &mut out, signal, (off > high, off < low));
            }
            Reading::Storage(Ok(left)) => {
                let works = Sign::StorageFailing {
                    error: String::new(),
                };
                self.level(now, &mut out, Signal::raised(None, works), (false, true));
                let (low, high) = limit::STORAGE;
                for (of, left, total) in left.into_iter().filter(|(_, _, total)| *total > 0) {
                    let part = share(left, total);
                    let left = left.min(total);
                    let signal = Signal::raised(None, Sign::Storage { of, left, total });
                    self.level(now, &mut out, signal, (part < low, part > high));
                }
            }
            Reading::Storage(Err(error)) => {
                let error = shortened(&error);
                let signal = Signal::raised(None, Sign::StorageFailing { error });
                self.twice(now, &mut out, signal, (true, false));
            }
            Reading::Xid { device, line } => self.xid(now, &mut out, device, line),
        }
        self.limited(now, out)
    }

    fn xid(&mut self, now: Instant, out: &mut Vec<Signal>, device: Option<Slot>, line: XidLine) {
        // 154 says what the driver asks for from now on, and nothing else.
        if let (154, Some(device), Some(vote)) =
            (line.code, device, kernel_log::recovery(&line.detail))
        {
            let reading = vote.unwrap_or(Recovery::Reset);
            let signal = Signal::raised(Some(device), Sign::RecoveryAction { action: reading });
            return self.level(now, out, signal, (vote.is_some(), vote.is_none()));
        }
        let sign = Sign::Xid {
            code: line.code,
            detail: line.detail,
        };
        let signal = Signal::raised(device, sign);
        let key = signal.key();
        self.xids.retain(|_, at| now.since(*at) < BURST);
        if self.xids.len() < MOST_COUNTERS && !self.xids.contains_key(&key) {
            self.xids.insert(key, now);
            out.push(signal);
        }
    }

    /// A level with its two edges: whether it is high enough to be raised, and low enough to be over.
    fn level(
        &mut self,
        now: Instant,
        out: &mut Vec<Signal>,
        signal: Signal,
        (is_high, is_low): (bool, bool),
    ) {
        let key = signal.key();
        let is_first =
            key.kind.is_denied_at_once() && (is_high || is_low) && self.looked.insert(key);
        match self.raised.get_mut(&key) {
            None if is_low && is_first => out.push(Signal {
                cleared: true,
                ..signal
            }),
            Some(told) if is_low => {
                let mut over = told.signal.clone();
                over.cleared = true;
                self.raised.remove(&key);
                out.push(over);
            }
            Some(told) if is_high => {
                let is_vote = matches!(key.kind, Kind::RecoveryAction | Kind::RowRemap);
                let moves = matches!(key.kind, Kind::Throttled | Kind::EccUncorrected);
                let gap = if moves { BURST } else { AGAIN };
                let is_news = is_vote && told.signal != signal;
                if is_news || now.since(told.at) >= gap {
                    *told = Told {
                        signal: signal.clone(),
                        at: now,
                    };
                    out.push(signal);
                }
            }
            None if is_high => {
                self.raised.insert(
                    key,
                    Told {
                        signal: signal.clone(),
                        at: now,
                    },
                );
                out.push(signal);
            }
            Some(_) | None => {}
        }
    }

    /// A level that one reading alone does not raise.
    fn twice(&mut self, now: Instant, out: &mut Vec<Signal>, signal: Signal, edges: (bool, bool)) {
        let key = signal.key();
        if !edges.0 {
            self.first.remove(&key);
        } else if !self.raised.contains_key(&key) && self.first.insert(key, now).is_none() {
            return;
        }
        self.level(now, out, signal, edges);
    }

    /// By how much a counter grew within the last minute. One that went back began anew.
    fn grown(&mut self, now: Instant, key: Key, total: u64) -> u64 {
        if self.counters.len() >= MOST_COUNTERS && !self.counters.contains_key(&key) {
            return 0;
        }
        let seen = self.counters.entry(key).or_default();
        if seen.back().is_some_and(|(_, last)| *last > total) {
            seen.clear();
        }
        seen.push_back((now, total));
        // The oldest one that is kept is a minute old or a little more.
        while seen.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            seen.pop_front();
        }
        seen.front().map_or(0, |(_, first)| total - first)
    }

    /// Drops what is too much.
    fn limited(&mut self, now: Instant, mut out: Vec<Signal>) -> Vec<Signal> {
        while self.told.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.told.pop_front();
        }
        let mut room = MOST_A_MINUTE.saturating_sub(self.told.len());
        out.retain(|signal| {
            // That something is over is always told: it would stay raised for ever.
            if signal.cleared {
                return true;
            }
            if room > 0 {
                room -= 1;
                return true;
            }
            self.dropped += 1;
            // It is told again when the next reading says the same.
            self.raised.remove(&signal.key());
            false
        });
        let raised = out.iter().filter(|signal| !signal.cleared);
        self.told.extend(raised.map(|_| now));
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no last digit")]
fn share(left: u64, total: u64) -> f64 {
    if total == 0 {
        1.0
    } else {
        left as f64 / total as f64
    }
}
