//! Stragglers: compared with the rest of their stage and with themselves, over a row of looks.

use rebloom_core::hang::straggler::{Straggler, Stragglers};
use rebloom_core::id::{Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::time::Duration;

#[test]
fn a_straggler_is_slower_than_its_like_for_a_while() {
    let layout = Layout {
        tensor: 2,
        pipeline: 2,
        data: 2,
    };
    let mut stragglers = Stragglers::default();
    let mut found = Vec::new();
    for step in 1..40 {
        for rank in layout.ranks() {
            // The last stage works longer, and rank 1 becomes slow.
            let like = if layout.coordinates(rank).stage == 1 {
                900
            } else {
                600
            };
            let busy = if rank == Rank(1) && step > 20 {
                900
            } else {
                like
            };
            let look = (rank, Step(step), Duration::from_millis(busy));
            found.extend(stragglers.look(layout, look).map(|found| (step, found)));
        }
    }
    let expected = Straggler {
        rank: Rank(1),
        relative_percent: 150,
        own_percent: 150,
    };
    assert_eq!(found, [(36, expected)]);
}

/// A stage of four ranks, told step by step how long each of them was busy.
#[derive(Default)]
struct Stage {
    stragglers: Stragglers,
    step: u64,
}

impl Stage {
    /// Does so many steps; says in which of them a rank became a straggler.
    fn steps(&mut self, steps: u64, millis: [u64; 4]) -> Vec<(u64, Straggler)> {
        let mut found = Vec::new();
        for _ in 0..steps {
            self.step += 1;
            for (rank, millis) in (0..).map(Rank).zip(millis) {
                let look = (rank, Step(self.step), Duration::from_millis(millis));
                found.extend(self.look(look).map(|found| (self.step, found)));
            }
        }
        found
    }

    fn look(&mut self, look: (Rank, Step, Duration)) -> Option<Straggler> {
        let layout = Layout {
            tensor: 4,
            pipeline: 1,
            data: 1,
        };
        self.stragglers.look(layout, look)
    }

    fn relative(&self, rank: u32) -> f64 {
        self.stragglers.relative(Rank(rank))
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-4
}

#[test]
fn how_long_a_rank_is_busy_is_averaged_over_its_last_looks() {
    let mut stage = Stage::default();
    assert_eq!(stage.relative(3), 1.0, "nothing is known of it");
    stage.steps(1, [100, 100, 100, 100]);
    assert_eq!(stage.relative(3), 1.0);
    stage.steps(1, [100, 100, 100, 200]);
    assert!(near(stage.relative(3), 1.5), "the mean of two");
    stage.steps(2, [100, 100, 100, 200]);
    assert!(near(stage.relative(3), 1.75), "the mean of four");
    assert_eq!(stage.relative(2), 1.0);
    let mut stage = Stage::default();
    stage.steps(100, [100, 100, 100, 100]);
    stage.steps(1, [100, 100, 100, 180]);
    assert!(near(stage.relative(3), 1.1), "one look of eight");
    stage.stragglers.clear();
    assert_eq!(stage.relative(3), 1.0, "it may be elsewhere");
}

#[test]
fn ranks_are_compared_within_their_stage() {
    let layout = Layout {
        tensor: 2,
        pipeline: 3,
        data: 3,
    };
    let mut stragglers = Stragglers::default();
    for step in 1..30 {
        for rank in layout.ranks() {
            let millis = [600, 900, 300][layout.coordinates(rank).stage as usize];
            let look = (rank, Step(step), Duration::from_millis(millis));
            assert_eq!(stragglers.look(layout, look), None);
        }
    }
    assert!(layout.ranks().all(|rank| stragglers.relative(rank) == 1.0));
}

#[test]
fn a_quarter_more_than_its_like_is_not_slow_and_a_row_that_breaks_begins_anew() {
    let mut stage = Stage::default();
    assert_eq!(stage.steps(50, [100, 100, 100, 125]), []);
    let slow = [100, 100, 100, 126];
    let found = |step| {
        let (rank, relative_percent, own_percent) = (Rank(3), 126, 126);
        let found = Straggler {
            rank,
            relative_percent,
            own_percent,
        };
        [(step, found)]
    };
    let mut stage = Stage::default();
    stage.steps(1, [100, 100, 100, 100]);
    assert_eq!(stage.steps(15, slow), []);
    assert_eq!(stage.steps(1, [100, 100, 100, 100]), []);
    assert_eq!(stage.steps(15, slow), []);
    assert_eq!(
        stage.steps(40, slow),
        found(33),
        "the 16th in a row, and once"
    );
}

#[test]
fn a_rank_that_was_faster_once_is_slow_where_it_is_behind_its_like_as_well() {
    let found = |step, relative_percent, own_percent| {
        let rank = Rank(3);
        let found = Straggler {
            rank,
            relative_percent,
            own_percent,
        };
        [(step, found)]
    };
    // Its best is believed after sixteen looks, and from then on they count.
    let mut stage = Stage::default();
    stage.steps(10, [100, 100, 100, 80]);
    let grown = stage.steps(40, [100, 100, 100, 120]);
    assert_eq!(grown, found(32, 120, 150));
    let mut stage = Stage::default();
    stage.steps(20, [100, 100, 100, 80]);
    let same = stage.steps(40, [90, 90, 90, 100]);
    assert_eq!(same, [], "a quarter more than its best is not slow");
    let mut stage = Stage::default();
    stage.steps(20, [100; 4]);
    assert_eq!(stage.steps(40, [150; 4]), [], "all of them do more");
    assert_eq!(
        stage.steps(40, [150, 150, 150, 140]),
        [],
        "and it does less"
    );
}

#[test]
fn a_step_counts_once_and_a_rank_that_was_not_busy_says_nothing() {
    let mut stage = Stage::default();
    stage.steps(1, [100; 4]);
    let look = |step, millis| (Rank(3), Step(step), Duration::from_millis(millis));
    for _ in 0..40 {
        assert_eq!(stage.look(look(1, 900)), None, "that step is known");
        assert_eq!(stage.look(look(99, 0)), None);
    }
    assert_eq!(stage.relative(3), 1.0);
}
