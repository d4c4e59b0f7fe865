//! Stragglers: ranks that are slower than their like, or than they used to be.
//!
//! In a synchronous gang every rank's step takes the same time; what differs is how much of it a rank is
//! busy and how much it waits for others. Ranks of one stage do the same work, so the busy time of each is
//! compared with the median of its stage (relative), and with its own best (individual), as NVRx scores
//! them. One slow step is nothing; a row of them is a finding. Never acts on it.

use super::pace::median;
use crate::by_rank::ByRank;
use crate::id::{Rank, Step};
use crate::layout::Layout;
use crate::time::Duration;

/// Busy for longer than its like, or than itself at its best, by this factor is slow.
const FACTOR: f64 = 1.25;
/// Slow looks in a row that make a straggler.
const ROW: u32 = 16;
/// Looks before a rank's own best is believed.
const WARM: u32 = 16;
/// Looks over which a rank is compared with its like on average.
const LONG: f32 = 8.0;

/// A rank that is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Straggler {
    /// Which.
    pub rank: Rank,
    /// Its busy time in percent of the median of its stage.
    pub relative_percent: u32,
    /// Its busy time in percent of its own best.
    pub own_percent: u32,
}

/// One of these is kept for every rank of the cluster; times are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Seen {
    step: Step,
    busy: u64,
    best: u64,
    looks: u32,
    row: u32,
    /// Its busy time by the median of its stage, on average.
    relative: f32,
}

/// What is known of every rank.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stragglers {
    seen: ByRank<Seen>,
}

impl Stragglers {
    /// Takes in how long a rank was busy in a step; says so once where it has become a straggler.
    pub fn look(
        &mut self,
        layout: Layout,
        (rank, step, busy): (Rank, Step, Duration),
    ) -> Option<Straggler> {
        let before = self.seen.get(rank).copied().unwrap_or_default();
        if busy.is_zero() || step <= before.step {
            return None;
        }
        let busy = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        let looks = before.looks + 1;
        let best = if before.looks == 0 {
            busy
        } else {
            before.best.min(busy)
        };
        let mut seen = Seen {
            step,
            busy,
            best,
            looks,
            ..before
        };
        self.seen.insert(rank, seen);
        let stage = layout.tensor * layout.data;
        let first = layout.coordinates(rank).stage * stage;
        let like = self.seen.of(Rank(first), stage);
        let typical = median(like.map(|seen| seen.busy)).unwrap_or(busy);
        let relative = busy as f64 / typical as f64;
        let own = busy as f64 / best as f64;
        let is_slow = relative > FACTOR || (looks > WARM && own > FACTOR && relative > 1.0);
        seen.row = if is_slow { before.row + 1 } else { 0 };
        seen.relative += (relative as f32 - before.relative) / (looks as f32).min(LONG);
        self.seen.insert(rank, seen);
        (seen.row == ROW).then(|| Straggler {
            rank,
            relative_percent: percent(relative),
            own_percent: percent(own),
        })
    }

    /// How long a rank is busy, by the median of its stage, on average over the last looks; 1 where nothing is
    /// known of it.
    pub fn relative(&self, rank: Rank) -> f64 {
        let seen = self.seen.get(rank);
        seen.map_or(1.0, |seen| f64::from(seen.relative))
    }

    /// Another generation: the ranks may be elsewhere.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

fn percent(ratio: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ratio of times is not negative, and cut off at the top"
    )]
    let percent = (ratio * 100.0).round().min(1e6) as u32;
    percent
}
