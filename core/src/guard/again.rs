//! What a spike says of the checkpoint that its generation began with.
//!
//! Samples are to blame first: they are skipped, and the run goes on from the newest checkpoint before them. Where that
//! checkpoint leads to a spike once more, it is the state in it that runs away, and skipping more would only lose data.

use crate::checkpoint::CheckpointId;

/// Checkpoints that a run goes back to because of spikes, without progress in between, before somebody has to look.
pub const TRIES: usize = 2;

/// What comes of a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Its samples are skipped, and nothing is held against a checkpoint.
    No,
    /// The checkpoint is not taken again; the next older one is.
    Older,
    /// Nor is this one, and the run waits for an admin.
    Park,
}

/// Judges a spike in a generation that began with `from`, where the run went back to `tried` because of the spikes
/// before, oldest first, and has sealed nothing newer since. What began without a checkpoint has none to doubt.
pub fn again(from: Option<CheckpointId>, tried: &[CheckpointId]) -> Again {
    if !from.is_some_and(|from| tried.contains(&from)) {
        Again::No
    } else if tried.len() < TRIES {
        Again::Older
    } else {
        Again::Park
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Generation, Step};

    #[test]
    fn the_samples_are_doubted_first_then_the_checkpoint_then_all_of_it() {
        let at = |step| CheckpointId {
            step: Step(step),
            generation: Generation(1),
        };
        for (from, tried, wanted) in [
            (None, vec![], Again::No),
            (None, vec![at(20), at(10)], Again::No),
            (Some(at(20)), vec![], Again::No),
            // A newer one was sealed, or another fault had it go back to this one.
            (Some(at(30)), vec![at(20)], Again::No),
            (Some(at(20)), vec![at(20)], Again::Older),
            (Some(at(10)), vec![at(20)], Again::No),
            (Some(at(10)), vec![at(20), at(10)], Again::Park),
        ] {
            assert_eq!(again(from, &tried), wanted, "{from:?} {tried:?}");
        }
    }
}
